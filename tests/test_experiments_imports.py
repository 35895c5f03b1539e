"""What `import` does with a card that was corrected, extended, or has a namesake."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from foreign_files import flat_arrays, pair_arrays, write_d4rl

from cpl_bench.cli.main import main
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.library import label
from cpl_bench.experiments.make import check_card
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.foreign import is_answered
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.tasks.registry import make_env
from cpl_bench.trajectories.foreign import import_trajectories, is_imported
from cpl_bench.trajectories.formats.minari import read_trajectories

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
PEOPLE = """
task = "pointmass"
segments = { count = 24, length = 5, pairs = "sparse" }
source = { format = "npz", id = "theirs.npz", label_one_means = "second" }
"""
MINE = """
task = "pointmass"
segments = { count = 20, length = 8 }
labelling = { scorer = "partial_return" }
source = { format = "d4rl", id = "mine.hdf5" }
"""
TORQUES = """
suite = "gymnasium"
source_id = "{id}"
horizon_steps = 200
description = "a task whose actions lie within two"
score = "return"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a card of answers, one of trajectories, and their files."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.toml").write_text(PEOPLE)
    (tmp_path / "mine.toml").write_text(MINE)
    np.savez(tmp_path / "theirs.npz", **pair_arrays())
    write_d4rl(tmp_path / "mine.hdf5", flat_arrays())
    return tmp_path


def answers() -> list[float]:
    """What the card people.toml says now."""
    return load_preferences(label("people.toml")).prefers_second.tolist()


def change(path: Path, old: str, new: str) -> None:
    """Write something else into a file."""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that a command is refused with."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said


# --- Cards that were corrected ---


def test_a_corrected_convention_turns_the_answers(place: Path) -> None:
    before = answers()
    change(place / "people.toml", '"second"', '"first"')
    assert answers() == [1 - each for each in before]
    info = load_preferences(preference_path(load_dataset_card("people.toml"))).info
    assert info.annotator_settings == {"label_one_means": "first", "ties": "half"}


def test_ties_of_minus_one_are_said_on_the_card(place: Path, capsys) -> None:
    arrays = pair_arrays()
    arrays["label"][arrays["label"] == 0.5] = -1
    before = answers()
    np.savez(place / "theirs.npz", **arrays)
    assert 'ties = "minus-one"' in refusal(capsys, "import", "people.toml")
    change(place / "people.toml", '"second"', '"second", ties = "minus-one"')
    assert answers() == before


def test_importing_anew_reads_anew(place: Path) -> None:
    before = answers()
    np.savez(place / "theirs.npz", **(pair_arrays() | {"label": np.ones(12)}))
    assert answers() == before, "what trains reads what was imported"
    assert main(["import", "people.toml"]) == 0
    assert answers() == [1] * 12
    (place / "theirs.npz").unlink()
    assert main(["import", "people.toml"]) == 0, "what lies there is enough"


def test_another_file_of_one_name_of_d4rls_is_imported(place: Path) -> None:
    change(place / "mine.toml", '"mine.hdf5"', '"dots-v2", file = "mine.hdf5"')
    import_trajectories(load_dataset_card("mine.toml"))
    write_d4rl(place / "b.hdf5", flat_arrays(seed=9))
    change(place / "mine.toml", 'file = "mine', 'file = "b')
    assert not is_imported(load_dataset_card("mine.toml"))


def test_a_corrected_task_is_the_preferences_too(place: Path) -> None:
    assert load_preferences(label("mine.toml")).info.task == "pointmass"
    change(place / "mine.toml", '"mine.hdf5"', '"mine.hdf5", rolled_out = false')
    assert load_preferences(label("mine.toml")).info.task == ""


@pytest.mark.parametrize("damaged", [True, False])
def test_a_damaged_or_older_file_of_answers_is_made_again(place: Path, damaged: bool) -> None:
    before = answers()
    path = preference_path(load_dataset_card("people.toml"))
    content = path.read_bytes()
    old = content.replace(b'\\"format_version\\": 3', b'\\"format_version\\": 2')
    assert old != content
    path.write_bytes(content[:-9] if damaged else old)
    assert not is_answered(load_dataset_card("people.toml"))
    assert answers() == before


def test_answers_may_be_of_a_task_that_is_observed_otherwise(place: Path, capsys) -> None:
    np.savez(place / "theirs.npz", **pair_arrays(sizes=(4, 2)))
    said = refusal(capsys, "import", "people.toml")
    assert "rolled_out = false" in said and "--task" not in said
    change(place / "people.toml", '"second"', '"second", rolled_out = false')
    assert load_preferences(label("people.toml")).info.task == ""


# --- Namesakes ---


def test_answers_of_another_card_are_not_overwritten(place: Path, capsys) -> None:
    before = answers()
    (place / "b").mkdir()
    shutil.copy(place / "people.toml", place / "b")
    np.savez(place / "b" / "theirs.npz", **(pair_arrays() | {"label": np.ones(12)}))
    assert "another card of the same name" in refusal(capsys, "import", "b/people.toml")
    assert answers() == before


# --- Cards that extend ---


@pytest.mark.parametrize("first", ["base", "extending"])
def test_an_extending_card_imports_its_base(place: Path, first: str, monkeypatch) -> None:
    (place / "b").mkdir()
    (place / "b" / "noisy.toml").write_text(
        'extends = "../mine.toml"\nlabelling = { annotator = "noisy" }'
    )
    names = ["mine.toml", "b/noisy.toml"]
    for name in names if first == "base" else reversed(names):
        assert main(["import", name]) == 0
    source = read_trajectories("cpl_bench/mine-v0")
    assert source.record["card"]["file"] == str(place / "mine.toml")
    assert main(["import", "b/noisy.toml", "--source", "mine.hdf5"]) == 0
    infos = [load_preferences(label(name)).info for name in names]
    assert infos[0].source_hash == infos[1].source_hash
    assert [each.annotator for each in infos] == ["oracle", "noisy"]


def test_checkpoints_lie_beside_the_card_that_is_extended(place: Path) -> None:
    (place / "replay.toml").write_text(
        'extends = "hopper-replay"\nlabelling = { annotator = "noisy" }'
    )
    check_card(load_dataset_card("replay.toml"))


@pytest.mark.parametrize("more", ["", '[labelling]\nannotator = "noisy"'])
def test_answers_are_not_labelled_anew(place: Path, more: str) -> None:
    if more:
        path = place / "people.toml"
        path.write_text(f"{PEOPLE}\n{more}")
    else:
        path = place / "again.toml"
        path.write_text('extends = "people.toml"')
    with pytest.raises(UserError, match="comes with its segments and answers"):
        load_dataset_card(str(path))


@pytest.mark.parametrize(
    "option", [{"discount": 0.9}, {"comparisons": 2}, {"scorer_settings": {"cap_steps": 3}}]
)
def test_no_option_labels_answers_anew(place: Path, option: dict) -> None:
    with pytest.raises(UserError, match="import it as it is"):
        with_options(load_dataset_card("people.toml"), **option)


# --- Tasks without a card ---


@pytest.mark.parametrize("task", ["Pendulum-v1", "cpl_bench/pointmass-v0", "swinging:Swing"])
def test_a_card_names_a_task_as_the_command_line_does(place: Path, task: str, monkeypatch) -> None:
    (place / "swinging.py").write_text(
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "class Swing(PendulumEnv):\n    horizon_steps = 200\n"
    )
    monkeypatch.syspath_prepend(str(place))
    sizes = (6, 2) if "pointmass" in task else (3, 1)
    np.savez(place / "theirs.npz", **pair_arrays(sizes=sizes))
    change(place / "people.toml", '"pointmass"', f'"{task}"')
    assert main(["import", "people.toml"]) == 0
    assert load_preferences(label("people.toml")).info.task == task
    name = preference_path(load_dataset_card("people.toml"))
    assert main(["train", "--data", str(name), "--seeds", "1", "--evaluate-every", "20",
                 "--episodes", "2", "--workers", "1", "sft", "--steps", "20", "--clone.steps",
                 "10", "--policy.hidden", "16", "--segments", "8"]) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            "Pendulm-v1",
            r"No task is called 'Pendulm-v1'\. Did you mean 'Pendulum-v1'.*Gymnasium id",
        ),
        ("pointmas", "Did you mean 'pointmass'"),
        ("gone.toml", r"gone\.toml: there is no such task card"),
    ],
)
def test_a_misspelt_task_is_refused_with_its_card(place: Path, task: str, said: str) -> None:
    change(place / "people.toml", '"pointmass"', f'"{task}"')
    with pytest.raises(UserError, match=said):
        load_dataset_card("people.toml")


def test_trajectories_may_be_of_a_task_without_a_card(place: Path, capsys) -> None:
    write_d4rl(place / "mine.hdf5", flat_arrays(sizes=(3, 1)))
    change(place / "mine.toml", '"pointmass"', '"Pendulum-v1"')
    assert main(["import", "mine.toml"]) == 0
    assert is_imported(load_dataset_card("mine.toml"))
    assert load_preferences(label("mine.toml")).info.task == "Pendulum-v1"
    assert main(["inspect", "mine.toml"]) == 0
    assert "dataset        mine: Pendulum-v1" in capsys.readouterr().out


def test_what_fits_no_episode_is_refused_once_its_length_is_known(place: Path) -> None:
    text = (Path(__file__).parent / "dots.toml").read_text()
    (place / "swing.toml").write_text(text.replace('"pointmass"', '"Pendulum-v1"'))
    change(place / "swing.toml", "minimum_steps = 12", "minimum_steps = 201")
    with pytest.raises(UserError, match="minimum_steps, 201, is longer than an episode, 200 steps"):
        check_card(load_dataset_card("swing.toml"))


# --- Successes that nobody wrote down ---


@pytest.mark.parametrize("data", ["d4rl", "minari"])
def test_success_scores_nothing_that_does_not_know_it(place: Path, data: str, capsys) -> None:
    words = ["label", "mine.toml", "--scorer", "success"]
    if data == "minari":
        assert main(["import", "mine.toml"]) == 0
        change(place / "mine.toml", 'd4rl", id = "mine.hdf5"', 'minari", id = "cpl_bench/mine-v0"')
        (place / "mine.toml").rename(place / "again.toml")
        words[1] = "again.toml"
    said = refusal(capsys, *words)
    assert "does not say where episodes succeeded" in said and "--scorer partial_return" in said
    assert not (place / "data" / "preferences").exists(), "no folder is left"
    assert data == "minari" or not (place / "data").exists(), "and nothing is imported for it"


def test_a_labelling_that_fails_leaves_no_folder(place: Path, capsys, monkeypatch) -> None:
    (place / "fails.py").write_text(
        "from cpl_bench.core.errors import UserError\ndef scorer(*_):\n    raise UserError('no')\n"
    )
    monkeypatch.syspath_prepend(str(place))
    assert "no" in refusal(capsys, "label", "mine.toml", "--scorer", "fails:scorer")
    assert list((place / "data" / "preferences").iterdir()) == []


# --- Cards that cannot be ---


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source =", "[members]\na = {}\n[x]\ny =", "works in datasets/ only"),
        ('"second"', '"second", parts = ["looks"]', "parts is for minari files only"),
        ('"second"', '"second", file = "x"', "file is for d4rl files only"),
        ('"second"', '"second", ties = "none"', "ties"),
        ('label_one_means = "second"', 'score_key = "x", ties = "minus-one"', "ties and annotator"),
    ],
)
def test_keys_that_would_not_count_are_refused(place: Path, old: str, new: str, said: str) -> None:
    change(place / "people.toml", old, new)
    with pytest.raises(UserError, match=said):
        load_dataset_card("people.toml")


# --- Actions ---


def test_d4rls_actions_are_rescaled_from_the_environments_bounds(place: Path, capsys) -> None:
    """What a policy learns to do is what was done: torques of Pendulum, within ±2."""
    arrays = flat_arrays(sizes=(3, 1))
    arrays["actions"] *= 0.9
    write_d4rl(place / "mine.hdf5", arrays)
    (place / "swing.toml").write_text(TORQUES.format(id="Pendulum-v1"))
    change(place / "mine.toml", '"pointmass"', '"swing.toml"')
    assert main(["import", "mine.toml"]) == 0
    assert "rescaled to [-1, 1] from the bounds of Pendulum-v1" in capsys.readouterr().out
    actions = read_trajectories("cpl_bench/mine-v0").trajectories[1].actions
    assert np.allclose(2 * actions, arrays["actions"][30:42], atol=1e-6)
    env = make_env("swing.toml")
    env.reset(seed=0)
    env.step(actions[0])
    assert env.unwrapped._env.unwrapped.last_u == pytest.approx(arrays["actions"][30, 0], abs=1e-6)
    env.close()


@pytest.mark.parametrize(
    "name", ["halfcheetah-medium-v2", "walker2d-medium-v2", "hopper-medium-v2"]
)
def test_our_cards_keep_d4rls_actions(name: str) -> None:
    env = make_env(load_dataset_card(name).task)
    centre, reach = env.unwrapped.own_actions
    assert not centre.any() and (reach == 1).all()
    env.close()
