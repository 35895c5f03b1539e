"""Whether the data on disk are those that a card names: the published bytes, or where they differ.

A card's sample is its first SAMPLE_EPISODES episodes with SAMPLE_SEGMENTS labels of their own:
minutes instead of an hour for whoever wants to know whether a machine makes the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.published import Published, short
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import hashes_by_array, preferences_hash
from cpl_bench.preferences.label import labelled
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.dataset import TrajectorySet, content_hash, hashes_of_tenths
from cpl_bench.trajectories.formats.minari import read_trajectories

SAMPLE_EPISODES, SAMPLE_SEGMENTS = 40, 100


def trajectories_verdict(card: DatasetCard) -> str:
    """What the collected trajectories of a card are, by their content; a line on each difference.

    Raises:
        UserError: there are none.
    """
    source, named = read_trajectories(card.minari_id), card.published
    found = content_hash(source.trajectories)
    if found != source.record.get("content_hash"):
        return _line("trajectories", f"ALTERED after they were collected, sha256 {short(found)}")
    if known := _known("trajectories", card, found, named.trajectories):
        return known
    lines = [_differing(found, named.trajectories)]
    steps = tuple(level["step"] for level in source.record.get("levels", []))
    if steps != named.clone_steps:
        lines.append(f"the clone was stopped at steps {steps}, not {named.clone_steps}")
    tenths = [short(each) for each in hashes_of_tenths(source.trajectories)]
    count, pairs = len(source.trajectories), zip(tenths, named.tenths, strict=False)
    tenth = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if tenth is not None:
        first, last = count * tenth // 10, max(count * (tenth + 1) // 10 - 1, 0)
        lines.append(f"of its {count} episodes, {first} to {last} are the first that differ")
    return _line("trajectories", *lines, _origin(card, source.record))


def preferences_verdict(card: DatasetCard) -> str:
    """What the labelled preferences of a card are; where they differ, which arrays do.

    Raises:
        UserError: there are none, or they were altered.
    """
    preferences, named = load_preferences(preference_path(card)), card.published
    found = preferences.info.preferences_hash
    if known := _known("preferences", card, found, named.preferences):
        return known
    ours = {name: short(each) for name, each in hashes_by_array(preferences).items()}
    names = [name for name in {**ours, **named.arrays} if ours.get(name) != named.arrays.get(name)]
    differ = f"the arrays that differ: {', '.join(names) or 'none, but who answers does'}"
    return _line("preferences", _differing(found, named.preferences), differ)


def measured(card: DatasetCard, pool: RolloutPool) -> Published:
    """What lies on disk of a card, as the card is to name it; the sample is labelled for it.

    Raises:
        UserError: the card is not collected and labelled, or one does not belong to the other.
    """
    source = read_trajectories(card.minari_id)
    preferences = load_preferences(preference_path(card))
    if content_hash(source.trajectories) != preferences.info.source_hash:
        raise UserError(
            f"The preferences of {card.name} were not made from the trajectories that lie there. "
            f"Make them again: cpl-bench label {card.file or card.name}"
        )
    sample = sample_hashes(card, source, pool)
    return Published(
        card=card.fingerprint,
        trajectories=preferences.info.source_hash,
        tenths=tuple(short(each) for each in hashes_of_tenths(source.trajectories)),
        clone_steps=tuple(level["step"] for level in source.record.get("levels", [])),
        preferences=preferences.info.preferences_hash,
        arrays={name: short(each) for name, each in hashes_by_array(preferences).items()},
        sample_trajectories=sample[0],
        sample_preferences=sample[1],
        mathematics=source.record.get("machine", {}).get("mathematics", ""),
        processor=source.record.get("machine", {}).get("processor", ""),
    )


def sample_of(card: DatasetCard) -> DatasetCard:
    """The card of a card's sample."""
    episodes = min(SAMPLE_EPISODES, card.episodes)
    cut = replace(card.segments, count=min(SAMPLE_SEGMENTS, card.segments.count))
    return replace(card, episodes=episodes, segments=cut, published=Published())


def sample_hashes(card: DatasetCard, source: TrajectorySet, pool: RolloutPool) -> tuple[str, str]:
    """SHA-256 of a sample's trajectories and preferences; `source` holds at least the episodes."""
    sample = sample_of(card)
    trajectories = source.trajectories[: sample.episodes]
    of_those = {**source.record, "content_hash": content_hash(trajectories)}
    first = replace(source, trajectories=trajectories, record=of_those)
    return of_those["content_hash"], preferences_hash(labelled(sample, first, pool))


def _known(what: str, card: DatasetCard, found: str, named: str) -> str:
    """The verdict where nothing is left to find out; else empty."""
    digest = f"sha256 {short(found)}"
    if not card.published.trajectories:
        return _line(what, f"{digest}; the card names none to compare with")
    if card.published.card != card.fingerprint:
        return _line(
            what, f"{digest}; the card was changed since it was recorded: inspect --record"
        )
    if not named:
        return _line(what, f"{digest}; the card names none for such labels")
    return _line(what, f"the published bytes, {digest}") if found == named else ""


def _differing(found: str, named: str) -> str:
    return (
        f"NOT the published bytes: sha256 {short(found)}, the card names {short(named)}; results "
        "on the two do not compare"
    )


def _origin(card: DatasetCard, record: Mapping[str, Any]) -> str:
    """What may be the cause: simulators, the C library, the kind of processor."""
    machine, versions, named = record.get("machine", {}), record.get("versions", {}), card.published
    wanted = find_task(card.task).simulators
    others = [f"{k} {versions.get(k)} (the card's: {v})" for k, v in wanted.items()]
    others = [
        each for each, (k, v) in zip(others, wanted.items(), strict=True) if versions.get(k) != v
    ]
    if machine.get("mathematics") != named.mathematics:
        others.append("another C library's mathematics")
    made = f"made on {machine.get('processor', 'an unknown processor')}"
    return (
        f"{made} with {', '.join(others) or 'the same simulators'}; the card's on {named.processor}"
    )


def _line(what: str, *facts: str) -> str:
    return f"{what:<15}" + "\n               ".join(facts)
