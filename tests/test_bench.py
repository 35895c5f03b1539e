"""The benchmark of `scripts/` still runs; how fast is for those who run it by hand."""

from importlib import import_module
from pathlib import Path

import pytest

from cpl_bench.core.cards import load_task

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
