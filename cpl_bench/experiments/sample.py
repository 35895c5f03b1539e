"""Does this machine make the same data? A card's sample, made from nothing and compared."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.published import short
from cpl_bench.preferences.published import sample_hash, sample_of
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.collect import collect
from cpl_bench.trajectories.formats.minari import read_trajectories


def check_sample(card: DatasetCard, pool: RolloutPool) -> str:
    """Collect and label a card's sample in a temporary folder; returns its hash.

    Raises:
        UserError: the card names no sample, or another one.
    """
    if not card.published.sample:
        raise UserError(
            f"{card.path} names no sample to compare with. Where its data lie: "
            f"cpl-bench inspect {card.file or card.name} --record"
        )
    found = remade_sample(card, pool)
    if found != card.published.sample:
        raise UserError(
            f"The sample of {card.name} comes out as {short(found)} on this machine; the card "
            f"names {short(card.published.sample)}. `cpl-bench collect {card.file or card.name}` "
            "makes all of it and says where it differs."
        )
    return found


def remade_sample(card: DatasetCard, pool: RolloutPool) -> str:
    """The hash of a card's sample as this machine makes it, from the demonstrations on."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    with TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        try:
            collect(sample_of(card), pool)
            return sample_hash(card, read_trajectories(card.minari_id), pool)
        finally:
            if before is None:
                del os.environ["MINARI_DATASETS_PATH"]
            else:
                os.environ["MINARI_DATASETS_PATH"] = before
