"""What was written is sound and comes out again; whatever is changed in it afterwards is found."""

import shutil
from pathlib import Path

import pytest

from cpl_bench.cli.main import main
from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.published import Published
from cpl_bench.experiments import verify as module
from cpl_bench.experiments.card import load_experiment
from cpl_bench.experiments.reproduce import reproduce
from cpl_bench.experiments.sweep import run_experiment
from cpl_bench.experiments.verify import verify
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.train import train

EXPERIMENT = """
title = "Two methods on dots"
datasets = ["dots.toml"]
seeds = 2
final_episodes = 4
episodes = 2
evaluate_every = 10
preset = "laptop"

[settings]
policy.hidden = [8, 8]
clone.steps = 5
steps = 20
segments = 8

[[methods]]
name = "SFT"
algorithm = "sft"

[[methods]]
name = "CPL"
algorithm = "cpl"
"""


@pytest.fixture(scope="module")
def made(dots, pool, tmp_path_factory):
    """An experiment's folder with its runs and pages, data included."""
    folder = tmp_path_factory.mktemp("made") / "two"
    folder.mkdir()
    (folder / "experiment.toml").write_text(EXPERIMENT)
    shutil.copy(Path(__file__).parent / "dots.toml", folder / "dots.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "data"))
        run_experiment(load_experiment(str(folder)), folder, pool)
    return folder


@pytest.fixture
def mine(made, tmp_path, monkeypatch):
    """A copy that a test may change."""
    folder = shutil.copytree(made, tmp_path / "two")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "data"))
    return folder


def verdicts(path):
    """{what was checked: verdict}."""
    return {str(found.path): found.verdict for found in verify(path)}


def test_what_was_made_is_sound(mine, capsys):
    found = verdicts(mine)
    assert set(found.values()) == {"sound"}
    names = [Path(name).relative_to(mine).as_posix() for name in found]
    assert names[0] == "data/cpl_bench/dots-v0"
    assert names[-3:] == ["dots/cpl-cpl", "dots/sft-sft", "."]
    assert any("preferences/dots/" in name for name in names)
    assert any("data/clones/" in name for name in names)
    assert main(["verify", str(mine)]) == 0
    out = capsys.readouterr().out
    assert "its tables are what 2 runs give" in out
    assert "CPL, 2 seeds, 20 steps" in out


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("data/cpl_bench/dots-v0/data/metadata.json", 40),
        ("data/preferences/dots/*.safetensors", -30),
        ("data/clones/*.safetensors", -30),
        ("dots/cpl-cpl/checkpoints/10.safetensors", -3),
        ("dots/cpl-cpl/state.safetensors", -3),
        ("dots/cpl-cpl/run.json", 30),
        ("dots/cpl-cpl/evaluations.csv", -2),
        ("dots/cpl-cpl/final.csv", 2),
        ("dots/cpl-cpl/metrics.csv", -1),
        ("table.csv", -5),
        ("curves.csv", -5),
    ],
)
def test_a_changed_byte_is_found(mine, capsys, pattern, place):
    (path,) = mine.glob(pattern)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    damaged = [found for found in verify(mine) if found.verdict == "damaged"]
    assert damaged
    assert any(path == each.path or each.path in path.parents for each in damaged)
    assert main(["verify", str(mine)]) == 2
    assert f"{len(damaged)} of" in capsys.readouterr().err
    if path.suffix in (".safetensors", ".csv") and path.parent != mine:
        assert set(verdicts(path).values()) == {"damaged"}, "alone, too"


def test_changed_trajectories_are_found(mine):
    import h5py

    (path,) = mine.glob("data/cpl_bench/dots-v0/data/main_data.hdf5")
    with h5py.File(path, "r+") as file:
        file["episode_3"]["actions"][2, 0] += 1e-3
    (found,) = verify(mine / "data" / "cpl_bench" / "dots-v0")
    assert found.verdict == "damaged"
    assert "other episodes than were collected" in found.about


def test_a_run_on_other_data_is_stale(mine, monkeypatch):
    run = mine / "dots" / "cpl-cpl"
    published = Published(trajectories="a" * 64)
    monkeypatch.setattr(module, "published_of", lambda info: published)
    (found,) = verify(run)
    assert found.verdict == "stale"
    assert "the card now publishes aaaaaaaaaaaa" in found.about


def test_an_experiment_that_asks_for_something_else_is_stale(mine):
    path = mine / "experiment.toml"
    path.write_text(path.read_text().replace("segments = 8", "segments = 10"))
    assert verdicts(mine)[str(mine)] == "stale"
    path.write_text(EXPERIMENT + '\n[[methods]]\nname = "10%BC"\nalgorithm = "percent-bc"\n')
    assert verdicts(mine)[str(mine)] in ("unfinished", "damaged")


def test_an_unfinished_run_is_no_damage(dots, pool, tmp_path):
    config = configured("cpl", "laptop", {"steps": 20, "clone": {"steps": 5}, "segments": 8})
    options = TrainOptions((0,), evaluate_every=10, episodes=1, runs=tmp_path)

    class Stops:
        asked = 0

        def episodes(self, *arguments, **named):
            self.asked += 1
            if self.asked > 1:
                raise KeyboardInterrupt
            return pool.episodes(*arguments, **named)

    with pytest.raises(KeyboardInterrupt):
        train(
            load_preferences(dots[2]),
            "dots",
            "cpl",
            config,
            options,
            Stops(),
            load_task("pointmass"),
        )
    (found,) = verify(tmp_path / "dots" / "cpl")
    assert found.verdict == "unfinished"
    assert "at step 10" in found.about


def test_nothing_to_verify_is_said(tmp_path, capsys):
    for path, said in ((tmp_path, "nothing to verify"), (tmp_path / "gone", "is not there")):
        with pytest.raises(UserError, match=said):
            list(verify(path))
    assert main(["verify"]) == 2
    assert "Which?" in capsys.readouterr().err


# --- Made again ---


def test_a_run_comes_out_again(mine, tmp_path, capsys):
    run, card = mine / "dots" / "cpl-cpl", str(mine / "dots.toml")
    words = ["reproduce", str(run), "--out", str(tmp_path / "again"), "--data", card]
    assert main(words) == 0
    out = capsys.readouterr().out
    for name in ("metrics.csv", "evaluations.csv", "final.csv", "10.safetensors"):
        assert f"{name:<24}the same bytes" in out
    assert "makes it now" not in out


def test_what_comes_out_otherwise_is_shown(mine, tmp_path, capsys):
    run, card = mine / "dots" / "cpl-cpl", str(mine / "dots.toml")
    final = run / "final.csv"
    text = final.read_text()
    final.write_text(text.replace(",0,-", ",1,-") if ",0,-" in text else text.replace(",1,", ",0,"))
    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace('"numpy": "', '"numpy": "0.'))
    words = ["reproduce", str(run), "--out", str(tmp_path / "again"), "--data", card]
    with pytest.raises(SystemExit, match="1"):
        main(words)
    out = capsys.readouterr().out
    assert "numpy: 0." in out
    assert f"{'evaluations.csv':<24}the same bytes" in out
    assert f"{'final.csv':<24}other bytes: success" in out


def test_other_data_are_refused(mine, pool, tmp_path):
    run = mine / "dots" / "cpl-cpl"
    path = run / "run.json"
    found = next(mine.glob("data/preferences/dots/*.safetensors"))
    named = load_preferences(found).info.preferences_hash
    path.write_text(path.read_text().replace(named, "b" * 64))
    with pytest.raises(UserError, match=r"trained on the preferences bbbbbbbbbbbb.*--data FILE"):
        reproduce(run, pool, tmp_path / "again", found)
    path.write_text(path.read_text().replace('"card": "dots"', '"card": ""'))
    with pytest.raises(UserError, match="data that no card makes"):
        reproduce(run, pool, tmp_path / "again")
    assert not (tmp_path / "again").exists()
