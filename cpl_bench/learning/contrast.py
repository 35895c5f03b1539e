"""Scores of segments meet a batch's answers: what the direct methods share.

A segment's score comes from the policy alone, S(σ) = α Σ_t log π(a_t|s_t), or from its logarithm
relative to a reference π_ref that is frozen when the contrast begins, α Σ_t log π/π_ref.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.core.errors import UserError
from cpl_bench.learning.interface import Metrics, PreferenceBatch
from cpl_bench.learning.losses import (
    Scalar,
    averaged,
    contrasted,
    hinge_loss,
    logistic_loss,
    of_comparisons,
    preference_accuracy,
    preferred,
    ranking_nll,
    smoothed,
    squared_loss,
)
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.rankings import not_worse, of_questions

Objective = Literal["logistic", "hinge", "ipo", "ranking"]
"""logistic: cross-entropy; hinge: SLiC's; ipo: a squared loss, whose optimum is finite even where
every answer agrees; ranking: Plackett–Luce over the segments of an answer."""
OfPairs = Literal["logistic", "hinge", "ipo"]
"""Those of comparisons one by one, ranked or not."""
SMOOTHING = ("in [0, 0.5)", lambda value: 0 <= value < 0.5)
NO_MARGIN = ("1 where there is no hinge", lambda value: value == 1)


def contrast_loss(
    scores: Float[Tensor, "s m"],
    batch: PreferenceBatch,
    objective: Objective = "logistic",
    *,
    lam: Scalar = 1.0,
    margin: Scalar = 1.0,
    smoothing: Scalar = 0.0,
) -> Float[Tensor, " s"]:
    """Each member's mean over its comparisons, or over the choices that its rankings are made of.

    Args:
        scores: of the batch's segments.
        batch: whose answers they shall explain.
        objective: which loss.
        lam: λ, the weight of the rejected segment's score.
        margin: δ of the hinge; the others have none.
        smoothing: ε, the share of the answers that is taken to be wrong; not of rankings.
    """
    if objective == "ranking":
        if not batch.ranked:
            raise ValueError("a ranking loss needs ranked answers")
        questions = scores.view(len(scores), -1, batch.ranked)
        losses = ranking_nll(questions, not_worse(batch), lam)
        return averaged(losses, of_questions(batch)) / (batch.ranked - 1)  # a choice
    of_margin: dict[str, Callable[[Tensor], Tensor]] = {
        "logistic": logistic_loss,
        "hinge": partial(hinge_loss, least=margin),
        "ipo": squared_loss,
    }
    ends = of_comparisons(scores, batch.first, batch.second)
    answers = smoothed(batch.prefers_second, smoothing)
    return averaged(contrasted(of_margin[objective], *ends, answers, lam), batch.weight)


def accuracy(scores: Float[Tensor, "s m"], batch: PreferenceBatch) -> Float[Tensor, " s"]:
    """Share of the decided comparisons that the scores explain, without gradient."""
    ends = of_comparisons(scores.detach(), batch.first, batch.second)
    return preference_accuracy(*ends, batch.prefers_second, batch.weight)


def likelihoods(log_probs: Float[Tensor, "s m k"], batch: PreferenceBatch) -> Metrics:
    """log π of a step of the data, of the preferred and of the rejected segments: they collapse
    where a policy runs off the data."""
    of_segments = log_probs.detach().mean(2)
    ends = of_comparisons(of_segments, batch.first, batch.second)
    answers, weight = batch.prefers_second, batch.weight
    return {
        "log_prob": log_probs.detach().mean((1, 2)),
        "log_prob_preferred": averaged(preferred(*ends, answers), weight),
        "log_prob_rejected": averaged(preferred(*ends, 1 - answers), weight),
    }


class Reference:
    """π_ref: what a policy's learning weights were when it was first asked; it drops no units."""

    def __init__(
        self, policy: Policy, observation_size: int, action_size: int, seeds: Sequence[int]
    ):
        """Of the `policy`, which has these sizes and seeds."""
        config = replace(policy.config, dropout=0.0, average=0.0)
        self.leader, device = policy, policy.keys.device
        self.policy = Policy(observation_size, action_size, config, seeds, device)
        self.begun = torch.zeros((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def log_probs(self, batch: PreferenceBatch) -> Float[Tensor, "s m k"]:
        """log π_ref(a|s) of every step of the batch; the first call freezes it.

        A number on the device says whether it did: a CUDA graph of the update sees it change.
        """
        for name, value in self.policy.parameters.items():
            value.copy_(torch.where(self.begun, value, self.leader.parameters[name]))
        self.begun.fill_(True)
        return self.policy.log_probs(batch)

    @staticmethod
    def check(clone_steps: int) -> None:
        """Refuse to refer to a policy that has learned nothing yet.

        Raises:
            UserError: nothing is cloned before the contrast.
        """
        if not clone_steps:
            raise UserError(
                "A reference is the clone, and clone.steps = 0 make none. Ask for --clone.steps, "
                "or for no reference."
            )

    def state(self) -> dict[str, Tensor]:
        """Its weights, flat, and whether they are frozen."""
        weights = {name: each.detach().clone() for name, each in self.policy.parameters.items()}
        return weights | {"begun": self.begun.clone()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        for name, value in self.policy.parameters.items():
            value.copy_(state[name])
        self.begun.copy_(state["begun"])
