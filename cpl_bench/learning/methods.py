"""The methods by name, and their configs by preset. To add one: its file, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from cpl_bench.core import plugins
from cpl_bench.core.errors import UserError, unknown_name
from cpl_bench.core.toml import replaced

if TYPE_CHECKING:
    from cpl_bench.learning.config import MethodConfig
    from cpl_bench.learning.interface import Entry

GROUP = "cpl_bench.algorithms"


class Listed(NamedTuple):
    """A method before it is imported, so that a list of them costs nothing."""

    where: str
    """module:ENTRY."""
    summary: str


ALGOS: dict[str, Listed] = {
    "sft": Listed(
        "cpl_bench.learning.algos.bc:ENTRY",
        "behaviour cloning of all, then of the preferred segments",
    ),
    "cpl": Listed(
        "cpl_bench.learning.algos.cpl:ENTRY",
        "contrastive preference learning: CPL(λ), --lam 1 is plain CPL; --reference is CPL(KL)",
    ),
    "dpo": Listed(
        "cpl_bench.learning.algos.cpl:DPO",
        "CPL relative to the clone, λ = 1: direct preference optimisation, its β is --alpha",
    ),
    "ipo": Listed(
        "cpl_bench.learning.algos.cpl:IPO",
        "DPO with a squared loss, whose optimum is finite where every answer agrees",
    ),
    "rso": Listed(
        "cpl_bench.learning.algos.rso:ENTRY",
        "DPO on segments that a reward model accepts and labels; --labels soft: by its probability",
    ),
    "percent-bc": Listed(
        "cpl_bench.learning.algos.percent:ENTRY",
        "behaviour cloning of the best X % of the episodes by true return (an oracle)",
    ),
    "piql": Listed(
        "cpl_bench.learning.algos.piql:ENTRY",
        "a reward from the comparisons, then implicit Q-learning; --reward.source true is IQL",
    ),
    "ipl": Listed(
        "cpl_bench.learning.algos.ipl:ENTRY",
        "implicit Q-learning of the reward that its critic implies: inverse preference learning",
    ),
    "ppo": Listed(
        "cpl_bench.learning.algos.ppo:ENTRY",
        "cloning, a reward from the comparisons, then PPO online; --reward.source true is PPO",
    ),
}

EVALUATE_EVERY = {"laptop": 500, "paper": 5000}
"""Gradient steps between the evaluations of a preset."""


def summaries() -> dict[str, str]:
    """Every method that is known by name, ours and those of installed packages, with a line."""
    others = {point.name: f"from {point.value}" for point in entry_points(group=GROUP)}
    return {name: listed.summary for name, listed in ALGOS.items()} | others


def find_method(name: str) -> Entry[Any]:
    """The method called `name`, or the `module:ENTRY` of anybody's.

    Raises:
        UserError: there is none, or what there is is no method.
    """
    found = plugins.find("algorithm", name, ALGOS, GROUP)
    entry = plugins.load("algorithm", found.where) if isinstance(found, Listed) else found
    missing = [each for each in ("build", "presets", "title") if not hasattr(entry, each)]
    if missing:
        raise UserError(
            f"'{name}' is no method: expected a cpl_bench.learning.interface.Entry, got "
            f"{type(entry).__name__} without {', '.join(missing)}."
        )
    return entry


def configured(algorithm: str, preset: str, settings: Mapping[str, Any]) -> MethodConfig:
    """The config of a preset with some of its fields replaced, nested ones by nested tables.

    Raises:
        UserError: an unknown algorithm, preset or field, or a value that cannot be.
    """
    return replaced(preset_of(algorithm, preset), settings, f"settings of {algorithm}")


def preset_of(algorithm: str, preset: str) -> MethodConfig:
    """The config that a preset of a method is.

    Raises:
        UserError: an unknown algorithm or preset.
    """
    presets = find_method(algorithm).presets
    if preset not in presets:
        raise unknown_name("preset", preset, presets, f"Those are the presets of {algorithm}.")
    return presets[preset]
