"""A card that extends another shares its trajectories and scores, and only the answers are new."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.card import load_experiment
from cpl_bench.experiments.cells import cells, check_cells
from cpl_bench.experiments.make import ensure_preferences
from cpl_bench.experiments.sweep import run_experiment
from cpl_bench.preferences.annotators import ask
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.runs.record import read_record

DOTS = Path(__file__).parent / "dots.toml"

NOISY = """
extends = "dots.toml"
[labelling]
annotator = "noisy"
annotator_settings = { error_rate = 0.3 }
"""


class NoPool:
    """A pool that nobody may ask."""

    def remembering(self, path):
        return nullcontext()

    def __getattr__(self, name):
        raise AssertionError(f"the simulator was asked: {name}")


@pytest.fixture
def folder(dots, tmp_path, monkeypatch):
    """A folder with the dots' card, one that extends it, and the dots' data."""
    _, root, _ = dots
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noisy-dots.toml").write_text(NOISY.replace("dots.toml", str(DOTS)))
    return tmp_path


def test_labels_of_another_answerer_take_no_simulator(folder, dots):
    card, oracle = load_dataset_card("noisy-dots.toml"), load_preferences(dots[2])
    assert card.minari_id == "cpl_bench/dots-v0" and card.extends == str(DOTS)
    found = load_preferences(ensure_preferences(card, NoPool()))
    assert preference_path(card).parent.name == "noisy-dots"
    np.testing.assert_array_equal(found.scores, oracle.scores)
    np.testing.assert_array_equal(found.observations, oracle.observations)
    assert found.info.source_hash == oracle.info.source_hash
    assert found.info.preferences_hash != oracle.info.preferences_hash
    first, second = np.triu_indices(200, 1)
    ours, theirs = (ask(each, first, second).prefers_second for each in (found, oracle))
    assert 0.28 < (ours != theirs)[theirs != 0.5].mean() < 0.32
    assert found.info.command.startswith("cpl-bench label noisy-dots.toml --scorer regret")
    again = with_options(card, annotator="bpref_mistake")
    label(again, NoPool())
    with pytest.raises(AssertionError, match="the simulator was asked: forks"):
        label(with_options(card, segments=30), NoPool())  # other segments, other scores


def test_settings_go_with_whom_they_are_for(folder):
    text = NOISY.replace("dots.toml", "noisy-dots.toml").replace("0.3", "0.1")
    (folder / "less.toml").write_text(text)
    less = load_dataset_card("less.toml")
    assert less.labelling.annotator_settings == {"error_rate": 0.1}
    assert less.minari_id == "cpl_bench/dots-v0" and less.labelling.cap_steps == 50
    (folder / "none.toml").write_text(
        'extends = "noisy-dots.toml"\n[labelling]\nannotator = "oracle"\n[segments]\ncount = 50\n'
    )
    none = load_dataset_card("none.toml")
    assert none.labelling.annotator_settings == {}
    assert (none.segments.count, none.segments.length) == (50, 12)
    assert none.fingerprint == with_options(load_dataset_card(str(DOTS)), segments=50).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "drawer-opn-small"', "No dataset is called 'drawer-opn-small'. Did you mean"),
        ('extends = "dots.toml"\nepisodes = 3', "has its trajectories.*remove episodes"),
        ('extends = "dots.toml"\nlabelling = 3', "'labelling' must be Labelling, not 3"),
        ("extends = 3", "No dataset is called '3'"),
    ],
)
def test_extensions_that_cannot_be_are_refused(folder, text, message):
    (folder / "wrong.toml").write_text(text.replace("dots.toml", str(DOTS)))
    with pytest.raises(UserError, match=message):
        load_dataset_card("wrong.toml")


def test_the_published_noise_experiment_can_be_run():
    experiment = load_experiment("noise")
    todo = cells(experiment)
    check_cells(todo)
    assert len(todo) == 14 and experiment.seeds == 4
    cards = [load_dataset_card(each) for each in experiment.datasets]
    assert {card.minari_id for card in cards} == {"cpl_bench/drawer-open-small-v0"}
    assert len({card.fingerprint for card in cards}) == 7
    rates = [card.labelling.annotator_settings.get("error_rate", 0.0) for card in cards]
    assert sorted(set(rates)) == [0.0, 0.1, 0.2, 0.3]


def test_an_experiment_of_variants_runs_on_one_set_of_trajectories(folder, pool):
    """A dry run of results/noise on small data: 50 steps, both methods."""
    (folder / "small").mkdir()
    settings = {
        "P-IQL": 'algorithm = "piql"\nsettings = { reward.steps = 20, transitions = 16, '
        "value.hidden = [16], reward.hidden = [16] }",
        "CPL(λ)": 'algorithm = "cpl"\nsettings = { clone.steps = 20 }',
    }
    methods = "".join(f'[[methods]]\nname = "{name}"\n{text}\n' for name, text in settings.items())
    (folder / "small" / "experiment.toml").write_text(
        f'datasets = ["{DOTS}", "../noisy-dots.toml"]\nseeds = 2\nfinal_episodes = 2\n'
        "episodes = 1\nevaluate_every = 50\nsettings = { steps = 50, policy.hidden = [16] }\n"
        f"{methods}"
    )
    experiment = load_experiment("small")
    result = run_experiment(experiment, folder / "runs", pool)
    assert [row.dataset for row in result.rows] == ["dots"] * 2 + ["noisy-dots"] * 2
    records = [read_record(folder / "runs" / cell.folder) for cell in cells(experiment)]
    assert len({each.preferences.source_hash for each in records}) == 1
    assert len({each.preferences.preferences_hash for each in records}) == 2
    assert records[2].preferences.annotator_settings == {"error_rate": 0.3}
    assert str(folder) not in cells(experiment)[2].command
