"""Pages say which data their runs saw, and call themselves stale when the card publishes others."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cpl_bench.core import dataset_cards
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.published import Published, short
from cpl_bench.preferences.labelling import planned_info, with_options
from cpl_bench.report.data import about_data, is_stale
from cpl_bench.report.read import read_run
from cpl_bench.report.report import report

CARD = load_dataset_card("drawer-open-small")
RUN = Path(__file__).parent.parent / "results/cpl-lambda/drawer-open-small/sft-sft"
NOW = Published(card=CARD.fingerprint, trajectories="a" * 64, preferences="b" * 64)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """The official card, whatever it publishes today, publishes NOW."""
    card = replace(CARD, published=NOW)
    module = sys.modules[about_data.__module__]  # the verb `report` hides the room of its name
    monkeypatch.setattr(module, "load_dataset_card", lambda name: card)
    assert CARD.name in dataset_cards.dataset_names()


def run_on(tmp_path, info, name="drawer-open-small/cpl"):
    """A published run, as if it had been trained on these data."""
    folder = tmp_path / "runs" / name
    shutil.copytree(RUN, folder)
    record = json.loads((folder / "run.json").read_text())
    record |= {"preferences": asdict(info), "method": folder.name.upper()}
    record["dataset"] = folder.parent.name
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def info(trajectories, preferences, **options):
    card = with_options(CARD, **options)
    return replace(planned_info(card, trajectories), preferences_hash=preferences)


def test_the_published_bytes(tmp_path):
    run = read_run(run_on(tmp_path, info(NOW.trajectories, NOW.preferences)))
    text = "Data: trajectories `aaaaaaaaaaaa`, preferences `bbbbbbbbbbbb`: the published bytes."
    assert about_data([run]) == text
    assert not is_stale(run)
    page = report([run.folder], tmp_path / "out").page.read_text()
    assert text in page and "Stale" not in page
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[1].endswith(",bbbbbbbbbbbb")


@pytest.mark.parametrize(("trajectories", "preferences"), [("c", "b"), ("a", "c"), ("c", "")])
def test_other_bytes_make_a_page_stale(tmp_path, trajectories, preferences):
    run = read_run(run_on(tmp_path, info(trajectories * 64, preferences * 64)))
    assert is_stale(run)
    page = report([run.folder], tmp_path / "out").page.read_text()
    assert "> **Stale:** 1 of the 1 runs on this page saw other data" in page
    assert f"**Stale:** trained on trajectories `{trajectories * 12}`" in page
    assert f"the card now publishes trajectories `{short(NOW.trajectories)}`" in page


def test_labels_asked_for_in_another_way_need_only_the_trajectories(tmp_path):
    for number, options in enumerate([{"scorer": "partial_return"}, {"segments": 77}]):
        asked = info(NOW.trajectories, "c" * 64, **options)
        run = read_run(run_on(tmp_path, asked, f"drawer-open-small/cpl-{number}"))
        assert about_data([run]).endswith(": labels of one's own on the published trajectories.")
        assert not is_stale(run)
        old = info("d" * 64, "c" * 64, **options)
        run = read_run(run_on(tmp_path, old, f"drawer-open-small/old-{number}"))
        assert is_stale(run)


def test_a_table_of_runs_on_different_data_says_so(tmp_path):
    ours = read_run(run_on(tmp_path, info(NOW.trajectories, NOW.preferences)))
    theirs = read_run(run_on(tmp_path, info(NOW.trajectories, "c" * 64), "drawer-open-small/sft"))
    text = about_data([ours, theirs])
    assert text.startswith("**Not one dataset:** the methods did not all see the same data.\n")
    assert "\n- CPL: Data: trajectories `aaaaaaaaaaaa`, preferences `bbbbbbbbbbbb`: the" in text
    assert "\n- SFT: **Stale:** trained on trajectories `aaaaaaaaaaaa`, preferences `cccc" in text


def test_data_that_no_card_is_behind(tmp_path):
    toy = replace(info("0123", ""), card="toy", source="cpl_bench/toy-v0")
    run = read_run(run_on(tmp_path, toy, "toy/cpl"))
    assert about_data([run]) == "Data: trajectories `0123`, preferences `unknown`."
    own = replace(toy, source="arrays", source_hash="e" * 64, preferences_hash="e" * 64)
    run = read_run(run_on(tmp_path, own, "mine/cpl"))
    assert about_data([run]) == "Data: preferences `eeeeeeeeeeee`."
