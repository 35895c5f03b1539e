"""The preference file keeps what it is given and refuses what is wrong; batches are as promised."""

import itertools
import json
import math
import os
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cpl_bench.core.errors import UserError
from cpl_bench.learning.interface import Phase, Segments, Transitions
from cpl_bench.learning.transitions import ACTION_LIMIT, Steps, TransitionSampler
from cpl_bench.preferences import file as preference_file
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.format import PreferenceInfo, Preferences, preferences_hash
from cpl_bench.preferences.returns import best_episodes
from cpl_bench.preferences.segments import draw_segments
from cpl_bench.preferences.verify import verify
from cpl_bench.runs.batches import PreferenceSampler, steps_of
from cpl_bench.runs.feeds import Source, check_feeds, stretches

LENGTHS = [9, 4, 30, 6, 51]
LENGTH = 4
RANKED = 3
TENSORS = ["observations", "actions", "episode_ends", "segment_starts"]
TENSORS += ["first", "second", "prefers_second"]
OPTIONAL = ["rewards", "scores", "weight", "successes", "terminations"]


def make(pairs="dense", segments=40, comparisons=20, rewards=True, seed=0):
    """Small valid preferences whose first observation column is the row number.

    Ranked ones ask `segments` // 3 questions about 3 segments each, whatever `comparisons` says.
    """
    rng = np.random.default_rng(seed)
    ends = np.cumsum(LENGTHS)
    steps = int(ends[-1])
    observations = rng.normal(size=(steps, 3)).astype(np.float32)
    observations[:, 0] = np.arange(steps)
    scores = rng.integers(0, 12, segments).astype(np.float64)  # some tie
    first, second = rng.integers(0, segments, (2, comparisons if pairs == "sparse" else 0))
    if pairs == "ranked":
        begins = range(0, segments // RANKED * RANKED, RANKED)
        listed = [(b + i, b + j) for b in begins for i, j in ((0, 1), (0, 2), (1, 2))]
        first, second = np.array(listed).T
    return Preferences(
        observations=observations,
        actions=rng.uniform(-1.2, 1.2, (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32) if rewards else None,
        episode_ends=ends,
        segment_starts=draw_segments(ends, LENGTH, segments, rng),
        scores=scores,
        first=first,
        second=second,
        prefers_second=rng.uniform(0, 1, len(first)).astype(np.float32),
        info=PreferenceInfo(
            card="toy",
            task="reach",
            segment_length=LENGTH,
            pairs=pairs,
            source="cpl_bench/toy-v0",
            source_hash="sha256:0123",
            scorer="regret",
            scorer_settings={"cap_steps": 200},
            annotator="oracle",
            ranked_size=RANKED if pairs == "ranked" else 0,
            seeds={"segments": seed, "annotator": seed},
            versions={"mujoco": "3.3.0"},
            command="cpl-bench label toy — «naïve»",
        ),
    )


def with_everything(data):
    """The same with every optional tensor: some weights 0, two episodes that terminated."""
    steps = len(data.observations)
    ended = np.zeros(steps, np.uint8)
    ended[data.episode_ends[[1, 4]] - 1] = 1
    return replace(
        data,
        weight=(np.arange(len(data.first)) % 3 / 2).astype(np.float32),
        successes=(np.arange(steps) % 2).astype(np.uint8),
        terminations=ended,
    )


def without_scores(data):
    """The same as people answer it."""
    return replace(data, scores=None, info=replace(data.info, scorer="", annotator="human"))


def chi_square(counts):
    """Standard deviations by which the χ² of `counts` against equal ones exceeds its mean."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "toy.safetensors"


# --- The file ---


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
@pytest.mark.parametrize("optional", [False, True])
def test_round_trip_bit_for_bit(path, pairs, optional):
    written = make(pairs, rewards=optional)
    if optional:
        written = with_everything(written)
    elif pairs != "dense":
        written = without_scores(written)
    write_preferences(path, written)
    read = load_preferences(path)
    assert read.info == replace(written.info, preferences_hash=preferences_hash(written))
    for name in [*TENSORS, *OPTIONAL]:
        before, after = getattr(written, name), getattr(read, name)
        if name in OPTIONAL and not optional and not (name == "scores" and pairs == "dense"):
            assert before is None and after is None
            continue
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert before.tobytes() == after.tobytes()


def test_equal_preferences_give_equal_bytes(path, tmp_path):
    write_preferences(path, make())
    write_preferences(tmp_path / "again.safetensors", load_preferences(path))
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_strided_array_is_written_as_it_looks(path):
    written = make()
    mirrored = replace(written, observations=written.observations[:, ::-1])
    write_preferences(path, mirrored)
    np.testing.assert_array_equal(load_preferences(path).observations, mirrored.observations)


def test_what_is_read_is_mapped_and_read_only(path):
    write_preferences(path, make())
    read = load_preferences(path)
    base = read.observations
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        read.observations[0, 0] = 1


def test_a_million_segments_cost_eight_bytes_each_and_eight_for_the_score(path):
    few, many = make(segments=10), make(segments=1_000_010)
    write_preferences(path, few)
    small = path.stat().st_size
    write_preferences(path, many)
    assert path.stat().st_size - small == pytest.approx(16_000_000, abs=100)
    assert len(load_preferences(path).scores) == 1_000_010


def test_repr_tells_shapes():
    text = repr(make())
    for part in ("toy", "100 steps", "5 episodes", "40 segments of 4", "every pair", "(100, 3)"):
        assert part in text
    assert "20 comparisons" in repr(make("sparse"))
    assert "39 comparisons" in repr(make("ranked"))


def test_nothing_is_left_of_a_write_that_fails(path, monkeypatch):
    def save_half(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(preference_file, "save_file", save_half)
    with pytest.raises(OSError, match="disk full"):
        write_preferences(path, make())
    assert list(path.parent.iterdir()) == []


def test_a_refused_write_leaves_the_old_file(path):
    write_preferences(path, make())
    before = path.read_bytes()
    with pytest.raises(UserError, match="scores"):
        write_preferences(path, replace(make(), scores=np.full(40, np.nan)))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- Refusals: of the container ---


def resave(path, tensors=None, metadata=None, **changed_info):
    """Write a good sparse file without verification, with some things changed."""
    good = make("sparse")
    given = [*TENSORS, "rewards", "scores"]
    content = {name: getattr(good, name) for name in given} | (tensors or {})
    content = {name: values for name, values in content.items() if values is not None}
    whole = replace(good, scores=content.get("scores"), weight=None)
    named = replace(good.info, preferences_hash=preferences_hash(whole))
    info = {"format_version": 3, **asdict(named), **changed_info}
    info = {name: value for name, value in info.items() if value is not ...}
    save_file(content, path, {"cpl_bench": json.dumps(info)} if metadata is None else metadata)


def refusal(path):
    with pytest.raises(UserError) as caught:
        load_preferences(path)
    message = str(caught.value)
    assert str(path) in message
    return message


def test_what_resave_writes_unchanged_is_accepted(path):
    resave(path)
    assert replace(load_preferences(path).info, preferences_hash="") == make("sparse").info


def test_a_missing_file_is_refused(path):
    assert "no such preference file" in refusal(path)
    assert "no such preference file" in refusal(path.parent)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_another_format_is_refused(path, content):
    path.write_bytes(content)
    assert "damaged, truncated or of another format" in refusal(path)


@pytest.mark.parametrize("keep", [1, 7, 8, 100, -1, -1000])
def test_a_truncated_file_is_refused(path, keep):
    write_preferences(path, make())
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged, truncated" in refusal(path)


def test_a_file_with_bytes_behind_its_end_is_refused(path):
    write_preferences(path, make())
    path.write_bytes(path.read_bytes() + bytes(8))
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}])
def test_another_programs_file_is_refused(path, metadata):
    resave(path, metadata=metadata)
    assert "another program's" in refusal(path)


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", None, ...])
def test_another_format_version_is_refused(path, version):
    resave(path, format_version=version)
    assert "expected format version 3, got" in refusal(path)


def test_an_older_file_says_how_it_was_made(path):
    """Version 1 had `ranked_size` among the annotator's settings, and always scores."""
    command = "cpl-bench label drawer-open --scorer regret --pairs ranked --ranked-size 3"
    settings = {"ranked_size": RANKED}
    old = {"format_version": 1, "annotator_settings": settings, "ranked_size": ..., "weight": ...}
    resave(path, command=command, **old)
    said = refusal(path)
    assert "expected format version 3, got 1" in said
    assert f"Make it again with `{command}`" in said
    resave(path, command="", **old)
    assert "Make it again with `cpl-bench label`" in refusal(path)


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 3000, "9" * 5000, "{}"])
def test_metadata_that_are_no_object_are_refused(path, text):
    resave(path, metadata={"cpl_bench": text})
    said = refusal(path)
    assert any(part in said for part in ("no JSON object", "not readable as JSON", "version 3"))


@pytest.mark.parametrize(
    "changed",
    [
        *({"task": ...}, {"seeds": ...}, {"segment_length": 4.0}, {"seeds": [1]}, {"surprise": 1}),
        *({"card": "../x"}, {"card": "/x"}, {"task": "a\x1b[31m"}, {"seeds": {"annotator": "0"}}),
        *(
            {"segment_length": 10**22},
            {"scorer": "a\nb"},
            {"annotator_settings": {"x": [[[]]] * 9}},
        ),
    ],
)
def test_other_metadata_are_refused(path, changed):
    resave(path, **changed)
    said = refusal(path)
    assert next(iter(changed)) in said or "64 bits" in said or "SHA-256" in said


@pytest.mark.parametrize("name", TENSORS)
def test_a_missing_tensor_is_refused(path, name):
    resave(path, {name: None})
    said = refusal(path)
    assert f"Missing: {name};" in said and f"perhaps {', '.join(OPTIONAL)}." in said


def test_an_unknown_tensor_is_refused(path):
    resave(path, {"images": np.zeros(3, np.float32)})
    assert "unknown: images" in refusal(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
@pytest.mark.parametrize("name", [*TENSORS, *OPTIONAL])
def test_a_wrong_dtype_is_refused(path, name, dtype):
    good = getattr(with_everything(make("sparse")), name)
    if good.dtype == dtype:
        return
    resave(path, {name: good.astype(dtype)})
    assert f"{name} must be {good.dtype}" in refusal(path)


# --- Refusals: of the content ---


def changed(name, place, value, pairs="sparse"):
    """Good preferences but for one entry."""
    good = with_everything(make(pairs)) if name in OPTIONAL else make(pairs)
    values = getattr(good, name).copy()
    values[place] = value
    return replace(good, **{name: values})


def ranked(size, segments=40):
    """Good ranked preferences but for what they say of the size of their questions."""
    good = make("ranked", segments)
    return replace(good, info=replace(good.info, ranked_size=size))


CROSSING = LENGTHS[0] - LENGTH + 1
WRONG = {
    "negative start": (changed("segment_starts", 3, -1), r"segment_starts must be in \[0, 96\]"),
    "start past the end": (changed("segment_starts", 3, 97), r"got 97 at \[3\]"),
    "enormous start": (changed("segment_starts", 3, 2**63 - 1), r"segment_starts must be in"),
    "window across an episode end": (
        changed("segment_starts", 3, CROSSING),
        rf"windows of 4 steps within one episode; got {CROSSING} at \[3\]",
    ),
    "negative first": (changed("first", 0, -1), r"first must be positions in \[0, 39\]; got -1"),
    "second out of range": (changed("second", 5, 40), r"second must be positions.*got 40 at \[5\]"),
    "answer above 1": (changed("prefers_second", 1, 1.5), r"prefers_second must be in \[0, 1\]"),
    "answer below 0": (changed("prefers_second", 1, -0.1), r"prefers_second must be in \[0, 1\]"),
    "answer NaN": (changed("prefers_second", 1, np.nan), r"prefers_second must be in \[0, 1\]"),
    "observation NaN": (
        changed("observations", (7, 2), np.nan),
        r"observations must be finite; got nan at \[7, 2\] \(1 of 300 are wrong\)",
    ),
    "action infinite": (changed("actions", (0, 1), np.inf), r"actions must be finite; got inf"),
    "reward infinite": (changed("rewards", 9, -np.inf), r"rewards must be finite; got -inf"),
    "score NaN": (changed("scores", 9, np.nan), r"scores must be finite"),
    "success of 2": (
        replace(make(), successes=np.full(100, 2, np.uint8)),
        r"successes must be 0 or 1",
    ),
    "termination of 2": (
        changed("terminations", 12, 2),
        r"terminations must be 0 or 1; got 2 at \[12\]",
    ),
    "termination amid an episode": (
        changed("terminations", 7, 1),
        r"terminations must be 0 but on an episode's last step; got 1 at \[7\]",
    ),
    "termination at an episode's first step": (
        changed("terminations", LENGTHS[0], 1),
        rf"terminations must be 0 but on .*got 1 at \[{LENGTHS[0]}\] \(1 of 100 are wrong\)",
    ),
    "fewer terminations": (
        replace(make(), terminations=np.zeros(99, np.uint8)),
        r"terminations must have 100 entries along N",
    ),
    "weight above 1": (changed("weight", 3, 1.5), r"weight must be in \[0, 1\]; got 1\.5 at \[3\]"),
    "weight below 0": (changed("weight", 3, -0.5), r"weight must be in \[0, 1\]"),
    "weight NaN": (changed("weight", 3, np.nan), r"weight must be in \[0, 1\]; got nan"),
    "fewer weights": (
        replace(make("sparse"), weight=np.ones(19, np.float32)),
        r"weight must have 20 entries along c",
    ),
    "every question skipped": (
        replace(make("sparse"), weight=np.zeros(20, np.float32)),
        r"every question was skipped; there is nothing to learn from",
    ),
    "dense without scores": (
        replace(make(), scores=None),
        r"dense data are answered from scores, and there are none; list the comparisons .* sparse",
    ),
    "dense answered by a person": (
        replace(make(), info=replace(make().info, annotator="human")),
        r"dense data are answered by their annotator\. No annotator is called 'human'",
    ),
    "dense with another annotator's settings": (
        replace(make(), info=replace(make().info, annotator_settings={"error_rate": 0.1})),
        r"No setting of this annotator is called 'error_rate'",
    ),
    "first end at 0": (changed("episode_ends", 0, 0), r"episode_ends must increase"),
    "ends out of order": (changed("episode_ends", 1, 9), r"episode_ends must increase"),
    "last end short": (changed("episode_ends", -1, 99), r"number of steps, 100; got \[.*99\]"),
    "last end long": (changed("episode_ends", -1, 101), r"episode_ends must increase"),
    "fewer actions": (
        replace(make(), actions=make().actions[:-1]),
        r"actions must have 100 entries along N, as observations has; got 99",
    ),
    "fewer scores": (replace(make(), scores=make().scores[1:]), r"scores must have 40 entries"),
    "fewer answers": (
        replace(make("sparse"), prefers_second=np.zeros(3, np.float32)),
        r"prefers_second must have 20 entries",
    ),
    "flat actions": (
        replace(make(), actions=make().rewards),
        r"actions must be float32 of shape \(N, a\), got float32 of shape \(100,\)",
    ),
    "no segments": (
        replace(make(), segment_starts=np.zeros(0, np.int64), scores=np.zeros(0)),
        r"segment_starts is empty",
    ),
    "no steps": (
        replace(make(), observations=np.zeros((0, 3), np.float32)),
        r"observations is empty",
    ),
    "no action dimension": (
        replace(make(), actions=np.zeros((100, 0), np.float32)),
        r"actions is empty",
    ),
    "no episodes": (replace(make(), episode_ends=np.zeros(0, np.int64)), r"episode_ends is empty"),
    "one segment": (make(segments=1), r"comparing takes at least 2 segments"),
    "sparse without comparisons": (
        replace(make(), info=make("sparse").info),
        r"sparse data must list at least one comparison",
    ),
    "dense with comparisons": (
        replace(make("sparse"), info=make().info),
        r"dense data compare every pair and list none, got 20",
    ),
    "unknown pairs": (
        replace(make(), info=replace(make().info, pairs="some")),
        r"pairs'? must be '?dense'? or '?sparse'? or '?ranked'?, (got|not) 'some'",
    ),
    "ranked without its size": (
        ranked(0),
        r"ranked data must say a ranked_size, segments of a question, of 2 to 40; got 0",
    ),
    "a size without ranking": (
        replace(make("sparse"), info=replace(make("sparse").info, ranked_size=3)),
        r"a ranked_size is for ranked data only, and these are sparse; got 3",
    ),
    "ranked one by one": (ranked(1), r"of 2 to 40; got 1"),
    "ranked by more than all": (ranked(41), r"of 2 to 40; got 41"),
    "another size": (
        ranked(4),
        r"10 questions of 4 segments must list 60 comparisons, 6 each; got 39",
    ),
    "a question missing": (
        replace(make("ranked"), segment_starts=np.zeros(46, np.int64), scores=np.zeros(46)),
        r"15 questions of 3 segments must list 45 comparisons, 3 each; got 39",
    ),
    "a pair across questions": (
        changed("second", 4, 6, "ranked"),
        r"second must be \[ 1, .* 38\], for the pairs within each 3 segments .*got 6 at \[4\]",
    ),
    "a pair turned round": (
        replace(make("ranked"), first=make("ranked").second, second=make("ranked").first),
        r"first must be \[ 0, .*got 1 at \[0\] \(39 of 39 are wrong\)",
    ),
    "length 0": (
        replace(make(), info=replace(make().info, segment_length=0)),
        r"segment_length must be at least 1",
    ),
    "length of more than everything": (
        replace(make(), info=replace(make().info, segment_length=101)),
        r"segment_starts must be",
    ),
    "unknown annotator": (
        replace(make(), info=replace(make().info, annotator="orakle")),
        r"No annotator is called 'orakle'. Did you mean 'oracle'\?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_refused_by_verify_write_and_load(case, path, monkeypatch):
    preferences, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        verify(preferences)
    with pytest.raises(UserError, match=message):
        write_preferences(path, preferences)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(preference_file, "verify", lambda *_: None)
        write_preferences(path, preferences)
    with pytest.raises(UserError, match=message) as caught:
        load_preferences(path)
    assert str(path) in str(caught.value)
    assert "cpl-bench label" in str(caught.value)


@pytest.mark.parametrize("size", [3.0, "3", True, None])
def test_a_question_is_of_a_whole_number_of_segments(path, size):
    with pytest.raises(UserError, match=rf"of 2 to 40; got {re.escape(repr(size))}"):
        write_preferences(path, ranked(size))
    resave(path, pairs="ranked", ranked_size=size)
    assert "'ranked_size' must be int" in refusal(path)


# --- Drawing windows ---


def all_windows(lengths, length):
    """Every window's start, by plain loops."""
    starts, begin = [], 0
    for steps in lengths:
        starts += [begin + offset for offset in range(steps - length + 1)]
        begin += steps
    return starts


@pytest.mark.parametrize("length", [1, 3, 9, 51])
def test_episodes_take_turns_and_repeat_no_window_without_need(length):
    windows = all_windows(LENGTHS, length)
    able = [steps for steps in LENGTHS if steps >= length]
    for count in (2, len(able), 7 * len(able) + 1):
        drawn = draw_segments(np.cumsum(LENGTHS), length, count, np.random.default_rng(0))
        assert drawn.dtype == np.int64 and len(drawn) == count and set(drawn) <= set(windows)
        episodes = np.searchsorted(np.cumsum(LENGTHS), drawn, side="right")
        turns = [int((episodes == i).sum()) for i, steps in enumerate(LENGTHS) if steps >= length]
        assert max(turns) - min(turns) <= 1
        for i, steps in enumerate(LENGTHS):
            mine = drawn[episodes == i]
            if len(mine) <= steps - length + 1:
                assert len(set(mine)) == len(mine)


def test_windows_of_an_episode_are_drawn_uniformly():
    rng = np.random.default_rng(1)
    counts: dict[int, int] = {}
    for _ in range(3_000):
        for start in draw_segments(np.cumsum(LENGTHS), LENGTH, 10, rng).tolist():
            counts[start] = counts.get(start, 0) + 1
    assert sorted(counts) == all_windows(LENGTHS, LENGTH)
    begin = 0
    for steps in LENGTHS:
        mine = [counts[begin + offset] for offset in range(steps - LENGTH + 1)]
        assert sum(mine) == 6_000  # five episodes take turns at ten draws
        if len(mine) > 1:
            assert chi_square(np.array(mine)) < 4
        begin += steps


def test_drawn_segments_are_in_random_order():
    """Sparse data compare neighbours: they must not be of one episode."""
    drawn = draw_segments(np.cumsum(LENGTHS), LENGTH, 1_000, np.random.default_rng(2))
    episodes = np.searchsorted(np.cumsum(LENGTHS), drawn, side="right")
    assert 0.1 < (episodes[::2] == episodes[1::2]).mean() < 0.3


def test_a_segment_longer_than_every_episode_is_refused():
    message = (
        "A segment of 300 steps is longer than the longest episode, 250 steps; "
        "choose --segment-length ≤ 250."
    )
    with pytest.raises(UserError) as caught:
        draw_segments(np.array([200, 450]), 300, 1, np.random.default_rng(0))
    assert str(caught.value) == message
    with pytest.raises(UserError, match="at least 1 step, got 0"):
        draw_segments(np.array([200]), 0, 1, np.random.default_rng(0))


# --- Batches ---


def drawn_starts(batch):
    """The first row of each drawn segment: observations carry their row number. (s, m)"""
    return batch.observations[:, :, 0, 0].long().numpy()


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
def test_segments_of_a_batch_are_the_files(pairs):
    data = make(pairs)
    sampler = PreferenceSampler(data, [0, 1, 2], 6, rewards=True)
    for step in range(20):
        batch = sampler.draw(step)
        assert batch.observations.shape == (3, 6, LENGTH, 3)
        assert batch.actions.shape == (3, 6, LENGTH, 2)
        assert int(batch.step) == step
        starts = drawn_starts(batch)
        assert np.isin(starts, data.segment_starts).all()
        for member, position in np.ndindex(3, 6):
            rows = slice(starts[member, position], starts[member, position] + LENGTH)
            expected = data.observations[rows]
            np.testing.assert_array_equal(batch.observations[member, position], expected)
            expected = np.clip(data.actions[rows], -ACTION_LIMIT, ACTION_LIMIT)
            np.testing.assert_array_equal(batch.actions[member, position], expected)
            np.testing.assert_array_equal(batch.rewards[member, position], data.rewards[rows])
    assert batch.actions.abs().max() < 1


def test_dense_batches_compare_all_pairs_by_score():
    data = make("dense", segments=25)
    data = replace(data, segment_starts=np.array(all_windows(LENGTHS, LENGTH)[:25]))
    score_of = dict(zip(data.segment_starts.tolist(), data.scores.tolist(), strict=True))
    sampler = PreferenceSampler(data, [4, 9], 7)
    seen = set()
    for step in range(20):
        batch = sampler.draw(step)
        starts = drawn_starts(batch)
        for member in range(2):
            pairs = zip(batch.first[member].tolist(), batch.second[member].tolist(), strict=True)
            pairs = list(pairs)
            assert pairs == list(itertools.combinations(range(7), 2))
            for (i, j), answer in zip(pairs, batch.prefers_second[member].tolist(), strict=True):
                one, other = score_of[starts[member, i]], score_of[starts[member, j]]
                assert answer == (1 if other > one else 0 if other < one else 0.5)
                seen.add(answer)
    assert seen == {0, 0.5, 1}
    assert batch.prefers_second.dtype == torch.float32


def test_scores_are_compared_in_double_precision():
    data = make("dense", segments=2)
    data = replace(data, segment_starts=np.array([0, 3]), scores=np.array([0.3, 0.1 + 0.2]))
    batch = PreferenceSampler(data, [0], 12).draw(0)
    better = drawn_starts(batch)[0] == 3
    first, second = better[batch.first[0]].astype(int), better[batch.second[0]].astype(int)
    np.testing.assert_array_equal(batch.prefers_second[0], 0.5 + (second - first) / 2)


def test_sparse_batches_are_comparisons_of_the_file():
    data = make("sparse")
    data = replace(data, prefers_second=(np.arange(20) / 32).astype(np.float32))  # tells which
    sampler = PreferenceSampler(data, [4, 9], 6)
    counts = np.zeros(20)
    for step in range(500):
        batch = sampler.draw(step)
        starts = drawn_starts(batch)
        assert batch.first.tolist() == [[0, 2, 4]] * 2
        assert batch.second.tolist() == [[1, 3, 5]] * 2
        which = np.rint(batch.prefers_second.numpy() * 32).astype(int)  # (s, c)
        np.testing.assert_array_equal(starts[:, 0::2], data.segment_starts[data.first[which]])
        np.testing.assert_array_equal(starts[:, 1::2], data.segment_starts[data.second[which]])
        counts += np.bincount(which.ravel(), minlength=20)
    assert abs(chi_square(counts)) < 4


def test_ranked_batches_are_questions_of_the_file():
    data = make("ranked")
    data = replace(data, segment_starts=np.array(all_windows(LENGTHS, LENGTH)[:40]))
    data = replace(data, prefers_second=(np.arange(39) / 64).astype(np.float32))  # tells which
    sampler = PreferenceSampler(data, [4, 9], 6)
    counts = np.zeros(13)
    for step in range(500):
        batch = sampler.draw(step)
        assert batch.first.tolist() == [[0, 0, 1, 3, 3, 4]] * 2
        assert batch.second.tolist() == [[1, 2, 2, 4, 5, 5]] * 2
        answers = np.rint(batch.prefers_second.numpy() * 64).astype(int)  # (s, c)
        which = answers[:, ::3] // 3  # (s, 2), the question of each
        np.testing.assert_array_equal(answers, (which[..., None] * 3 + range(3)).reshape(2, 6))
        positions = (which[..., None] * 3 + range(3)).reshape(2, 6)
        np.testing.assert_array_equal(drawn_starts(batch), data.segment_starts[positions])
        counts += np.bincount(which.ravel(), minlength=13)
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize(("pairs", "ranked"), [("dense", 6), ("sparse", 0), ("ranked", RANKED)])
def test_a_batch_says_which_segments_are_ranked_together(pairs, ranked):
    assert PreferenceSampler(make(pairs), [0], 6).draw(0).ranked == ranked


def test_rewards_come_only_when_asked_for():
    assert PreferenceSampler(make(), [0], 6).draw(0).rewards is None
    PreferenceSampler(make(rewards=False), [0], 6).draw(0)
    phases = [Phase("oracle", 1, lambda batch: {}, Segments(6, rewards=True))]
    check_feeds(phases, make().info, True, "Oracle")
    with pytest.raises(UserError, match=r"toy holds no rewards, and Oracle learns from the true"):
        check_feeds(phases, make().info, False, "Oracle")


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
def test_batches_say_where_the_task_ended(pairs):
    data = with_everything(make(pairs))
    sampler = PreferenceSampler(data, [0, 1], 6)
    seen = 0
    for step in range(20):
        batch = sampler.draw(step)
        rows = drawn_starts(batch)[..., None] + np.arange(LENGTH)  # (s, m, k)
        np.testing.assert_array_equal(batch.terminated, data.terminations[rows] > 0)
        seen += int(batch.terminated.sum())
    assert seen > 0
    assert PreferenceSampler(make(pairs), [0], 6).draw(0).terminated is None
    never = replace(data, terminations=np.zeros(100, np.uint8))
    assert PreferenceSampler(never, [0], 6).draw(0).terminated is None


@pytest.mark.parametrize("pairs", ["sparse", "ranked"])
def test_batches_carry_the_weights_of_their_answers(pairs):
    data = with_everything(make(pairs))
    told = np.arange(len(data.first)) / 64  # an answer tells which it is
    data = replace(data, prefers_second=told.astype(np.float32))
    sampler = PreferenceSampler(data, [0, 1], 6)
    for step in range(20):
        batch = sampler.draw(step)
        which = np.rint(batch.prefers_second.numpy() * 64).astype(int)
        np.testing.assert_array_equal(batch.weight, data.weight[which])
    every = PreferenceSampler(make(pairs), [0], 6).draw(0)
    assert every.weight.shape == every.prefers_second.shape and (every.weight == 1).all()


@pytest.mark.parametrize("pairs", ["sparse", "ranked"])
def test_what_people_answered_can_be_trained_on(path, pairs):
    """Without scores and without rewards: every feed but those that want rewards is filled."""
    scored = make(pairs, segments=600, comparisons=200)
    write_preferences(path, replace(without_scores(scored), rewards=None))
    data = load_preferences(path)
    assert data.scores is None and data.rewards is None
    phases = [
        Phase("clone", 2, lambda batch: {"rows": batch.observations[..., 0].amax((1, 2))}, feed)
        for feed in (Segments(6), Segments(6, "fitting"), Transitions(5))
    ]
    check_feeds(phases, data.info, False, "a method")
    source = Source(data, None, None, [0, 1], [3, 4], torch.device("cpu"))
    for each in stretches(source, phases, None):
        assert each.take(torch.tensor(0))["rows"].shape == (2,)
    batch, same = (PreferenceSampler(each, [3, 4], 6).draw(1) for each in (data, scored))
    assert torch.equal(batch.prefers_second, same.prefers_second)


@pytest.mark.parametrize("pairs", ["dense", "sparse"])
def test_prefers_second_means_that_the_second_is_better(pairs):
    data = make(pairs, segments=2, comparisons=1)
    scores = np.array([-1.0, 5.0])
    data = replace(data, segment_starts=np.array([0, 13]), scores=scores)
    if pairs == "sparse":
        answers = np.ones(1, np.float32)
        data = replace(data, first=np.array([0]), second=np.array([1]), prefers_second=answers)
    better = drawn_starts(batch := PreferenceSampler(data, [0], 10).draw(0))[0] == 13
    for i, j, answer in zip(
        batch.first[0], batch.second[0], batch.prefers_second[0].tolist(), strict=True
    ):
        if answer == 1:
            assert better[j] and not better[i]
        elif answer == 0:
            assert better[i] and not better[j]
    assert 1 in batch.prefers_second


def test_segments_are_drawn_uniformly():
    data = make("dense", segments=20)
    data = replace(data, segment_starts=np.array(all_windows(LENGTHS, LENGTH)[:20]))
    sampler = PreferenceSampler(data, range(4), 16)
    starts = np.concatenate([drawn_starts(sampler.draw(step)).ravel() for step in range(200)])
    found, counts = np.unique(starts, return_counts=True)
    assert len(found) == 20
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked", "transitions"])
def test_a_member_draws_the_same_alone_or_among_four(pairs):
    data = make(pairs)

    def sampler(seeds):
        if pairs == "transitions":
            return TransitionSampler(steps_of(data), seeds, 6)
        return PreferenceSampler(data, seeds, 6)

    together, seeds = sampler([3, 1, 4, 2]), [3, 1, 4, 2]
    for member, seed in enumerate(seeds):
        alone = sampler([seed])
        for step in (0, 1, 77_777):
            one, many = alone.draw(step), together.draw(torch.tensor(step))
            for name in ("observations", "actions", "first", "second", "prefers_second"):
                assert torch.equal(getattr(one, name)[0], getattr(many, name)[member])


def test_a_batch_depends_on_seed_and_step_alone():
    sampler = PreferenceSampler(make(), [0, 0, 1], 16)
    first, later = drawn_starts(sampler.draw(5)), drawn_starts(sampler.draw(6))
    np.testing.assert_array_equal(first, drawn_starts(sampler.draw(5)))
    np.testing.assert_array_equal(first[0], first[1])
    assert (first[0] != first[2]).any() and (first != later).any()


def test_transitions_come_without_comparisons():
    data = make()
    batch = TransitionSampler(steps_of(data), [0, 1], 500).draw(0)
    assert batch.observations.shape == (2, 500, 1, 3)
    assert batch.actions.shape == (2, 500, 1, 2)
    assert batch.first.shape == batch.second.shape == batch.prefers_second.shape == (2, 0)
    rows = drawn_starts(batch)
    expected = np.clip(data.actions[rows], -ACTION_LIMIT, ACTION_LIMIT)
    np.testing.assert_array_equal(batch.actions[:, :, 0], expected)
    assert len(np.unique(rows)) == 100


def test_transitions_know_what_followed_and_what_they_paid():
    data = make()
    rewards = np.arange(len(data.actions), dtype=np.float32)
    rows = np.array([7, 7, 7, 40])
    steps = Steps(data.observations, data.actions, rewards=rewards)
    sampler = TransitionSampler(steps, [0], 4000, rows=rows, following=True, rewards=True)
    batch = sampler.draw(0)
    assert batch.observations.shape == (1, 4000, 2, 3)
    np.testing.assert_array_equal(batch.rewards[0, :, 1], batch.rewards[0, :, 0] + 1)
    found, counts = np.unique(batch.rewards[0, :, 0], return_counts=True)
    np.testing.assert_array_equal(found, [7, 40])
    assert 0.7 < counts[0] / 4000 < 0.8
    seven = batch.rewards[0, :, 0] == 7
    expected = np.broadcast_to(data.observations[7:9], (counts[0], 2, 3))
    np.testing.assert_array_equal(batch.observations[0, seven], expected)


@pytest.mark.parametrize(
    ("pairs", "m", "message"),
    [
        ("dense", 1, "at least 2 segments; got 1"),
        ("sparse", 0, "at least 2 segments, a multiple of 2; got 0"),
        ("sparse", 5, "at least 2 segments, a multiple of 2; got 5"),
        ("ranked", 2, "at least 3 segments, a multiple of 3; got 2"),
        ("ranked", 8, "a multiple of 3; got 8. Choose another --segments \\(of rso: --candidates"),
    ],
)
def test_impossible_batches_are_refused(pairs, m, message):
    with pytest.raises(UserError, match=message):
        PreferenceSampler(make(pairs), [0], m)


@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
def test_drawing_never_waits_for_the_device(pairs):
    """A meta tensor has no values: reading one on the host would raise."""
    data = with_everything(make(pairs))
    sampler = PreferenceSampler(data, [0, 1], 6, steps_of(data, "meta"), rewards=True)
    batch = sampler.draw(torch.zeros((), dtype=torch.int64, device="meta"))
    assert batch.observations.shape == (2, 6, LENGTH, 3)
    assert batch.rewards.shape == batch.terminated.shape == (2, 6, LENGTH)


def test_a_file_read_from_disk_can_be_sampled(path):
    write_preferences(path, make("sparse"))
    from_file = PreferenceSampler(load_preferences(path), [0], 4).draw(3)
    from_memory = PreferenceSampler(make("sparse"), [0], 4).draw(3)
    assert torch.equal(from_file.observations, from_memory.observations)
    assert load_file(path).keys() == {*TENSORS, "scores", "rewards"}


# --- The best episodes ---


def episodes(*each, successes=()):
    """Preferences with these rewards, episode by episode; `successes` are (episode, step)."""
    ends = np.cumsum([len(rewards) for rewards in each])
    succeeded = np.zeros(ends[-1], np.uint8)
    for episode, step in successes:
        succeeded[ends[episode] - len(each[episode]) + step] = 1
    rewards = np.concatenate(each).astype(np.float32)
    return replace(make(), episode_ends=ends, rewards=rewards, successes=succeeded)


@pytest.mark.parametrize(
    ("percent", "rows"),
    [
        (1, [7, 8]),
        (25, [7, 8]),
        (50, [3, 4, 5, 6, 7, 8]),
        (62.4, [3, 4, 5, 6, 7, 8]),
        (75, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (100, list(range(12))),
    ],
)
def test_the_best_episodes_are_those_of_the_highest_returns(percent, rows):
    data = episodes([1, 1, 1], [4, 0, 0, 0], [3, 2], [0, 2, 1])  # returns 3, 4, 5, 3: one tie
    found = best_episodes(data, percent, 4)
    assert found.dtype == np.int64
    assert found.tolist() == rows


@pytest.mark.parametrize(
    ("succeeded", "horizon", "best"),
    [
        ([], 8, 1),  # 5 against 15
        ([0], 6, 1),  # 5 + 4 · 2 = 13
        ([0], 7, 0),  # 15: the earlier of equals
        ([0], 8, 0),  # 17
        ([0, 1], 8, 1),  # against 15 + 2 · 2.5 = 20
    ],
)
def test_a_success_keeps_its_last_reward_to_the_horizon(succeeded, horizon, best):
    data = episodes([3.0, 2.0], [2.5] * 6, successes=[(episode, 0) for episode in succeeded])
    assert best_episodes(data, 50, horizon).tolist() == [[0, 1], [2, 3, 4, 5, 6, 7]][best]


def test_an_episode_beyond_the_horizon_loses_nothing():
    data = episodes([1.0, 1.0, -9.0], [-8.0], successes=[(0, 0)])
    assert best_episodes(data, 50, horizon_steps=2).tolist() == [0, 1, 2]


def test_nothing_is_earned_after_a_termination():
    data = episodes([3.0, 2.0], [2.5] * 6, successes=[(0, 0)])
    assert best_episodes(data, 50, 8)[0] == 0  # 5 + 6 · 2 = 17 against 15
    ended = np.zeros(8, np.uint8)
    ended[1] = 1
    assert best_episodes(replace(data, terminations=ended), 50, 8)[0] == 2  # 5 against 15


def test_without_successes_returns_are_sums():
    data = replace(episodes([3.0, 2.0], [2.5] * 6), successes=None)
    assert best_episodes(data, 50, horizon_steps=1000).tolist() == list(range(2, 8))


def test_returns_are_summed_in_double_precision():
    data = episodes([2.0**24, *[1.0] * 9], [2.0**24, *[1.0] * 8, 0.0])
    assert best_episodes(data, 50, horizon_steps=10).tolist() == list(range(10))


def test_without_rewards_no_episode_is_best():
    with pytest.raises(UserError, match="toy holds no true rewards"):
        best_episodes(make(rewards=False), 10, 250)


def test_a_process_reads_a_settled_file_through_once(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    write_preferences(path, make())
    hashed = []
    whole = preference_file.preferences_hash
    monkeypatch.setattr(
        preference_file, "preferences_hash", lambda each: hashed.append(1) or whole(each)
    )
    load_preferences(path), load_preferences(path)
    assert len(hashed) == 2, "just written, it may be written again at the same time"
    settled = path.stat().st_mtime_ns - 10**10
    os.utime(path, ns=(settled, settled))
    load_preferences(path), load_preferences(path)
    assert len(hashed) == 3
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="was altered after it was written"):
        load_preferences(path)
