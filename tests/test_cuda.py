"""What a GPU must do as well: every method learns there, the same twice, resumed, and replayed."""

import numpy as np
import pytest
import torch
from test_learning_graphs import CASES, LASTS, assert_same, data, plain

from cpl_bench.core.cards import load_task
from cpl_bench.learning import loop
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import configured
from cpl_bench.learning.precision import torch_set
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.prepare import prepare
from cpl_bench.runs.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
OFFLINE = [case for case in CASES if case != "ppo"]
GPU, CPU = torch.device("cuda"), torch.device("cpu")
TASK = load_task("pointmass")


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    """As a training on a GPU has it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def learnt(case, device, pauses=(5, 20, 36), precision="fp32"):
    """Pauses and the last state of a method."""
    name = case.partition(",")[0]
    config = configured(name, "paper", CASES[case])
    trainee = prepare(name, config, data(), (0, 3), device, TASK, None, "", precision)
    with torch_set(0, precision, device):
        found = list(fit(trainee.training, pauses, device))
    return found, trainee.learner.state()


@pytest.mark.parametrize("case", OFFLINE)
def test_graphs_and_plain_updates_are_equal(case, monkeypatch):
    pauses, state = learnt(case, GPU)
    monkeypatch.setattr(loop, "updates_of", plain)
    expected, other = learnt(case, GPU)
    for pause, same in zip(pauses, expected, strict=True):
        assert_same(pause.metrics, same.metrics)
    assert_same(state, other)


@pytest.mark.parametrize("case", OFFLINE)
def test_a_gpu_learns_what_a_cpu_learns(case):
    """Dropout, batches and first weights are the same numbers on both; sums are rounded apart."""
    found, expected = (learnt(case, device)[0][0].metrics for device in (GPU, CPU))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].cpu(), value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_learn_about_the_same(precision):
    found, expected = (learnt("cpl", GPU, precision=each)[0] for each in (precision, "fp32"))
    for pause, same in zip(found, expected, strict=True):
        for name, value in same.metrics.items():
            np.testing.assert_allclose(
                pause.metrics[name].cpu(), value.cpu(), rtol=0.02, atol=0.02, err_msg=name
            )


@pytest.mark.parametrize("case", OFFLINE)
def test_a_run_on_a_gpu_is_the_same_twice_and_resumed(case, tmp_path):
    name = case.partition(",")[0]
    config = configured(name, "paper", CASES[case])

    def run(folder, **options):
        options = {"seeds": (0, 3), "evaluate_every": 10, "device": "cuda"} | options
        options = TrainOptions(runs=tmp_path / folder, **options)
        return train(data(), "d", name, config, options, None, TASK)

    first, second = run("first"), run("second")
    last = f"checkpoints/{config.steps}.safetensors"
    assert (first / last).read_bytes() == (second / last).read_bytes()
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    original, reached = loop.Replayed.advance, []

    def impatient(self, step, count):
        reached.append(step)
        if step >= LASTS - 10:
            raise KeyboardInterrupt
        return original(self, step, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Replayed, "advance", impatient)
        with pytest.raises(KeyboardInterrupt):
            run("third")
    resumed = run("third", resume=True)
    assert (resumed / last).read_bytes() == (first / last).read_bytes()
