"""What cannot be trained is refused before any data are made for it."""

from __future__ import annotations

import torch

from cpl_bench.core.counts import EVALUATIONS, STEPS, check_count
from cpl_bench.core.errors import UserError
from cpl_bench.learning.chunks import chunk_of
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.methods import find_method
from cpl_bench.preferences.format import PreferenceInfo
from cpl_bench.runs.feeds import check_feeds


def check_evaluations(config: MethodConfig, evaluate_every: int) -> None:
    """Refuse more evaluations than anybody could look at, each with its checkpoint.

    Raises:
        UserError: there would be too many.
    """
    check_count("the steps of a training", config.steps, 1, STEPS)
    if config.steps > EVALUATIONS * evaluate_every:
        raise UserError(
            f"{config.steps:,} steps with an evaluation every {evaluate_every:,} are more than "
            f"{EVALUATIONS:,} evaluations. Evaluate less often: --evaluate-every."
        )


def check_method(algorithm: str, config: MethodConfig, info: PreferenceInfo, rewards: bool) -> None:
    """Refuse what cannot be trained, before any data are made for it.

    Args:
        algorithm: its name.
        config: its settings.
        info: what the preferences will be.
        rewards: whether they will hold the environment's.

    Raises:
        UserError: as `train` would raise it.
    """
    entry = find_method(algorithm)
    learner = entry.build(config, 1, 1, [0], torch.device("cpu"))  # phases are those of any size
    check_feeds(learner.phases(), info, rewards, entry.title(config), chunk_of(config))
