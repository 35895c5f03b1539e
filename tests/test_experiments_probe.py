"""A card is accepted for the right reasons."""

from dataclasses import replace
from typing import Any

import pytest

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.experiments.probe import Probe, probe

REACHED = {"sft": (0.75, 0.03), "cpl": (0.9, 0.02), "piql": (0.85, 0.03)}
GOOD = Probe(load_dataset_card("drawer-open-small"), 0.6, 0.99, REACHED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"behaviour": 0.2, "methods": {"sft": (0.3, 0.03)}}, "band"),
        ({"expert": 0.89}, "expert"),
        ({"methods": {"sft": (0.81, 0.03)}}, "SFT"),
    ],
)
def test_each_criterion_refuses_on_its_own(changes: dict[str, Any], reason: str) -> None:
    assert GOOD.verdict == "accepted"
    refused = replace(GOOD, **changes)
    assert len(refused.problems) == 1 and reason in refused.problems[0]


def test_a_card_without_an_expert_is_judged_by_the_rest() -> None:
    alone = replace(GOOD, expert=None)
    assert alone.verdict == "accepted" and "| 50%–70% | – | 75.0%" in alone.row()
    assert replace(alone, behaviour=0.2).problems


def test_a_card_that_a_method_solves_is_called_saturated() -> None:
    solved = replace(GOOD, methods={**REACHED, "cpl": (0.97, 0.01)})
    assert solved.verdict == "accepted, saturated" and not solved.problems
    assert "75.0% ± 3.0% | 97.0% ± 1.0% | 85.0% ± 3.0% | accepted, saturated" in solved.row()


@pytest.mark.slow
def test_a_probe_measures_expert_and_methods(dots, pool) -> None:
    card, _, preferences = dots
    measured = probe(card, preferences, 0.5, pool)
    assert measured.expert == 1.0
    assert list(measured.methods) == ["sft", "cpl", "piql"]
    assert all(0.2 < mean <= 1.0 for mean, _ in measured.methods.values())
