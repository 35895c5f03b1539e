"""The command line as a stranger meets it: help, mistakes, a small dataset from end to end."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cpl_bench.cli.main import VERBS, main, said_of
from cpl_bench.learning.methods import ALGOS
from cpl_bench.runs.folder import RunFolder

CARD = """
task = "pointmass"
episodes = 40
minimum_steps = 12
stop_steps_after_success = 3
[behaviour]
levels = [0.3, 0.7]
score_band = [0.1, 0.9]
demonstrations = 5
clone_steps = 300
probe_episodes = 12
[segments]
count = 60
length = 12
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a card of its own and one trained run."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "tiny.toml").write_text(CARD)
    done = run(folder, "train", "--data", "tiny.toml", "--seeds", "2", "--evaluate-every", "100",
               "--resume", "--episodes", "5", "cpl", "--steps", "200", "--clone.steps", "100",
               "--policy.hidden", "32", "32", "--segments", "8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in `folder`, with its data kept there."""
    return subprocess.run(
        [sys.executable, "-m", "cpl_bench.cli.main", *words],
        cwd=folder,
        env={**os.environ, "MINARI_DATASETS_PATH": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def refuse(folder: Path, *words: str) -> str:
    """The message of a command that must fail as the user's mistake."""
    done = run(folder, *words)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"cpl-bench {verb}" in capsys.readouterr().out


LIGHT = """
import contextlib, io, sys, time
from cpl_bench.cli.main import main
printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
assert "usage" in printed.getvalue(), printed.getvalue()
print(time.process_time(), *sorted({"torch", "gymnasium", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [("train", "--help"), ("--help",), ("evaluate", "--help")])
def test_help_costs_nothing(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=True
    )
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 1


def test_a_methods_help_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for words, rate in ((["cpl"], "0.0003"), (["--preset", "paper", "cpl"], "0.0001")):
        with pytest.raises(SystemExit) as stop:
            main(["train", *words, "--help"])
        assert stop.value.code == 0
        printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "--policy.hidden" in printed and "Widths of the hidden layers." in printed
        assert f"--contrast.rate FLOAT The learning rate. (default: {rate})" in printed


def test_from_card_to_report(workshop: Path) -> None:
    folder = workshop / "runs" / "tiny" / "cpl"
    record = json.loads((folder / "run.json").read_text())
    assert record["seeds"] == [0, 1]
    assert record["command"].startswith("cpl-bench train --data tiny.toml --seeds 2")
    assert "--resume" not in record["command"]  # it is made from nothing, resumed or not
    assert record["config"]["policy"]["hidden"] == [32, 32]
    assert record["phases"] == [["clone", 100], ["contrast", 100]]
    assert len((folder / "evaluations.csv").read_text().splitlines()) == 1 + 2 * 2 * 5
    again = run(workshop, "label", "tiny.toml")
    assert again.returncode == 0 and "labelling" not in again.stdout  # it is on disk
    shown = run(workshop, "inspect", "tiny.toml")
    assert shown.returncode == 0, shown.stderr
    assert "ties" in shown.stdout and "agree on" in shown.stdout
    evaluated = run(workshop, "evaluate", "runs/tiny/cpl", "--episodes", "6")
    assert evaluated.returncode == 0, evaluated.stderr
    assert len((folder / "final.csv").read_text().splitlines()) == 1 + 2 * 6
    reported = run(workshop, "report", "runs/tiny/cpl")
    assert reported.returncode == 0, reported.stderr
    header = (workshop / "runs/tiny/report/table.csv").read_text().splitlines()[0]
    assert header == "dataset,method,seeds,episodes,peak,last,iqm,ci_low,ci_high,failed,data"
    listed = run(workshop, "list", "runs")
    assert "step 200 of 200" in listed.stdout


def test_sparse_labels_are_another_file(workshop: Path) -> None:
    done = run(workshop, "label", "tiny.toml", "--pairs", "sparse", "--scorer", "partial_return")
    assert done.returncode == 0, done.stderr
    path = workshop / "data/preferences/tiny/partial_return-60x12-sparse-oracle-seed0.safetensors"
    trained = run(workshop, "train", "--data", str(path), "--seeds", "1", "--evaluate-every", "20",
                  "--episodes", "2", "sft", "--steps", "20", "--clone.steps", "10",
                  "--policy.hidden", "16", "--segments", "8")  # fmt: skip
    assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["collect", "drawer-opn"], "Did you mean 'drawer-open'?"),
        (["collect", "nowhere.toml"], "nowhere.toml"),
        (["label", "tiny.toml", "--scorer", "regert"], "Did you mean 'regret'?"),
        (["label", "tiny.toml", "--annotator", "oracel"], "Did you mean 'oracle'?"),
        (["label", "tiny.toml", "--segment-length", "51"], "51"),
        (["label", "tiny.toml", "--segments", "1"], "from 2 to"),
        (["label", "tiny.toml", "--pairs", "ranked"], "--ranked-size"),
        (["inspect", "tiny.toml", "--scorers", "regert"], "Did you mean 'regret'?"),
        (["train", "--data", "drawer-opn", "cpl"], "Did you mean 'drawer-open'?"),
        (["train", "--data", "gone.safetensors", "cpl"], "gone.safetensors"),
        (["train", "--data", "tiny.toml", "cpl", "--lam", "0"], "lam must be in (0, 1]"),
        (["train", "--data", "tiny.toml", "cpl", "--lam", "1.5"], "lam must be in (0, 1]"),
        (["train", "--data", "tiny.toml", "cpl", "--lam", "much"], "--lam"),
        (["train", "--data", "tiny.toml", "cpl", "--lamb", "0.5"], "--lam"),
        (["train", "--data", "tiny.toml", "--steps", "9", "cpl"], "--steps"),
        (["train", "--data", "tiny.toml", "--task", "pointmas", "cpl"], "Did you mean 'pointmass'"),
        (["train", "--data", "tiny.toml", "--resume", "--overwrite", "cpl"], "choose one"),
        (["train", "--data", "tiny.toml", "--device", "cuda:9", "sft"], "cuda:9"),
        (["train", "--data", "tiny.toml", "--device", "tpu", "sft"], "tpu"),
        (["train", "--data", "tiny.toml", "--seeds", "0", "sft"], "from 1 to 1,000"),
        (["train", "--data", "tiny.toml", "sft", "--policy.dropout", "1"], "in [0, 0.998]"),
        (["train", "--data", "tiny.toml", "sft", "--policy.hidden", "-3"], "from 1 to 8,192"),
        (["train", "--data", "tiny.toml", "cpl", "--alpha", "nan"], "alpha must be positive"),
        (["train", "--data", "tiny.toml", "--workers", "-1", "sft"], "from 1 to 1,024"),
        (["label", "tiny.toml", "--segments", "0"], "from 2 to"),
        (["train", "--data", "tiny.toml", "ppq"], "Did you mean 'ppo'?"),
        (["train", "--data", "tiny.toml", "nowhere_at_all:ENTRY"], "cannot be imported"),
        (["train"], "--data"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "runs/tiny/cpl", "--checkpoint", "7"], "100, 200"),
        (["report", "data"], "data"),
        (["sweep", "quickstrat"], "Did you mean 'quickstart'?"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(workshop: Path, words: list[str], said: str) -> None:
    assert said in refuse(workshop, *words)


def test_a_mistake_is_a_single_line(workshop: Path) -> None:
    said = refuse(workshop, "train", "--data", "x", "cpl", "--steps", "1000")
    assert said.splitlines() == [said.strip()]
    assert "1,000 leave none to the phase 'contrast'" in said and "'clone' 3,000" in said


def test_a_line_without_a_method_lists_them(workshop: Path) -> None:
    for words in (("--data", "tiny.toml"), ("--data", "tiny.toml", "--seeds", "2", "--resume")):
        said = refuse(workshop, "train", *words)
        assert said.splitlines() == [said.strip()]
        assert f"Which method? It comes last: {', '.join(ALGOS)}, or module:ENTRY." in said


def test_a_wrong_card_is_explained(workshop: Path) -> None:
    (workshop / "wrong.toml").write_text(CARD.replace("episodes =", "episoeds =", 1))
    said = refuse(workshop, "collect", "wrong.toml")
    assert "wrong.toml" in said and "Did you mean 'episodes'?" in said
    (workshop / "long.toml").write_text(CARD.replace("length = 12", "length = 60"))
    assert "longer than an episode" in refuse(workshop, "label", "long.toml")


def test_damaged_files_are_refused_and_left_alone(workshop: Path, tmp_path: Path) -> None:
    good = next((workshop / "data/preferences/tiny").glob("regret-*.safetensors"))
    truncated, foreign = tmp_path / "truncated.safetensors", tmp_path / "foreign.safetensors"
    truncated.write_bytes(good.read_bytes()[:-100])
    foreign.write_bytes(b"not a tensor in sight")
    for path in (truncated, foreign):
        before = path.read_bytes()
        assert path.name in refuse(workshop, "train", "--data", str(path), "cpl")
        assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [foreign, truncated]
    assert not list((workshop / "runs").glob("*truncated*"))


def test_a_run_is_not_overwritten_by_another(workshop: Path) -> None:
    said = refuse(workshop, "train", "--data", "tiny.toml", "--seeds", "2", "cpl", "--lam", "0.9")
    assert "--note" in said and "--overwrite" in said


# --- Stopped, refused by the system, or no longer listened to ---

LONG = ["--evaluate-every", "100", "--episodes", "2", "--seeds", "2", "cpl", "--clone.steps", "100",
        "--policy.hidden", "32", "32", "--segments", "8", "--steps", "100000"]  # fmt: skip


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command in `folder`, under way, stopped by signals even where the tests ignore them."""
    return subprocess.Popen(
        [sys.executable, "-m", "cpl_bench.cli.main", *words],
        cwd=folder,
        env={**os.environ, "MINARI_DATASETS_PATH": str(folder / "data")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_as_from_a_terminal,
    )


def _as_from_a_terminal() -> None:
    """What `nohup` and a shell's background jobs ignore, their children would ignore too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def until(holds, seconds: float = 120) -> None:
    """Wait for something to be true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def training(workshop: Path, request: pytest.FixtureRequest):
    """A long training that has come to its first state, and its run folder."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name)
    process = begin(workshop, "train", "--data", "tiny.toml", "--note", name, *LONG)
    folder = workshop / "runs" / "tiny" / f"cpl-{name}"
    until(lambda: (folder / "state.safetensors").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    yield process, folder
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_training_that_is_stopped_says_how_to_go_on(training, how):
    process, folder = training
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + how
    last = said.splitlines()[-1]
    assert last.startswith("cpl-bench: stopped. ")
    assert "--resume" in last
    assert "Traceback" not in said
    state, checkpoints = RunFolder(folder).state_step(), RunFolder(folder).checkpoint_steps()
    assert state == checkpoints[-1]


def test_a_second_training_in_the_folder_is_refused(training, workshop):
    process, folder = training
    name = folder.name.removeprefix("cpl-")
    said = refuse(workshop, "train", "--data", "tiny.toml", "--note", name, "--overwrite", *LONG)
    assert f"is being written by process {process.pid} since" in said
    assert process.poll() is None
    assert (folder / "state.safetensors").exists()


@pytest.mark.parametrize("word", ["list", "--help", "--version"])
def test_a_pipe_that_closes_is_no_error(workshop, word):
    process = begin(workshop, word)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE


def test_what_the_system_refuses_is_said_in_a_line(workshop, tmp_path):
    (tmp_path / "file").write_text("in the way")
    run_folder = next((workshop / "runs" / "tiny").glob("cpl"))
    for words in (
        ["report", str(run_folder), "--out", str(tmp_path / "file" / "below")],
        ["report", str(run_folder), "--out", str(tmp_path / ("long" * 100))],
        ["quickstart", "--out", str(tmp_path / "file")],
        ["train", "--data", "drawer-open-small", "--runs", str(tmp_path / "file"), "cpl"],
    ):
        before = sorted((workshop / "data").rglob("*"))
        said = refuse(workshop, *words)
        assert sorted((workshop / "data").rglob("*")) == before, "found out before it collects"
        assert "Traceback" not in said
        assert "choose" in said.lower()


def test_errors_of_the_system_come_with_advice():
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert said_of(full) == (
        "/data/x: No space left on device. Make room, and give the same command again."
    )
    assert said_of(OSError("h5py cannot read it")) == "h5py cannot read it."
