"""Small files that are damaged or mean harm, one fault at a time: refused in a line."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cpl_bench.cli.main import main
from cpl_bench.core import tables
from cpl_bench.core.cards import TaskCard, load_task, task_cards
from cpl_bench.core.dataset_cards import Labelling, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import append, remove_folder, write_atomically
from cpl_bench.core.locks import held
from cpl_bench.core.names import check_folder, check_name, file_part
from cpl_bench.core.tensors import read_tensors, write_tensors
from cpl_bench.experiments.card import load_experiment
from cpl_bench.experiments.library import report
from cpl_bench.experiments.sweep import check_experiment
from cpl_bench.learning.algos.piql import PIQLConfig
from cpl_bench.learning.config import PolicyConfig, RewardConfig
from cpl_bench.learning.methods import configured
from cpl_bench.learning.perceptrons import MLP
from cpl_bench.learning.state import take_up
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.evaluations import HEADER, drop_after, read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.metrics import METRICS_HEADER, read_metrics
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.prepare import prepare
from cpl_bench.runs.record import read_record
from cpl_bench.runs.train import check_evaluations, folder_name, train
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.clone import _read_clone
from cpl_bench.trajectories.formats.minari import read_record as read_dataset_record
from cpl_bench.trajectories.formats.minari import read_trajectories

POINTMASS = load_task("pointmass")
SMALL = {
    "sft": {"steps": 8, "clone": {"steps": 4}, "segments": 8, "policy": {"hidden": [8]}},
    "ppo": {
        **{"steps": 12, "segments": 8, "policy": {"hidden": [8]}, "value": {"hidden": [8]}},
        **{"reward": {"steps": 2, "hidden": [8]}, "clone": {"steps": 2}},
        "collection": {"transitions": 120, "epochs": 2, "minibatch": 15, "value_only": 0},
    },
}
MANY = 10**22


@pytest.fixture(scope="module")
def trained(dots, pool, tmp_path_factory):
    """Runs of two methods."""
    out, preferences = tmp_path_factory.mktemp("trained"), load_preferences(dots[2])
    for name in SMALL:
        options = TrainOptions((0, 1), "cpu", evaluate_every=4, episodes=2, runs=out)
        config = configured(name, "laptop", SMALL[name])
        train(preferences, "dots", name, config, options, pool, POINTMASS)
    return out / "dots"


@pytest.fixture
def mine(trained, tmp_path):
    """A copy of them that a test may damage."""
    return shutil.copytree(trained, tmp_path / "dots")


def says(record, **changes):
    """Change what a run.json says."""
    path = record / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- Names ---


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/a", "a\\b", ".git", "a\nb", "\x1b[31m"])
def test_what_leads_out_of_a_folder_is_no_name(name, mine, tmp_path):
    with pytest.raises(UserError, match="part of a folder's name"):
        check_folder("a name", name)
    with pytest.raises(UserError, match="letters, digits"):
        check_name("a name", name)
    with pytest.raises(UserError, match="letters, digits"):
        TaskCard(name, "pointmass", "x", 5)
    says(mine / "sft", dataset=name)
    with pytest.raises(UserError, match="the dataset's name is part of a folder's"):
        read_record(mine / "sft")


@pytest.mark.parametrize("dataset", ["..", "../..", "/elsewhere/x", "a b", "../.toml"])
def test_an_experiment_names_cards(dataset, tmp_path):
    (tmp_path / "experiment.toml").write_text(
        f'datasets = ["{dataset}"]\nseeds = 1\nfinal_episodes = 1\npreset = "laptop"\n'
        '[[methods]]\nname = "A"\nalgorithm = "sft"\n'
    )
    with pytest.raises(UserError, match="No dataset is called"):
        load_experiment(str(tmp_path))


def test_an_experiment_is_called_as_its_folder_is(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "experiment.toml").write_text(
        'datasets = ["dots"]\nseeds = 1\nfinal_episodes = 1\n[[methods]]\nname = "A"\n'
        'algorithm = "../../x"\n'
    )
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "mine" / "below").mkdir()
    assert load_experiment(".").name == "mine"
    monkeypatch.chdir(tmp_path / "mine" / "below")
    assert load_experiment("..").name == "mine"
    assert folder_name("../../x") == "x" and folder_name("cpl", "a.b") == "cpl-a.b"


def test_no_task_lies_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "x.toml").write_text('suite = "pointmass"\nsource_id = "x"\nhorizon_steps = 5\n')
    for name in (str(tmp_path / "x"), "../../x"):
        with pytest.raises(UserError, match="No task is called"):
            load_task(name)


def test_settings_of_an_annotator_are_part_of_a_files_name():
    with pytest.raises(UserError, match="an annotator's setting"):
        Labelling(annotator="module:f", annotator_settings={"../../x": 1.0})
    assert "/" not in file_part("../" * 100) and len(file_part("a b" * 999)) < 150


# --- Links ---


def test_a_link_in_a_files_place_is_not_written_through(tmp_path):
    theirs, link = tmp_path / "theirs.txt", tmp_path / "table.csv"
    theirs.write_text("theirs")
    link.symlink_to(theirs)
    with pytest.raises(OSError, match="symbolic links"):
        append(link, "ours")
    write_atomically(link, "ours")
    assert theirs.read_text() == "theirs" and link.read_text() == "ours" and not link.is_symlink()


def test_a_link_in_a_locks_place_is_not_written_through(tmp_path):
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("theirs")
    (tmp_path / ".run.lock").symlink_to(theirs)
    with pytest.raises(OSError, match="symbolic links"), held(tmp_path / "run"):
        pass
    assert theirs.read_text() == "theirs"


def test_what_a_linked_run_leads_to_outlives_it(mine, dots, tmp_path):
    kept = tmp_path / "kept"
    (mine / "sft").rename(kept)
    (mine / "sft").symlink_to(kept)
    before = (kept / "metrics.csv").read_bytes()
    options = TrainOptions((0, 1), "cpu", episodes=0, overwrite=True, runs=tmp_path)
    config = configured("sft", "laptop", SMALL["sft"])
    train(load_preferences(dots[2]), "dots", "sft", config, options, None, None)
    assert not (mine / "sft").is_symlink() and (kept / "metrics.csv").read_bytes() == before
    (tmp_path / "link").symlink_to(kept)
    remove_folder(tmp_path / "link")
    assert kept.is_dir() and not (tmp_path / "link").exists()


def test_linked_folders_are_followed(dots, tmp_path):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large-disk")
    options = TrainOptions((0,), "cpu", episodes=0, runs=tmp_path / "runs")
    config = configured("sft", "laptop", SMALL["sft"])
    train(load_preferences(dots[2]), "dots", "sft", config, options, None, None)
    assert (tmp_path / "large-disk" / "dots" / "sft" / "run.json").is_file()


# --- TOML and JSON ---

ODD_TOML = {
    "deep": "a = " + "[" * 3000 + "]" * 3000,
    "deep by dots": f"{'a.' * 3000}a = 1",
    "digits": f"a = {'9' * 5000}",
    "hexadecimal digits": f"a = 0x{'f' * 5000}",
    "no number": "a = nan",
    "NUL": 'a = "\\u0000"',
    "Latin 1": b"a = '\xe4'",
}


@pytest.mark.parametrize("kind", ODD_TOML)
def test_odd_toml_is_refused_by_every_reader(kind, tmp_path):
    content = ODD_TOML[kind]
    for name in ("card.toml", "experiment.toml"):
        text = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(text)
    for read in (load_task, load_dataset_card):
        with pytest.raises(UserError, match="not readable as TOML"):
            read(str(tmp_path / "card.toml"))
    with pytest.raises(UserError, match="not readable as TOML"):
        load_experiment(str(tmp_path))


ODD_JSON = ["[" * 5000 + "]" * 5000, '{"a":' * 99 + "1" + "}" * 99, "9" * 5000, "NaN", "\xff"]


@pytest.mark.parametrize("text", ODD_JSON)
def test_odd_json_is_refused(text, mine, capsys):
    (mine / "sft" / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="not readable as JSON"):
        read_record(mine / "sft")


def test_a_table_is_no_larger_than_tables_are(tmp_path):
    with (tmp_path / "card.toml").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(UserError, match="10,000,000,000 bytes"):
        tables.read_toml(tmp_path / "card.toml")


def test_a_family_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cpl_bench.core.cards.card_folder", lambda kind: tmp_path)
    for text, said in (
        ('members = "ab"\nsuite = "x"', "must be a list of names"),
        ('members = ["a"]\nsuite = "x"\nhorizon_steps = 5', "'source_id' is missing"),
        ('members = ["../a"]\nsuite = "x"\nsource_id = "{0.x}"\nhorizon_steps = 5', "letters"),
    ):
        (tmp_path / "family.toml").write_text(text)
        with pytest.raises(UserError, match=said):
            task_cards()


# --- Records ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": {"processor": ["a"]}}, "must be str"),
        ({"seeds": [2**63 - 1, 2**63 - 1]}, "different whole numbers"),
        ({"seeds": list(range(1001))}, "from 1 to 1,000"),
        ({"evaluate_every": 0}, "evaluate_every must be a whole number from 1"),
        ({"episodes": -1}, "episodes must be a whole number from 0"),
        ({"config": [[[{}]]]}, "'config' must be"),
        ({"method": "\x1b[2J"}, "a line of letters that can be seen"),
        ({"algorithm": "a\nb"}, "a line of letters that can be seen"),
    ],
)
def test_records_of_wrong_types_are_refused(mine, changes, said, capsys, monkeypatch):
    says(mine / "sft", **changes)
    with pytest.raises(UserError, match=said):
        read_record(mine / "sft")
    monkeypatch.chdir(mine.parent)
    mine.rename(mine.parent / "runs")
    assert main(["list", "runs"]) == 0
    assert "ppo" in capsys.readouterr().out  # the other one is listed


def test_files_that_are_no_checkpoints_are_passed_over(mine):
    for name in ("12abc", "1_0", "007"):
        (mine / "sft" / "checkpoints" / f"{name}.safetensors").write_bytes(b"")
    assert RunFolder(mine / "sft").checkpoint_steps() == [4, 8]


@pytest.mark.skipif(sys.platform != "linux", reason="such names are Linux's")
def test_names_of_files_steer_no_terminal(mine, capsys, monkeypatch):
    odd = mine.parent / "runs" / "a\x1b[31m\x07b" / os.fsdecode(b"\xff")
    odd.parent.mkdir(parents=True)
    mine.rename(odd)
    monkeypatch.chdir(mine.parent)
    assert main(["list", "runs"]) == 0
    assert main(["verify", str(odd / "nothing\x1b[2J")]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out
    assert "\\x1b[31m\\x07b" in said.out and "\\udcff" in said.out and "\\x1b[2J" in said.err


# --- CSVs ---


@pytest.mark.parametrize("cell", ["9" * 5000, "9" * 19, "²", "\x1b", "1_0", "nan", ""])
def test_steps_that_are_no_numbers_are_refused(cell, tmp_path):
    path = tmp_path / "evaluations.csv"
    path.write_text(f"{HEADER}\n{cell},0,0,1,1.0,5\n")
    for read in (lambda: drop_after(path, 4), lambda: read_evaluations(path)):
        with pytest.raises(UserError, match="line 2") as caught:
            read()
        assert len(str(caught.value)) < 500


def test_a_step_for_every_episode_takes_no_time(tmp_path):
    """Steps times seeds are not gone through, nor kept."""
    path, many = tmp_path / "evaluations.csv", range(20_000)
    path.write_text(f"{HEADER}\n" + "".join(f"{i},{i},0,1,1.0,5\n" for i in many))
    with pytest.raises(UserError, match="step 0 is incomplete") as caught:
        read_evaluations(path)
    assert len(str(caught.value)) < 500
    path.write_text(f"{HEADER}\n" + "".join(f"{i},0,0,1,1.0,5\n" for i in many))
    assert len(read_evaluations(path)["step"]) == len(many)


def test_metrics_of_thousands_of_digits_are_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    for line in (f"{'9' * 5000},a,0,b,1", f"1,a,0,b,{'9' * 5000}", f"1,{'a' * 9999},0,b,1"):
        path.write_text(f"{METRICS_HEADER}\n{line}\n")
        with pytest.raises(UserError, match="line 2") as caught:
            read_metrics(path, "a", ["b"])
        assert len(str(caught.value)) < 500


# --- States, checkpoints, clones ---


def changed(arrays, name, how):
    """Arrays of which one is lost, misshapen, not a number or not what it was called."""
    value = np.array(arrays.pop(name))
    if how == "renamed":
        arrays[f"{name}x"] = value
    elif how == "misshapen":
        arrays[name] = value[None]
    elif how == "single":  # would be spread over all
        arrays[name] = value.reshape(-1)[:1]
    elif how == "not a number":
        arrays[name] = np.full(value.shape, np.nan, np.float32)
    elif how == "other type":
        arrays[name] = value.astype(np.float64)


@pytest.mark.parametrize(
    "how", ["missing", "renamed", "misshapen", "single", "not a number", "other type"]
)
@pytest.mark.parametrize("method", SMALL)
def test_odd_states_are_refused_and_change_nothing(mine, dots, pool, method, how):
    """Every array in turn, under a hash that is right."""
    config = configured(method, "laptop", SMALL[method])
    preferences, device = load_preferences(dots[2]), torch.device("cpu")
    learner = prepare(method, config, preferences, [0, 1], device, POINTMASS, pool).learner
    before = learner.state()
    _, whole = read_tensors(mine / method / "state.safetensors", "")
    for name in whole:
        arrays = dict(whole)
        changed(arrays, name, how)
        if how in ("single", "other type", "not a number") and (
            whole[name].size <= 1 or whole[name].dtype != np.float32
        ):
            continue
        state = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
        with pytest.raises(UserError):
            take_up(learner, state)
            pytest.fail(f"{name} was taken up")
    after = learner.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    take_up(learner, {k: torch.from_numpy(v.copy()) for k, v in whole.items()})


def test_odd_checkpoints_are_refused(mine, pool):
    path = mine / "sft" / "checkpoints" / "8.safetensors"
    about, whole = read_tensors(path, "")
    for arrays, said in (
        ({}, "has nothing"),
        ({k: v[:1] for k, v in whole.items()}, "1 policies, and run.json names 2 seeds"),
        ({k: v.astype(np.float64) for k, v in whole.items()}, "not float32"),
        (whole | {"w0": whole["w0"] * np.float32(np.nan)}, "no finite numbers in w0"),
        (whole | {"w0": whole["w0"][:, :3]}, "has observations of"),
    ):
        write_tensors(path, arrays, about)
        with pytest.raises(UserError, match=said):
            evaluate(mine / "sft", pool, 3)
    chunks = ({"chunk_length": "1"}, {"chunk_length": 3})
    for wrong in ({"kind": "gaussian"}, {"kind": 3}, *chunks, {}):
        write_tensors(path, whole, (about if wrong else {}) | wrong)
        with pytest.raises(UserError, match="holds no policy"):
            evaluate(mine / "sft", pool, 3)


def test_odd_clones_are_made_again(dots, tmp_path):
    (path,) = (dots[1] / "clones").glob("*.safetensors")
    about, whole = read_tensors(path, "")
    assert _read_clone(path, 2) is not None and _read_clone(path, 3) is None
    mine = tmp_path / "clone.safetensors"
    for arrays, said in (
        ({}, about),
        ({k: v for k, v in whole.items() if k != "1.w0"}, about),
        (whole | {"0.w0": whole["0.w0"].T.copy()}, about),
        (whole | {"0.b0": whole["0.b0"] * np.float32(np.inf)}, about),
        (whole, about | {"score": []}),
        (whole, about | {"score": ["a", "b"]}),
        (whole, about | {"steps": 3}),
        (whole, about | {"steps": [28, -1]}),
        (whole, {}),
    ):
        write_tensors(mine, arrays, said)
        assert _read_clone(mine, 2) is None


# --- Trajectories ---


@pytest.fixture
def dataset(dots, tmp_path, monkeypatch):
    """A copy of the collected episodes; its HDF5 and its metadata."""
    shutil.copytree(dots[1] / "cpl_bench", tmp_path / "cpl_bench")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    folder = tmp_path / "cpl_bench" / "dots-v0" / "data"
    return folder / "main_data.hdf5", folder / "metadata.json"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("infos/state", lambda x: x[:-3]),
        ("infos/state", lambda x: x[:, 0]),
        ("infos/success", lambda x: x[:2]),
        ("observations", lambda x: x[:, :-1]),
        ("observations", lambda x: x * np.nan),
        ("actions", lambda x: x[:-1]),
        ("rewards", lambda x: x[:0]),
        ("rewards", lambda x: x[:, None]),
    ],
)
def test_episodes_whose_arrays_do_not_go_together_are_refused(dataset, name, how):
    with h5py.File(dataset[0], "r+") as file:
        group = file["episode_3"]
        value = how(group[name][()])
        del group[name]
        group[name] = value
    with pytest.raises(UserError, match="cannot be read"):
        read_trajectories("cpl_bench/dots-v0")


@pytest.mark.parametrize(
    "recorded",
    ["[]", "{", "[" * 3000, '{"levels": 3}', '{"levels": [{"step": "a"}]}', '{"card": []}', 5],
)
def test_odd_records_of_datasets_are_refused(dataset, recorded):
    metadata = json.loads(dataset[1].read_text())
    dataset[1].write_text(json.dumps(metadata | {"cpl_bench": recorded}))
    for read in (read_dataset_record, read_trajectories):
        with pytest.raises(UserError):
            read("cpl_bench/dots-v0")


# --- Counts ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: PolicyConfig((MANY,)),
        lambda: PolicyConfig((8,) * 101),
        lambda: RewardConfig(ensemble=MANY),
        lambda: PIQLConfig(steps=MANY),
        lambda: PIQLConfig(segments=MANY),
        lambda: PIQLConfig(transitions=MANY),
        lambda: TrainOptions(seeds=tuple(range(1001))),
        lambda: TrainOptions(seeds=(MANY,)),
        lambda: TrainOptions(episodes=MANY),
        lambda: TrainOptions(evaluate_every=MANY),
        lambda: TrainOptions(threads=MANY),
        lambda: RolloutPool(MANY),
        lambda: TaskCard("x", "pointmass", "x", MANY),
        lambda: Labelling(cap_steps=MANY),
        lambda: check_evaluations(PIQLConfig(steps=10**8), 1),
        lambda: MLP([8192] * 9, range(1), torch.device("cpu"), 0),
        lambda: MLP([512, 512, 4], range(100_000), torch.device("cpu"), 0),
    ],
)
def test_counts_that_no_machine_could_serve_are_refused(make):
    with pytest.raises(UserError):
        make()


@pytest.mark.parametrize("digits", [22, 5000])
def test_numbers_of_many_digits_on_the_command_line_are_refused(
    trained, digits, dots, tmp_path, monkeypatch
):
    number, lines = "9" * digits, []
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data, label = ["train", "--data", str(dots[2]), "--device", "cpu"], ["label", "drawer-open"]
    for option in ("--seeds", "--first-seed", "--episodes", "--evaluate-every", "--threads"):
        lines += [[*data, option, number, "sft"]]
    for option in ("--reward.ensemble", "--policy.hidden", "--steps", "--segments"):
        lines += [[*data, "piql", option, number]]
    lines += [["collect", "drawer-open", "--workers", number], [*label, "--workers", number]]
    lines += [[*label, "--segments", number], [*label, "--segment-length", number]]
    run = str(trained / "sft")
    lines += [["evaluate", run, option, number] for option in ("--episodes", "--checkpoint")]
    for line in lines:
        try:
            status = main(line)
        except SystemExit as end:  # tyro's refusal
            status = end.code
        assert status == 2, line
    assert list(tmp_path.iterdir()) == []


def test_a_card_may_ask_for_no_more_than_can_be(tmp_path):
    text = (Path(__file__).parent / "dots.toml").read_text()
    for old in ("episodes = 150", "demonstrations = 8", "clone_steps = 600", "count = 600"):
        key = old.partition(" ")[0]
        (tmp_path / "mine.toml").write_text(text.replace(old, f"{key} = {2**62}"))
        with pytest.raises(UserError, match=f"{key} must be a whole number from"):
            load_dataset_card(str(tmp_path / "mine.toml"))
    with pytest.raises(UserError, match="would list more than 10,000,000 pairs"):
        ranked = text.replace("count = 600", 'count = 600000\npairs = "ranked"\nranked_size = 9999')
        (tmp_path / "mine.toml").write_text(ranked)
        load_dataset_card(str(tmp_path / "mine.toml"))


def test_a_file_of_preferences_lists_no_more_than_it_holds(dots):
    """The pairs of a ranked question are counted before they are made."""
    from cpl_bench.preferences.verify import verify

    preferences = load_preferences(dots[2])
    info = replace(preferences.info, pairs="ranked", ranked_size=10**6)
    starts = np.zeros(10**6, np.int64)
    many = replace(preferences, info=info, segment_starts=starts, scores=np.zeros(10**6))
    with pytest.raises(UserError, match="must list 499999500000 comparisons"):
        verify(many)


@pytest.mark.parametrize("read", [load_task, load_dataset_card, load_experiment])
@pytest.mark.parametrize("ending", ["", ".toml"])
def test_a_name_that_no_file_can_have_is_none(read, ending):
    with pytest.raises(UserError):
        read("a" * 5000 + ending)


def test_a_dataset_that_no_file_can_be_is_none(tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "experiment.toml").write_text(
        f'datasets = ["{"a" * 300}.toml"]\n[[methods]]\nname = "SFT"\nalgorithm = "sft"\n'
    )
    with pytest.raises(UserError):
        check_experiment(load_experiment(str(folder)))


@pytest.mark.parametrize("title", ["two\nlines", "\x1b[31mred", "half \ud800 a pair"])
def test_a_title_is_a_line(tmp_path, title):
    with pytest.raises(UserError, match="the title must be a line of letters that can be seen"):
        report(tmp_path / "runs" / "one", tmp_path / "out", title)
    assert not (tmp_path / "out").exists()
