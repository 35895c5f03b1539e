"""Cards become trajectories and preferences: the same ones each time, whole ones or none."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import Labelling, Segments, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import replace_folder
from cpl_bench.preferences.file import load_preferences, write_preferences
from cpl_bench.preferences.inspect import inspect
from cpl_bench.preferences.label import is_labelled, label
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.preferences.scorers import SCORERS
from cpl_bench.preferences.segments import segments_of
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import make_task
from cpl_bench.trajectories.collect import collect, is_collected
from cpl_bench.trajectories.dataset import content_hash, scores_of
from cpl_bench.trajectories.formats.minari import (
    read_record,
    read_trajectories,
    write_trajectories,
)

DOTS = load_dataset_card(str(Path(__file__).parent / "dots.toml"))
TINY = replace(
    DOTS,
    name="tiny",
    file="tiny.toml",
    episodes=7,
    behaviour=replace(DOTS.behaviour, clone_steps=100, probe_episodes=8),
    segments=Segments(20, 8),
)
DRAWER = replace(
    TINY,
    name="drawers",
    task="drawer-open",
    episodes=4,
    behaviour=replace(TINY.behaviour, levels=(0.5,), demonstrations=2, probe_episodes=4),
    segments=Segments(6, 16),
    minimum_steps=16,
)


def files_below(root):
    """Everything in a folder with its bytes, hidden files too."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root of the test's own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory, pool):
    """A data root that holds the tiny card's data, which no test may change."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(place))
        collect(TINY, pool)
        label(TINY, pool)
    return place


@pytest.fixture
def tiny(made, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    return TINY


@pytest.fixture
def copied(made, root):
    """The tiny card's data in a place that the test may change."""
    import shutil

    shutil.copytree(made, root, dirs_exist_ok=True)
    return root


# --- Collect ---


def test_collecting_twice_gives_the_same(made, root):
    with RolloutPool(1) as alone:  # not even the number of workers matters
        collect(TINY, alone)
        path = label(TINY, alone)
    assert path.read_bytes() == (made / path.relative_to(root)).read_bytes()
    clones = [sorted((place / "clones").iterdir()) for place in (made, root)]
    assert len(clones[1]) == 1
    assert clones[0][0].name == clones[1][0].name
    tensors = [load_file(clone[0]) for clone in clones]
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[0].items():
        np.testing.assert_array_equal(value, tensors[1][name])


def test_another_seed_gives_other_episodes(tiny, made, copied, pool, monkeypatch):
    before = read_record(TINY.minari_id)["content_hash"]
    collect(replace(TINY, seed=1), pool)
    assert read_record(TINY.minari_id)["content_hash"] != before


def test_the_record_says_how_it_was_made(tiny):
    record = read_record(tiny.minari_id)
    assert record["card"] == json.loads(json.dumps(asdict(tiny)))
    assert record["content_hash"] == content_hash(read_trajectories(tiny.minari_id).trajectories)
    assert [level["wanted"] for level in record["levels"]] == [0.3, 0.7]
    for level in record["levels"]:
        assert 0 <= level["measured"] <= 1
        assert 1 <= level["step"] <= 100


def test_episodes_are_as_the_card_wants(tiny):
    source = read_trajectories(tiny.minari_id)
    assert len(source.trajectories) == 7
    assert len({each.seed for each in source.trajectories}) == 7
    assert {each.policy for each in source.trajectories} <= {0, 1}
    scores = scores_of(load_task("pointmass"), source.trajectories)
    assert scores.tolist() == [each.succeeded for each in source.trajectories]
    assert 0 < scores.mean() < 1
    assert not any(each.terminated for each in source.trajectories)
    for each in source.trajectories:
        steps = len(each.rewards)
        wanted = max(each.steps_to_success + 5, 12) if each.succeeded else 50
        assert steps == min(wanted, 50)
        assert each.observations.shape == (steps + 1, 6)
        assert each.observations.dtype == each.actions.dtype == np.float32
        assert each.actions.shape == (steps, 2)
        assert each.states.shape == (steps + 1, 7)


def check_replay(trajectory, task, **tolerance):
    """From its seed an episode comes again, and each state is that of its step."""
    equal = partial(np.testing.assert_allclose, **{"rtol": 0, "atol": 0, **tolerance})
    observation, _ = task.reset(seed=trajectory.seed)
    for step, action in enumerate(trajectory.actions):
        equal(observation, trajectory.observations[step])
        equal(task.get_state(), trajectory.states[step])
        observation, reward, _, _, info = task.step(action)
        equal(reward, trajectory.rewards[step])
        assert info["success"] == trajectory.successes[step]
    equal(observation, trajectory.observations[-1])


def test_episodes_replay_from_their_seed(tiny):
    for trajectory in read_trajectories(tiny.minari_id).trajectories:
        check_replay(trajectory, make_task(load_task("pointmass")))


def test_drawer_open_is_collected_and_labelled(root, pool):
    collect(DRAWER, pool)
    source = read_trajectories(DRAWER.minari_id)
    for trajectory in source.trajectories[:2]:
        here = make_task(load_task("drawer-open"))  # with this process's mathematics, not workers'
        check_replay(trajectory, here, rtol=1e-6, atol=1e-6)
    preferences = load_preferences(label(DRAWER, pool))
    assert preferences.observations.shape == (source.episode_ends[-1], 35)
    assert (preferences.scores <= 216).all()
    assert (preferences.scores >= -216).all()
    assert preferences.info.versions["mujoco"] == source.record["versions"]["mujoco"]


# --- Minari ---

READ_BY_MINARI = """
import sys
import minari
import numpy as np

assert "cpl_bench" not in sys.modules
dataset = minari.load_dataset("cpl_bench/tiny-v0")
environment = dataset.recover_environment()
assert dataset.total_episodes == 7
for episode, metadata in zip(dataset, dataset.storage.get_episode_metadata(range(7))):
    observation, _ = environment.reset(seed=int(metadata["seed"]))
    steps = len(episode.rewards)
    assert episode.infos["success"].shape == (steps + 1,)
    assert episode.infos["state"].shape == (steps + 1, 7)
    assert not episode.terminations.any()
    assert episode.truncations.tolist() == [False] * (steps - 1) + [True]
    for t, action in enumerate(episode.actions):
        assert np.array_equal(observation, episode.observations[t])
        assert environment.unwrapped.get_state().tolist() == episode.infos["state"][t].tolist()
        observation, reward, _, _, info = environment.step(action)
        assert reward == episode.rewards[t]
        assert info["success"] == episode.infos["success"][t + 1]
    assert np.array_equal(observation, episode.observations[-1])
print(environment.spec.id)
"""


def test_minari_reads_it_and_recovers_the_environment(tiny, made):
    process = subprocess.run(
        [sys.executable, "-c", READ_BY_MINARI], capture_output=True, text=True, cwd=made
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["cpl_bench/pointmass-v0"]


def test_an_id_can_be_written_again(tiny, copied, pool):
    fewer = replace(TINY, episodes=3)
    collect(fewer, pool)
    assert len(read_trajectories(TINY.minari_id).trajectories) == 3
    assert is_collected(fewer)
    assert not [path for path in copied.iterdir() if path.name.startswith(".")]


# --- Label ---


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("pairs", ["dense", "sparse", "ranked"])
def test_labels_are_the_scorers(tiny, made, copied, pool, scorer, pairs):
    size = 4 if pairs == "ranked" else None
    quick = {"steps": 3} if scorer == "advantage" else None
    card = with_options(
        TINY, scorer, pairs=pairs, segments=21, ranked_size=size, scorer_settings=quick
    )
    preferences = load_preferences(label(card, pool))
    source = read_trajectories(TINY.minari_id)
    segments = segments_of(source, preferences.segment_starts, 8)
    expected = SCORERS[scorer](segments, load_task("pointmass"), card.labelling, pool)
    np.testing.assert_array_equal(preferences.scores, expected)
    for name in ("actions", "rewards"):
        flat = np.concatenate([getattr(each, name) for each in source.trajectories])
        np.testing.assert_array_equal(getattr(preferences, name), flat.astype(np.float32))
    flat = np.concatenate([each.observations[:-1] for each in source.trajectories])
    np.testing.assert_array_equal(preferences.observations, flat)
    assert preferences.info.source_hash == source.record["content_hash"]
    compared = list(zip(preferences.first.tolist(), preferences.second.tolist(), strict=True))
    assert preferences.info.ranked_size == (size or 0)
    if pairs == "dense":
        assert compared == []
    elif pairs == "sparse":  # the odd one stays alone
        assert compared == [(i, i + 1) for i in range(0, 20, 2)]
    else:
        questions = [range(i, i + 4) for i in range(0, 20, 4)]
        assert compared == [pair for each in questions for pair in combinations(each, 2)]
    for first, second, answer in zip(
        preferences.first, preferences.second, preferences.prefers_second, strict=True
    ):
        better = preferences.scores[second] - preferences.scores[first]
        assert answer == 0.5 + 0.5 * np.sign(better)


def test_the_options_choose_the_file(tiny):
    paths = {
        preference_path(with_options(tiny, **options))
        for options in (
            {},
            {"scorer": "partial_return"},
            {"annotator": "noisy"},
            {"annotator": "noisy", "annotator_settings": {"error_rate": 0.1}},
            {"annotator": "noisy", "annotator_settings": {"error_rate": 0.2}},
            {"annotator": "noisy", "annotator_settings": {"temperature": 0.2}},
            {"pairs": "sparse"},
            {"pairs": "ranked", "ranked_size": 3},
            {"pairs": "ranked", "ranked_size": 4},
            {"segments": 30},
            {"segment_length": 5},
        )
    }
    paths |= {
        preference_path(replace(tiny, **change))
        for change in (
            {"seed": 1},
            {"name": "other"},
            {"labelling": replace(tiny.labelling, cap_steps=51)},
            {"labelling": replace(tiny.labelling, scorer="mine:regret")},
        )
    }
    assert len(paths) == 15
    assert preference_path(tiny).name == "regret-cap_steps50-20x8-dense-oracle-seed0.safetensors"


def test_settings_that_decide_nothing_are_not_in_the_name(tiny):
    """Scorers that sum rewards have no cap; another annotator's settings are dropped."""
    for scorer in ("partial_return", "return_regret"):
        card = with_options(tiny, scorer=scorer)
        capped = replace(card, labelling=replace(card.labelling, cap_steps=51))
        assert preference_path(card) == preference_path(capped)
    wavering = with_options(tiny, annotator="noisy", annotator_settings={"error_rate": 0.1})
    assert with_options(wavering).labelling == wavering.labelling
    assert with_options(wavering, annotator="oracle") == with_options(tiny)
    with pytest.raises(UserError, match="No setting of this annotator is called 'error_rate'"):
        with_options(tiny, annotator_settings={"error_rate": 0.1})


def test_a_ranked_file_says_its_size(tiny, made, copied, pool):
    card = with_options(TINY, "partial_return", pairs="ranked", ranked_size=4)
    path = label(card, pool)
    assert path.name == "partial_return-20x8-ranked4-oracle-seed0.safetensors"
    assert is_labelled(card)
    assert load_preferences(path).info.command == (
        "cpl-bench label tiny.toml --scorer partial_return --annotator oracle --segments 20 "
        "--segment-length 8 --pairs ranked --ranked-size 4"
    )
    other = with_options(card, ranked_size=5)
    assert not is_labelled(other)
    path.rename(preference_path(other))
    assert not is_labelled(other)


def test_other_pairs_drop_the_cards_ranking():
    card = with_options(TINY, pairs="ranked", ranked_size=4)
    assert with_options(card).segments.ranked_size == 4
    assert with_options(card, ranked_size=3).segments.ranked_size == 3
    assert with_options(card, pairs="ranked").segments.ranked_size == 4
    assert with_options(card, pairs="sparse").segments == replace(TINY.segments, pairs="sparse")


# --- Inspect ---


@pytest.mark.parametrize("rewards", [True, False])
def test_inspect_shows_rankings_with_and_without_rewards(tiny, made, copied, pool, capsys, rewards):
    card = with_options(TINY, pairs="ranked", ranked_size=4)
    path = label(card, pool)
    if not rewards:
        write_preferences(path, replace(load_preferences(path), rewards=None))
    capsys.readouterr()
    assert inspect(card, path, pool).is_file()
    shown = capsys.readouterr().out
    assert "ranked: 30 comparisons" in shown
    assert ("regret and partial_return agree on" in shown) == rewards
    assert ("rewards        none in the file" in shown) == (not rewards)


# --- What is there ---


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"episodes": 8},
        {"task": "drawer-open"},
        {"minimum_steps": 13},
        {"stop_steps_after_success": 6},
        {"behaviour": replace(TINY.behaviour, action_noise=0.1)},
        {"behaviour": replace(TINY.behaviour, levels=(0.3,))},
        {"name": "other"},
    ],
)
def test_another_card_is_not_collected(tiny, change):
    assert is_collected(tiny)
    assert not is_collected(replace(tiny, **change))


def test_what_does_not_touch_the_episodes_needs_no_collecting(tiny):
    band = replace(TINY.behaviour, score_band=(0.3, 0.4))
    for change in ({"behaviour": band}, {"description": "x"}, {"segments": Segments(3, 3)}):
        assert is_collected(replace(tiny, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"segments": Segments(21, 8)},
        {"segments": Segments(20, 9)},
        {"segments": Segments(20, 8, "sparse")},
        {"segments": Segments(20, 8, "ranked", 4)},
        {"labelling": Labelling(scorer="partial_return")},
        {"labelling": replace(TINY.labelling, cap_steps=51)},
        {"labelling": replace(TINY.labelling, annotator="noisy")},
        {"name": "other"},
    ],
)
def test_another_card_is_not_labelled(tiny, change):
    assert is_labelled(tiny)
    assert not is_labelled(replace(tiny, **change))


def test_other_trajectories_are_not_labelled(tiny, copied, pool):
    assert is_labelled(TINY)
    collect(replace(TINY, episodes=6), pool)
    assert not is_labelled(TINY)
    label(TINY, pool)
    assert is_labelled(TINY)


# --- Refusals ---


def test_a_segment_longer_than_every_episode_is_refused(tiny, copied, pool):
    before = files_below(copied)
    with pytest.raises(UserError, match="51 steps is longer than an episode"):
        label(replace(TINY, segments=Segments(20, 51)), pool)
    assert files_below(copied) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "regrets"}, "Did you mean 'regret'"),
        ({"annotator": "orakle"}, "Did you mean 'oracle'"),
        ({"segments": 1}, "at least 2 segments"),
        ({"segment_length": -1}, "at least 1 step"),
        ({"pairs": "ranked"}, "ranked_size must lie between 2 .*, 20, .*got 0.* --ranked-size K"),
        ({"pairs": "ranked", "ranked_size": 1}, "between 2 and the number of segments, 20,.*got 1"),
        ({"pairs": "ranked", "ranked_size": 21}, "got 21"),
        ({"ranked_size": 4}, "for ranked pairs only, not for dense ones"),
        ({"pairs": "sparse", "ranked_size": 2}, "for ranked pairs only, not for sparse ones"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        with_options(TINY, **options)


def test_a_card_with_an_unknown_scorer_is_refused(tiny, pool):
    with pytest.raises(UserError, match="Known: advantage, goal_distance, partial_return, regret"):
        label(replace(tiny, labelling=Labelling(scorer="love")), pool)


def test_missing_trajectories_are_refused(root, pool):
    with pytest.raises(UserError, match="cpl-bench collect tiny"):
        label(TINY, pool)
    assert not is_collected(TINY)
    assert not is_labelled(TINY)
    assert files_below(root) == {}


def damage_by_truncation(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_by_deletion(file):
    file.unlink()


def damage_by_losing_an_episode(file):
    with h5py.File(file, "r+") as opened:
        del opened["episode_3"]


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_truncation,
        damage_by_deletion,
        damage_by_losing_an_episode,
    ],
)
def test_damaged_trajectories_are_refused(tiny, copied, pool, damage):
    damage(copied / "cpl_bench" / "tiny-v0" / "data" / "main_data.hdf5")
    before = files_below(copied)
    with pytest.raises(UserError, match=r"cannot be read.*left as they are.*move it away"):
        label(TINY, pool)
    assert files_below(copied) == before


def test_lost_states_cannot_be_forked(tiny, copied, pool):
    with h5py.File(copied / "cpl_bench" / "tiny-v0" / "data" / "main_data.hdf5", "r+") as opened:
        del opened["episode_3"]["infos"]["state"]
    with pytest.raises(UserError, match=r"no simulator states.*--scorer partial_return"):
        label(TINY, pool)
    label(with_options(TINY, scorer="partial_return"), pool)


def test_a_failed_collection_leaves_everything_as_it_was(tiny, copied, pool, monkeypatch):
    import minari

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    other = replace(TINY, episodes=5)
    before = files_below(copied)
    monkeypatch.setattr(minari, "create_dataset_from_buffers", full_disk)
    with pytest.raises(OSError, match="no space"):
        collect(other, pool)
    assert files_below(copied) == before
    assert is_collected(TINY)


def test_a_failed_labelling_leaves_everything_as_it_was(tiny, copied, pool, monkeypatch):
    before = files_below(copied)
    monkeypatch.setitem(SCORERS, "regret", lambda segments, *_: np.full(20, np.nan))
    with pytest.raises(UserError, match="finite"):
        label(TINY, pool)
    assert files_below(copied) == before


# --- What lies there already is never lost ---


class Interrupted:
    """`Path.rename` that is cut off at its `number`-th call, before or after the deed, once."""

    def __init__(self, number, done, rename):
        self.left, self.done, self.rename = number, done, rename

    def __get__(self, path, _):
        return lambda target: self.renamed(path, target)

    def renamed(self, path, target):
        self.left -= 1
        if self.left == 0 and not self.done:
            raise KeyboardInterrupt
        result = self.rename(path, target)
        if self.left == 0:
            raise KeyboardInterrupt
        return result


def interrupt(patch, number, done=False):
    patch.setattr(Path, "rename", Interrupted(number, done, Path.rename))


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupted_replacement_leaves_one_folder_whole(tmp_path, monkeypatch, number, done):
    old, new = tmp_path / "data", tmp_path / "staging"
    for folder in (old, new):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text(folder.name)
    with monkeypatch.context() as patch:
        interrupt(patch, number, done)
        with pytest.raises(KeyboardInterrupt):
            replace_folder(new, old)
    kept = "staging" if number == 2 and done else "data"
    assert (old / "deep" / "file").read_text() == kept
    assert not (tmp_path / ".data.replaced").exists()
    if new.exists():
        replace_folder(new, old)
    assert (old / "deep" / "file").read_text() == "staging"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c_while_replacing_leaves_the_old_dataset(tiny, copied, pool, monkeypatch, number):
    before = files_below(copied)
    with monkeypatch.context() as patch:
        interrupt(patch, number)
        with pytest.raises(KeyboardInterrupt):
            collect(replace(TINY, episodes=3), pool)
    assert files_below(copied) == before
    assert is_collected(TINY) and is_labelled(TINY)
    collect(replace(TINY, episodes=3), pool)
    assert len(read_trajectories(TINY.minari_id).trajectories) == 3


def is_read(card):
    return len(read_trajectories(card.minari_id).trajectories) == 7


@pytest.mark.parametrize("read", [is_collected, is_labelled, is_read])
def test_what_a_kill_left_aside_is_put_back(tiny, copied, read):
    """A kill between the two renames leaves nothing in the dataset's place."""
    before = files_below(copied)
    folder = copied / "cpl_bench" / "tiny-v0"
    folder.rename(folder.with_name(".tiny-v0.replaced"))
    assert read(TINY)
    assert files_below(copied) == before


def test_what_a_kill_left_over_is_cleared_away(tiny, copied):
    """A kill after the second rename leaves the older dataset beside the new one."""
    before = files_below(copied)
    aside = copied / "cpl_bench" / ".tiny-v0.replaced"
    aside.mkdir()
    (aside / "old").write_text("old")
    assert is_collected(TINY)
    assert files_below(copied) == before and not aside.exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff\xfe", b"[]", b'{"cpl_bench": "{"}', b'{"cpl_bench": "[1]"}'],
)
def test_an_unreadable_record_is_refused_and_left_alone(tiny, copied, pool, content):
    path = copied / "cpl_bench" / "tiny-v0" / "data" / "metadata.json"
    path.unlink() if content is None else path.write_bytes(content)
    before = files_below(copied)
    for card in (TINY, replace(TINY, episodes=3)):
        for verb in (lambda card: collect(card, pool), is_collected):
            with pytest.raises(UserError) as caught:
                verb(card)
            message = str(caught.value)
            assert str(path.parent.parent) in message and "left as it is" in message
            assert "MINARI_DATASETS_PATH" in message and "delete" not in message.lower()
    assert files_below(copied) == before


def test_cards_of_one_name_do_not_share_a_place(root, pool, tmp_path_factory):
    """Two people's cards called `mine` in two folders, of different data."""
    cards = []
    text = (Path(__file__).parent / "dots.toml").read_text().replace("= 150", "= 5")
    text = text.replace("clone_steps = 600", "clone_steps = 50").replace("count = 600", "count = 9")
    for seed in range(2):
        path = tmp_path_factory.mktemp("cards") / "mine.toml"
        path.write_text(f"seed = {seed}\n{text}")
        cards.append(load_dataset_card(str(path)))
    ours, theirs = cards
    assert ours.minari_id == theirs.minari_id and ours.file != theirs.file
    collect(ours, pool)
    label(ours, pool)
    before = files_below(root)
    assert not is_collected(theirs)
    with pytest.raises(UserError) as caught:
        collect(theirs, pool)
    for said in ("another card of the same name", ours.file, theirs.file, "another name"):
        assert said in str(caught.value)
    assert files_below(root) == before
    again = replace(ours, episodes=3)
    collect(again, pool)  # one's own may be made anew
    assert is_collected(again)


# --- Data of other programs ---


def make_foreign(minari_id, episodes=4, steps=20, infos=False):
    """A Minari dataset as anybody records it: float64, no success, no states, no seeds."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    last = np.arange(steps) == steps - 1
    buffers = [
        EpisodeBuffer(
            id=i,
            observations=rng.normal(size=(steps + 1, 6)),
            actions=rng.uniform(-1, 1, (steps, 2)),
            rewards=rng.normal(size=steps),
            terminations=last & (i % 2 == 1),
            truncations=last & (i % 2 == 0),
            infos={"torque": rng.normal(size=steps + 1)} if infos else None,
        )
        for i in range(episodes)
    ]
    minari.create_dataset_from_buffers(
        minari_id,
        buffers,
        observation_space=Box(-np.inf, np.inf, (6,), np.float64),
        action_space=Box(-1, 1, (2,), np.float64),
        algorithm_name="somebody's",
        author="somebody",
        data_format="hdf5",
    )
    return buffers


@pytest.mark.filterwarnings("ignore")  # Minari's, of metadata that nobody gave
@pytest.mark.parametrize("infos", [False, True])
def test_a_foreign_dataset_is_read(root, infos):
    buffers = make_foreign("somebody/moves-v3", infos=infos)
    source = read_trajectories("somebody/moves-v3")
    assert source.record == {} and source.episode_ends.tolist() == [20, 40, 60, 80]
    for each, buffer in zip(source.trajectories, buffers, strict=True):
        assert each.observations.dtype == each.actions.dtype == np.float32
        np.testing.assert_array_equal(each.observations, buffer.observations.astype(np.float32))
        np.testing.assert_array_equal(each.actions, buffer.actions.astype(np.float32))
        np.testing.assert_array_equal(each.rewards, buffer.rewards)
        assert each.successes.shape == (20,) and not each.succeeded
        assert each.terminated == (buffer.id % 2 == 1)
        assert len(each.states) == 0


@pytest.mark.filterwarnings("ignore")
def test_a_foreign_dataset_is_labelled_by_its_rewards_and_not_by_forks(root, pool):
    make_foreign(TINY.minari_id)
    before = files_below(root)
    for scorer in ("regret", "return_regret"):
        with pytest.raises(UserError, match=r"hold no simulator states.*--scorer partial_return"):
            label(with_options(TINY, scorer=scorer), pool)
    assert files_below(root) == before
    preferences = load_preferences(label(with_options(TINY, scorer="partial_return"), pool))
    rows = preferences.segment_starts[:, None] + np.arange(8)
    paid = preferences.rewards[rows].sum(1, dtype=np.float64)
    np.testing.assert_allclose(preferences.scores, paid, atol=1e-5)
    assert np.flatnonzero(preferences.terminations).tolist() == [39, 79]
    assert preferences.info.source_hash == ""


@pytest.mark.filterwarnings("ignore")
def test_a_foreign_dataset_is_never_overwritten(root, pool):
    make_foreign(TINY.minari_id)
    before = files_below(root)
    for verb in (lambda card: collect(card, pool), is_collected):
        with pytest.raises(UserError) as caught:
            verb(TINY)
        message = str(caught.value)
        assert "that cpl_bench collect did not write" in message
        assert str(root / "cpl_bench" / "tiny-v0") in message
        assert "MINARI_DATASETS_PATH" in message and "delete" not in message.lower()
    assert files_below(root) == before


# --- Episodes that their task ends ---


def test_terminated_episodes_stay_so(tiny, copied, pool, capsys):
    """Through Minari, whose own flags say so at the last step, and into the preference file."""
    import minari

    source = read_trajectories(TINY.minari_id)
    ended = [i % 3 == 1 for i in range(7)]
    trajectories = [
        replace(each, terminated=end) for each, end in zip(source.trajectories, ended, strict=True)
    ]
    before = source.record["content_hash"]
    record = source.record | {"content_hash": content_hash(trajectories)}
    assert record["content_hash"] != before
    write_trajectories(TINY.minari_id, load_task("pointmass"), trajectories, record)
    for episode, end in zip(minari.load_dataset(TINY.minari_id), ended, strict=True):
        flags = (episode.terminations, episode.truncations)
        assert [each[-1] for each in flags] == [end, not end]
        assert not any(each[:-1].any() for each in flags)
    read = read_trajectories(TINY.minari_id).trajectories
    assert [each.terminated for each in read] == ended
    assert content_hash(read) == record["content_hash"]
    assert not is_labelled(TINY)  # the labels are of other data
    preferences = load_preferences(label(TINY, pool))
    assert is_labelled(TINY)
    last_steps = preferences.episode_ends[np.array(ended)] - 1
    np.testing.assert_array_equal(np.flatnonzero(preferences.terminations), last_steps)
    assert inspect(TINY, preference_path(TINY), pool).is_file()
    assert "terminated     28.6% of the episodes" in capsys.readouterr().out


def test_episodes_that_time_ends_say_nothing(tiny):
    assert load_preferences(preference_path(tiny)).terminations is None
