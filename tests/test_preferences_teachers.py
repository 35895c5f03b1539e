"""Noise models are what they say, by statistics; B-Pref's teachers, alone and composed."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import pair_keys, pairs_in_rounds
from cpl_bench.preferences.annotators import ANNOTATORS, ask, check_annotator
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import is_labelled, label
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.preferences.segments import SegmentSet, segments_of
from cpl_bench.preferences.stepwise import summed
from cpl_bench.preferences.teachers import _exponential, noisy, oracle, with_scale
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.trajectories.formats.minari import read_trajectories

CONFIDENCE = 0.99


def pairs(count, seed=0, low=-6, high=7):
    """(scores of the first, of the second, keys) of many pairs, some tied."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(low, high, (2, count)).astype(np.float64)
    return first, second, pair_keys(seed, *rng.integers(0, 2**31, (2, count)))


def within(successes, trials, probability):
    """Whether so many lie in the interval that 99 % of all binomial counts lie in."""
    found = binomtest(int(successes), int(trials), probability)
    return found.pvalue > 1 - CONFIDENCE


# --- Mistakes ---


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_so_many_answers_are_turned_round(rate):
    first, second, keys = pairs(100_000)
    decided = first != second
    honest = oracle(first, second, keys, {}).prefers_second
    answers = noisy(first, second, keys, {"error_rate": rate}).prefers_second
    turned = (answers == 1 - honest)[decided]
    assert within(turned.sum(), len(turned), rate)
    np.testing.assert_array_equal(answers[~decided], 0.5)
    assert not within(turned.sum(), len(turned), rate + 0.01)  # it would be noticed


# --- Rationality ---


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_bradley_terry_frequencies_by_a_chi_square_test(beta):
    first, second, keys = pairs(200_000, seed=1)
    gaps = second - first
    answers = noisy(first, second, keys, {"rationality": beta}).prefers_second
    statistic, cells = 0.0, 0
    for gap in np.unique(gaps[gaps != 0]):
        mine = answers[gaps == gap]
        sure = 1 / (1 + math.exp(-beta * gap))
        expected = len(mine) * np.array([sure, 1 - sure])
        if expected.min() < 5:
            assert expected.min() > 0 and abs(mine.mean() - sure) < 0.01
            continue
        observed = np.array([mine.sum(), len(mine) - mine.sum()])
        statistic += ((observed - expected) ** 2 / expected).sum()
        cells += 1
    assert cells >= 6 and statistic < chi2.ppf(CONFIDENCE, cells)


def test_rationality_is_the_inverse_of_temperature():
    arrays = pairs(10_000)
    ours, theirs = (noisy(*arrays, each) for each in ({"rationality": 0.5}, {"temperature": 2.0}))
    np.testing.assert_array_equal(ours.prefers_second, theirs.prefers_second)


def test_the_exponential_is_that_of_the_library():
    x = np.concatenate([np.linspace(0, 50, 10_001), [1e3, 1e300]])
    expected = np.exp(np.minimum(x, 50))
    np.testing.assert_allclose(_exponential(x), expected, rtol=1e-12)
    np.testing.assert_array_equal(_exponential(x), _exponential(torch.tensor(x)).numpy())


# --- Thresholds ---


def test_poor_pairs_are_skipped_and_close_ones_tie():
    first, second, keys = pairs(5000)
    settings = {"poor_below": 1.0, "equal_below": 2.5}
    answers, weight = noisy(first, second, keys, settings)
    np.testing.assert_array_equal(weight, np.maximum(first, second) >= 1)
    close = abs(second - first) < 2.5
    np.testing.assert_array_equal(answers[close], 0.5)
    np.testing.assert_array_equal(answers[~close], (second > first)[~close])


@pytest.mark.parametrize("shift", [0.0, -20.0])
def test_shares_are_of_the_typical_score_above_the_floor(shift):
    """Of scores from 0 as in B-Pref; where scores are negative, from the lowest."""
    first, second, keys = pairs(5000, low=0, high=11)
    first, second = first + shift, second + shift
    settings = with_scale("noisy", {"poor_share": 0.5, "equal_share": 0.1}, first)
    floor = shift
    assert settings["floor"] == floor and settings["typical"] == first.mean() - floor
    answers, weight = noisy(first, second, keys, settings)
    typical = settings["typical"]
    np.testing.assert_array_equal(weight, np.maximum(first, second) >= floor + 0.5 * typical)
    np.testing.assert_array_equal(answers == 0.5, abs(second - first) < 0.1 * typical)
    assert 0 < (weight == 0).mean() < 0.5


def test_a_share_of_scores_above_zero_is_bprefs():
    assert with_scale("bpref_skip", {}, np.array([2.0, 4.0])) == {"floor": 0.0, "typical": 3.0}
    assert with_scale("bpref_mistake", {}, np.array([2.0, 4.0])) == {}


# --- All at once ---


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_flaws_are_composed_in_bprefs_order(kind):
    """Skipping and equality by thresholds; else Bradley–Terry's choice, then turned round."""
    first, second, keys = pairs(300_000, seed=3)
    settings = {"rationality": 0.3, "error_rate": 0.2, "equal_below": 2.0, "poor_below": -2.0}
    found = noisy(kind(first), kind(second), kind(keys), settings)
    answers, weight = (np.asarray(each) for each in found)
    gaps = second - first
    np.testing.assert_array_equal(answers == 0.5, abs(gaps) < 2)
    np.testing.assert_array_equal(weight, np.maximum(first, second) >= -2)
    statistic, cells = 0.0, 0
    for gap in np.unique(gaps[abs(gaps) >= 2]):
        mine = answers[gaps == gap]
        sure = 1 / (1 + math.exp(-0.3 * gap))
        expected = len(mine) * (0.8 * sure + 0.2 * (1 - sure))
        statistic += (mine.sum() - expected) ** 2 * (1 / expected + 1 / (len(mine) - expected))
        cells += 1
    assert statistic < chi2.ppf(CONFIDENCE, cells)


BPREF = {
    "bpref_stochastic": {"rationality": 1.0},
    "bpref_mistake": {"error_rate": 0.1},
    "bpref_skip": {"poor_share": 0.1},
    "bpref_equal": {"equal_share": 0.1},
    "bpref_myopic": {},
}


@pytest.mark.parametrize("name", BPREF)
def test_bprefs_teachers_have_the_published_settings(name):
    first, second, keys = pairs(20_000, low=0, high=40)
    by_hand = noisy(first, second, keys, with_scale("noisy", BPREF[name], first))
    found = ANNOTATORS[name](first, second, keys, with_scale(name, {}, first))
    for ours, theirs in zip(found, by_hand, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="No setting of this annotator is called 'error_rate'"):
        check_annotator(name, {"error_rate": 0.2})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rationality": 1.0, "temperature": 1.0}, "rationality or temperature.*not both"),
        ({"rationality": 0.0}, "rationality must be above 0"),
        ({"rationality": -1.0}, "no setting below 0"),
        ({"poor_share": 0.1, "poor_below": 1.0}, "Give poor_share or poor_below, not both"),
        ({"equal_share": 0.1, "equal_below": 1.0}, "Give equal_share or equal_below, not both"),
        ({"equal_below": -1.0}, "no setting below 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_annotator("noisy", settings)


def test_a_share_without_the_data_is_refused():
    with pytest.raises(UserError, match=r"poor_share is a share of .* give poor_below"):
        noisy(np.zeros(1), np.ones(1), np.zeros(1, np.int64), {"poor_share": 0.1})


# --- Myopia: recent steps count more ---


def test_a_discounted_sum_by_hand():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=n) for n in (9, 5, 12)]
    places = [(0, 0), (0, 4), (1, 0), (2, 3), (2, 7)]
    episodes, offsets = np.array(places).T
    cut = SegmentSet([], episodes, offsets, 5)
    for discount in (1.0, 0.9, 0.25):
        factors = discount ** np.arange(4, -1, -1)
        by_hand = [factors @ scores[e][t : t + 5] for e, t in places]
        np.testing.assert_allclose(summed(cut, scores, discount), by_hand, rtol=1e-12)


# --- From a card: dense, sparse and ranked ---


@pytest.fixture
def card(dots, monkeypatch):
    """The dots' card where its data lie."""
    found, root, _ = dots
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return found


KINDS = {"dense": {}, "sparse": {"comparisons": 3}, "ranked": {"ranked_size": 4}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("annotator", ["bpref_myopic", "bpref_skip", "bpref_equal"])
def test_teachers_label_every_kind_of_data(card, pool, kind, annotator):
    asked = with_options(card, "partial_return", annotator, pairs=kind, **KINDS[kind])
    path = label(asked, pool)
    assert path == preference_path(asked) and is_labelled(asked)
    found = load_preferences(path)
    segments = segments_of(
        read_trajectories(asked.minari_id), found.segment_starts, found.info.segment_length
    )
    gamma = 0.9 if annotator == "bpref_myopic" else 1.0
    scores = summed(segments, [each.rewards for each in segments.trajectories], gamma)
    np.testing.assert_array_equal(found.scores, scores)
    floor = scores.min()  # rewards are minus a distance
    typical = scores.mean() - floor
    if kind == "dense":
        sampler = PreferenceSampler(found, [0], 32)
        batch = sampler.draw(5)
        answers, weight = batch.prefers_second[0].numpy(), batch.weight[0].numpy()
        rows = batch.observations[0, :, 0].numpy()
        starts = found.observations[found.segment_starts]
        positions = np.array([int(np.flatnonzero((starts == row).all(1))[0]) for row in rows])
        first, second = (positions[ends[0].numpy()] for ends in (batch.first, batch.second))
    else:
        first, second, answers = found.first, found.second, found.prefers_second
        weight = np.ones(len(first)) if found.weight is None else found.weight
    best = np.maximum(scores[first], scores[second])
    gap = scores[second] - scores[first]
    expected = np.where(gap == 0, 0.5, gap > 0)
    if annotator == "bpref_equal":
        expected = np.where(abs(gap) < 0.1 * typical, 0.5, expected)
    poor = best < floor + 0.1 * typical if annotator == "bpref_skip" else best < -np.inf
    np.testing.assert_array_equal(answers, expected)
    np.testing.assert_array_equal(weight, ~poor)
    said = ask(found, first, second)
    np.testing.assert_array_equal(said.prefers_second, answers)


def test_a_myopic_teacher_must_see_steps(card, pool):
    with pytest.raises(
        UserError, match=r"discount of 0\.9 .* regret scores whole segments.*partial"
    ):
        with_options(card, annotator="bpref_myopic")
    with pytest.raises(UserError, match=r"A discount must lie in \(0, 1\]; got 0\.0"):
        with_options(card, "partial_return", discount=0.0)
    path = preference_path(with_options(card, "partial_return", discount=0.5))
    assert path.name == "partial_return-discount0.5-600x12-dense-oracle-seed0.safetensors"


# --- c comparisons a segment ---


@pytest.mark.parametrize(("segments", "rounds"), [(2, 1), (6, 3), (7, 3), (100, 7)])
def test_each_segment_is_in_as_many_pairs_and_no_pair_twice(segments, rounds):
    first, second = pairs_in_rounds(segments, rounds)
    even = segments // 2 * 2
    np.testing.assert_array_equal(np.bincount(np.concatenate([first, second])), [rounds] * even)
    unordered = {(min(pair), max(pair)) for pair in zip(first, second, strict=True)}
    assert len(unordered) == len(first) == rounds * even // 2
    np.testing.assert_array_equal(first[: even // 2], np.arange(0, even, 2))
    np.testing.assert_array_equal(second[: even // 2], np.arange(1, even, 2))


def test_more_comparisons_add_to_the_same_ones(card, pool):
    once, thrice = (with_options(card, pairs="sparse", comparisons=c) for c in (1, 3))
    assert "-sparse-" in preference_path(once).name and "-sparse3-" in preference_path(thrice).name
    ours, theirs = (load_preferences(label(each, pool)) for each in (once, thrice))
    for name in ("first", "second", "prefers_second"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name)[: len(ours.first)])
    assert len(theirs.first) == 3 * len(ours.first)
    assert "--comparisons 3" in theirs.info.command and "--comparisons" not in ours.info.command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "sparse", "comparisons": 0}, "comparisons must lie between 1 and half"),
        ({"pairs": "sparse", "comparisons": 301}, "half the number of segments, 600; got 301"),
        ({"pairs": "dense", "comparisons": 2}, "comparisons is for sparse pairs only, not for d"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(card, options, message):
    with pytest.raises(UserError, match=message):
        with_options(card, **options)


def test_keys_that_came_later_do_not_change_a_cards_fingerprint():
    """Each card names the fingerprint that it was recorded with."""
    card = load_dataset_card("drawer-open-small")
    assert card.fingerprint == card.published.card
    assert with_options(card, pairs="sparse").fingerprint != card.fingerprint
    twice = with_options(card, pairs="sparse", comparisons=2)
    assert twice.fingerprint != with_options(card, pairs="sparse").fingerprint
