"""Annotators keep one convention: 1 means that the second is better."""

import numpy as np
import pytest
import torch

from cpl_bench.preferences.annotators import ANNOTATORS, oracle


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_oracle_prefers_the_higher_score(kind):
    first, second = kind([1.0, 2.0, 3.0, -1.0]), kind([2.0, 1.0, 3.0, -0.5])
    assert oracle(first, second).tolist() == [1.0, 0.0, 0.5, 1.0]


def test_oracle_compares_exactly():
    scores = np.array([0.1 + 0.2, 0.3])  # one ulp apart
    assert oracle(scores[0], scores[1]) == 0.0
    assert oracle(scores[1], scores[0]) == 1.0
    assert oracle(-0.0, 0.0) == 0.5


def test_swapping_the_segments_swaps_every_annotators_answer():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, size=(2, 100)).astype(np.float64)
    for name, annotate in ANNOTATORS.items():
        swapped = annotate(second, first)
        np.testing.assert_array_equal(annotate(first, second), 1 - swapped, err_msg=name)


def test_oracle_broadcasts():
    scores = np.array([3.0, 1.0, 2.0])
    answers = oracle(scores[:, None], scores[None, :])
    np.testing.assert_array_equal(answers, [[0.5, 0, 0], [1, 0.5, 1], [1, 0, 0.5]])
