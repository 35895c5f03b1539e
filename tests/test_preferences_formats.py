"""Other people's segments and answers in, ours out, and back again."""

import io
import json
import pickle
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_files import HOPPER, flat_arrays, pair_arrays, stacked_arrays, write_d4rl

from cpl_bench.cli.main import main
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.imports import export
from cpl_bench.learning.transitions import ACTION_LIMIT as CLIPPED
from cpl_bench.preferences.answers import agreement_line, describe_file
from cpl_bench.preferences.arrays import preferences_from_arrays, preferences_from_pairs
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.format import hashes_by_array, preferences_hash
from cpl_bench.preferences.formats.labels import answers_of
from cpl_bench.preferences.formats.npz import preferences_from_npz
from cpl_bench.preferences.formats.npz_out import ACTION_LIMIT, write_npz
from cpl_bench.preferences.formats.parquet import read_parquet, write_parquet
from cpl_bench.preferences.formats.pickles import read_numbers
from cpl_bench.preferences.formats.rows import preferences_from_rows
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.trajectories.foreign import sha256_of
from cpl_bench.trajectories.formats.d4rl import qlearning_rows, read_flat

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
SMALL = ["--policy.hidden", "16", "--segments", "8", "--clone.steps", "10"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a data root of its own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command is refused with; no preferences are written."""
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before, "nothing is written"
    return said


def human(name: str) -> Path:
    """One of the real files of human labels."""
    if not (HOPPER / name).is_file():
        pytest.skip("the human labels of Preference Transformer are not on this machine")
    return HOPPER / name


# --- Labels ---


def test_labels_mean_what_is_said() -> None:
    labels = [0, 1, 0.5, 1, 0.25]
    assert answers_of(labels, "second", "x").tolist() == labels
    assert answers_of(labels, "first", "x").tolist() == [1, 0, 0.5, 0, 0.75]
    assert answers_of([[0], [1], [-1]], "second", "x", "minus-one").tolist() == [0, 1, 0.5]
    assert answers_of([0, 1, -1], "first", "x", "minus-one").tolist() == [1, 0, 0.5]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2], r"in \[0, 1\].*got 2"),
        ([0, 1, np.nan], "got nan"),
        ([1, -1, 1], "may mean a tie, or the other one"),
        ([-1, 0, 1, 1], "--ties minus-one"),
        ([[0, 1]], "one label a pair"),
        ([], "one label a pair"),
        (["a"], "one label a pair"),
    ],
)
def test_labels_outside_the_convention_are_refused(labels: list, said: str) -> None:
    with pytest.raises(UserError, match=said):
        answers_of(labels, "second", "x")


def test_a_tie_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got 0\.5"):
        answers_of([0, -1, 0.5], "second", "x", "minus-one")


# --- The authors' files, in ---


def test_a_label_a_pair(place: Path) -> None:
    arrays = pair_arrays()
    np.savez_compressed("x.npz", **arrays)
    second = preferences_from_npz(Path("x.npz"), label_one_means="second", task="pointmass")
    first = preferences_from_npz(Path("x.npz"), label_one_means="first")
    assert second.prefers_second.tolist() == arrays["label"].tolist()
    assert (first.prefers_second + second.prefers_second == 1).all()
    assert second.info.annotator == "human" and second.scores is None
    for place_, side in ((second.first, "1"), (second.second, "2")):
        rows = second.segment_starts[place_][:, None] + np.arange(5)
        assert np.array_equal(second.observations[rows], arrays[f"obs_{side}"].astype(np.float32))
        assert np.array_equal(second.actions[rows], arrays[f"action_{side}"].astype(np.float32))
        assert np.array_equal(second.rewards[rows], arrays[f"reward_{side}"].astype(np.float32))


def test_a_score_a_segment(place: Path) -> None:
    arrays = stacked_arrays()
    np.savez_compressed("x.npz", **arrays)
    with pytest.raises(UserError, match=r"--score-key; there is rl_sum, rl_dir, rl_dis_sum, rl_l2"):
        preferences_from_npz(Path("x.npz"))
    dense = preferences_from_npz(Path("x.npz"), score_key="rl_sum")
    assert dense.info.pairs == "dense" and dense.info.annotator == "oracle"
    assert dense.info.scorer == "rl_sum"
    assert np.array_equal(dense.scores, arrays["rl_sum"].astype(np.float64))
    sparse = preferences_from_npz(Path("x.npz"), score_key="rl_dir", pairs="sparse")
    gap = arrays["rl_dir"][12:] - arrays["rl_dir"][:12]
    assert sparse.prefers_second.tolist() == (gap > 0).astype(float).tolist()
    assert (sparse.second - sparse.first).tolist() == [12] * 12


@pytest.mark.parametrize(
    "scores",
    [np.arange(24), np.arange(24, dtype=np.uint8), np.arange(24.0)[:, None], np.arange(24) > 9],
)
def test_a_score_is_any_real_number_a_segment(place: Path, scores: np.ndarray) -> None:
    whole = stacked_arrays()
    arrays = {key: whole[key] for key in ("obs", "action", "reward", "state", "timestep")}
    np.savez("x.npz", **arrays, label=scores, no_reward=np.ones(24, np.uint8))
    for words in ([], ["--score-key", "label"]):
        assert main(["import", "x.npz", *words]) == 0
        found = load_preferences("x.safetensors")
        assert found.scores.tolist() == scores.astype(float).reshape(24).tolist()
        assert found.info.scorer == "label"


def test_of_several_numbers_a_segment_the_one_of_fractions_is_the_score(place: Path) -> None:
    whole = stacked_arrays()
    arrays = {key: whole[key] for key in ("obs", "action", "rl_sum")}
    np.savez("x.npz", **arrays, number=np.arange(24))
    assert preferences_from_npz(Path("x.npz")).info.scorer == "rl_sum"
    assert preferences_from_npz(Path("x.npz"), score_key="number").info.scorer == "number"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "wide",
            "a real number a segment, (24,) or (24, 1), and not wide (float64 of shape (24, 3))",
        ),
        ("wide", "Say --score-key; there is rl_sum, number."),
        ("words", "and not words (<U1 of shape (24,))"),
        ("turned", "and not turned (complex128 of shape (24,))"),
        ("none", "it holds no none. Say --score-key; there is rl_sum, number."),
    ],
)
def test_what_is_no_score_is_described(place: Path, capsys, key: str, said: str) -> None:
    whole = stacked_arrays()
    arrays = {key: whole[key] for key in ("obs", "action", "rl_sum")}
    more = {"wide": np.zeros((24, 3)), "words": np.array(["a"] * 24), "turned": np.ones(24) * 1j}
    np.savez("x.npz", **arrays, **more, number=np.arange(24))
    assert said in refused(capsys, "import", "x.npz", "--score-key", key)


def test_where_there_is_no_score_it_is_said_what_there_is(place: Path, capsys) -> None:
    whole = stacked_arrays()
    np.savez("x.npz", obs=whole["obs"], action=whole["action"], steps=np.zeros((24, 5)))
    said = refused(capsys, "import", "x.npz")
    assert "none with a number a segment: it holds obs (float32 of shape (24, 5, 6))" in said
    assert "steps (float64 of shape (24, 5))" in said


def test_labels_may_have_another_name(place: Path, capsys) -> None:
    arrays = pair_arrays()
    np.savez("old.npz", **arrays)
    arrays["human_label"] = arrays.pop("label").reshape(-1, 1)
    np.savez("x.npz", **arrays)
    words = ["--label-one-means", "second"]
    said = refused(capsys, "import", "x.npz", *words)
    assert "label is missing" in said and "--label-key" in said
    assert "human_label (float64 of shape (12, 1))" in said
    assert main(["import", "x.npz", *words, "--label-key", "human_label"]) == 0
    ours = preferences_from_npz(Path("old.npz"), label_one_means="second")
    assert preferences_hash(load_preferences("x.safetensors")) == preferences_hash(ours)
    np.savez("scores.npz", **stacked_arrays())
    said = refused(capsys, "import", "scores.npz", "--score-key", "rl_l2", "--label-key", "label")
    assert "leave out --label-key" in said


def test_a_card_may_name_its_labels(place: Path) -> None:
    arrays = pair_arrays()
    np.savez("theirs.npz", **arrays, turned=1 - arrays["label"])
    Path("people.toml").write_text(CARD)
    found = []
    for more in ("", 'label_key = "turned"'):
        Path("people.toml").write_text(CARD + more)
        assert main(["label", "people.toml"]) == 0, "another array is another answer"
        found.append(load_preferences(preference_path(load_dataset_card("people.toml"))))
    assert (found[0].prefers_second + found[1].prefers_second == 1).all()
    assert [each.info.annotator_settings.get("label_key") for each in found] == [None, "turned"]


def test_the_convention_must_be_said(place: Path, capsys) -> None:
    np.savez("x.npz", **pair_arrays())
    assert "--label-one-means second" in refused(capsys, "import", "x.npz")
    np.savez("x.npz", **stacked_arrays())
    said = refused(capsys, "import", "x.npz", "--label-one-means", "second")
    assert "holds a score a segment" in said


def test_labels_become_a_file_that_trains(place: Path) -> None:
    np.savez("mine.npz", **pair_arrays(rewards=False))
    words = ["--label-one-means", "second", "--task", "pointmass", "--annotator", "me"]
    assert main(["import", "mine.npz", *words]) == 0
    info = load_preferences("mine.safetensors").info
    assert (info.source, info.annotator, info.task) == ("npz:mine.npz", "me", "pointmass")
    assert len(info.source_hash) == 64
    for words in (["sft"], ["cpl", "--lam", "1"], ["--note", "half", "cpl", "--lam", "0.5"]):
        episodes = ["--episodes", "2" if "--note" in words else "0"]
        assert main(["train", "--data", "mine.safetensors", "--seeds", "1", "--evaluate-every",
                     "20", *episodes, *words, "--steps", "20", *SMALL]) == 0  # fmt: skip
    rolled = (place / "runs" / "mine" / "cpl-half" / "evaluations.csv").read_text()
    assert len(rolled.splitlines()) == 1 + 2


def test_a_file_of_another_task_is_refused(place: Path, capsys) -> None:
    np.savez("x.npz", **pair_arrays(sizes=(11, 3)))
    said = refused(capsys, "import", "x.npz", "--label-one-means", "second", "--task", "pointmass")
    assert "pointmass has observations of 6 and actions of 2 numbers, npz:x.npz of 11" in said


CARD = """
task = "pointmass"
[segments]
count = 24
length = 5
pairs = "sparse"
[source]
format = "npz"
id = "theirs.npz"
label_one_means = "second"
"""


def test_answers_have_a_card_of_their_own(place: Path, capsys) -> None:
    (place / "people.toml").write_text(CARD)
    assert "--source PATH" in refused(capsys, "train", "--data", "people.toml", "sft")
    (place / "far").mkdir()
    np.savez("far/theirs.npz", **pair_arrays())
    assert main(["import", "people.toml", "--source", "far/theirs.npz"]) == 0
    path = preference_path(load_dataset_card("people.toml"))
    assert load_preferences(path).info.card == "people"
    (place / "far" / "theirs.npz").unlink()
    assert main(["inspect", "people.toml"]) == 0
    assert "12, sparse: 3 prefer the first, 3 tie, 6 prefer the second" in capsys.readouterr().out
    assert "as it is" in refused(capsys, "label", "people.toml", "--pairs", "dense")
    assert main(["train", "--data", "people.toml", "--seeds", "1", "--episodes", "0", "cpl",
                 "--steps", "20", *SMALL]) == 0  # fmt: skip
    np.savez("theirs.npz", **pair_arrays(count=9))
    said = refused(capsys, "import", "people.toml", "--source", "theirs.npz")
    assert "holds 18 segments of 5 steps, sparse; " in said and "says 24 segments" in said


# --- Out, and in again ---


def own_preferences(pairs: str = "sparse", **more):
    """Preferences over windows of longer episodes, with everything that a file can hold."""
    rng = np.random.default_rng(5)
    found = preferences_from_arrays(
        rng.normal(size=(8, 20, 6)),
        rng.uniform(-1, 1, (8, 20, 2)),
        scores=rng.normal(size=8),
        rewards=rng.normal(size=(8, 20)),
        successes=rng.random((8, 20)) > 0.8,
        terminations=np.arange(20) == np.full((8, 1), 19),
        task="pointmass",
        name="own",
    )
    starts = np.arange(0, 160, 20) + rng.integers(0, 13, 8)
    info = replace(found.info, segment_length=8, pairs=pairs, scorer="given")
    if pairs == "sparse":
        more = {
            "first": np.arange(0, 8, 2),
            "second": np.arange(1, 8, 2),
            "prefers_second": np.array([1, 0, 0.5, 0.75], np.float32),
        } | more
    return replace(found, segment_starts=starts, info=info, **more)


def authors_loader(path: Path, label_key: str = "label"):
    """What CPL's authors' training makes of a file: both sides of each comparison, and its label.

    Written after their description of the two forms: labels become a score a side, and a higher
    score on the second side is a label of 1.
    """
    with np.load(path) as file:
        data = dict(file)
    if "action_1" in data:
        label = data[label_key]
        sides = {key: (data[f"{key}_1"], data[f"{key}_2"]) for key in ("obs", "action", "reward")}
        scores = (1 - label, label)
    else:
        half = len(data["action"]) // 2
        cut = {key: data[key] for key in ("obs", "action", "reward", label_key)}
        sides = {key: (each[:half], each[half : 2 * half]) for key, each in cut.items()}
        scores = sides.pop(label_key)
    clipped = [np.clip(each, -CLIPPED, CLIPPED) for each in sides["action"]]
    return sides, clipped, 1.0 * (scores[0] < scores[1]) + 0.5 * (scores[0] == scores[1])


def test_the_authors_read_what_is_exported(tmp_path: Path) -> None:
    ours = own_preferences()
    ours = replace(ours, prefers_second=np.array([1, 0, 0.5, 1], np.float32))
    assert ACTION_LIMIT == CLIPPED
    write_npz(tmp_path / "x.npz", ours)
    sides, clipped, labels = authors_loader(tmp_path / "x.npz")
    assert labels.tolist() == ours.prefers_second.tolist()
    for side, place in enumerate((ours.first, ours.second)):
        rows = ours.segment_starts[place][:, None] + np.arange(8)
        assert np.array_equal(sides["obs"][side], ours.observations[rows])
        assert np.array_equal(sides["reward"][side], ours.rewards[rows])
        assert np.array_equal(sides["action"][side], clipped[side]), "clipped already"
        assert np.abs(clipped[side]).max() <= CLIPPED


def test_dense_data_keep_their_scores(tmp_path: Path) -> None:
    ours = own_preferences("dense")
    write_npz(tmp_path / "x.npz", ours)
    _, _, labels = authors_loader(tmp_path / "x.npz")
    assert labels.tolist() == (ours.scores[:4] < ours.scores[4:]).astype(float).tolist()
    back = preferences_from_npz(tmp_path / "x.npz", score_key="label")
    assert np.array_equal(back.scores, ours.scores)
    noisy = replace(ours, info=replace(ours.info, annotator="noisy"))
    with pytest.raises(UserError, match="--pairs sparse"):
        write_npz(tmp_path / "y.npz", noisy)
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("rewards", [True, False])
@pytest.mark.parametrize("pairs", ["sparse", "dense"])
def test_npz_round_trips(tmp_path: Path, pairs: str, rewards: bool) -> None:
    ours = own_preferences(pairs)
    if not rewards:
        ours = replace(ours, rewards=None)
    how = {"label_one_means": "second"} if pairs == "sparse" else {"score_key": "label"}

    def through(preferences, name):
        export(preferences, tmp_path / name)
        return preferences_from_npz(tmp_path / name, **how)

    once = through(ours, "once.npz")
    twice = through(once, "twice.npz")
    assert hashes_by_array(once) == hashes_by_array(twice)
    assert (tmp_path / "once.npz").read_bytes() == (tmp_path / "twice.npz").read_bytes()
    assert (once.rewards is None) == (not rewards)
    numbers = np.arange(8) if pairs == "dense" else np.r_[ours.first, ours.second]
    rows = (ours.segment_starts[numbers][:, None] + np.arange(8)).ravel()
    assert np.array_equal(once.observations, ours.observations[rows])
    assert np.array_equal(once.successes, ours.successes[rows])
    assert np.array_equal(once.terminations, ours.terminations[rows])
    assert np.array_equal(once.prefers_second, ours.prefers_second)


def test_pairs_come_back_to_the_hash(tmp_path: Path) -> None:
    """The authors' own files lose nothing at all."""
    arrays = pair_arrays()
    np.savez(tmp_path / "x.npz", **arrays)
    ours = preferences_from_npz(tmp_path / "x.npz", label_one_means="second")
    inside = replace(ours, actions=np.clip(ours.actions, -ACTION_LIMIT, ACTION_LIMIT))
    write_npz(tmp_path / "y.npz", inside)
    back = preferences_from_npz(tmp_path / "y.npz", label_one_means="second")
    assert preferences_hash(back) == preferences_hash(inside)


def test_what_npz_cannot_hold_is_said(tmp_path: Path) -> None:
    weight = np.array([1, 0, 1, 1], np.float32)
    said = write_npz(tmp_path / "x.npz", own_preferences(weight=weight))
    assert any("1 soft labels are written as they are" in line for line in said)
    assert any("1 skipped questions are left out" in line for line in said)
    assert any("scores" in line for line in said)
    back = preferences_from_npz(tmp_path / "x.npz", label_one_means="second")
    assert back.prefers_second.tolist() == [1, 0.5, 0.75]
    with pytest.raises(UserError, match="count in part"):
        write_npz(tmp_path / "y.npz", own_preferences(weight=weight / 2))


@pytest.mark.parametrize("pairs", ["sparse", "dense"])
@pytest.mark.parametrize("bare", [True, False])
def test_parquet_round_trips_to_the_hash(place: Path, pairs: str, bare: bool, capsys) -> None:
    pytest.importorskip("pyarrow")
    ours = own_preferences(pairs)
    if bare:
        ours = replace(ours, rewards=None, successes=None, terminations=None)
    versions = {"cpl-bench": "0.0.1", "mujoco": "3.1.4", "metaworld": "3.0.0"}
    ours = replace(ours, info=replace(ours.info, versions=versions, command="label own"))
    write_preferences("ours.safetensors", ours)
    ours = load_preferences("ours.safetensors")
    assert main(["export", "ours.safetensors", "tables"]) == 0
    back = read_parquet(place / "tables")
    assert hashes_by_array(back) == hashes_by_array(ours)
    assert back.info == ours.info
    assert main(["import", "tables", "--out", "back.safetensors"]) == 0
    assert Path("back.safetensors").read_bytes() == Path("ours.safetensors").read_bytes()
    assert "is there already" in refused(capsys, "export", "ours.safetensors", "tables")


def test_an_altered_table_is_refused(place: Path, capsys) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_parquet(place / "tables", own_preferences())
    path = place / "tables" / "comparisons.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 3), path)
    said = refused(capsys, "import", "tables", "--out", "x.safetensors")
    assert "altered after it was written" in said
    (place / "tables" / "segments.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in refused(capsys, "import", "tables", "--out", "x.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("segment_length", "8", "'segment_length' must be int"),
        ("segment_length", None, "'segment_length' must be int"),
        ("seeds", 3, "'seeds' must be"),
        ("annotator_settings", [1], "'annotator_settings' must be"),
        ("annotator_settings", "deep", "nested more than"),
    ],
)
def test_damaged_metadata_of_tables_are_refused(place, capsys, key, value, said) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_parquet(place / "tables", own_preferences())
    path = place / "tables" / "episodes.parquet"
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"cpl_bench"])
    text = json.dumps(about | {key: value}).replace('"deep"', "[" * 9000 + "]" * 9000)
    pq.write_table(table.replace_schema_metadata({"cpl_bench": text}), path)
    assert said in refused(capsys, "import", "tables", "--out", "x.safetensors")


@pytest.mark.parametrize("rows", [0, 3])
def test_tables_that_do_not_belong_together_are_refused(place, capsys, rows) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_parquet(place / "tables", own_preferences())
    path = place / "tables" / "episodes.parquet"
    pq.write_table(pq.read_table(path).slice(0, rows), path)
    said = refused(capsys, "import", "tables", "--out", "x.safetensors")
    assert "cannot be read as tables" in said


def test_the_dataset_card_is_front_matter(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "tables", own_preferences())
    card = (tmp_path / "tables" / "README.md").read_text()
    assert card.startswith("---\n")
    matter = card.split("---\n")[1]
    assert [line.split(": ")[1] for line in matter.splitlines() if "data_files" in line] == [
        "comparisons.parquet",
        "segments.parquet",
        "episodes.parquet",
    ]
    write_parquet(tmp_path / "dense", own_preferences("dense"))
    assert not (tmp_path / "dense" / "comparisons.parquet").exists()
    assert "comparisons.parquet" not in (tmp_path / "dense" / "README.md").read_text()


def test_hugging_face_reads_the_tables(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "load_dataset"):
        pytest.skip("what is called datasets here is our folder of cards")
    ours = own_preferences()
    write_parquet(tmp_path / "tables", ours)

    def table(*name: str):
        return datasets.load_dataset(
            str(tmp_path / "tables"), *name, split="train", cache_dir=str(tmp_path / "cache")
        )

    assert table()["prefers_second"][:] == ours.prefers_second.tolist()
    segments, episodes = table("segments"), table("episodes")
    row = segments[int(ours.second[1])]
    found = episodes[row["episode"]]["observations"][row["offset"] :][:8]
    begin = ours.segment_starts[ours.second[1]]
    assert np.array_equal(np.float32(found), ours.observations[begin : begin + 8])


def test_only_forms_that_there_are_can_be_exported_to(place: Path, capsys) -> None:
    write_preferences("ours.safetensors", own_preferences())
    assert "FILE.npz" in refused(capsys, "export", "ours.safetensors", "ours.csv")


# --- People's labels by rows of D4RL ---


def row_files(place: Path, lengths=(40, 15, 40, 30), k: int = 6, sizes=(6, 2)):
    """Labels, two files of rows that are longer, and D4RL's file, in Preference Transformer's form;
    and the same pairs as an .npz would hold them."""
    arrays = flat_arrays(lengths, (False, True, False, True), sizes)
    flat = read_flat(write_d4rl(place / "dots.hdf5", arrays))
    kept = qlearning_rows(flat, 1000)
    labels = [1, 0, -1, 1, 0]
    first = np.array([0, 41, 60, 5, 33, 999], np.int32)
    second = np.array([33, 54 - k, 87, 54, 0, 999], np.int32)
    for name, values in (("label_human", labels), ("rows_1", first), ("rows_2", second)):
        (place / name).write_bytes(pickle.dumps(values))
    windows = [kept[np.array(each[:5])[:, None] + np.arange(k)] for each in (first, second)]
    pairs = {
        f"{key}_{side}": arrays[name][rows]
        for side, rows in zip("12", windows, strict=True)
        for key, name in (("obs", "observations"), ("action", "actions"), ("reward", "rewards"))
    }
    return flat, pairs | {"label": np.array([1, 0, 0.5, 1, 0])}


def test_rows_are_those_of_the_qlearning_dataset(place: Path) -> None:
    flat, pairs = row_files(place)
    rows = (Path("rows_1"), Path("rows_2"))
    found = preferences_from_rows(
        Path("label_human"), rows, flat, segment_length=6, limit_steps=1000,
        label_one_means="second", ties="minus-one",
    )  # fmt: skip
    assert found.prefers_second.tolist() == [1, 0, 0.5, 1, 0]
    assert found.terminations is not None and found.terminations.sum() == 1
    np.savez("twin.npz", **pairs)
    twin = preferences_from_npz(Path("twin.npz"), label_one_means="second")
    ours = hashes_by_array(replace(found, terminations=None))
    assert ours == hashes_by_array(twin)
    words = ["--rows", "rows_1", "rows_2", "--trajectories", "dots.hdf5", "--segment-length", "6",
             "--label-one-means", "second", "--ties", "minus-one",
             "--task", "pointmass"]  # fmt: skip
    assert main(["import", "label_human", *words]) == 0
    info = load_preferences("label_human.safetensors").info
    assert info.source == "rows:label_human"
    files = ("label_human", "rows_1", "rows_2", "dots.hdf5")
    assert info.source_hash == sha256_of(*map(Path, files)), "of whatever decides the answers"


def test_rows_end_where_the_task_or_the_card_says(place: Path, monkeypatch) -> None:
    """D4RL's file without timeouts is cut at the limit: of a Gymnasium id, or of the card named."""
    row_files(place, sizes=(2, 1))
    limits = []
    monkeypatch.setattr(
        "cpl_bench.preferences.formats.rows.qlearning_rows",
        lambda flat, limit: limits.append(limit) or qlearning_rows(flat, limit),
    )
    words = ["import", "label_human", "--rows", "rows_1", "rows_2", "--segment-length", "6",
             "--label-one-means", "second", "--ties", "minus-one"]  # fmt: skip
    task = ["--task", "MountainCarContinuous-v0", "--trajectories", "dots.hdf5"]
    assert main([*words, *task]) == 0
    Path("dots.toml").write_text(D4RL_CARD)
    assert main([*words, "--trajectories", "dots.toml", "--out", "b.safetensors"]) == 0
    assert limits == [999, 50], "MountainCarContinuous's, and pointmass's"


D4RL_CARD = """
task = "pointmass"
segments = { count = 20, length = 8 }
labelling = { scorer = "partial_return" }
source = { format = "d4rl", id = "dots.hdf5", rolled_out = false }
"""


def test_rows_that_cross_an_episodes_end_are_refused(place: Path) -> None:
    flat, _ = row_files(place)
    rows = (Path("rows_1"), Path("rows_2"))

    def read(length):
        preferences_from_rows(Path("label_human"), rows, flat, segment_length=length,
                              limit_steps=1000, label_one_means="second",
                              ties="minus-one")  # fmt: skip

    with pytest.raises(UserError, match=r"rows_1: 1 of 5 segments of 12 steps cross"):
        read(12)
    Path("rows_2").write_bytes(pickle.dumps([3, 4]))
    with pytest.raises(UserError, match="names 2 segments, and there are 5 labels"):
        read(6)
    Path("rows_2").write_bytes(pickle.dumps([0, 0, 0, 0, 5000]))
    with pytest.raises(UserError, match="row 5000"):
        read(6)
    Path("rows_2").write_bytes(pickle.dumps([0, 0, 0, 0, 2**63 - 1]))
    with pytest.raises(UserError, match="row 9223372036854775807"):
        read(6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a file, and no dataset card"),
        ([], "--rows FIRST SECOND"),
        (["--trajectories", "mujoco-hopper-medium-v0"], "is a card of minari:mujoco/hopper/medium"),
        (["--trajectories", "drawer-open"], "drawer-open is a card of data that are collected"),
        (
            ["--trajectories", "mujoco/hopper/medium-v0"],
            "'mujoco/hopper/medium-v0' is no such name",
        ),
    ],
)
def test_rows_must_be_said_and_be_of_d4rls(place: Path, capsys, words: list[str], said) -> None:
    row_files(place)
    rows = ["--rows", "rows_1", "rows_2", "--segment-length", "6"] if words else []
    told = refused(capsys, "import", "label_human", *rows, *words, "--label-one-means", "second",
                   "--task", "hopper")  # fmt: skip
    assert said in told and "leave out" not in told
    assert "package d4rl" not in told and ("D4RL dataset: name that one" in told or not words)


def test_both_forms_of_the_human_labels_are_the_same() -> None:
    counted = preferences_from_npz(human("num100_human_train.npz"), label_one_means="second")
    lines = describe_file(counted)
    assert lines[-1].endswith("100, sparse: 32 prefer the first, 28 tie, 40 prefer the second")
    labels = answers_of(read_numbers(human("label_human")), "second", "x", "minus-one")
    assert np.array_equal(labels, counted.prefers_second)
    for name in ("indices_num100", "indices_2_num100"):
        assert len(read_numbers(human(name))) == 500, "longer than the labels"


def test_human_and_script_agree_on_43_percent(place: Path, capsys) -> None:
    for who in ("human", "script"):
        words = ["--label-one-means", "second", "--annotator", who]
        assert main(["import", str(human(f"num100_{who}_train.npz")), *words]) == 0
    files = [f"num100_{who}_train.safetensors" for who in ("human", "script")]
    assert main(["inspect", files[0], "--against", files[1]]) == 0
    said = capsys.readouterr().out
    assert "32 prefer the first, 28 tie, 40 prefer the second" in said
    assert "agreement      43% of the 72 comparisons that both decided" in said


def test_agreement_does_not_depend_on_order() -> None:
    rng = np.random.default_rng(2)
    sides = rng.normal(size=(2, 9, 4, 3)), rng.uniform(-1, 1, (2, 9, 4, 1))
    answers = np.array([0, 1, 1, 0.5, 0, 1, 0, 1, 1.0])
    ours = preferences_from_pairs(sides[0][0], sides[1][0], sides[0][1], sides[1][1], answers)
    order = rng.permutation(9)
    turned = preferences_from_pairs(
        sides[0][1][order], sides[1][1][order], sides[0][0][order], sides[1][0][order],
        1 - answers[order],
    )  # fmt: skip
    assert "100% of the 8 comparisons" in agreement_line(ours, turned)
    other = replace(turned, prefers_second=1 - turned.prefers_second)
    assert "0% of the 8 comparisons" in agreement_line(ours, other)
    with pytest.raises(UserError, match="no pair of segments"):
        agreement_line(ours, replace(ours, observations=ours.observations + 1))


# --- What must not be read ---


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


class Cunning:
    def __reduce__(self):
        return (np.load, ("x.npy",))


@pytest.mark.parametrize("what", [Evil(), [1, Evil()], Cunning(), np.float64(1)])
def test_a_pickle_with_a_forbidden_global_is_not_executed(tmp_path, capsys, what) -> None:
    (tmp_path / "labels").write_bytes(pickle.dumps(what))
    with pytest.raises(UserError, match=r"it names .*Nothing of it was executed"):
        read_numbers(tmp_path / "labels")
    assert capsys.readouterr().out == ""


def test_a_forbidden_pickle_is_refused_in_a_line(place: Path, capsys) -> None:
    row_files(place)
    Path("label_human").write_bytes(pickle.dumps([0, 1, Evil()]))
    words = ["--rows", "rows_1", "rows_2", "--trajectories", "dots.hdf5", "--segment-length", "6"]
    said = refused(capsys, "import", "label_human", *words, "--label-one-means", "second")
    assert "label_human: it names builtins.print" in said


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_lists_are_read_from_pickles(tmp_path: Path, protocol: int) -> None:
    for values in ([1, 0, -1], np.array([3, 1, 2], np.int32), np.array([0.5, 1])):
        if protocol == 5 and isinstance(values, np.ndarray):
            continue  # by another function, for buffers
        (tmp_path / "x").write_bytes(pickle.dumps(values, protocol))
        assert read_numbers(tmp_path / "x").tolist() == list(values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as a pickle"),
        (b"\x80\x04\x95", "cannot be read as a pickle"),
        (pickle.dumps({"a": 1}), "it holds dict"),
        (pickle.dumps(["a"]), "no row of numbers"),
        (pickle.dumps(np.array([{}]), 4), "no row of numbers"),
        (pickle.dumps(np.zeros((2, 2)), 4), "no row of numbers"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_numbers(tmp_path / "x")


def archive(path: Path, names: list[str]) -> None:
    """An archive whose members have such names."""
    array = io.BytesIO()
    np.save(array, np.zeros((2, 3, 4)))
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "words" if name.endswith(".txt") else array.getvalue())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["obs_1.npy", "../action_1.npy"], "leads out of it: '../action_1.npy'"),
        (["/obs.npy"], "leads out of it"),
        (["a/../../b.npy"], "leads out of it"),
        (["obs_1.npy", "obs_1.npy"], "holds 'obs_1.npy' twice"),
        (["readme.txt"], "no array of NumPy's"),
        (["obs_1.npy", "obs_1"], "holds 'obs_1' twice"),
        ([], "it holds nothing"),
    ],
)
def test_strange_archives_are_refused(place: Path, capsys, names, said) -> None:
    archive(Path("x.npz"), names)
    assert said in refused(capsys, "import", "x.npz", "--label-one-means", "second")


def with_label(value):
    def spoil(arrays):
        arrays["label"][3] = value

    return spoil


def drop(key):
    return lambda arrays: arrays.pop(key)


def set_to(key, values):
    def spoil(arrays):
        arrays[key] = values

    return spoil


def nan_reward(arrays):
    arrays["reward_1"][2, 1] = np.nan


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (with_label(3.0), "labels must lie in [0, 1]"),
        (nan_reward, "rewards must be finite"),
        (drop("label"), "label is missing"),
        (drop("obs_2"), "obs_2 is missing"),
        (drop("reward_2"), "reward_1 and reward_2 must have one shape"),
        (set_to("action_2", np.zeros((12, 4, 2))), "action_1 and action_2 must have one shape"),
        (set_to("label", np.zeros(5)), "12 pairs, and 5 labels"),
        (set_to("obs_1", np.array(3.0)), "is a single number"),
        (set_to("label", np.array([None] * 12)), "cannot be read"),
    ],
)
def test_bad_arrays_are_refused_in_a_line(place: Path, capsys, spoil, said) -> None:
    arrays = pair_arrays()
    spoil(arrays)
    np.savez("x.npz", **arrays)
    assert said in refused(capsys, "import", "x.npz", "--label-one-means", "second")


def test_a_truncated_archive_is_refused(place: Path, capsys) -> None:
    np.savez("x.npz", **pair_arrays())
    Path("x.npz").write_bytes(Path("x.npz").read_bytes()[:-200])
    assert "cannot be read" in refused(capsys, "import", "x.npz", "--label-one-means", "second")


def claims_too_much(path: Path) -> None:
    arrays = pair_arrays()
    np.savez(path, **arrays)
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    )
    with zipfile.ZipFile(path) as before:
        members = {each: before.read(each) for each in before.namelist()}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in (members | {"label.npy": array.getvalue()}).items():
            after.writestr(name, content)


def no_header(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("obs_1.npy", b"\x93NUMPY\x01\x00\x05\x00{'a':")


def scrambled(path: Path) -> None:
    np.savez_compressed(path, **pair_arrays())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("obs_1.npy").header_offset + 60
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)


def said_to_be_encrypted(path: Path) -> None:
    np.savez(path, **pair_arrays())
    content = path.read_bytes()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(mark) + at
        content = content[:place] + b"\x01\x00" + content[place + 2 :]
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [claims_too_much, no_header, scrambled, said_to_be_encrypted])
def test_damaged_archives_are_refused_in_a_line(place: Path, capsys, spoil) -> None:
    spoil(Path("x.npz"))
    said = refused(capsys, "import", "x.npz", "--label-one-means", "second")
    assert "x.npz cannot be read as an .npz archive of plain arrays (" in said


def test_what_is_passed_over_is_not_read(place: Path) -> None:
    np.savez_compressed("x.npz", **pair_arrays(), junk=np.zeros(10_000_000, np.uint8),
                        words=np.array(["a", "b"]))  # fmt: skip
    tracemalloc.start()
    preferences_from_npz(Path("x.npz"), label_one_means="second")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_a_damaged_preference_file_is_written_again(place: Path) -> None:
    np.savez("x.npz", **pair_arrays())
    words = ["import", "x.npz", "--label-one-means", "second"]
    assert main(words) == 0
    whole = Path("x.safetensors").read_bytes()
    Path("x.safetensors").write_bytes(whole[:-9])
    assert main(words) == 0
    assert Path("x.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("what", "words", "said"),
    [
        ("pairs.npz", ["--score-key", "none", "--pairs", "dense"], "--score-key and --pairs"),
        ("pairs.npz", ["--trajectories", "x", "--segment-length", "3"], "--trajectories and --seg"),
        ("scores.npz", ["--score-key", "rl_l2", "--annotator", "me"], "leave out --annotator"),
        ("scores.npz", ["--score-key", "rl_l2", "--ties", "half"], "leave out --ties"),
        ("tables", ["--task", "pointmass", "--annotator", "me"], "--task and --annotator"),
        ("tables", ["--label-one-means", "first"], "leave out --label-one-means"),
        ("mine.toml", ["--annotator", "me", "--pairs", "dense"], "--annotator and --pairs"),
        ("mine.toml", ["--out", "x.safetensors"], "no --out"),
    ],
)
def test_options_that_would_not_count_are_refused(place, capsys, what, words, said) -> None:
    np.savez("pairs.npz", **pair_arrays())
    np.savez("scores.npz", **stacked_arrays())
    Path("tables").mkdir()
    Path("tables/episodes.parquet").write_bytes(b"")
    labels = ["--label-one-means", "second"] if what == "pairs.npz" else []
    assert said in refused(capsys, "import", what, *labels, *words)


@pytest.mark.parametrize("out", ["there.npz", "there", "there.csv"])
def test_export_looks_where_it_would_write_before_anything_is_made(place, capsys, out) -> None:
    np.savez("there.npz", **pair_arrays())
    Path("there").mkdir()
    before = Path("there.npz").read_bytes()
    card = Path(__file__).parent / "dots.toml"
    said = refused(capsys, "export", str(card), out)
    assert "is there already" in said or "neither" in said
    assert Path("there.npz").read_bytes() == before and not Path("data").exists()


def test_other_preferences_are_not_overwritten(place: Path, capsys) -> None:
    np.savez("x.npz", **pair_arrays())
    words = ["import", "x.npz", "--label-one-means"]
    assert main([*words, "second"]) == 0
    assert main([*words, "second"]) == 0, "the same once more"
    before = Path("x.safetensors").read_bytes()
    assert "--out" in refused(capsys, *words, "first")
    assert Path("x.safetensors").read_bytes() == before
    assert json.loads(json.dumps(load_preferences("x.safetensors").info.source_hash))
