"""What `inspect` measures: noise, agreement and coverage by hand; pictures of pairs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from cpl_bench.cli.inspect import inspect
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import data_root
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.examine import (
    agreement,
    agreement_lines,
    coverage_lines,
    file_lines,
    noise,
)
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.inspect import inspect as inspect_card
from cpl_bench.preferences.inspect import pairs_of
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import with_options
from cpl_bench.preferences.scorers import SCORERS
from cpl_bench.runs.pair_film import Pair, _pairs, film_pairs

DOTS = Path(__file__).parent / "dots.toml"
EVERY = [0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]


def listed(answers, weight=None, scores=(1, 2, 3, 3)):
    """Six answers about four segments of two steps."""
    rng = np.random.default_rng(0)
    return preferences_from_arrays(
        rng.normal(size=(4, 2, 3)),
        rng.uniform(-1, 1, (4, 2, 1)),
        *EVERY,
        answers,
        weight=weight,
        scores=scores,
        rewards=np.arange(8).reshape(4, 2),
    )


def test_noise_by_hand():
    #                  1<2  1<3  1<3  2<3  2<3  3=3
    made = listed([1.0, 0.0, 0.5, 1.0, 0.0, 1.0], weight=[1, 1, 1, 1, 0, 1])
    found = noise(made, made.scores, made.first, made.second)
    assert found.answers == 3 and found.flipped == pytest.approx(1 / 3)
    assert found.tied == pytest.approx(1 / 4) and found.skipped == pytest.approx(1 / 6)
    nothing = noise(listed([0.5] * 6), made.scores, made.first, made.second)
    assert np.isnan(nothing.flipped) and nothing.answers == 0 and nothing.tied == 1


def test_agreement_by_hand():
    scores = {
        "up": np.array([1.0, 2.0, 3.0, 4.0]),
        "down": np.array([4.0, 3.0, 2.0, 1.0]),
        "half": np.array([0.0, 0.0, 1.0, 1.0]),
        "flat": np.zeros(4),
    }
    first, second = np.triu_indices(4, 1)
    shares, ties = agreement(scores, first, second)
    np.testing.assert_array_equal(shares[:3, :3], [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert np.isnan(shares[3]).all()
    np.testing.assert_allclose(ties, [0, 0, 1 / 3, 1])
    lines = agreement_lines(scores, first, second)
    assert len(lines) == 6 and lines[2].split() == [
        "up",
        "100.0%",
        "0.0%",
        "100.0%",
        "nan%",
        "0.0%",
    ]
    assert agreement_lines({"up": scores["up"]}, first, second) == []


def test_coverage_by_hand():
    made = listed([1.0] * 6)
    one = replace(  # an episode of eight steps, of which four are covered, two of them twice
        made,
        episode_ends=np.array([8]),
        segment_starts=np.array([0, 0, 2, 0]),
    )
    lines = coverage_lines(one)
    assert lines[0] == (
        "coverage       1 of 1 episodes hold 4 to 4 segments; 50.0% of the steps are in one"
    )
    assert lines[1].split()[2:12] == ["0%", "75%", "0%", "25%", *["0%"] * 6]


def test_a_file_of_people_is_measured_by_what_it_holds():
    made = listed([1.0, 1.0, 0.0, 1.0, 1.0, 0.5])
    people = replace(made, scores=None, info=replace(made.info, scorer=""))
    lines = file_lines(people, pairs_of(people))
    assert "20.0% of 5 answers go against partial_return" in lines[0]
    bare = replace(people, rewards=None)
    (line,) = file_lines(bare, pairs_of(bare))
    assert line.startswith("coverage ") and line.endswith("; each is a whole episode")


# --- On a card's data, and a file of them ---


@pytest.fixture
def own(dots, tmp_path, monkeypatch):
    """The dots' card on a copy of their data."""
    card, root, path = dots
    shutil.copytree(root, tmp_path / "data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return card, tmp_path / "data" / path.relative_to(root)


def test_the_measured_noise_of_a_file_is_the_teachers(own, pool, capsys):
    card, _ = own
    how = with_options(
        card,
        annotator="noisy",
        annotator_settings={"error_rate": 0.2},
        pairs="sparse",
        comparisons=20,
    )
    path = label(how, pool)
    made = load_preferences(path)
    found = noise(made, made.scores, made.first, made.second)
    assert found.answers > 3000 and found.skipped == 0
    wrong = round(found.flipped * found.answers)
    assert binomtest(wrong, found.answers, 0.2).pvalue > 0.01
    inspect(str(path))
    said = capsys.readouterr().out
    assert f"{found.flipped:.1%} of {found.answers:,} answers go against regret" in said
    assert path.with_name(f"{path.stem}-coverage.png").is_file()
    with pytest.raises(UserError, match="is only looked at"):
        inspect(str(path), probe=True)


def test_a_card_shows_how_its_scorers_agree(own, capsys):
    inspect(str(DOTS), scorers=("success", "goal_distance"), workers=1)
    said = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("agreement      of the"))
    assert said[at + 1].split() == ["regret", "partial_return", "success", "goal_distance", "ties"]
    paid = said[at + 3].split()
    assert paid[0] == "partial_return" and paid[4] == "100.0%"  # its reward is that distance
    assert any(line.startswith("coverage ") for line in said)
    assert any(line.startswith("noise          0.0%") for line in said)


def test_a_file_is_asked_what_its_card_would_be(own, tmp_path, capsys):
    _, path = own
    inspect(str(DOTS), scorers=("success", "goal_distance"), workers=1)
    wanted = capsys.readouterr().out.splitlines()
    alone = shutil.copy(path, tmp_path / "alone.safetensors")
    inspect(str(alone), scorers=("success", "goal_distance"), workers=1)
    found = capsys.readouterr().out.splitlines()
    at = [
        next(i for i, line in enumerate(lines) if line.startswith("agreement      of the"))
        for lines in (wanted, found)
    ]
    assert wanted[at[0] : at[0] + 6] == found[at[1] : at[1] + 6]
    inspect(str(alone), workers=1)
    said = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("agreement      of the"))
    assert said[at + 1].split() == ["regret", "partial_return", "ties"], "as it was"


def test_a_file_is_asked_as_it_was_labelled(own, pool, monkeypatch, capsys):
    asked = []

    def curious(segments, task, labelling, pool):
        asked.append((task.name, labelling.scorer, labelling.cap_steps, labelling.discount))
        return np.arange(60, dtype=float)

    monkeypatch.setitem(SCORERS, "curious", curious)
    how = with_options(own[0], segments=60)
    path = label(replace(how, labelling=replace(how.labelling, cap_steps=31)), pool)
    inspect(str(path), scorers=("curious", "regret", "curious"), workers=1)
    assert asked == [("pointmass", "curious", 31, 1.0)]


def test_why_a_file_cannot_be_asked_is_told(own, tmp_path, capsys):
    path = shutil.copy(own[1], tmp_path / "alone.safetensors")
    source = data_root() / "cpl_bench"
    source.rename(source.with_name("away"))
    with pytest.raises(UserError, match=r"No trajectories at .*cpl-bench collect dots"):
        inspect(str(path), scorers=("success",), workers=1)
    source.with_name("away").rename(source)
    made = load_preferences(path)
    other = tmp_path / "other.safetensors"
    write_preferences(other, replace(made, info=replace(made.info, source_hash="x")))
    with pytest.raises(UserError, match=r"are not those that .*other.safetensors was cut from"):
        inspect(str(other), scorers=("success",), workers=1)
    write_preferences(tmp_path / "own.safetensors", listed([1.0] * 6))
    with pytest.raises(UserError, match=r"no trajectories, and success, advantage would score"):
        inspect(str(tmp_path / "own.safetensors"), scorers=("success", "advantage"), workers=1)
    assert "picture" not in capsys.readouterr().out


@pytest.mark.parametrize("score", ["success", "return", "normalised return"])
def test_names_and_what_is_said_of_them_do_not_run_together(own, pool, tmp_path, capsys, score):
    """However long the name of a task's score is, the column is wider, of all lines alike."""
    ends = "reference = { random_return = -50, expert_return = 0 }\n" * (score[0] == "n")
    (tmp_path / "flat.toml").write_text(
        'suite = "pointmass"\nsource_id = "PointMass-v0"\nhorizon_steps = 50\n'
        f'score = "{score.split()[-1]}"\n{ends}'
    )
    card = replace(own[0], task=str(tmp_path / "flat.toml"), behaviour=None)
    capsys.readouterr()
    inspect_card(card, own[1], pool, ("success",), ["verdict        the published bytes"])
    said = capsys.readouterr().out.splitlines()
    wide = max(15, len(score) + 2)
    assert all(line[wide - 2 : wide] == "  " and line[wide] != " " for line in said if line.strip()
               and not line.startswith(" " * wide))  # fmt: skip
    assert any(line.startswith(f"{score:<{wide}}") for line in said)
    assert f"{'verdict':<{wide}}the published bytes" in said


def test_other_scorers_are_asked_without_the_cards_settings(own, pool, monkeypatch):
    card, asked = own[0], []

    def curious(segments, task, labelling, pool):
        asked.append(labelling)
        return np.arange(card.segments.count, dtype=float)

    monkeypatch.setitem(SCORERS, "curious", curious)
    ends = {"achieved": [0, 1], "desired": [2, 3]}
    how = with_options(card, "goal_distance", scorer_settings=ends)
    how = with_options(how, annotator="bpref_myopic", pairs="sparse")
    inspect_card(how, label(how, pool), pool, ("curious",))
    assert (asked[0].scorer, asked[0].scorer_settings) == ("curious", {})
    assert asked[0].discount == 1  # the myopia is of single steps, and it scores whole segments


def test_a_pair_is_filmed_side_by_side_with_its_answer(own):
    """Every frame shows the state that was recorded: the mass where the observation has it."""
    _, path = own
    made = load_preferences(path)
    film, sheet = film_pairs(made, path.parent, "dots", (3, 17))
    assert (film.name, sheet.name) == ("dots-pair.webp", "dots-pairs.png")
    with Image.open(film) as image:
        assert image.n_frames == 7  # 13 states, every second
        image.seek(0)
        first = np.asarray(image.convert("RGB")).astype(int)
    assert first.shape == (320 + 26, 644, 3)
    for side, position in enumerate((3, 17)):
        half = first[26:, side * 324 : side * 324 + 320]
        dark = np.argwhere((half.sum(2) < 350) & (half[:, :, 2] < 160))
        row, column = dark.mean(0) / 319 * 2 - 1
        east, north = made.observations[made.segment_starts[position], :2]
        assert column == pytest.approx(east, abs=0.06) and -row == pytest.approx(north, abs=0.06)
    with Image.open(sheet) as image:
        assert image.size == (6 * 128, 10 * (128 + 26) + 5 * 8)


@pytest.mark.parametrize("pair", [(1, 0), (0, 1)])
def test_a_listed_pair_is_shown_in_the_order_asked(own, pool, tmp_path, pair):
    how = with_options(own[0], pairs="sparse", segments=60, scorer="partial_return")
    made = load_preferences(label(how, pool))
    place = int(np.flatnonzero((made.first == 0) & (made.second == 1))[0])
    (found, *others) = _pairs(made, pair)
    assert found[:2] == pair
    answer = made.prefers_second[place]
    assert found.prefers_second == (answer if pair == (0, 1) else 1 - answer) != 0.5
    better = pair[int(found.prefers_second)]
    assert made.scores[better] == max(made.scores[:2])
    assert f"segment {better}: preferred" in str(found.captions(made))
    assert len(others) == 4 and made.first[place] == 0
    assert len(film_pairs(made, tmp_path, "dots", pair)) == 2
    with pytest.raises(UserError, match="lists no comparison of 2 and 1"):
        _pairs(made, (2, 1))


def test_captions_say_who_was_preferred():
    made = listed([1.0] * 6)
    words = [
        [text for text, _ in Pair(0, 1, *answer).captions(made)]
        for answer in ((1.0, 1.0), (0.5, 1.0), (0.0, 0.0))
    ]
    assert words[0] == ["segment 0: not preferred, score 1.0", "segment 1: preferred, score 2.0"]
    assert words[1] == ["segment 0: tie, score 1.0", "segment 1: tie, score 2.0"]
    assert words[2] == ["segment 0: skipped, score 1.0", "segment 1: skipped, score 2.0"]


def test_what_cannot_be_filmed_is_told(own, tmp_path):
    _, path = own
    made = load_preferences(path)
    with pytest.raises(UserError, match="two positions from 0 to 599; got"):
        film_pairs(made, tmp_path, "dots", (3, 600))
    other = replace(made, info=replace(made.info, source_hash="x"))
    with pytest.raises(UserError, match="are not those that dots was cut from"):
        film_pairs(other, tmp_path, "dots")
    with pytest.raises(UserError, match="names no trajectories with simulator states"):
        film_pairs(listed([1.0] * 6), tmp_path, "own")
    arrays = tmp_path / "own.safetensors"
    write_preferences(arrays, listed([1.0] * 6))
    with pytest.raises(UserError, match="nothing to film"):
        inspect(str(arrays), film=True)
    assert data_root().is_dir() and not list(tmp_path.glob("*.webp"))
