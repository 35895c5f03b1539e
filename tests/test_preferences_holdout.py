"""Held-out comparisons share no episode with those fitted to, and are the annotator's."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.learning.transitions import ACTION_LIMIT
from cpl_bench.preferences.annotators import ask
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.format import PreferenceInfo, Preferences
from cpl_bench.preferences.holdout import split_by_episode
from cpl_bench.preferences.verify import verify
from cpl_bench.runs import held_out
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.runs.held_out import held_out_batch, reliability

STEPS, LENGTH, RANKED = 6, 3, 4


def make(pairs="dense", segments=403, episodes=40, annotator="", **settings):
    """Preferences whose first observation column is the row number; sparse compare neighbours.

    A person has answered what is listed, unless an annotator is named.
    """
    annotator = annotator or ("oracle" if pairs == "dense" else "person")
    rng = np.random.default_rng(0)
    steps = episodes * STEPS
    observations = rng.normal(size=(steps, 2)).astype(np.float32)
    observations[:, 0] = np.arange(steps)
    begins = rng.integers(0, episodes, segments) * STEPS
    scores = rng.integers(0, 9, segments).astype(np.float64)  # some tie
    size = {"dense": segments + 1, "sparse": 2, "ranked": RANKED}[pairs]
    questions = [range(i, i + size) for i in range(0, segments - size + 1, size)]
    listed = [pair for question in questions for pair in combinations(question, 2)]
    first, second = np.array(listed, np.int64).reshape(-1, 2).T.copy()
    return Preferences(
        observations=observations,
        actions=rng.uniform(-1.2, 1.2, (steps, 1)).astype(np.float32),
        episode_ends=np.arange(STEPS, steps + 1, STEPS),
        segment_starts=begins + rng.integers(0, STEPS - LENGTH + 1, segments),
        scores=scores,
        first=first,
        second=second,
        prefers_second=(0.5 + 0.5 * np.sign(scores[second] - scores[first])).astype(np.float32),
        info=PreferenceInfo(
            card="toy",
            task="reach",
            segment_length=LENGTH,
            pairs=pairs,
            source="toy-v0",
            source_hash="",
            scorer="regret",
            annotator=annotator,
            annotator_settings=settings or ({"patience": 7} if annotator == "person" else {}),
            ranked_size=RANKED if pairs == "ranked" else 0,
            seeds={"segments": 0, "annotator": 3},
        ),
    )


def episodes_of(preferences):
    return set((preferences.segment_starts // STEPS).tolist())


def compared(preferences):
    """Each comparison as the starts of its segments, its answer and its weight, sorted."""
    starts = preferences.segment_starts
    columns = starts[preferences.first], starts[preferences.second], preferences.prefers_second
    if preferences.weight is not None:
        columns = *columns, preferences.weight
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


# --- The split ---


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_sides_share_no_episode(pairs, share):
    data = make(pairs)
    fitting, held = split_by_episode(data, share)
    more = len(episodes_of(held)) - round(share * 40)
    assert more == 0 if pairs == "dense" else 0 <= more <= 1  # a person's answer is kept whole
    assert episodes_of(fitting).isdisjoint(episodes_of(held))
    for side in (fitting, held):
        verify(side)
        assert side.observations is data.observations
    assert held.info.pairs == ("sparse" if pairs == "ranked" else pairs)
    assert fitting.info == data.info


@pytest.mark.parametrize("pairs", ["dense", "sparse"])
def test_every_segment_is_on_one_side(pairs):
    data = make(pairs)
    fitting, held = split_by_episode(data)
    starts = np.concatenate([fitting.segment_starts, held.segment_starts])
    assert sorted(starts) == sorted(data.segment_starts)
    score_of = {(s, score) for s, score in zip(data.segment_starts, data.scores, strict=True)}
    for side in (fitting, held):
        assert set(zip(side.segment_starts, side.scores, strict=True)) <= score_of


def test_sparse_comparisons_stay_within_a_side():
    data = make("sparse")
    fitting, held = split_by_episode(data)
    outside = episodes_of(held)
    inside = [
        [int(data.segment_starts[i]) // STEPS in outside for i in pair]
        for pair in zip(data.first, data.second, strict=True)
    ]
    assert len(held.first) == sum(all(pair) for pair in inside) > 0
    assert len(fitting.first) == sum(not any(pair) for pair in inside) > 0
    assert set(compared(fitting)) | set(compared(held)) <= set(compared(data))


def test_whole_questions_are_fitted_to():
    data = make("ranked")
    fitting, held = split_by_episode(data)
    outside = np.isin(data.segment_starts // STEPS, list(episodes_of(held)))
    questions = np.arange(400).reshape(-1, RANKED)
    whole = questions[~outside[questions].any(1)].ravel()
    np.testing.assert_array_equal(fitting.segment_starts, data.segment_starts[whole])
    np.testing.assert_array_equal(fitting.scores, data.scores[whole])
    assert len(fitting.first) == len(whole) // RANKED * 6
    assert set(compared(fitting)) <= set(compared(data))
    PreferenceSampler(fitting, [0], 2 * RANKED).draw(0)
    assert len(held.first) == (outside[data.first] & outside[data.second]).sum() > 0
    assert set(compared(held)) <= set(compared(data))
    assert held.info.annotator_settings == {"patience": 7}
    assert held.info.ranked_size == 0
    assert fitting.info.ranked_size == data.info.ranked_size == RANKED


@pytest.mark.parametrize("pairs", ["sparse", "ranked"])
def test_weights_stay_with_their_comparisons(pairs):
    data = make(pairs)
    weight = (np.arange(len(data.first)) % 5 / 4).astype(np.float32)
    data = replace(data, weight=weight, scores=None)
    known = set(compared(data))
    fitting, held = split_by_episode(data, share=0.25)
    for side in (fitting, held):
        verify(side)
        assert side.scores is None
        assert len(side.weight) == len(side.first)
        assert len({weight for *_, weight in compared(side)}) > 1
        assert set(compared(side)) <= known
        assert side.info.annotator_settings == {"patience": 7}
    batch = held_out_batch(held, members=2)
    shown = zip(batch.prefers_second[1].tolist(), batch.weight[1].tolist(), strict=True)
    assert sorted(shown) == sorted(each[2:] for each in compared(held))


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
def test_an_asked_annotator_keeps_its_settings_and_its_mind(pairs):
    settings = {"error_rate": 0.3, "skip_below": 1.0}
    data = make(pairs, annotator="noisy", **settings)
    fitting, held = split_by_episode(data, share=0.25)
    for side in (fitting, held):
        verify(side)
        assert side.info.annotator_settings == settings
        assert side.info.seeds == data.info.seeds
    assert held.info.pairs == "dense" and held.weight is None
    batch = held_out_batch(held, members=1)
    first, second = np.triu_indices(len(held.segment_starts), 1)
    answers, weight = ask(held, first, second)
    np.testing.assert_array_equal(batch.prefers_second[0], answers)
    np.testing.assert_array_equal(batch.weight[0], weight)
    ties = held.scores[first] == held.scores[second]
    np.testing.assert_array_equal(weight == 0, ties)  # they differ by 1 at least
    honest = 0.5 + 0.5 * np.sign(held.scores[second] - held.scores[first])
    assert 0.2 < (answers != honest)[~ties].mean() < 0.4


@pytest.mark.parametrize("pairs", ["sparse", "ranked"])
def test_a_synthetic_annotator_is_asked_for_every_held_out_pair(pairs):
    fitting, held = split_by_episode(make(pairs, annotator="oracle"))
    assert fitting.info.pairs == pairs
    assert held.info.pairs == "dense" and not held.info.ranked_size
    verify(held)
    m = len(held.segment_starts)
    assert held_out_batch(held, members=1).first.shape == (1, m * (m - 1) // 2)


def test_the_split_depends_on_the_episodes_alone():
    one, other = make("dense"), make("dense")
    other = replace(other, scores=-other.scores, info=replace(other.info, scorer="another"))
    for mine, its in zip(split_by_episode(one), split_by_episode(other), strict=True):
        np.testing.assert_array_equal(mine.segment_starts, its.segment_starts)


@pytest.mark.parametrize(
    ("pairs", "segments", "episodes"),
    [("dense", 30, 1), ("dense", 10, 40), ("sparse", 3, 40), ("sparse", 30, 1), ("ranked", 4, 40)],
)
def test_too_little_data_is_refused(pairs, segments, episodes):
    with pytest.raises(
        UserError, match=rf"toy: .*too few here .*, {segments} segments.*without a reward model"
    ):
        split_by_episode(make(pairs, segments, episodes))


@pytest.mark.parametrize("annotator", ["human", "oracle"])
def test_answers_about_segments_of_their_own_are_all_used(annotator):
    """As people's answers are stored: each segment an episode, each in one comparison."""
    rng = np.random.default_rng(0)
    looks, acts = rng.normal(size=(200, 3, 2)), rng.uniform(-1, 1, (200, 3, 1))
    first, second = np.arange(100), np.arange(100, 200)
    data = preferences_from_arrays(looks, acts, first, second, first % 2, annotator=annotator)
    fitting, held = split_by_episode(data)
    verify(fitting)
    verify(held)
    assert len(held.first) == 10 and len(fitting.first) == 90
    assert sorted(compared(fitting) + compared(held)) == compared(data)
    assert held_out_batch(held, members=1).first.shape == (1, 10)


def test_questions_that_are_never_whole_are_refused():
    with pytest.raises(UserError, match="too few here"):
        split_by_episode(make("ranked"), share=0.97)


# --- The batch ---


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
def test_answers_are_the_annotators(pairs):
    _, held = split_by_episode(make(pairs))
    batch = held_out_batch(held, members=2)
    score_of = {}
    for start, score in zip(held.segment_starts.tolist(), held.scores.tolist(), strict=True):
        score_of.setdefault(start, set()).add(score)
    starts = batch.observations[:, :, 0, 0].long()
    for member, i, j, answer in zip(
        [0, 1] * batch.first.shape[1],
        batch.first.T.flatten().tolist(),
        batch.second.T.flatten().tolist(),
        batch.prefers_second.T.flatten().tolist(),
        strict=True,
    ):
        one, other = (score_of[int(starts[member, place])] for place in (i, j))
        assert any(answer == 0.5 + 0.5 * np.sign(b - a) for a in one for b in other)
    if pairs == "dense":
        m = len(held.segment_starts)
        assert batch.first.shape == (2, m * (m - 1) // 2)
        expected = 0.5 + 0.5 * np.sign(
            held.scores[batch.second[0].numpy()] - held.scores[batch.first[0].numpy()]
        )
        np.testing.assert_array_equal(batch.prefers_second[1], expected)
    else:
        listed = [starts[0][batch.first[0]], starts[0][batch.second[0]], batch.prefers_second[0]]
        assert sorted(zip(*(each.tolist() for each in listed), strict=True)) == compared(held)


@pytest.mark.parametrize("pairs", ["dense", "sparse"])
def test_segments_are_the_files_for_each_member(pairs):
    data = make(pairs)
    batch = held_out_batch(split_by_episode(data)[1], members=3)
    for name in ("observations", "actions", "first", "second", "prefers_second"):
        values = getattr(batch, name)
        assert len(values) == 3 and torch.equal(values[0], values[2])
    rows = batch.observations[0, :, 0, 0].long().numpy()[:, None] + np.arange(LENGTH)
    np.testing.assert_array_equal(batch.observations[0], data.observations[rows])
    expected = np.clip(data.actions[rows], -ACTION_LIMIT, ACTION_LIMIT)
    np.testing.assert_array_equal(batch.actions[0], expected)


@pytest.mark.parametrize("pairs", ["dense", "sparse"])
def test_a_batch_is_of_bounded_size_and_never_without_comparisons(pairs, monkeypatch):
    monkeypatch.setattr(held_out, "SEGMENTS", 4)
    data = make(pairs)
    if pairs == "sparse":  # the first segments are in no comparison
        data = replace(data, **{name: getattr(data, name)[-3:] for name in ("first", "second")})
        data = replace(data, prefers_second=np.array([1.0, 0.0, 0.5], np.float32))
    batch = held_out_batch(data, members=1)
    assert batch.observations.shape == (1, 4, LENGTH, 2)
    assert batch.prefers_second.shape == (1, 6 if pairs == "dense" else 2)
    if pairs == "sparse":
        assert batch.first.tolist() == [[0, 2]] and batch.second.tolist() == [[1, 3]]
        assert batch.prefers_second.tolist() == [[1.0, 0.0]]


# --- Reliability ---


def test_reliability_on_hand_made_numbers():
    predicted = np.array([0.95, 0.05, 0.9, 0.55, 0.45, 0.52, 1.0, 0.5, 0.7])
    answers = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5])
    table = reliability(predicted, answers)  # the two ties count nowhere
    lows, means, right, counts = zip(*table, strict=True)
    assert lows == pytest.approx((0.5, 0.9))
    assert means == pytest.approx(((0.55 + 0.55 + 0.52) / 3, (0.95 + 0.95 + 0.9 + 1) / 4))
    assert right == pytest.approx((1 / 3, 3 / 4))
    assert counts == (3, 4)


def test_reliability_reads_soft_labels_and_either_side_alike():
    predicted, answers = np.array([0.8, 0.3]), np.array([0.6, 0.1])
    table = reliability(predicted, answers, bins=2)
    mirrored = reliability(1 - predicted, 1 - answers, bins=2)
    assert [row[3] for row in table] == [1, 1] and [row[2] for row in table] == [1, 1]
    np.testing.assert_allclose(table, mirrored)


def test_reliability_without_a_decided_comparison_is_empty():
    assert reliability(np.array([0.7]), np.array([0.5])) == []
