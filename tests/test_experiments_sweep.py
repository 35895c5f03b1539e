"""An experiment is checked whole, runs as its cells do, and publishes its evidence alone."""

import importlib.util
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro

from cpl_bench.cli.main import main
from cpl_bench.cli.train import _method_place
from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.card import Experiment, Method, load_experiment
from cpl_bench.experiments.cells import Cell, cells, one_by_one, run_cell
from cpl_bench.experiments.make import task_of
from cpl_bench.experiments.publish import (
    EVIDENCE,
    FINAL,
    LARGEST_METRICS_BYTES,
    RUN_EVIDENCE,
    SOMETIMES,
    publish,
)
from cpl_bench.experiments.standing import standing_runs
from cpl_bench.experiments.sweep import check_experiment, run_experiment
from cpl_bench.learning.methods import configured, find_method
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import PreferenceInfo
from cpl_bench.report import figure
from cpl_bench.report.likelihood import EXTRACT
from cpl_bench.report.read import read_run
from cpl_bench.runs.evaluations import append_evaluations
from cpl_bench.runs.record import RunRecord, read_record, write_record
from cpl_bench.runs.webp import Film, Origin, read_film, write_film

RESULTS = Path(__file__).parent.parent / "results"
METRICS = "step,phase,seed,metric,value\n10,all,0,loss,1.0\n10,all,0,data_log_prob,-0.5\n"
DOTS = str(Path(__file__).parent / "dots.toml")
SHORT = {"policy": {"hidden": [16]}, "steps": 30, "segments": 8, "clone": {"steps": 10}}


@pytest.fixture(autouse=True)
def pictures_are_not_drawn(request, monkeypatch):
    """Nothing here looks at them, and they take most of a report's time; quickstart's are drawn."""
    if "quickstart" not in request.node.name:
        monkeypatch.setattr(figure, "_png", lambda drawn, dpi: b"\x89PNG")
        monkeypatch.setattr(figure, "_pdf", lambda drawn: b"%PDF")


def small(*methods, dataset=DOTS):
    """An experiment of two seeds."""
    return Experiment("small", (dataset,), methods, seeds=2, final_episodes=2)


# --- Publish ---


@pytest.fixture
def experiment(tmp_path):
    """An experiment of an offline and an online method, with the files a report left behind."""
    methods = (Method("CPL(λ)", "cpl", {}), Method("P-PPO", "ppo", {}))
    experiment = Experiment("small", ("dots",), methods, seeds=1, final_episodes=1)
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    (results / "experiment.toml").write_text("")
    for cell, online in zip(cells(experiment), (0, 4250), strict=True):
        run, method = out / cell.folder, cell.method
        run.mkdir(parents=True)
        record = RunRecord(
            dataset="dots",
            task=None,
            algorithm=method.algorithm,
            method=method.name,
            config={},
            seeds=(0,),
            steps=10,
            phases=(("all", 10),),
            evaluate_every=10,
            episodes=1,
            preferences=PreferenceInfo("dots", "", 12, "dense", "", "", "regret", "oracle"),
            online_transitions=online,
        )
        write_record(run / "run.json", record)
        episode = {"step": 10, "seed": 0, "episode": 0, "success": 1, "return": 0.0, "length": 1}
        for name in ("evaluations.csv", "final.csv"):
            append_evaluations(run / name, episode)
        (run / "metrics.csv").write_text(METRICS)
        (run / "state.safetensors").write_bytes(b"large")
    for name in (*EVIDENCE, *SOMETIMES):
        (out / name).write_bytes(name.encode())
    return experiment, out, results


def published(results):
    return sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())


OFFLINE = [f"dots/cpl-cpl-lam/{name}" for name in (*RUN_EVIDENCE, FINAL)]
ONLINE = [f"dots/ppo-p-ppo/{name}" for name in (*RUN_EVIDENCE, FINAL)]
ALWAYS = sorted(["experiment.toml", *EVIDENCE, *OFFLINE, *ONLINE])


@pytest.mark.parametrize("name", sorted(p.parent.name for p in RESULTS.glob("*/table.csv")))
def test_published_pages_are_what_the_program_writes(name, tmp_path, capsys):
    """From the evidence beside them; whatever is typed into a page or a table would be found."""
    copy = tmp_path / name
    shutil.copytree(RESULTS / name, copy)
    for made in EVIDENCE:
        (copy / made).unlink()
    assert main(["sweep", str(copy), "--report-only"]) == 0
    assert published(copy) == published(RESULTS / name)
    for made in ("README.md", "table.csv", "curves.csv"):
        assert (copy / made).read_text() == (RESULTS / name / made).read_text(), made
    assert "95 % interval of last" in capsys.readouterr().out


def test_to_report_only_and_to_run_what_is_missing_are_two_things(capsys):
    assert main(["sweep", "quickstart", "--report-only", "--only-missing"]) == 2
    assert "--report-only runs nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(p.parent.name for p in RESULTS.glob("*/table.csv")))
def test_published_runs_are_what_their_experiments_ask_for(name, tmp_path):
    """A preset that changes leaves no numbers of the old one behind."""
    published, asked = RESULTS / name, load_experiment(name)
    there = {each.folder for each in cells(asked) if (published / each.folder).exists()}
    assert there and standing_runs(asked, published, tmp_path).keys() == there


def test_evidence_is_copied_with_the_online_runs_metrics(experiment):
    publish(*experiment)
    _, out, results = experiment
    extra = ["dots/ppo-p-ppo/metrics.csv", "dots/cpl-cpl-lam/watched.csv"]
    assert published(results) == sorted([*ALWAYS, *SOMETIMES, *extra])
    for name in published(results):
        if name.endswith("watched.csv"):
            assert (results / name).read_text() == METRICS.replace("10,all,0,loss,1.0\n", "")
        elif name != "experiment.toml":
            assert (results / name).read_bytes() == (out / name).read_bytes()


def test_large_metrics_stay_where_they_are(experiment, capsys):
    given, out, results = experiment
    publish(*experiment)
    line = "1,ppo,0,std,0.5\n"
    large = METRICS + line * (LARGEST_METRICS_BYTES // len(line))
    (out / "dots/ppo-p-ppo/metrics.csv").write_text(large)
    publish(*experiment)
    extra = ["dots/ppo-p-ppo/watched.csv", "dots/cpl-cpl-lam/watched.csv"]
    assert published(results) == sorted([*ALWAYS, *SOMETIMES, *extra]), "nor do older ones stay"
    publish(given, results, results)  # a report on what is published
    assert published(results) == sorted([*ALWAYS, *SOMETIMES, *extra])
    assert "metrics.csv stays unpublished" in capsys.readouterr().out


def test_what_is_gone_is_taken_away(experiment):
    _, out, results = experiment
    publish(*experiment)
    for name in SOMETIMES:
        (out / name).unlink()
    for cell in cells(experiment[0]):
        (out / cell.folder / "metrics.csv").unlink()
    publish(*experiment)
    assert published(results) == ALWAYS


def test_only_an_experiments_folder_is_published_to(experiment):
    given, out, results = experiment
    (results / "experiment.toml").unlink()
    with pytest.raises(UserError, match=r"no experiment\.toml"):
        publish(given, out, results)
    assert published(results) == []


# --- Check before anything is made ---


def nowhere(todo, out, pool):
    """A launcher that must not be reached."""
    raise AssertionError("launched")


SPARSE = """
task = "pointmass"
episodes = 40
minimum_steps = 12
[behaviour]
levels = [0.3]
score_band = [0.1, 0.9]
[segments]
count = 60
length = 12
pairs = "sparse"
"""


@pytest.mark.parametrize(
    ("algorithm", "settings", "said"),
    [
        ("cpl", {"lamb": 0.5}, "settings of cpl: .* 'lamb'. Did you mean 'lam'"),
        ("cpl", {"clone": {"rate": 0.5}}, "No key is called 'clone.rate'"),
        ("cpl", {"lam": 2.0}, r"lam must be in \(0, 1\] .*, not 2\.0"),
        ("cpl", {"lam": "much"}, "'lam' must be float, not 'much'"),
        ("cpll", {}, "No algorithm is called 'cpll'. Did you mean 'cpl'"),
        ("nowhere_at_all:ENTRY", {}, "'nowhere_at_all:ENTRY' cannot be imported"),
        ("cpl", {"steps": 1500}, "leave none to the phase 'contrast'"),
        ("ppo", {"reward": {"loss": "ranking"}}, "sparse holds single .*--pairs ranked or dense"),
        ("cpl", {"segments": 31}, "at least 2 segments, a multiple of 2; got 31"),
    ],
)
def test_nothing_is_made_for_an_experiment_that_cannot_be_run(
    pool, tmp_path, monkeypatch, algorithm, settings, said
):
    data, out, card = tmp_path / "data", tmp_path / "out", tmp_path / "sparse.toml"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data))
    card.write_text(SPARSE)
    good, wrong = Method("SFT", "sft"), Method("wrong", algorithm, settings)
    with pytest.raises(UserError, match=f"^small: .*{said}"):
        run_experiment(small(good, wrong, dataset=str(card)), out, pool, nowhere)
    assert not data.exists() and not out.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": ()}, "at least a dataset and a method"),
        ({"methods": ()}, "at least a dataset and a method"),
        ({"seeds": 0}, "seeds must be a whole number from 1 to 1,000"),
        ({"episodes": 0}, "episodes must be a whole number from 1 to"),
        ({"final_episodes": -1}, "final_episodes must be a whole number from 0"),
        ({"datasets": ("drawer-opn",)}, "Did you mean 'drawer-open'"),
        ({"datasets": (DOTS, DOTS)}, "would share the folder dots/sft-sft"),
        (
            {"methods": (Method("A b", "sft"), Method("a-b", "sft"))},
            "share the folder dots/sft-a-b",
        ),
        ({"methods": (Method("A", "sft"), Method("A", "cpl"))}, "Two methods are called 'A'"),
    ],
)
def test_an_experiment_that_contradicts_itself_is_refused(changes, said):
    plain = {"datasets": (DOTS,), "methods": (Method("SFT", "sft"),), "seeds": 1}
    with pytest.raises(UserError, match=said):
        check_experiment(Experiment("odd", **{**plain, "final_episodes": 1, **changes}))


@pytest.mark.parametrize("name", ["quickstart", "five-methods", "ppo-oracle"])
def test_a_cells_command_makes_the_same_run(name):
    for cell in cells(load_experiment(name)):
        words = shlex.split(cell.command)
        assert words[:3] == ["cpl-bench", "train", "--data"]
        place = 2 + _method_place(words[2:])
        assert words[place] == cell.method.algorithm
        default = find_method(words[place]).presets[cell.preset]
        typed = tyro.cli(type(default), default=default, args=words[place + 1 :])
        assert typed == configured(cell.method.algorithm, cell.preset, cell.method.settings)


# --- Run ---


def test_a_task_must_fit_the_data(dots):
    preferences = load_preferences(dots[2])
    assert task_of(preferences) == task_of(preferences, "pointmass") == load_task("pointmass")
    assert task_of(preferences, "") is None
    said = "Pendulum-v1 has observations of 3 and actions of 1 numbers, dots of 6 and 2"
    with pytest.raises(UserError, match=said):
        task_of(preferences, "Pendulum-v1")


def test_every_name_has_a_folder():
    folders = [
        Cell("dots", Method(name, "cpl"), "laptop", 1, 1).folder
        for name in ("偏好", "предпочтения", "CPL (λ = 0.5)", "...", "α = 0.5")
    ]
    assert len(set(folders)) == 5
    assert all(folder.parent == Path("dots") for folder in folders)
    assert all(len(folder.name) > len("cpl-") for folder in folders)
    assert folders[2] == Path("dots/cpl-cpl-lam-0.5")
    assert folders[4] == Path("dots/cpl-alpha-0.5")


def test_a_launcher_of_ones_own_runs_the_cells_in_any_order(dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    given = []

    def backwards(todo, out, pool):
        given.extend(todo)
        for cell in reversed(todo):
            assert run_cell(cell, out, pool) == out / cell.folder

    asked = small(Method("SFT", "sft", SHORT), Method("Выбор", "cpl", SHORT))
    plain = run_experiment(asked, tmp_path / "plain", pool)
    result = run_experiment(asked, tmp_path / "backwards", pool, backwards)
    assert given == cells(asked)
    assert result.rows == plain.rows
    assert [row.method for row in result.rows] == ["SFT", "Выбор"]
    files = contents(tmp_path / "plain")
    assert {"README.md", "dots/sft-sft/final.csv", "dots/sft-sft/state.safetensors"} <= files.keys()
    assert contents(tmp_path / "backwards") == files
    run_experiment(asked, tmp_path / "plain", pool)
    assert contents(tmp_path / "plain") == files, "nothing is done again"


def test_an_experiment_grows_by_what_is_missing(dots, pool, tmp_path, monkeypatch, capsys):
    """What was published stands, unless it is not what the experiment asks for any more."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    sft, cpl = Method("SFT", "sft", SHORT), Method("CPL", "cpl", SHORT)
    results, trained = tmp_path / "results", []
    results.mkdir()
    (results / "experiment.toml").write_text("")

    def noted(todo, out, pool):
        trained[:] = [str(cell.folder) for cell in todo]
        return one_by_one(todo, out, pool)

    def grow(*methods, name, **changes):
        asked, out = replace(small(*methods), **changes), tmp_path / name
        result = run_experiment(asked, out, pool, noted, results)
        publish(asked, out, results)
        return {row.method: row.last for row in result.rows}

    alone = grow(sft, name="first")
    assert trained == ["dots/sft-sft"]
    before = contents(results / "dots")
    both = grow(sft, cpl, name="second")
    assert trained == ["dots/cpl-cpl"] and not (tmp_path / "second" / "dots" / "sft-sft").exists()
    assert both.keys() == {"SFT", "CPL"} and both["SFT"] == alone["SFT"]
    assert before.items() <= contents(results / "dots").items()
    page = (results / "README.md").read_text()
    assert "| SFT |" in page and "| CPL |" in page and "Incomplete" not in page

    capsys.readouterr()
    longer = replace(sft, settings={**SHORT, "steps": 40})
    grow(longer, cpl, name="third")
    assert trained == ["dots/sft-sft"]
    assert "sft-sft is of other settings and length: the run is trained" in capsys.readouterr().out
    assert read_record(results / "dots" / "sft-sft").steps == 40
    grow(longer, cpl, name="fourth", final_episodes=3)
    assert trained == ["dots/sft-sft", "dots/cpl-cpl"]
    grow(longer, cpl, name="fifth", final_episodes=3)
    assert trained == []


def test_a_published_run_keeps_the_film_it_has(dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    asked, results = replace(small(Method("SFT", "sft", SHORT)), video=True), tmp_path / "results"
    results.mkdir()
    (results / "experiment.toml").write_text("")
    run_experiment(asked, tmp_path / "out", pool)
    publish(asked, tmp_path / "out", results)
    film = (results / "rollout.webp").read_bytes()

    result = run_experiment(asked, tmp_path / "again", pool, published=results)
    assert (tmp_path / "again" / "rollout.webp").read_bytes() == film
    assert "## Film" in result.page.read_text()
    publish(asked, tmp_path / "again", results)
    assert (results / "rollout.webp").read_bytes() == film

    (results / "rollout.webp").unlink()
    result = run_experiment(asked, tmp_path / "without", pool, published=results)
    assert "Film" not in result.page.read_text()


def test_the_best_run_is_filmed_once_and_before_the_report(dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    asked = replace(small(Method("SFT", "sft", SHORT), Method("CPL", "cpl", SHORT)), video=True)
    out, path = tmp_path / "out", tmp_path / "out" / "rollout.webp"
    result = run_experiment(asked, out, pool)
    best = max(result.rows, key=lambda row: row.last)
    made = read_film(path)
    assert (made.origin.method, made.origin.dataset) == (best.method, "dots")
    assert made.origin.step == 30
    assert made.seed in (0, 1)
    assert f"One episode of {best.method} on dots, seed {made.seed}: " in result.page.read_text()

    first = path.stat().st_mtime_ns
    run_experiment(asked, out, pool)
    assert path.stat().st_mtime_ns == first, "nothing is done again"
    for other in (
        {"method": "another"},
        {"data": "of another seed"},
        {"evaluations": "of the run before this one"},
        {"step": 15},
    ):
        stale = replace(made, origin=replace(made.origin, **other))
        write_film(path, stale, [np.zeros((8, 8, 3), np.uint8)])
        run_experiment(asked, out, pool)
        assert read_film(path) == made, "another's film is replaced"

    result = run_experiment(replace(asked, video=False), out, pool)
    assert not path.exists() and "Film" not in result.page.read_text()


def test_a_run_trained_anew_is_filmed_anew(dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    out, films = tmp_path / "out", []
    for steps in (10, 12):  # of the first phase of 30 steps
        settings = {**SHORT, "clone": {"steps": steps}}
        asked = replace(small(Method("CPL", "cpl", settings)), video=True)
        result = run_experiment(asked, out, pool)
        films.append(read_film(out / "rollout.webp"))
        assert "## Film" in result.page.read_text()
        shutil.rmtree(out / "dots")
    before, now = (film.origin for film in films)
    assert before != now and replace(before, evaluations=now.evaluations) == now


def test_there_is_no_film_where_rendering_does_not_work(dots, pool, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no display")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    monkeypatch.setattr("cpl_bench.tasks.pool.RolloutPool.render", broken)
    asked = replace(small(Method("SFT", "sft", SHORT)), video=True)
    older = Film(Origin("SFT", "dots", 30, "", ""), seed=0, succeeded=True)
    write_film(tmp_path / "out" / "rollout.webp", older, [np.zeros((8, 8, 3), np.uint8)])
    result = run_experiment(asked, tmp_path / "out", pool)
    assert "rollout.webp" not in result.page.read_text()
    assert not (tmp_path / "out" / "rollout.webp").exists()
    assert "No video: rendering does not work here" in capsys.readouterr().out


def contents(folder):
    """The bytes that must be the same in two runs."""
    paths = [
        path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in str(path)
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


OWN = """
from cpl_bench.learning.algos.bc import LAPTOP, SFT
from cpl_bench.learning.interface import Entry

ENTRY = Entry(SFT, {"laptop": LAPTOP}, title=lambda config: "Own")
"""
OWN_EXPERIMENT = f"""
description = "One's own."
datasets = ["{DOTS}"]
seeds = 1
final_episodes = 2
[[methods]]
name = "Own"
algorithm = "own_of_sweep:ENTRY"
[methods.settings]
policy.hidden = [16]
steps = 30
segments = 8
clone.steps = 10
"""


def test_an_experiment_may_name_a_method_of_ones_own(dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_of_sweep.py").write_text(OWN)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "experiment.toml").write_text(OWN_EXPERIMENT)
    loaded = load_experiment(str(folder))
    result = run_experiment(loaded, tmp_path / "out", pool)
    run = tmp_path / "out" / "dots" / "own-of-sweep-entry-own"
    record = read_record(run)
    assert (record.algorithm, record.method) == ("own_of_sweep:ENTRY", "Own")
    assert record.config["policy"]["hidden"] == [16]
    assert [(row.dataset, row.method, row.episodes) for row in result.rows] == [("dots", "Own", 2)]
    page = result.page.read_text()
    assert "own_of_sweep:ENTRY" in page and "cpl-bench report runs/dots/*" in page
    publish(loaded, tmp_path / "out", folder)
    names = {str(Path("dots", run.name, name)) for name in (*RUN_EVIDENCE, FINAL, EXTRACT)}
    likelihood = {each for each in SOMETIMES if each.startswith("likelihood")}
    assert set(published(folder)) == names | likelihood | {*EVIDENCE, "experiment.toml"}


# --- Tuning ---


def test_settings_of_an_experiment_lie_below_those_of_its_methods(tmp_path):
    (tmp_path / "experiment.toml").write_text("""
datasets = ["dots"]
seeds = 2
first_seed = 10
final_episodes = 0
preset = "paper"
[settings]
lam = 0.75
policy = { hidden = [8], standardise = true }
[[methods]]
name = "one"
algorithm = "cpl"
[[methods]]
name = "other"
algorithm = "cpl"
settings = { policy.standardise = false, alpha = 1.0 }
""")
    one, other = load_experiment(str(tmp_path)).methods
    assert one.settings == {"lam": 0.75, "policy": {"hidden": [8], "standardise": True}}
    policy = {"hidden": [8], "standardise": False}
    assert other.settings == {"lam": 0.75, "policy": policy, "alpha": 1.0}


def test_seeds_of_ones_own_and_no_test_episodes(dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dots[1]))
    method = Method("CPL", "cpl", SHORT)
    cell = Cell(DOTS, method, "laptop", 2, 0, first_seed=10, evaluate_every=10)
    assert "--first-seed 10 --evaluate-every 10 cpl" in cell.command
    run = run_cell(cell, tmp_path, pool)
    assert read_record(run).seeds == (10, 11)
    assert not (run / "final.csv").exists()
    found = read_run(run)
    assert found.checkpoints.tolist() == [10, 20, 30] and found.last.shape == (2,)


def test_the_tuning_page_is_what_its_script_writes():
    presets = RESULTS / "presets"
    path = presets.parents[1] / "scripts" / "tuning.py"
    spec = importlib.util.spec_from_file_location("tuning", path)
    assert spec and spec.loader
    tuning = importlib.util.module_from_spec(spec)
    sys.modules["tuning"] = tuning
    spec.loader.exec_module(tuning)
    page = tuning.page()
    assert page == (presets / "tuning.md").read_text()
    for name in tuning.EXPERIMENTS:
        experiment = load_experiment(str(presets / name))
        check_experiment(experiment)
        assert experiment.first_seed >= 10 and not experiment.final_episodes, (
            "never a table's seeds"
        )
        assert tuning.preset_of_trials(experiment), f"the laptop preset of {name} was tried"
        tried = {trial for trial, _ in tuning.scores_of(name)}
        assert tried == {method.name for method in experiment.methods}
