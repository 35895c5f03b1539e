"""What `inspect` measures of reward models, and the page that keeps a line a card."""

from dataclasses import replace

import numpy as np
import pytest

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments import calibration
from cpl_bench.experiments.calibration import Calibration, calibrate
from cpl_bench.experiments.datasets_page import INTRODUCTIONS, record
from cpl_bench.experiments.probe import Probe
from cpl_bench.preferences.file import load_preferences

REACHED = {"sft": (0.75, 0.03), "cpl": (0.9, 0.02), "piql": (0.85, 0.03)}
PROBE = Probe(load_dataset_card("drawer-open-small"), 0.6, 0.99, REACHED)
MEASURED = Calibration(
    "dots", "regret, dense", 40, 0.8, 0.9, [(0.5, 0.55, 0.65, 10), (0.9, 0.95, 0.93, 30)]
)


def test_the_error_weighs_bins_by_their_comparisons():
    assert MEASURED.error == pytest.approx((10 * 0.10 + 30 * 0.02) / 40)
    assert "| 80.0% | 90.0% | 4.0% |" in MEASURED.row()
    assert any("90%–100%" in line and "93.0%" in line for line in MEASURED.lines())


def test_the_point_mass_allows_a_good_reward_model(dots, monkeypatch):
    monkeypatch.setattr(calibration, "MODEL", replace(calibration.MODEL, hidden=(64, 64)))
    measured = calibrate(dots[2])
    assert measured.card == "dots"
    assert measured.accuracy > 0.8
    assert measured.fitted_accuracy > 0.8
    counts = sum(count for *_, count in measured.bins)
    right = sum(share * count for *_, share, count in measured.bins) / counts
    assert right == pytest.approx(measured.accuracy, abs=0.01)  # of decided ones, both ways
    assert measured.error < 0.15
    assert np.all(np.diff([low for low, *_ in measured.bins]) > 0)


def test_nothing_but_ties_is_refused(dots, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MODEL", replace(calibration.MODEL, steps=1))
    preferences = load_preferences(dots[2])
    tied = replace(preferences, scores=np.zeros_like(preferences.scores))
    monkeypatch.setattr(calibration, "load_preferences", lambda path: tied)
    with pytest.raises(UserError, match="All comparisons between held-out segments of dots"):
        calibrate(tmp_path / "tied.safetensors")


def test_skipped_questions_are_not_counted(dots, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MODEL", replace(calibration.MODEL, hidden=(16,), steps=150))
    preferences = load_preferences(dots[2])
    shy = replace(preferences.info, annotator="noisy", annotator_settings={"skip_below": 5.0})
    kept = replace(preferences, info=shy)
    monkeypatch.setattr(calibration, "load_preferences", lambda path: kept)
    measured = calibrate(tmp_path / "shy.safetensors")
    counts = sum(count for *_, count in measured.bins)
    right = sum(share * count for *_, share, count in measured.bins) / counts
    assert counts < measured.segments * (measured.segments - 1)  # two seeds ask every pair
    assert right == pytest.approx(measured.accuracy, abs=1e-6)


def test_the_page_says_what_was_fitted():
    model, said = calibration.MODEL, " ".join(INTRODUCTIONS["reward"].split())
    assert f"{len(model.hidden)} hidden layers of {model.hidden[0]}".replace("2", "two", 1) in said
    assert f"{model.steps:,} steps, no imitation, {len(calibration.SEEDS)} seeds" in said
    assert model.bounded and not model.imitation and "bounded to [0, 1]" in said


def test_the_page_keeps_one_line_a_card_and_table(tmp_path):
    path = tmp_path / "README.md"
    record(path, "probe", "drawer-open-small", PROBE.row())
    record(path, "reward", "dots", MEASURED.row())
    other = replace(PROBE, card=load_dataset_card("bin-picking"))
    record(path, "probe", "bin-picking", other.row())
    record(path, "probe", "drawer-open-small", replace(PROBE, expert=0.95).row())
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["card", "bin-picking", "drawer-open-small", "card", "dots"]
    assert "95%" in lines[2]
    before = path.read_text()
    record(path, "reward", "dots", MEASURED.row())
    assert path.read_text() == before
