"""What `publish` copies: the evidence and nothing else."""

import json

import pytest

from cpl_bench.core.errors import UserError
from cpl_bench.experiments.card import Experiment, Method
from cpl_bench.experiments.publish import EVIDENCE, LARGEST_METRICS_BYTES, RUN_EVIDENCE, publish
from cpl_bench.experiments.sweep import slug
from cpl_bench.runs.evaluations import append_evaluations

METRICS = "step,phase,seed,metric,value\n"


@pytest.fixture
def experiment(tmp_path):
    """An experiment of an offline and an online method, with the files a report left behind."""
    methods = (Method("CPL(λ)", "cpl", {}), Method("P-PPO", "ppo", {}))
    experiment = Experiment("small", ("dots",), methods, seeds=1, final_episodes=1)
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    (results / "experiment.toml").write_text("")
    for method, online in zip(methods, (0, 4250), strict=True):
        run = out / "dots" / f"{method.algorithm}-{slug(method.label)}"
        run.mkdir(parents=True)
        facts = {
            "dataset": "dots",
            "method": method.label,
            "algorithm": method.algorithm,
            "seeds": [0],
            "steps": 10,
            "command": "",
            "behaviour_success": None,
            "online_transitions": online,
            "phases": [["all", 10]],
            "versions": {},
        }
        (run / "run.json").write_text(json.dumps(facts))
        episode = {"step": 10, "seed": 0, "episode": 0, "success": 1, "return": 0.0, "length": 1}
        for name in ("evaluations.csv", "final.csv"):
            append_evaluations(run / name, episode)
        (run / "metrics.csv").write_text(METRICS)
        (run / "state.safetensors").write_bytes(b"large")
    for name in (*EVIDENCE, "reward.png"):
        (out / name).write_bytes(name.encode())
    return experiment, out, results


def published(results):
    return sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())


OFFLINE = [f"dots/cpl-cpl-lam/{name}" for name in RUN_EVIDENCE]
ONLINE = [f"dots/ppo-p-ppo/{name}" for name in RUN_EVIDENCE]
ALWAYS = sorted(["experiment.toml", *EVIDENCE, *OFFLINE, *ONLINE])


def test_evidence_is_copied_with_the_online_runs_metrics(experiment):
    publish(*experiment)
    _, out, results = experiment
    extra = ["dots/ppo-p-ppo/metrics.csv", "reward.png"]
    assert published(results) == sorted(ALWAYS + extra)
    for name in published(results):
        if name != "experiment.toml":
            assert (results / name).read_bytes() == (out / name).read_bytes()


def test_large_metrics_stay_where_they_are(experiment, capsys):
    _, out, results = experiment
    publish(*experiment)
    line = "1,ppo,0,std,0.5\n"
    large = METRICS + line * (LARGEST_METRICS_BYTES // len(line))
    (out / "dots/ppo-p-ppo/metrics.csv").write_text(large)
    publish(*experiment)
    assert published(results) == sorted([*ALWAYS, "reward.png"]), "nor do older ones stay"
    assert "metrics.csv stays unpublished" in capsys.readouterr().out


def test_what_is_gone_is_taken_away(experiment):
    _, out, results = experiment
    publish(*experiment)
    (out / "reward.png").unlink()
    (out / "dots/ppo-p-ppo/metrics.csv").unlink()
    publish(*experiment)
    assert published(results) == ALWAYS


def test_only_an_experiments_folder_is_published_to(experiment):
    given, out, results = experiment
    (results / "experiment.toml").unlink()
    with pytest.raises(UserError, match=r"no experiment\.toml"):
        publish(given, out, results)
    assert published(results) == []
