"""Which data the runs of a page saw, and whether the dataset's card still publishes them."""

from __future__ import annotations

from collections.abc import Sequence

from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.published import Published, short
from cpl_bench.preferences.format import PreferenceInfo
from cpl_bench.preferences.labelling import is_asked_alike, planned_info
from cpl_bench.report.markdown import cell
from cpl_bench.report.read import EvaluatedRun

STALE = "**Stale:**"


def about_data(runs: Sequence[EvaluatedRun]) -> str:
    """Markdown about the data of one dataset's runs."""
    said = {run.method: _about(run.record.preferences) for run in runs}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    each = "".join(f"\n- {cell(method)}: {text}" for method, text in said.items())
    return f"**Not one dataset:** the methods did not all see the same data.\n{each}"


def is_stale(run: EvaluatedRun) -> bool:
    """Whether a run saw other data than its card publishes."""
    return STALE in _about(run.record.preferences)


def _about(info: PreferenceInfo) -> str:
    published = published_of(info)
    saw = f"trajectories `{short(info.source_hash)}`, "
    saw *= info.source_hash != info.preferences_hash  # they are one: arrays of one's own
    saw += f"preferences `{short(info.preferences_hash)}`"
    if not published.trajectories or not info.source_hash:
        return f"Data: {saw}."
    if info.source_hash == published.trajectories and not published.preferences:
        return f"Data: {saw}: labels of one's own on the published trajectories."
    found = (info.source_hash, info.preferences_hash)
    if found == (published.trajectories, published.preferences):
        return f"Data: {saw}: the published bytes."
    now = f"trajectories `{short(published.trajectories)}`"
    if published.preferences:
        now += f", preferences `{short(published.preferences)}`"
    return (
        f"{STALE} trained on {saw}; the card now publishes {now}. These numbers do not compare "
        "with newer ones until they are made again."
    )


def published_of(info: PreferenceInfo) -> Published:
    """What the official card behind some preferences publishes; empty hashes where there is none.

    Preferences that were asked for in another way than the card asks share its trajectories alone.
    """
    if info.card not in dataset_names() or info.source != f"cpl_bench/{info.card}-v0":
        return Published()
    card = load_dataset_card(info.card)
    if card.published.card != card.fingerprint:
        return Published()
    if is_asked_alike(info, card) and info.command == planned_info(card).command:
        return card.published
    return Published(trajectories=card.published.trajectories)
