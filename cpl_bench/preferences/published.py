"""Whether the data on disk are those that a card names: the published bytes, or where they differ.

A card's sample is its first SAMPLE_EPISODES episodes with SAMPLE_SEGMENTS labels of their own:
minutes instead of an hour for whoever wants to know whether a machine makes the same data.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.published import Published, short
from cpl_bench.core.versions import installed, processor
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import arrays_hash, hashes_by_array
from cpl_bench.preferences.label import labelled
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.dataset import TrajectorySet, content_hash, hashes_of_tenths
from cpl_bench.trajectories.formats.minari import read_record, read_trajectories

SAMPLE_EPISODES, SAMPLE_SEGMENTS = 40, 100


def trajectories_verdict(card: DatasetCard) -> str:
    """One line on the collected trajectories of a card; where they differ, a line on each cause."""
    there = read_record(card.minari_id) or {}
    found, named = there.get("content_hash", ""), card.published
    if not named.trajectories:
        return f"trajectories   sha256 {short(found)}; the card names none to compare with"
    if found == named.trajectories:
        return f"trajectories   the published bytes, sha256 {short(found)}"
    lines = _differing("trajectories", found, named.trajectories)
    steps = tuple(level["step"] for level in there.get("levels", []))
    if steps != named.clone_steps:
        lines.append(f"the clone was stopped at steps {steps}, not {named.clone_steps}")
    source = read_trajectories(card.minari_id)
    tenths = [short(each) for each in hashes_of_tenths(source.trajectories)]
    count = len(source.trajectories)
    if tenths != list(named.tenths):
        pairs = zip(tenths, named.tenths, strict=False)
        tenth = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), 9)
        first, last = count * tenth // 10, max(count * (tenth + 1) // 10 - 1, 0)
        lines.append(f"of its {count} episodes, {first} to {last} are the first that differ")
    lines.append(_where(card, there.get("versions", {})))
    return "\n               ".join(lines)


def preferences_verdict(card: DatasetCard) -> str:
    """One line on the labelled preferences of a card; where they differ, which arrays do."""
    preferences, named = load_preferences(preference_path(card)), card.published
    found = preferences.info.arrays_hash
    if not named.preferences:
        return f"preferences    sha256 {short(found)}; the card names none to compare with"
    if found == named.preferences:
        return f"preferences    the published bytes, sha256 {short(found)}"
    ours = hashes_by_array(preferences)
    differ = [
        name for name in {**ours, **named.arrays} if _of(ours, name) != _of(named.arrays, name)
    ]
    lines = _differing("preferences", found, named.preferences)
    lines.append(f"the arrays that differ: {', '.join(differ)}")
    lines.append(_where(card, preferences.info.versions))
    return "\n               ".join(lines)


def measured(card: DatasetCard, pool: RolloutPool) -> Published:
    """What lies on disk of a card, as the card is to name it; the sample is labelled for it.

    Raises:
        UserError: the card is not collected and labelled.
    """
    source = read_trajectories(card.minari_id)
    preferences = load_preferences(preference_path(card))
    if content_hash(source.trajectories) != preferences.info.source_hash:
        raise UserError(
            f"The preferences of {card.name} were not made from the trajectories that lie there. "
            f"Make them again: cpl-bench label {card.name}"
        )
    return Published(
        trajectories=preferences.info.source_hash,
        tenths=tuple(short(each) for each in hashes_of_tenths(source.trajectories)),
        clone_steps=tuple(level["step"] for level in source.record["levels"]),
        preferences=arrays_hash(preferences),
        arrays={name: short(each) for name, each in hashes_by_array(preferences).items()},
        sample=sample_hash(card, source, pool),
        processor=processor(),
    )


def sample_of(card: DatasetCard) -> DatasetCard:
    """The card of a card's sample."""
    episodes = min(SAMPLE_EPISODES, card.episodes)
    cut = replace(card.segments, count=min(SAMPLE_SEGMENTS, card.segments.count))
    return replace(card, episodes=episodes, segments=cut, published=Published())


def sample_hash(card: DatasetCard, source: TrajectorySet, pool: RolloutPool) -> str:
    """SHA-256 of a card's sample, of which `source` holds at least the episodes."""
    sample = sample_of(card)
    first = replace(source, trajectories=source.trajectories[: sample.episodes])
    preferences = labelled(sample, first, pool)
    both = content_hash(first.trajectories) + arrays_hash(preferences)
    return hashlib.sha256(both.encode()).hexdigest()


def _differing(what: str, found: str, named: str) -> list[str]:
    return [
        f"{what:<15}NOT the published bytes: sha256 {short(found)}, the card names {short(named)}; "
        "results on the two do not compare"
    ]


def _of(hashes: dict[str, str], name: str) -> str:
    return short(hashes[name]) if name in hashes else ""


def _where(card: DatasetCard, versions: dict[str, str]) -> str:
    """What may be the cause: simulators, and the kinds of processor."""
    task = load_task(card.task)
    wanted = {name: version.lstrip("=") for name, version in task.simulators.items()}
    found = {**installed(task), **{name: versions.get(name, "?") for name in task.simulators}}
    other = [
        f"{name} {found[name]} (the card's: {v})" for name, v in wanted.items() if found[name] != v
    ]
    simulators = ", ".join(other) or "the simulators are the card's"
    return (
        f"{simulators}; numpy {np.__version__}; this is {processor()}, the card was recorded on "
        f"{card.published.processor or 'an unknown processor'}"
    )
