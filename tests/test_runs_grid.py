"""Settings that train side by side as members: each becomes the run that it would be alone."""

import numpy as np
import pytest
import torch
from impatient import DyingPool

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.locks import held
from cpl_bench.experiments.training import train_grid as trained_from_python
from cpl_bench.learning.contrast import contrast_loss
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.losses import acceptance
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs import grid as grids
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.grid import _of_point, train_grid
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.points import grid
from cpl_bench.runs.record import read_record
from cpl_bench.runs.train import train

SMALL = {"policy": {"hidden": (8, 8), "average": 0.9}, "segments": 16, "steps": 36} | {
    "clone": {"steps": 16, "transitions": 16, "optimiser": {"rate": 1e-3}},
    "contrast": {"rate": 1e-2, "warmup_steps": 0},
}
FITTED = {"reward": {"steps": 8, "hidden": (8, 8)}}
GRIDS = {
    "cpl": ({}, {"lam": [0.25, 1.0]}),
    "cpl of a temperature": ({"score": "mean_over_temperature"}, {"temperature": [0.5, 2.0]}),
    "dpo": ({}, {"alpha": [0.05, 1.0]}),
    "ipo": ({}, {"alpha": [0.05, 1.0]}),
    "rso": (FITTED, {"beta": [0.5, 20.0]}),
}
SEEDS = (0, 1, 2, 5)
"""So many that each number of members fills the processor's vectors: bits are then the same."""
POINTMASS = load_task("pointmass")


@pytest.fixture(scope="module")
def data(dots):
    return load_preferences(dots[2])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(data, pool):
    """make(runs, algorithm, settings, vary, **options): a grid, or without `vary` one run."""

    def made(runs, algorithm="cpl", settings=None, vary=None, pool=pool, **options):
        options = {"seeds": SEEDS, "evaluate_every": 18, "episodes": 1} | options
        config = configured(algorithm, "laptop", SMALL | (settings or {}))
        options = TrainOptions(runs=runs, **options)
        arguments = (data, "dots", algorithm, config)
        if vary:
            return train_grid(*arguments, vary, options, pool, POINTMASS, "the command")
        return train(*arguments, options, pool, POINTMASS, "the command")

    return made


def bytes_of(run):
    """What a run folder holds but for TensorBoard's page and the state."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in files
        if path.parent.name != "tensorboard" and path.name != "state.safetensors"
    }


def all_of(run):
    """The same and the state."""
    return bytes_of(run), (run / "state.safetensors").read_bytes()


def assert_same_state(one, other):
    """Moments of the reward's last bias, a number a member, are rounded otherwise among eight."""
    (step, one), (of_other, other) = RunFolder(one).read_state(), RunFolder(other).read_state()
    assert step == of_other
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", GRIDS)
def test_each_choice_becomes_the_run_that_it_would_be_alone(make, tmp_path, name):
    algorithm = name.split()[0]
    settings, vary = GRIDS[name]
    ((setting, values),) = vary.items()
    runs = make(tmp_path / "grid", algorithm, settings, vary)
    assert [run.name for run in runs] == [f"{algorithm}-{setting}-{each:g}" for each in values]
    alone = []
    for run, value in zip(runs, values, strict=True):
        title = read_record(run).method
        own = settings | {setting: value}
        options = {"note": f"{setting}-{value:g}", "method": title}
        alone.append(make(tmp_path / "alone", algorithm, own, **options))
        assert bytes_of(run) == bytes_of(alone[-1])
        assert_same_state(run, alone[-1])
    metrics = [(run / "metrics.csv").read_bytes() for run in runs]
    assert metrics[0] != metrics[1], "the setting must make a difference"
    assert sorted(path.name for path in runs[0].parent.iterdir()) == [run.name for run in runs]


def test_two_settings_give_every_choice(make, tmp_path):
    vary = {"lam": [0.5, 1.0], "alpha": [0.05, 0.2]}
    runs = make(tmp_path, vary=vary, note="mine")
    records = [read_record(run) for run in runs]
    assert [(each.config["lam"], each.config["alpha"]) for each in records] == [
        (0.5, 0.05),
        (0.5, 0.2),
        (1.0, 0.05),
        (1.0, 0.2),
    ]
    assert [each.method for each in records] == [
        "CPL(λ=0.5), alpha=0.05",
        "CPL(λ=0.5), alpha=0.2",
        "CPL, alpha=0.05",
        "CPL, alpha=0.2",
    ]
    assert runs[1].name == "cpl-mine-alpha-0.2-lam-0.5"
    assert all(each.seeds == SEEDS and each.command == "the command" for each in records)


def test_a_grid_that_is_killed_goes_on_to_the_same_bytes(make, pool, tmp_path):
    vary = GRIDS["cpl"][1]
    whole = make(tmp_path / "whole", vary=vary)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "killed", vary=vary, pool=DyingPool(pool, 1))
    with pytest.raises(UserError, match=r"unfinished run\. Use --resume"):
        make(tmp_path / "killed", vary=vary)
    again = make(tmp_path / "killed", vary=vary, resume=True)
    assert [all_of(run) for run in again] == [all_of(run) for run in whole]


def test_one_that_is_killed_while_it_is_handed_out(make, tmp_path, monkeypatch):
    vary = GRIDS["cpl"][1]
    whole = make(tmp_path / "whole", vary=vary)
    write, written = RunFolder.write_state, []

    def dying(self, step, state):
        if not self.path.name.startswith(".grid"):
            written.append(self.path.name)
            if len(written) == 2:
                raise KeyboardInterrupt
        write(self, step, state)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFolder, "write_state", dying)
        make(tmp_path / "killed", vary=vary)
    assert [path.name for path in (tmp_path / "killed/dots").glob("cpl*")] == ["cpl-lam-0.25"]
    monkeypatch.setattr("cpl_bench.runs.train.commit", lambda: "another")
    again = make(tmp_path / "killed", vary={"lam": [0.25, 1]}, resume=True)
    assert [all_of(run) for run in again] == [all_of(run) for run in whole]
    assert len(list((tmp_path / "killed/dots").iterdir())) == 2


def test_what_is_there_is_not_trained_again(make, tmp_path, capsys):
    vary = GRIDS["cpl"][1]
    runs = make(tmp_path, vary=vary)
    before = [(run / "run.json").stat().st_mtime_ns for run in runs]
    make(tmp_path, vary=vary)
    assert capsys.readouterr().out.count("is already trained") == 2
    assert [(run / "run.json").stat().st_mtime_ns for run in runs] == before
    more = make(tmp_path, vary={"lam": [0.25, 0.5, 1.0]})
    assert len(more) == 3
    assert (runs[0] / "run.json").stat().st_mtime_ns == before[0]
    make(tmp_path, vary=vary, overwrite=True)
    made = [(run / "run.json").stat().st_mtime_ns for run in runs]
    assert all(map(lambda one, other: one != other, made, before))


def test_nothing_is_overwritten_before_all_can_be(make, tmp_path):
    runs = make(tmp_path, vary=GRIDS["cpl"][1])
    (runs[1] / "run.json").unlink()
    with pytest.raises(UserError, match="exists and is no run"):
        make(tmp_path, vary=GRIDS["cpl"][1], overwrite=True)
    assert (runs[0] / "run.json").is_file()
    runs[1].rename(tmp_path / "away")
    with held(runs[0]), pytest.raises(UserError, match="is being written by process"):
        make(tmp_path, vary=GRIDS["cpl"][1], overwrite=True)
    assert (runs[0] / "run.json").is_file()


@pytest.mark.parametrize("whole", [True, False])
def test_a_kill_after_the_last_run_was_handed_out(make, tmp_path, monkeypatch, whole):
    vary, left = GRIDS["cpl"][1], []

    def dying(path):
        if not whole:
            (path / "run.json").unlink()
        left.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(grids, "discard", dying)
        make(tmp_path, vary=vary)
    assert left[0].is_dir()
    runs = make(tmp_path, vary=vary, resume=whole, overwrite=not whole)
    assert sorted(path.name for path in runs[0].parent.iterdir()) == [run.name for run in runs]


def test_a_folder_with_another_run_is_refused_before_anything_is_trained(make, tmp_path):
    make(tmp_path, settings={"lam": 0.25, "alpha": 0.7}, note="lam-0.25", method="CPL(λ=0.25)")
    with pytest.raises(UserError, match=r"another 'config\.alpha'"):
        make(tmp_path, vary=GRIDS["cpl"][1])
    assert len(list((tmp_path / "dots").glob("cpl*"))) == 1


def test_a_member_that_diverges_is_named_in_its_own_run_alone(make, tmp_path):
    runs = make(tmp_path / "grid", vary={"alpha": [0.1, 1e39]}, seeds=(0, 1, 2, 3))
    assert [[seed for seed, _ in read_record(run).diverged] for run in runs] == [[], [0, 1, 2, 3]]
    options = {"note": "alpha-1e+39", "method": read_record(runs[1]).method}
    settings = {"alpha": 1e39}
    alone = make(tmp_path / "alone", settings=settings, seeds=(0, 1, 2, 3), **options)
    assert bytes_of(runs[1]) == bytes_of(alone)


@pytest.mark.parametrize(
    ("algorithm", "vary", "message"),
    [
        ("cpl", {"lamda": [0.5, 1.0]}, "No setting to vary is called 'lamda'. Did you mean 'lam'"),
        ("cpl", {"steps": [10.0]}, "Only those can differ between members of cpl"),
        ("sft", {"lam": [0.5]}, "Known: none"),
        ("cpl", {"lam": [0.5, 0.5]}, "numbers that differ in their first six digits"),
        ("cpl", {"lam": []}, "at least one; got"),
        ("cpl", {"lam": 0.5}, "at least one; got"),
        ("cpl", {"lam": "0.5"}, "at least one; got"),
        ("cpl", {"lam": [None]}, "at least one; got"),
        ("cpl", {"lam": [10**400]}, "at least one; got"),
        ("cpl", {3: [1.0]}, "No setting to vary is called '3'"),
        ("cpl", {"lam": [0.5, 2.0]}, r"in \(0, 1\]"),
        ("cpl", {"alpha": [i + 1.0 for i in range(600)]}, "Choices times seeds"),
    ],
)
def test_what_cannot_be_varied_is_said(tmp_path, algorithm, vary, message):
    config = configured(algorithm, "laptop", {})
    options = TrainOptions(runs=tmp_path, seeds=(0, 1))
    with pytest.raises(UserError, match=message):
        grid("dots", algorithm, config, vary, options)


def test_from_the_command_line(dots, tmp_path, capsys):
    from cpl_bench.cli.main import main

    line = f"train --data {dots[2]} --seeds 2 --episodes 0 --evaluate-every 18 --preset laptop"
    line += f" --runs {tmp_path} --vary lam=0.5,1 --vary alpha=1e-1 cpl --steps 36"
    line += " --clone.steps 18 --contrast.warmup-steps 0 --policy.hidden 8 8"
    assert main(line.split()) == 0
    shown = capsys.readouterr().out
    first, second = sorted(tmp_path.glob("*/cpl-*"))
    assert (first.name, second.name) == ("cpl-alpha-0.1-lam-0.5", "cpl-alpha-0.1-lam-1")
    assert f"Next: cpl-bench report {first} {second}" in shown
    assert read_record(first).command.startswith("cpl-bench train --data")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "lam"], "--vary wants SETTING=NUMBER,NUMBER…, not 'lam'"),
        (["--vary", "lam=half"], "--vary wants SETTING=NUMBER"),
        (["--vary", "lam=0.5", "--vary", "lam=1"], "names 'lam' twice"),
        (["--vary", "clone-steps=5"], "No setting to vary is called 'clone_steps'"),
        (["--vary", "alpha=1_0"], "--vary wants SETTING=NUMBER"),
    ],
)
def test_what_the_command_line_cannot_vary(dots, tmp_path, capsys, words, message):
    from cpl_bench.cli.main import main

    options = ["--data", str(dots[2]), "--episodes", "0", "--runs", str(tmp_path)]
    assert main(["train", *options, *words, "cpl"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*/cpl*"))


def test_a_setting_is_varied_or_set(dots, tmp_path, capsys):
    from cpl_bench.cli.main import main

    line = f"train --data {dots[2]} --runs {tmp_path} --vary lam=0.5,1 cpl --lam 0.3"
    assert main(line.split()) == 2
    assert "--vary gives --lam its numbers" in capsys.readouterr().err


def test_from_python(data, tmp_path):
    options = {"settings": SMALL, "preset": "laptop", "seeds": 2, "evaluate_every": 18}
    vary = {"lam": [0.5, 1]}
    runs = trained_from_python(data, "cpl", vary, episodes=0, task="", runs=tmp_path, **options)
    assert [run.path.name for run in runs] == ["cpl-lam-0.5", "cpl-lam-1"]
    with pytest.raises(UserError, match="names settings"):
        trained_from_python(data, "cpl", {}, runs=tmp_path)
    with pytest.raises(TypeError):
        trained_from_python(data, "cpl", vary, episods=0)


@pytest.mark.parametrize("objective", ["logistic", "hinge", "ipo", "ranking"])
def test_a_column_is_a_number_for_each_member(objective):
    torch.manual_seed(0)
    of = {"lam": [0.3, 1.0], "margin": [0.5, 2.0], "smoothing": [0.0, 0.2]}
    if objective == "ranking":
        of = {"lam": of["lam"]}
    scores = torch.randn(2, 6)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]])
    batch = PreferenceBatch(
        step=torch.tensor(0),
        observations=torch.zeros(2, 6, 1, 1),
        actions=torch.zeros(2, 6, 1, 1),
        first=pairs[:, 0].expand(2, -1),
        second=pairs[:, 1].expand(2, -1),
        prefers_second=torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 0.5]).expand(2, -1),
        weight=torch.ones(2, 6),
        ranked=3 if objective == "ranking" else 0,
    )
    columns = {name: torch.tensor(values).unsqueeze(1) for name, values in of.items()}
    together = contrast_loss(scores, batch, objective, **columns)
    for member in range(2):
        own = {name: values[member] for name, values in of.items()}
        assert together[member] == contrast_loss(scores, batch, objective, **own)[member]


def test_an_acceptance_of_its_own():
    rewards = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    found = acceptance(rewards, torch.tensor([[0.5], [20.0]]))
    for member, beta in enumerate((0.5, 20.0)):
        torch.testing.assert_close(found[member], acceptance(rewards, beta)[member])


def test_titles_do_not_depend_on_what_else_is_trained():
    config, options = configured("cpl", "laptop", {}), TrainOptions()
    for values in ([0.1], [0.1, 0.2]):
        first, *_ = grid("dots", "cpl", config, {"alpha": np.array(values)}, options)
        assert first.title == "CPL(λ=0.65), alpha=0.1"
    (point,) = grid("dots", "cpl", config, {"lam": [1]}, options)
    assert (point.title, point.note) == ("CPL", "lam-1")
    (point,) = grid("dots", "cpl", config, {"lam": [1]}, TrainOptions(method="Mine"))
    assert point.title == "Mine, lam=1"


def test_of_an_ensemble_each_member_has_its_rows():
    whole = torch.arange(12).view(12, 1)  # two rows for each of six members
    assert _of_point(whole, 6, slice(2, 4)).flatten().tolist() == [4, 5, 6, 7]
    assert _of_point(torch.tensor(7), 6, slice(2, 4)) == 7
