"""A card is accepted for the right reasons."""

from dataclasses import replace

import pytest

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.experiments.probe import Probe, probe

GOOD = Probe(load_dataset_card("drawer-open-small"), 0.6, 0.99, 0.75, 0.03)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"behaviour": 0.2, "sft": 0.3}, "band"),
        ({"expert": 0.89}, "expert"),
        ({"sft": 0.81}, "SFT"),
    ],
)
def test_each_criterion_refuses_on_its_own(changes: dict[str, float], reason: str) -> None:
    assert GOOD.verdict == "accepted"
    refused = replace(GOOD, **changes)
    assert len(refused.problems) == 1 and reason in refused.problems[0]


@pytest.mark.slow
def test_a_probe_measures_expert_and_sft(dots, pool) -> None:
    card, _, preferences = dots
    measured = probe(card, preferences, 0.5, pool)
    assert measured.expert == 1.0
    assert 0.2 < measured.sft <= 1.0
