"""Annotators keep one convention: 1 means that the second is better, and a pair one answer."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cpl_bench.core.dataset_cards import Labelling, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.pairs import pair_keys, uniform
from cpl_bench.preferences.annotators import (
    ANNOTATORS,
    ask,
    check_annotator,
    find_annotator,
    noisy,
    oracle,
)
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import is_labelled, label
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.preferences.scorers import partial_return
from cpl_bench.preferences.segments import segments_of
from cpl_bench.preferences.teachers import with_scale
from cpl_bench.preferences.verify import verify
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.trajectories.formats.minari import read_trajectories

DOTS = Path(__file__).parent / "dots.toml"
KEYS = np.zeros(1, np.int64)
FALLIBLE = {"error_rate": 0.2, "temperature": 2.0, "skip_below": 0.5}
TEACHER = {"rationality": 0.4, "error_rate": 0.1, "equal_share": 0.3, "poor_share": 0.4}


def pairs_of_scores(count, seed=0):
    """(scores of the first, of the second, keys) of many pairs, some tied."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-6, 7, (2, count)).astype(np.float64)
    rows = rng.integers(0, 2**31, (2, count))
    return first, second, pair_keys(seed, *rows)


# --- The oracle ---


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_oracle_prefers_the_higher_score(kind):
    first, second = kind([1.0, 2.0, 3.0, -1.0]), kind([2.0, 1.0, 3.0, -0.5])
    answers = oracle(first, second, kind([0, 1, 2, 3]), {})
    assert answers.prefers_second.tolist() == [1.0, 0.0, 0.5, 1.0]
    assert answers.weight.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_oracle_compares_exactly():
    low, high = np.array([0.3, 0.1 + 0.2])  # one ulp apart
    assert oracle(high, low, KEYS, {}).prefers_second == 0.0
    assert oracle(low, high, KEYS, {}).prefers_second == 1.0
    assert oracle(-0.0, 0.0, KEYS, {}) == (0.5, 1.0)


def test_oracle_broadcasts():
    scores = np.array([3.0, 1.0, 2.0])
    answers, weight = oracle(scores[:, None], scores[None, :], KEYS, {})
    np.testing.assert_array_equal(answers, [[0.5, 0, 0], [1, 0.5, 1], [1, 0, 0.5]])
    np.testing.assert_array_equal(weight, np.ones((3, 3)))


# --- All of them ---


EVERYBODY = [(name, {}) for name in ANNOTATORS]
EVERYBODY += [("noisy", FALLIBLE), ("noisy", TEACHER)]


@pytest.mark.parametrize(("name", "settings"), EVERYBODY)
def test_swapping_the_segments_swaps_every_annotators_answer(name, settings):
    annotate, (first, second, keys) = ANNOTATORS[name], pairs_of_scores(1000)
    settings = with_scale(name, settings, first)
    answers, weight = annotate(first, second, keys, settings)
    swapped, same = annotate(second, first, keys, settings)
    np.testing.assert_array_equal(answers, 1 - swapped)
    np.testing.assert_array_equal(weight, same)
    assert set(answers) == {0, 0.5, 1} and set(weight) <= {0, 1}


@pytest.mark.parametrize(("name", "settings"), EVERYBODY)
def test_numpy_and_torch_are_answered_alike(name, settings):
    arrays = pairs_of_scores(100_000)
    settings = with_scale(name, settings, arrays[0])
    ours = ANNOTATORS[name](*arrays, settings)
    theirs = ANNOTATORS[name](*map(torch.tensor, arrays), settings)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


# --- The noisy one ---


def test_without_settings_noise_is_none():
    pairs = pairs_of_scores(1000)
    for one, other in zip(noisy(*pairs, {}), oracle(*pairs, {}), strict=True):
        np.testing.assert_array_equal(one, other)


def test_so_many_answers_are_turned_round_whatever_the_gap():
    first, second, keys = pairs_of_scores(200_000)
    honest = oracle(first, second, keys, {}).prefers_second
    gap = abs(second - first)
    for rate in (0.1, 0.5):
        answers, weight = noisy(first, second, keys, {"error_rate": rate})
        assert (weight == 1).all()
        np.testing.assert_array_equal(answers[gap == 0], 0.5)  # a tie has no other side
        for size in range(1, 7):
            turned = (answers != honest)[gap == size]
            error = np.sqrt(rate * (1 - rate) / len(turned))
            assert abs(turned.mean() - rate) < 4 * error


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_temperature_follows_the_logistic_of_the_gap(rate):
    first, second, keys = pairs_of_scores(400_000, seed=1)
    settings = {"temperature": 1.5, "error_rate": rate}
    answers = noisy(first, second, keys, settings).prefers_second
    for gap in range(-12, 13):
        if gap == 0:
            continue
        mine = answers[second - first == gap]
        sure = 1 / (1 + np.exp(-gap / 1.5))
        wanted = sure * (1 - rate) + (1 - sure) * rate
        error = np.sqrt(wanted * (1 - wanted) / len(mine))
        assert abs(mine.mean() - wanted) < 4 * error + 1e-4
    cold = noisy(first, second, keys, {"temperature": 1e-6}).prefers_second
    np.testing.assert_array_equal(cold, oracle(first, second, keys, {}).prefers_second)


def test_small_gaps_are_skipped():
    first, second, keys = pairs_of_scores(1000)
    answers, weight = noisy(first, second, keys, {"skip_below": 3.0})
    np.testing.assert_array_equal(weight, abs(second - first) >= 3)
    decided = oracle(first, second, keys, {}).prefers_second
    np.testing.assert_array_equal(answers, decided)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"error_rates": 0.1}, "setting .* 'error_rates'. Did you mean 'error_rate'.*skip_below"),
        ({"error_rate": 0.6}, r"error_rate must lie in \[0, 0.5\].*0\.6"),
        ({"error_rate": -0.1}, r"error_rate must lie in \[0, 0.5\]"),
        ({"temperature": -1.0}, "no setting below 0"),
        ({"skip_below": -1}, "no setting below 0"),
        ({"temperature": float("nan")}, "'temperature' must be a finite number, not nan"),
        ({"temperature": float("inf")}, "'temperature' must be a finite number, not inf"),
        ({"error_rate": "0.1"}, "'error_rate' must be a finite number, not '0.1'"),
        ({"error_rate": True}, "must be a finite number, not True"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_annotator("noisy", settings)
    with pytest.raises(UserError, match="No setting of this annotator is called"):
        check_annotator("oracle", {"error_rate": 0.1})


def test_an_unknown_annotator_suggests_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean 'noisy'.*module:NAME"):
        find_annotator("noisi")


# --- Keys: random bits of a pair ---


def test_a_pairs_key_is_the_same_in_either_order_and_decided_by_the_seed():
    rows = np.random.default_rng(0).integers(0, 2**40, (2, 10_000))
    rows[:, :100] = np.stack([np.arange(100), np.arange(1, 101)])  # neighbours
    keys = pair_keys(7, *rows)
    assert keys.dtype == np.int64 and len(np.unique(keys)) == 10_000
    np.testing.assert_array_equal(keys, pair_keys(7, *rows[::-1]))
    np.testing.assert_array_equal(keys, pair_keys(7, *map(torch.tensor, rows)))
    np.testing.assert_array_equal(keys[::2], pair_keys(7, *rows[:, ::2]))
    for other in (0, 8, 2**63, -1):
        assert not np.isin(pair_keys(other, *rows), keys).any()


def test_numbers_from_keys_are_uniform_and_do_not_depend_on_each_other():
    first, second = np.triu_indices(500, 1)
    several = [uniform(pair_keys(seed, first, second)) for seed in range(3)]
    for numbers in several:
        assert numbers.min() >= 0 and numbers.max() < 1
        counts = np.bincount((numbers * 50).astype(int), minlength=50)
        expected = len(numbers) / 50
        assert ((counts - expected) ** 2 / expected).sum() < 49 + 4 * np.sqrt(98)
        np.testing.assert_array_equal(numbers, numbers.astype(np.float32))
        for lag in (1, 2, 499):  # pairs that share a segment
            assert abs(np.corrcoef(numbers[lag:], numbers[:-lag])[0, 1]) < 4 / np.sqrt(len(first))
    assert abs(np.corrcoef(several) - np.eye(3)).max() < 4 / np.sqrt(len(first))


# --- Asked in batches, and about a file ---


@pytest.fixture
def fickle():
    """Dense preferences of 30 segments, each its own episode, answered by the noisy annotator."""
    rng = np.random.default_rng(2)
    observations = np.zeros((30, 4, 2))
    observations[:, 0, 0] = np.arange(30)
    scores, actions = rng.integers(0, 9, 30), rng.uniform(-1, 1, (30, 4, 1))
    made = preferences_from_arrays(observations, actions, scores=scores, annotator="noisy")
    info = replace(made.info, annotator_settings=FALLIBLE, seeds={"annotator": 5})
    return replace(made, info=info)


def test_a_pair_is_answered_the_same_at_every_step_and_as_the_file_is_asked(fickle):
    verify(fickle)
    sampler = PreferenceSampler(fickle, [0, 1, 2], 8)
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for step in range(60):
        batch = sampler.draw(step)
        which = batch.observations[:, :, 0, 0].long()  # (s, m)
        first, second = (which.gather(1, ends).numpy() for ends in (batch.first, batch.second))
        answers, weight = ask(fickle, first.ravel(), second.ravel())
        np.testing.assert_array_equal(batch.prefers_second.numpy().ravel(), answers)
        np.testing.assert_array_equal(batch.weight.numpy().ravel(), weight)
        for i, j, answer, counts in zip(
            first.ravel().tolist(), second.ravel().tolist(), answers, weight, strict=True
        ):
            said = (answer, counts) if i <= j else (1 - answer, counts)
            assert known.setdefault((min(i, j), max(i, j)), said) == said
    assert len(known) > 400
    ties = [fickle.scores[i] == fickle.scores[j] for i, j in known]
    honest = [0.5 + 0.5 * np.sign(fickle.scores[j] - fickle.scores[i]) for i, j in known]
    assert [counts == 0 for _, counts in known.values()] == ties  # a smaller gap than 1 is none
    wrong = [said[0] != true for said, true in zip(known.values(), honest, strict=True)]
    assert 0.2 < np.mean(wrong) < 0.5


def test_another_seed_errs_elsewhere(fickle):
    other = replace(fickle, info=replace(fickle.info, seeds={"annotator": 6}))
    first, second = np.triu_indices(30, 1)
    ours, theirs = (ask(each, first, second) for each in (fickle, other))
    assert 0.1 < (ours.prefers_second != theirs.prefers_second).mean() < 0.6
    np.testing.assert_array_equal(ours.weight, theirs.weight)


# --- From a card, and one's own ---

TASTE = """
import numpy as np
from cpl_bench.preferences.annotators import Answers

def haste(segments, task, labelling, pool):
    paces = [np.abs(np.diff(each.observations[:, :2], axis=0)).sum(1)
             for each in segments.trajectories]
    return np.array([paces[e][a:b].sum()
                     for e, a, b in zip(segments.episodes, segments.offsets, segments.ends)])

def short(segments, task, labelling, pool):
    return np.zeros(3)

def many(segments, task, labelling, pool):
    return np.zeros((len(segments.offsets), 2))

def lazy(first, second, keys, settings):
    return Answers(1.0 * (second > first), 1.0 * (keys % settings.get("every", 2) == 0))

def numb(first, second, keys, settings):
    return 1.0 * (second > first)

LEVEL = 3
"""


@pytest.fixture
def dotted(dots, tmp_path, monkeypatch):
    """The folder of a copy of the dots' data and of a module with opinions, where one works."""
    _, root, _ = dots
    shutil.copytree(root, tmp_path / "data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taste_in_dots.py").write_text(TASTE)
    yield tmp_path
    sys.modules.pop("taste_in_dots", None)


def card_with(folder, labelling):
    """The dots' card with another labelling."""
    before, _ = DOTS.read_text().split("[labelling]")
    path = folder / "dots.toml"
    path.write_text(f"{before}[labelling]\ncap_steps = 50\n{labelling}")
    return load_dataset_card(str(path))


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
@pytest.mark.parametrize(
    ("annotator", "settings"),
    [("noisy", {"error_rate": 0.2, "skip_below": 0.1}), ("taste_in_dots:lazy", {"every": 3.0})],
)
def test_ones_own_label_a_dataset_from_a_card(dotted, pool, pairs, annotator, settings):
    inline = ", ".join(f"{name} = {value}" for name, value in settings.items())
    card = card_with(
        dotted,
        f'scorer = "taste_in_dots:haste"\nannotator = "{annotator}"\n'
        f"annotator_settings = {{ {inline} }}\n",
    )
    card = with_options(card, pairs=pairs, ranked_size=4 if pairs == "ranked" else None)
    assert not is_labelled(card)
    path = label(card, pool)
    assert path == preference_path(card) and is_labelled(card)
    preferences = load_preferences(path)
    info = preferences.info
    assert (info.scorer, info.annotator) == ("taste_in_dots:haste", annotator)
    assert info.annotator_settings == settings
    assert info.seeds == {"segments": 0, "annotator": 0}
    rows = preferences.segment_starts[:, None] + np.arange(11)
    moved = np.abs(preferences.observations[rows + 1] - preferences.observations[rows])
    least = moved[..., :2].sum((1, 2))  # but for the last step, whose end may not be in the file
    assert (preferences.scores >= least - 1e-5).all()
    if pairs == "dense":
        assert len(preferences.first) == 0 and preferences.weight is None
        return
    answers, weight = ask(preferences, preferences.first, preferences.second)
    np.testing.assert_array_equal(preferences.prefers_second, answers)
    np.testing.assert_array_equal(preferences.weight, weight)
    assert 0 < weight.mean() < 1


def test_a_scorer_of_ones_own_may_be_named_as_an_option(dotted, pool):
    card = with_options(load_dataset_card(str(DOTS)), scorer="taste_in_dots:haste", segments=30)
    preferences = load_preferences(label(card, pool))
    source = read_trajectories(card.minari_id)
    segments = segments_of(source, preferences.segment_starts, 12)
    paid = partial_return(segments, None, Labelling(), None)
    assert len(np.unique(preferences.scores)) > 1 and (preferences.scores != paid).any()


@pytest.mark.parametrize(
    ("labelling", "message"),
    [
        ('scorer = "taste_in_dots:short"', r"must give 600 scores, one a segment; got shape \(3,"),
        ('scorer = "taste_in_dots:many"', r"must give 600 scores.*got shape \(600, 2\)"),
        ('scorer = "taste_in_dots:LEVEL"', r"'taste_in_dots:LEVEL' is no function"),
        ('scorer = "taste_in_dots:slow"', r"has no 'slow', which 'taste_in_dots:slow' asks for"),
        ('scorer = "no_such_module:slow"', r"cannot be imported: ModuleNotFoundError"),
        ('annotator = "taste_in_dots:numb"', r"not enough values.* gives \(prefers_second"),
        ('annotator = "taste_in_dots:LEVEL"', r"'taste_in_dots:LEVEL' is no function"),
        ("annotator_settings = { error_rate = 0.1 }", "No setting of this annotator"),
    ],
)
def test_opinions_that_cannot_be_are_refused(dotted, pool, labelling, message):
    card = card_with(dotted, labelling)
    there = sorted((dotted / "data").rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        label(card, pool)
    assert "\n" not in str(caught.value)
    assert sorted((dotted / "data").rglob("*")) == there
