"""`import cpl_bench`: light, complete, and the verbs stay verbs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cpl_bench
from cpl_bench.core.errors import UserError
from cpl_bench.core.toml import nested


def test_every_name_is_there_and_listed():
    assert set(cpl_bench.__all__) <= set(dir(cpl_bench))
    for name in cpl_bench.__all__:
        assert getattr(cpl_bench, name).__doc__
    assert (Path(cpl_bench.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cpl_bench.nonsense  # noqa: B018


def test_report_stays_a_verb_after_its_room_was_imported():
    program = (
        "import cpl_bench; import cpl_bench.report.stats; from cpl_bench.report import table\n"
        "assert callable(cpl_bench.report) and table.__name__ == 'cpl_bench.report.table'\n"
        "from cpl_bench import report; assert report is cpl_bench.report"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_settings_may_have_dots_or_tables():
    wanted = {"policy": {"hidden": [8], "dropout": 0.0}, "lam": 1, "a": {"b": {"c": 2}}}
    dotted = {"policy.hidden": [8], "policy": {"dropout": 0.0}, "lam": 1, "a.b.c": 2}
    assert nested(dotted) == nested(wanted) == wanted


SMALL = {"policy.hidden": [16, 16], "clone.steps": 10, "steps": 30, "segments": 8}


@pytest.fixture(scope="module")
def mine():
    """Preferences over random segments, answered by whoever goes right."""
    rng = np.random.default_rng(0)
    looks, acts = rng.normal(size=(2, 30, 6, 4)), rng.uniform(-1, 1, (2, 30, 6, 2))
    right = acts[..., 0].sum(-1)
    answers = (right[1] > right[0]).astype(np.float16)
    return cpl_bench.preferences_from_pairs(looks[0], acts[0], looks[1], acts[1], answers)


def test_training_takes_no_simulator(mine, tmp_path):
    run = cpl_bench.train(mine, "cpl", settings=SMALL, seeds=(3, 5), runs=tmp_path)
    assert run.record.seeds == (3, 5) and run.record.task is None and run.record.episodes == 0
    assert run.checkpoints == [30] and not (run.path / "evaluations.csv").exists()
    first, second = run.policy(3), run.policy(5)
    looks = np.zeros((7, 4), np.float64)
    assert first(looks).shape == (7, 2) and np.abs(first(looks)).max() <= 1
    assert not np.array_equal(first(looks + 1), second(looks + 1))
    with pytest.raises(UserError, match="has the seeds 3, 5, not 4"):
        run.policy(4)
    with pytest.raises(UserError, match="trained without evaluations"):
        run.scores()
    with pytest.raises(UserError, match="name no task"):
        cpl_bench.evaluate(run, episodes=1)


def test_other_data_are_another_run(mine, tmp_path):
    """Arrays have no card to tell them apart: their hash does."""
    rng = np.random.default_rng(1)
    looks, acts = rng.normal(size=(2, 30, 6, 4)), rng.uniform(-1, 1, (2, 30, 6, 2))
    other = cpl_bench.preferences_from_pairs(looks[0], acts[0], looks[1], acts[1], [1] * 30)
    cpl_bench.train(mine, "cpl", settings=SMALL, seeds=1, runs=tmp_path)
    with pytest.raises(UserError, match=r"another 'preferences\.source_hash'"):
        cpl_bench.train(other, "cpl", settings=SMALL, seeds=1, runs=tmp_path)


def test_nothing_leaves_the_folder_of_runs(mine, tmp_path):
    for names in ({"note": "/../../x"}, {"note": "../x"}):
        with pytest.raises(UserError, match="part of a folder's"):
            cpl_bench.train(mine, "cpl", settings=SMALL, runs=tmp_path / "runs", **names)
    for name in (str(tmp_path / "x"), "..", ".shared", "a\\b", "a\nb", "x" * 300):
        with pytest.raises(UserError, match="part of a folder's"):
            replace(mine.info, card=name)
    assert list(tmp_path.iterdir()) == []


def test_loading_a_file_runs_nothing_that_it_names(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    asked = cpl_bench.preferences_from_arrays(
        mine.observations.reshape(60, 6, 4), mine.actions.reshape(60, 6, 2), scores=np.arange(60.0)
    )
    asked = replace(asked, info=replace(asked.info, annotator="evil:f"))
    cpl_bench.write_preferences(tmp_path / "e.safetensors", asked)
    assert cpl_bench.load_preferences(tmp_path / "e.safetensors").info.annotator == "evil:f"


def test_what_learns_online_wants_a_task(mine, tmp_path):
    settings = {"clone.steps": 2, "reward.steps": 2, "steps": 84, "collection.value_only": 0}
    with pytest.raises(UserError, match="there is no simulator"):
        cpl_bench.train(mine, "ppo", settings=settings, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_evaluated_tabled_and_drawn(dots, tmp_path, monkeypatch):
    _, root, path = dots
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    options = {"seeds": 2, "runs": tmp_path, "evaluate_every": 15, "episodes": 3}
    run = cpl_bench.train(path, "cpl", settings=SMALL, note="a", **options)
    other = cpl_bench.train(path, "sft", settings=SMALL, **options)
    assert run.scores().shape == (2, 2)
    found = cpl_bench.evaluate(run, episodes=4)
    assert found.scores.shape == (8,) and found.path == run.path / "final.csv"
    assert run.table().last == pytest.approx(found.score)
    assert run.plot().read_bytes().startswith(b"\x89PNG")
    result = cpl_bench.report([run, other.path], tmp_path / "both")
    assert [row.method for row in result.rows] == ["CPL(λ=0.65)", "SFT"]


def test_workers_and_this_process_find_the_same(dots, tmp_path):
    """A run's policy as a function meets the run's own test episodes."""
    run = cpl_bench.train(dots[2], "sft", settings=SMALL, seeds=1, runs=tmp_path, episodes=1)
    by_workers = cpl_bench.evaluate(run, episodes=7)
    here = cpl_bench.evaluate(run.policy(), "pointmass", episodes=7, seed=0)
    np.testing.assert_allclose(here.rows["return"], by_workers.rows["return"], rtol=1e-5)
    np.testing.assert_array_equal(here.rows["success"], by_workers.rows["success"])


def test_functions_and_modules_are_policies():
    still = cpl_bench.evaluate(lambda looks: np.zeros((len(looks), 2)), "pointmass", episodes=6)
    module = torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Dropout(0.9))
    torch.nn.init.zeros_(module[0].weight)
    torch.nn.init.zeros_(module[0].bias)
    moved = cpl_bench.evaluate(module, "pointmass", episodes=6)
    np.testing.assert_array_equal(still.rows["return"], moved.rows["return"])
    assert module.training and still.score == 0


@pytest.mark.parametrize(
    ("policy", "task", "message"),
    [
        (
            lambda looks: np.zeros((len(looks), 3)),
            "pointmass",
            r"got shape \(5, 3\)",
        ),
        (lambda looks: np.full((len(looks), 2), np.nan), "pointmass", "finite actions"),
        (lambda looks: looks, None, "Say where"),
        (42, "pointmass", "a run, a function of observations or a torch module"),
        (lambda looks: looks, "pointmas", "Did you mean 'pointmass'"),
    ],
)
def test_what_is_no_policy_is_told_so(policy, task, message):
    with pytest.raises(UserError, match=message):
        cpl_bench.evaluate(policy, task, episodes=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "cpll"}, "No algorithm is called 'cpll'. Did you mean 'cpl'"),
        ({"settings": {"policy.hiden": [8]}}, "Did you mean 'policy.hidden'"),
        ({"settings": {"lam": "much"}}, "'lam' must be float, not 'much'"),
        ({"settings": {"steps": 1000}}, "leave none to the phase 'contrast'"),
        ({"preset": "huge"}, "No preset is called 'huge'"),
        ({"task": "nowhere"}, "No task is called 'nowhere'"),
        ({"seeds": ()}, "The number of seeds must be a whole number from 1 to 1,000"),
        ({"seeds": "4"}, "seeds is how many"),
        ({"seeds": [0.5]}, "seeds is how many"),
        ({"resume": True, "overwrite": True}, "choose one"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(mine, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        cpl_bench.train(mine, runs=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []
