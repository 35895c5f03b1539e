"""The benchmarks of `scripts/` still run; how fast is for those who run it by hand."""

import json
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
    bench, loops = import_module("bench_cpu"), import_module("plain_loops")
    for name, small in {"HIDDEN": 8, "SEGMENTS": 4, "DATA": 20}.items():
        monkeypatch.setattr(loops, name, small)
        monkeypatch.setattr(bench, name, small, raising=False)
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


def test_the_benchmark_of_gpus_prints_a_table_and_json(monkeypatch, capsys):
    """Here on a CPU: what it says of graphs nobody can see without a GPU."""
    monkeypatch.syspath_prepend(SCRIPTS)
    bench, loops = import_module("bench_gpu"), import_module("plain_loops")
    for name, small in {"HIDDEN": 8, "SEGMENTS": 4, "DATA": 20}.items():
        monkeypatch.setattr(loops, name, small)
    monkeypatch.setattr(bench, "LARGE", 512)
    small = {name: replaced(each, {"segments": 4}, name) for name, each in bench.METHODS.items()}
    monkeypatch.setattr(bench, "METHODS", small)
    words = ["bench_gpu", "--device", "cpu", "--seconds", "0", "--members", "1", "2"]
    monkeypatch.setattr("sys.argv", words)
    bench.main()
    *table, last = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 1 + 2 * (1 + 2 * 2)  # peaks, head, and a row each
    assert set(json.loads(last)) > {"cpl plain", "cpl bf16 2 eager", "piql fp32 1 eager"}
