"""Does this machine make the same data? A card's sample, made from nothing and compared."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.published import short
from cpl_bench.preferences.published import sample_hashes, sample_of
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.collect import collect
from cpl_bench.trajectories.formats.minari import minari_root, read_trajectories


def check_sample(card: DatasetCard, pool: RolloutPool) -> str:
    """Collect and label a card's sample in a temporary folder; returns what came out, in a line.

    Raises:
        UserError: the card names no sample, was changed since, or names another one.
    """
    if card.source is not None:
        raise UserError(f"{card.name} is imported, not made; its file has one hash everywhere.")
    named, again = card.published, f"cpl-bench inspect {card.file or card.name} --record"
    if not named.sample_trajectories:
        raise UserError(f"{card.path} names no sample to compare with. Where its data lie: {again}")
    if named.card != card.fingerprint:
        raise UserError(f"{card.path} was changed since its hashes were recorded. Then: {again}")
    steps, *hashes = remade_sample(card, pool)
    differ = [
        f"the {what} {ours}, not {theirs}"
        for what, ours, theirs in (
            ("clone stops at steps", steps, named.clone_steps),
            ("trajectories are", short(hashes[0]), short(named.sample_trajectories)),
            ("preferences are", short(hashes[1]), short(named.sample_preferences)),
        )
        if ours != theirs
    ]
    if not differ:
        return f"the published bytes, sha256 {short(hashes[0])} and {short(hashes[1])}"
    mathematics = pool.mathematics()
    if mathematics != named.mathematics:
        differ.append(f"the C library's mathematics is {mathematics}, not {named.mathematics}")
    raise UserError(f"The sample of {card.name} is another one here: {'; '.join(differ)}.")


def remade_sample(card: DatasetCard, pool: RolloutPool) -> tuple[tuple[int, ...], str, str]:
    """A sample as this machine makes it: the clone's steps, the hashes of episodes and labels."""
    with TemporaryDirectory() as folder, minari_root(Path(folder)):
        collect(sample_of(card), pool)
        source = read_trajectories(card.minari_id)
        steps = tuple(level["step"] for level in source.record.get("levels", []))
        return steps, *sample_hashes(card, source, pool)
