"""Episode seeds: every use has a stream of its own, so no use ever meets another's episodes."""

from collections.abc import Sequence

import numpy as np

STREAMS = {
    "demonstrations": 1,
    "clone probe": 2,
    "data": 3,
    "levels": 4,
    "segments": 5,
    "monitoring": 6,  # evaluation while training
    "test": 7,  # evaluation of a finished run: never looked at before
    "expert probe": 8,
    "training": 9,  # a member's initial weights, batches and dropout
    "rollouts": 10,  # what an on-policy method collects while training
    "held out": 11,  # the episodes that reward models are measured by
    "clone": 12,  # a clone's first weights and batches
}


def generator(stream: str, *key: int) -> np.random.Generator:
    """A generator for one use; `key` are the seeds that decide it, all non-negative."""
    return np.random.default_rng([STREAMS[stream], *key])


def training_seeds(members: Sequence[int]) -> list[int]:
    """One seed for each member number, unlike any that a dataset's clone is trained with."""
    return [int(generator("training", member).integers(2**62)) for member in members]


def episode_seeds(stream: str, count: int, *key: int) -> list[int]:
    """`count` environment seeds for one use. The first ones don't depend on `count`."""
    return [int(seed) for seed in generator(stream, *key).integers(0, 2**31, count)]
