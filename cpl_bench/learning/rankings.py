"""A batch's ranked answers as a ranking loss takes them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpl_bench.learning.interface import PreferenceBatch


def of_questions(batch: PreferenceBatch) -> Float[Tensor, "s q"]:
    """What a ranked answer counts: the mean of its pairs, 0 if all of them were skipped."""
    questions = batch.observations.shape[1] // batch.ranked
    return batch.weight.view(len(batch.weight), questions, -1).mean(2)


def not_worse(batch: PreferenceBatch) -> Bool[Tensor, "s q K K"]:
    """[…, i, j]: item i of a question is at least as good as item j; true for i = j.

    Of a pair that was skipped neither is known: they stand in neither's sum.
    """
    (s, m), size = batch.observations.shape[:2], batch.ranked
    better = torch.zeros(s, m, m, device=batch.observations.device)
    members = torch.arange(s, device=better.device)[:, None]
    asked, answers = (batch.weight > 0).float(), batch.prefers_second
    better[members, batch.first, batch.second] = (1 - answers) * asked
    better[members, batch.second, batch.first] = answers * asked
    questions = better.view(s, m // size, size, m // size, size).diagonal(dim1=1, dim2=3)
    same = torch.eye(size, dtype=torch.bool, device=better.device)
    return (questions.movedim(-1, 1) >= 0.5) | same
