"""The methods, one file each. To add one: its file, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from cpl_bench.learning.algos import bc, cpl, percent, piql, ppo
from cpl_bench.learning.interface import Algorithm


class Entry(NamedTuple):
    """A method as the command line knows it."""

    build: Callable[[Any, int, int, Sequence[int], torch.device], Algorithm]
    """(config, observation size, action size, seeds, device) → algorithm."""
    presets: dict[str, Any]
    """Configs by preset; their class is the method's config class."""
    title: Callable[[Any], str]
    """What tables and figures call it with a given config."""
    summary: str
    oracle: bool = False
    """Whether it must see the true rewards."""


ALGOS: dict[str, Entry] = {
    "sft": Entry(
        bc.SFT,
        {"paper": bc.PAPER, "laptop": bc.LAPTOP},
        lambda config: "SFT",
        "behaviour cloning of all, then of the preferred segments",
    ),
    "cpl": Entry(
        cpl.CPL,
        {"paper": cpl.PAPER, "laptop": cpl.LAPTOP},
        lambda config: f"CPL(λ={config.lam:g})" if config.lam < 1 else "CPL",
        "contrastive preference learning, CPL(λ); --lam 1 is plain CPL",
    ),
    "percent-bc": Entry(
        percent.PercentBC,
        {"paper": percent.PAPER, "laptop": percent.LAPTOP},
        lambda config: f"{config.percent:g}%BC",
        "behaviour cloning of the best X % of the episodes by true return (an oracle)",
        oracle=True,
    ),
    "piql": Entry(
        piql.PIQL,
        {"paper": piql.PAPER, "laptop": piql.LAPTOP},
        lambda config: "P-IQL" if config.reward == "learned" else "IQL (true reward)",
        "a reward from the comparisons, then implicit Q-learning; --reward true is IQL",
    ),
    "ppo": Entry(
        ppo.PPO,
        {"paper": ppo.PAPER, "laptop": ppo.LAPTOP},
        lambda config: "P-PPO" if config.reward == "learned" else "PPO (true reward)",
        "cloning, a reward from the comparisons, then PPO online; --reward true is PPO",
    ),
}
