"""Preferences from one's own arrays: any number format, and every mistake told in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.preferences.arrays import preferences_from_arrays, preferences_from_pairs
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.verify import verify
from cpl_bench.runs.batches import PreferenceSampler

HUMAN = (
    Path(__file__).resolve().parents[2]
    / "shared/data/human/hopper-medium-expert-v2/num100_human_train.npz"
)
KINDS = [np.float16, np.float32, np.float64, np.int64]
N, K, WIDTH, A, C = 6, 4, 3, 2, 5
RNG = np.random.default_rng(0)
LOOKS = RNG.integers(-9, 10, (N, K, WIDTH))
ACTS = RNG.integers(-1, 2, (N, K, A))
FIRST, SECOND = np.array([0, 1, 2, 3, 4]), np.array([1, 2, 3, 4, 0])
ANSWERS = np.array([1, 0, 0, 1, 1])
LAST = np.eye(K)[[-1] * N]  # 1 on each segment's last step


def arrays(**other):
    """What `preferences_from_arrays` is given, with answers."""
    listed = {"first": FIRST, "second": SECOND, "prefers_second": ANSWERS}
    return {"observations": LOOKS, "actions": ACTS, **listed, **other}


def scored(**other):
    """The same without answers and with scores."""
    return {"observations": LOOKS, "actions": ACTS, "scores": np.arange(N), **other}


def pairs(count=5, **other):
    """What `preferences_from_pairs` is given."""
    rng = np.random.default_rng(1)
    return {
        "observations_first": rng.normal(size=(count, K, WIDTH)),
        "actions_first": rng.uniform(-1, 1, (count, K, A)),
        "observations_second": rng.normal(size=(count, K, WIDTH)),
        "actions_second": rng.uniform(-1, 1, (count, K, A)),
        "prefers_second": np.resize([1, 0, 0.5], count),
        **other,
    }


def spoilt(values, place, value):
    """The array but for one entry."""
    array = np.array(values, np.float64)
    array[place] = value
    return array


# --- What is taken ---


@pytest.mark.parametrize("kind", [*KINDS, list, torch.tensor])
def test_segments_are_taken_in_any_number_format(kind):
    def of(values):
        if kind is list:
            return np.asarray(values).tolist()
        return torch.tensor(values) if kind is torch.tensor else np.asarray(values, kind)

    made = preferences_from_arrays(**{name: of(values) for name, values in arrays().items()})
    verify(made)
    assert made.observations.dtype == made.actions.dtype == np.float32
    np.testing.assert_array_equal(made.observations.reshape(N, K, WIDTH), LOOKS)
    np.testing.assert_array_equal(made.actions.reshape(N, K, A), ACTS)
    assert made.episode_ends.tolist() == [4, 8, 12, 16, 20, 24]
    assert made.segment_starts.tolist() == [0, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(made.first, FIRST)
    np.testing.assert_array_equal(made.second, SECOND)
    np.testing.assert_array_equal(made.prefers_second, ANSWERS)
    for name in ("scores", "weight", "rewards", "successes", "terminations"):
        assert getattr(made, name) is None
    info = made.info
    assert (info.pairs, info.annotator, info.scorer) == ("sparse", "human", "")
    assert (info.segment_length, info.task, info.card) == (K, "", "")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_pairs_are_laid_end_to_end(kind):
    given = {name: values.astype(kind) for name, values in pairs(7).items()}
    made = preferences_from_pairs(**given, task="pointmass", name="mine", annotator="Ada")
    verify(made)
    looks, acts = (getattr(made, name).reshape(14, K, -1) for name in ("observations", "actions"))
    for start, end, which in ((0, 7, "first"), (7, 14, "second")):
        for ours, theirs in ((looks, f"observations_{which}"), (acts, f"actions_{which}")):
            np.testing.assert_array_equal(ours[start:end], given[theirs].astype(np.float32))
    assert made.first.tolist() == list(range(7)) and made.second.tolist() == list(range(7, 14))
    assert made.prefers_second.tolist() == [1, 0, 0.5, 1, 0, 0.5, 1]
    assert (made.info.task, made.info.card, made.info.annotator) == ("pointmass", "mine", "Ada")


def test_people_need_no_scores(tmp_path):
    """From arrays to a file to a batch, in which the answers are theirs."""
    given = pairs(5, prefers_second=[1, 0, 0.5, 0.25, 1])
    written = preferences_from_pairs(**given, weight=[1, 0, 1, 0.5, 1])
    assert written.scores is None
    write_preferences(tmp_path / "mine.safetensors", written)
    read = load_preferences(tmp_path / "mine.safetensors")
    assert read.info == written.info and read.scores is None
    assert read.weight.tolist() == [1, 0, 1, 0.5, 1]
    batch = PreferenceSampler(read, [0], 8).draw(0)
    known = {
        tuple(given["observations_first"][i].astype(np.float32).ravel()): (answer, weight)
        for i, (answer, weight) in enumerate(
            zip([1, 0, 0.5, 0.25, 1], [1, 0, 1, 0.5, 1], strict=True)
        )
    }
    for place in range(4):
        answer, weight = known[tuple(batch.observations[0, 2 * place].flatten().tolist())]
        assert (batch.prefers_second[0, place], batch.weight[0, place]) == (answer, weight)


def test_scores_alone_answer_every_pair():
    made = preferences_from_arrays(**scored(scores=[3, 1, 2, 2, -1, 0]))
    verify(made)
    assert (made.info.pairs, made.info.annotator, made.info.scorer) == ("dense", "oracle", "given")
    assert made.scores.dtype == np.float64 and len(made.first) == 0
    batch = PreferenceSampler(made, [0, 1], 5).draw(3)
    score_of = {LOOKS[i].tobytes(): score for i, score in enumerate(made.scores)}
    drawn = [
        [score_of[each.numpy().astype(LOOKS.dtype).tobytes()] for each in member]
        for member in batch.observations
    ]
    for member, answers in enumerate(batch.prefers_second.tolist()):
        ends = zip(batch.first[member], batch.second[member], strict=True)
        difference = [drawn[member][j] - drawn[member][i] for i, j in ends]
        np.testing.assert_array_equal(answers, 0.5 + 0.5 * np.sign(difference))


def test_scores_beside_answers_are_kept():
    made = preferences_from_arrays(**arrays(scores=np.arange(N), annotator="oracle"))
    assert made.info.pairs == "sparse" and made.info.annotator == "oracle"
    assert made.scores.tolist() == list(range(N))


@pytest.mark.parametrize("kind", [bool, *KINDS])
def test_steps_may_carry_rewards_successes_and_terminations(kind):
    rewards = RNG.integers(0, 2, (N, K))
    flags = (LAST * [[1], [0], [0], [1], [0], [1]]).astype(kind)
    made = preferences_from_arrays(
        **arrays(rewards=rewards.astype(kind), successes=rewards.astype(kind), terminations=flags)
    )
    verify(made)
    assert made.rewards.dtype == np.float32
    assert made.successes.dtype == made.terminations.dtype == np.uint8
    np.testing.assert_array_equal(made.rewards.reshape(N, K), rewards)
    np.testing.assert_array_equal(made.successes.reshape(N, K), rewards)
    assert np.flatnonzero(made.terminations).tolist() == [3, 15, 23]
    batch = PreferenceSampler(made, [0], 6).draw(0)
    assert batch.terminated.shape == (1, 6, K) and not batch.terminated[..., :-1].any()


def test_actions_at_the_edge_are_taken():
    for kind in (np.float16, np.float32, np.float64):
        edge = np.sign(ACTS + 0.5).astype(kind)
        preferences_from_arrays(**arrays(actions=edge))
        preferences_from_arrays(**arrays(actions=edge * (1 + 1e-7)))


def test_what_is_made_is_the_callers_no_more():
    looks = LOOKS.astype(np.float32)
    made = preferences_from_arrays(**arrays(observations=looks))
    looks[:] = 0
    assert made.observations.any()


def test_people_on_hopper():
    """Answers of Kim et al. (ICLR 2023): 0 the first, 1 the second, 0.5 both alike."""
    if not HUMAN.is_file():
        pytest.skip(f"the human preferences are not at {HUMAN}")
    with np.load(HUMAN, allow_pickle=False) as file:
        looks, acts = (np.stack([file[f"{x}_{i}"] for i in (1, 2)]) for x in ("obs", "action"))
        answers = file["label"]
    made = preferences_from_pairs(looks[0], acts[0], looks[1], acts[1], answers, name="hopper")
    verify(made)
    assert made.observations.shape == (20_000, 11) and made.actions.shape == (20_000, 3)
    assert made.info.segment_length == 100 and made.info.annotator == "human"
    assert np.unique(made.prefers_second, return_counts=True)[1].tolist() == [32, 28, 40]
    batch = PreferenceSampler(made, [0, 1], 16).draw(0)
    second = torch.tensor(looks[1, answers == 1], dtype=torch.float32)
    for place in np.argwhere(batch.prefers_second.numpy() == 1):
        member, comparison = place.tolist()
        preferred = batch.observations[member, 2 * comparison + 1]
        assert (second == preferred).all((1, 2)).any()


# --- What is refused ---

WRONG_ARRAYS = {
    "flat observations": (
        arrays(observations=LOOKS[0]),
        r"observations must have 3 axes.*\(4, 3\)",
    ),
    "no observation dimension": (
        arrays(observations=np.zeros((N, K, 0))),
        r"observations must have 3 axes.*\(6, 4, 0\)",
    ),
    "no steps": (
        arrays(observations=np.zeros((N, 0, WIDTH))),
        r"observations .*got shape \(6, 0, 3\)",
    ),
    "no segments": (
        arrays(observations=np.zeros((0, K, WIDTH)), actions=np.zeros((0, K, A))),
        r"observations .*\(0, 4, 3\)",
    ),
    "ragged observations": (
        arrays(observations=[[[1.0], [2.0]], [[1.0]]]),
        "observations must be numbers in an array",
    ),
    "words": (arrays(actions=[[["up"]]]), "actions must be numbers in an array"),
    "nothing": (arrays(observations=None), "observations must"),
    "flat actions": (
        arrays(actions=ACTS[..., 0]),
        r"actions must have 3 axes, none of them empty; got shape \(6, 4\)",
    ),
    "shorter actions": (
        arrays(actions=ACTS[:, 1:]),
        r"actions must have shape \(6, 4, a\), as observations are \(6, 4, 3\); got \(6, 3, 2\)",
    ),
    "fewer actions": (arrays(actions=ACTS[1:]), r"actions must have shape.*got \(5, 4, 2\)"),
    "action beyond 1": (
        arrays(actions=spoilt(ACTS, (2, 1, 0), 1.5)),
        r"actions must lie within \[-1, 1\], and reach 1\.5: rescale them",
    ),
    "action below -1": (arrays(actions=spoilt(ACTS, (2, 1, 0), -7)), r"within .*, and reach 7"),
    "observation NaN": (
        arrays(observations=spoilt(LOOKS, (3, 2, 1), np.nan)),
        r"observations must be finite in float32; got nan at \[3, 2, 1\]",
    ),
    "observation beyond float32": (
        arrays(observations=spoilt(LOOKS, (3, 2, 1), 1e300)),
        r"observations must be finite in float32; got 1e\+300 at \[3, 2, 1\]",
    ),
    "action infinite": (
        arrays(actions=spoilt(ACTS, (0, 3, 1), np.inf)),
        r"actions must be finite in float32; got inf at \[0, 3, 1\]",
    ),
    "answer NaN": (
        arrays(prefers_second=spoilt(ANSWERS, 4, np.nan)),
        r"prefers_second must be finite in float32; got nan at \[4\]",
    ),
    "answer above 1": (
        arrays(prefers_second=spoilt(ANSWERS, 4, 2)),
        r"prefers_second must be in \[0, 1\]; got 2\.0 at \[4\]",
    ),
    "answer of -1": (
        arrays(prefers_second=spoilt(ANSWERS, 2, -1)),
        r"prefers_second must be in \[0, 1\]; got -1\.0 at \[2\]",
    ),
    "a single answer": (arrays(prefers_second=1.0), r"prefers_second must have 1 axis; got shape"),
    "answers in a table": (
        arrays(prefers_second=ANSWERS[:, None]),
        r"prefers_second must have 1 axis; got shape \(5, 1\)",
    ),
    "fewer answers": (
        arrays(prefers_second=ANSWERS[1:]),
        r"prefers_second must have shape \(5,\); got \(4,\)",
    ),
    "fewer positions": (
        arrays(second=SECOND[1:]),
        r"second must have shape \(5,\), as first has; got \(4,\)",
    ),
    "position out of range": (
        arrays(second=spoilt(SECOND, 3, N)),
        r"second must be whole numbers, positions in \[0, 5\]; got 6 at \[3\]",
    ),
    "negative position": (
        arrays(first=spoilt(FIRST, 0, -1)),
        r"first must be whole numbers, positions in \[0, 5\]; got -1 at \[0\]",
    ),
    "half a position": (
        arrays(first=spoilt(FIRST, 1, 0.5)),
        r"first must be whole numbers, positions in \[0, 5\]; got 0\.5 at \[1\]",
    ),
    "enormous position": (
        arrays(first=spoilt(FIRST, 1, 1e30)),
        r"first must be whole numbers, positions in \[0, 5\]; got 1e\+30 at \[1\]",
    ),
    "no answers": (
        arrays(first=[], second=[], prefers_second=[]),
        "sparse data must list at least one comparison",
    ),
    "answers without positions": (
        arrays(first=None),
        r"belong together; got \['second', 'prefers_second'\] alone",
    ),
    "neither answers nor scores": (
        scored(scores=None),
        "Give first, second and prefers_second, or scores that answer every pair",
    ),
    "fewer scores": (scored(scores=[1, 2]), r"scores must have shape \(6,\); got \(2,\)"),
    "score NaN": (
        scored(scores=[0, 1, np.nan, 3, 4, 5]),
        r"scores must be finite in float32; got nan at \[2\]",
    ),
    "one segment": (
        scored(observations=LOOKS[:1], actions=ACTS[:1], scores=[1]),
        "comparing takes at least 2 segments",
    ),
    "weights without answers": (
        scored(weight=[1, 1]),
        r"weight must have shape \(0,\); got \(2,\)",
    ),
    "weight above 1": (
        arrays(weight=[1, 1, 3, 1, 1]),
        r"weight must be in \[0, 1\]; got 3\.0 at \[2\]",
    ),
    "fewer weights": (arrays(weight=[1, 1]), r"weight must have shape \(5,\); got \(2,\)"),
    "every question skipped": (arrays(weight=[0] * C), "every question was skipped"),
    "a reward a segment": (
        arrays(rewards=np.zeros(N)),
        r"rewards must have 2 axes, none of them empty; got shape \(6,\)",
    ),
    "shorter rewards": (
        arrays(rewards=np.zeros((N, K - 1))),
        r"rewards must have shape \(6, 4\); got \(6, 3\)",
    ),
    "success of 2": (arrays(successes=2 * LAST), r"successes must be 0 or 1; got 2 at \[0, 3\]"),
    "success of a half": (arrays(successes=LAST / 2), r"successes must be 0 or 1; got 0\.5"),
    "success of -255": (arrays(successes=-255 * LAST), r"successes must be 0 or 1; got -255"),
    "termination amid a segment": (
        arrays(terminations=LAST[:, ::-1]),
        r"terminations must be 0 but on a segment's last step; got 1 at \[0, 0\]",
    ),
    "an annotator that is none": (
        scored(annotator="orakle"),
        r"dense data are answered by their annotator\. No annotator is called 'orakle'",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_arrays_are_refused_in_one_line(case):
    given, message = WRONG_ARRAYS[case]
    with pytest.raises(UserError, match=message) as caught:
        preferences_from_arrays(**given)
    assert "\n" not in str(caught.value)


WRONG_PAIRS = {
    "another number of segments": (
        pairs(observations_second=np.zeros((4, K, WIDTH))),
        r"observations_first and observations_second must have one shape; got .5, 4, 3. and .4, 4",
    ),
    "another size of actions": (
        pairs(actions_first=np.zeros((5, K, 1))),
        r"actions_first and actions_second must have one shape; got \(5, 4, 1\) and \(5, 4, 2\)",
    ),
    "flat segments": (
        pairs(observations_second=np.zeros((5, WIDTH))),
        r"observations_second must have 3 axes, none of them empty; got shape \(5, 3\)",
    ),
    "NaN on the second side": (
        pairs(actions_second=spoilt(np.zeros((5, K, A)), (4, 0, 1), np.nan)),
        r"actions_second must be finite in float32; got nan at \[4, 0, 1\]",
    ),
    "actions in other units": (
        pairs(actions_second=np.full((5, K, A), 30.0)),
        r"actions must lie within \[-1, 1\], and reach 30",
    ),
    "more answers than pairs": (
        pairs(prefers_second=[1] * 6),
        r"prefers_second must have shape \(5,\); got \(6,\)",
    ),
    "fewer answers than pairs": (
        pairs(prefers_second=[1] * 4),
        r"prefers_second must have shape \(5,\); got \(4,\)",
    ),
    "no pairs": (pairs(0), r"observations_first.*\(0, 4, 3\)"),
    "answers of 1 and 2": (
        pairs(prefers_second=[1, 2, 1, 1, 2]),
        r"prefers_second must be in \[0, 1\]; got 2\.0 at \[1\]",
    ),
}


@pytest.mark.parametrize("case", WRONG_PAIRS)
def test_wrong_pairs_are_refused_in_one_line(case):
    given, message = WRONG_PAIRS[case]
    with pytest.raises(UserError, match=message) as caught:
        preferences_from_pairs(**given)
    assert "\n" not in str(caught.value)


def test_the_same_arrays_give_the_same_file(tmp_path):
    for name in ("one", "other"):
        write_preferences(tmp_path / name, preferences_from_pairs(**pairs()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert "arrays: 40 steps, 10 episodes, 10 segments of 4" in repr(
        preferences_from_pairs(**pairs())
    )
