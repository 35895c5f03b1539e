"""Which data the runs of a page saw, and whether the dataset's card still publishes them."""

from __future__ import annotations

from collections.abc import Sequence

from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.published import Published, short
from cpl_bench.preferences.format import PreferenceInfo
from cpl_bench.preferences.labelling import is_asked_alike, planned_info
from cpl_bench.report.read import EvaluatedRun


def about_data(runs: Sequence[EvaluatedRun]) -> str:
    """Markdown about the data of one dataset's runs."""
    infos = [run.record.preferences for run in runs]
    if len({(info.source_hash, info.arrays_hash) for info in infos}) > 1:
        each = "; ".join(
            f"{run.method}: {_hashes(info)}" for run, info in zip(runs, infos, strict=True)
        )
        return f"**Not one dataset:** the methods saw different data. {each}."
    info, published = infos[0], published_of(infos[0])
    text = f"Data: {_hashes(info)}"
    if not published.trajectories or not info.source_hash:
        return f"{text}."
    if info.source_hash == published.trajectories and not published.preferences:
        return f"{text}: labels of one's own on the published trajectories."
    if (info.source_hash, info.arrays_hash) == (published.trajectories, published.preferences):
        return f"{text}: the published bytes."
    now = f"trajectories `{short(published.trajectories)}`"
    if published.preferences:
        now += f", preferences `{short(published.preferences)}`"
    return (
        f"**Stale:** these runs saw {_hashes(info)}; the card now publishes {now}. Their "
        "numbers do not compare with newer ones until they are made again."
    )


def is_stale(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether any of the runs saw other data than its card publishes."""
    return any(about_data([run]).startswith("**Stale") for run in runs)


def published_of(info: PreferenceInfo) -> Published:
    """What the official card behind some preferences publishes; empty hashes where there is none.

    Preferences that were asked for in another way than the card asks share its trajectories alone.
    """
    if info.card not in dataset_names() or info.source != f"cpl_bench/{info.card}-v0":
        return Published()
    card = load_dataset_card(info.card)
    if is_asked_alike(info, card) and info.command == planned_info(card).command:
        return card.published
    return Published(trajectories=card.published.trajectories)


def _hashes(info: PreferenceInfo) -> str:
    preferences = f"preferences `{short(info.arrays_hash)}`"
    if info.source_hash == info.arrays_hash:  # arrays of one's own
        return preferences
    return f"trajectories `{short(info.source_hash)}`, {preferences}"
