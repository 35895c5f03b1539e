"""What tests share: shapes are checked while they run, and one small dataset is made once."""

# ruff: noqa: E402 (the hook must come before what it hooks)

import importlib
import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

SHAPED = [
    "interface",
    "losses",
    "networks",
    "optimisers",
    "transitions",
    "moves",
    "rankings",
    "contrast",
    "judges",
    "reward",
    "actor",
    "collection",
    "algos",
]
HOOKED = [*(f"cpl_bench.learning.{name}" for name in SHAPED), "cpl_bench.runs.batches"]

with install_import_hook(HOOKED, "beartype.beartype"):
    from cpl_bench.learning.methods import ALGOS, find_method

    for name in HOOKED:
        importlib.import_module(name)
    for name in ALGOS:
        find_method(name)

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.preferences.label import label
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.collect import collect


@pytest.fixture(scope="session")
def pool():
    """Two workers that the tests share."""
    with RolloutPool(2) as workers:
        yield workers


@pytest.fixture(scope="session")
def dots(tmp_path_factory, pool):
    """(card, data root, preference file) of tests/dots.toml."""
    root = tmp_path_factory.mktemp("dots")
    card = load_dataset_card(str(Path(__file__).parent / "dots.toml"))
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        collect(card, pool)
        return card, root, label(card, pool)
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
