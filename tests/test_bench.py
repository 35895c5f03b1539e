"""The benchmarks of `scripts/` still run; how fast is for those who run it by hand."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.toml import replaced

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("members", [1, 4])
def test_our_side_collects_and_updates(monkeypatch, members):
    monkeypatch.syspath_prepend(SCRIPTS)
    bench = import_module("bench_ppo")
    monkeypatch.setattr(bench, "TRANSITIONS", 4 * load_task("pointmass").horizon_steps)
    monkeypatch.setattr(bench, "EPOCHS", 2)
    with bench.our_ppo("pointmass", members, workers=1) as contender:
        contender.race(collections=2)
    assert contender.transitions == members * bench.TRANSITIONS
    assert contender.rates[0] > 0
    assert 0 < contender.update_shares[0] < 1


def test_the_plain_loops_and_ours_take_steps(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    bench = import_module("bench_cpu")
    for name, small in {"HIDDEN": 8, "SEGMENTS": 4, "DATA": 20}.items():
        monkeypatch.setattr(bench, name, small)
    data = bench.preferences()
    configs = {"cpl": bench.CPL, "piql": bench.PIQL}
    takes = {
        name: bench.ours(data, name, replaced(config, {"segments": 4}, "small"))
        for name, config in configs.items()
    }
    plain = (bench.plain_cpl(data), bench.plain_piql(data), bench.products(torch.float32))
    takes |= {f"plain {i}": bench.Contender(take) for i, take in enumerate(plain)}
    bench.race(takes, seconds=0.0, rounds=1)
    assert all(contender.step > 0 for contender in takes.values())
