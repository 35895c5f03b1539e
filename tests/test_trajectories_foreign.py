"""Other people's trajectories, D4RL's HDF5 and anybody's Minari datasets, become ours."""

import http.server
import json
import os
import shutil
import socket
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from foreign_files import flat_arrays, write_d4rl
from minari.data_collector import EpisodeBuffer

from cpl_bench.cli.main import main
from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.library import label
from cpl_bench.preferences.file import load_preferences
from cpl_bench.trajectories.dataset import content_hash
from cpl_bench.trajectories.foreign import (
    import_trajectories,
    is_imported,
    paid_once,
    sha256_of,
)
from cpl_bench.trajectories.formats.d4rl import qlearning_rows, read_flat, trajectories_of
from cpl_bench.trajectories.formats.d4rl_files import known_of
from cpl_bench.trajectories.formats.minari import minari_root, read_trajectories

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
CARD = """
task = "pointmass"
[segments]
count = 20
length = 8
[labelling]
scorer = "partial_return"
[source]
format = "{format}"
id = "{id}"
"""
INFOS = """
DATASET_URLS = {{"dots-medium-v2": "{address}/dots_medium-v2.hdf5"}}
REF_MIN_SCORE = {{"dots-medium-v2": -59.0}}
REF_MAX_SCORE = {{"dots-medium-v2": -8.25}}
"""
FILES = "cpl_bench.trajectories.formats.d4rl_files"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders for our data, D4RL's and a home, and no installed d4rl."""
    for variable, name in (
        ("MINARI_DATASETS_PATH", "data"),
        ("D4RL_DATASET_DIR", "d4rl-data"),
        ("HOME", "home"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(f"{FILES}.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def card_of(places: Path, format: str, name: str, more: str = ""):
    """The card of an import."""
    (places / "mine.toml").write_text(CARD.format(format=format, id=name) + more)
    return load_dataset_card("mine.toml")


def refused(capsys: pytest.CaptureFixture[str], places: Path, *words: str) -> str:
    """The one line that a command is refused with; nothing is written."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    left = [path for path in (places / "data").rglob("*") if path.is_file()]
    assert [path for path in left if "foreign" not in path.parts] == []
    return said


# --- D4RL ---


def test_episodes_end_where_the_file_says(tmp_path: Path) -> None:
    arrays = flat_arrays()
    found = trajectories_of(read_flat(write_d4rl(tmp_path / "x.hdf5", arrays)), 1000)
    assert [len(each.rewards) for each in found] == [29, 12, 29]
    assert [each.terminated for each in found] == [False, True, False]
    assert np.array_equal(found[0].observations, arrays["observations"][:30])
    assert np.array_equal(found[1].observations[:-1], arrays["observations"][30:42])
    assert np.array_equal(found[1].rewards, arrays["rewards"][30:42].astype(np.float64))
    assert np.array_equal(found[2].actions, arrays["actions"][42:71])


def test_next_observations_keep_every_step(tmp_path: Path) -> None:
    arrays = flat_arrays()
    following = np.random.default_rng(1).normal(size=(72, 6)).astype(np.float32)
    path = write_d4rl(tmp_path / "x.hdf5", arrays | {"next_observations": following})
    found = trajectories_of(read_flat(path), 1000)
    assert [len(each.rewards) for each in found] == [30, 12, 30]
    for each, last in zip(found, (29, 41, 71), strict=True):
        assert np.array_equal(each.observations[-1], following[last])


def test_without_timeouts_the_step_limit_ends_episodes(tmp_path: Path) -> None:
    arrays = flat_arrays((20, 7, 20, 20, 5), (False, True, False, False, False))
    with_timeouts = trajectories_of(read_flat(write_d4rl(tmp_path / "a.hdf5", arrays)), 1000)
    del arrays["timeouts"]
    without = trajectories_of(read_flat(write_d4rl(tmp_path / "b.hdf5", arrays)), 20)
    assert [len(each.rewards) for each in without] == [19, 7, 19, 19, 4]
    for ours, theirs in zip(without, with_timeouts, strict=True):
        assert np.array_equal(ours.observations, theirs.observations)


def test_columns_are_flattened(tmp_path: Path) -> None:
    arrays = flat_arrays()
    plain = trajectories_of(read_flat(write_d4rl(tmp_path / "a.hdf5", arrays)), 1000)
    for key in ("rewards", "terminals", "timeouts"):
        arrays[key] = arrays[key][:, None]
    arrays["terminals"] = arrays["terminals"].astype(np.float64)
    columns = trajectories_of(read_flat(write_d4rl(tmp_path / "b.hdf5", arrays)), 1000)
    for ours, theirs in zip(columns, plain, strict=True):
        assert np.array_equal(ours.rewards, theirs.rewards)
        assert ours.terminated == theirs.terminated


def slow_qlearning_rows(arrays, limit):
    """D4RL's own rule, a row at a time."""
    kept, step = [], 0
    for row in range(len(arrays["rewards"]) - 1):
        over = arrays["timeouts"][row] if "timeouts" in arrays else step == limit - 1
        if over:
            step = 0
            continue
        if arrays["terminals"][row]:
            step = 0
        kept.append(row)
        step += 1
    return kept


@pytest.mark.parametrize("timeouts", [True, False])
def test_rows_of_the_qlearning_dataset(tmp_path: Path, timeouts: bool) -> None:
    arrays = flat_arrays((9, 4, 9, 9, 3), (False, False, True, False, False), seed=3)
    arrays["terminals"][8] = True  # a step that ended its task when time was over, too
    if not timeouts:
        del arrays["timeouts"]
        arrays["terminals"][12] = True
    flat = read_flat(write_d4rl(tmp_path / "x.hdf5", arrays))
    rows = qlearning_rows(flat, 9)
    assert len(flat.rewards) - 1 not in rows and 8 not in rows
    assert rows.tolist() == slow_qlearning_rows(arrays, 9)


def test_a_card_imports_by_d4rls_name(places: Path) -> None:
    path = write_d4rl(places / "d4rl-data" / "dots.hdf5", flat_arrays())
    card = card_of(places, "d4rl", "dots-medium-v2", 'file = "dots.hdf5"\n')
    assert not is_imported(card)
    assert label("mine.toml").is_file(), "what is missing is imported"
    assert is_imported(card)
    source = read_trajectories(card.minari_id)
    origin = source.record["import"]
    assert origin["id"] == "dots-medium-v2" and origin["file"] == "dots.hdf5"
    assert origin["sha256"] == sha256_of(path)
    assert [each.terminated for each in source.trajectories] == [False, True, False]
    preferences = load_preferences(label("mine.toml"))
    assert preferences.info.source == "cpl_bench/mine-v0"
    assert preferences.successes is None, "D4RL does not say where episodes succeeded"
    assert preferences.terminations is not None and preferences.terminations.sum() == 1
    with minari_root(places / "data"):
        stored = minari.load_dataset(card.minari_id)
        assert stored.total_episodes == 3
        assert stored.recover_environment().observation_space.shape == (6,)


def test_a_card_may_name_its_file_and_its_hash(places: Path) -> None:
    write_d4rl(places / "mine.hdf5", flat_arrays())
    card = card_of(places, "d4rl", "mine.hdf5", 'sha256 = "00"\n')
    with pytest.raises(UserError, match=r"SHA-256.*wants 00"):
        import_trajectories(card)
    digest = sha256_of(places / "mine.hdf5")
    card = card_of(places, "d4rl", "mine.hdf5", f'sha256 = "{digest}"\n')
    assert import_trajectories(card).is_dir()
    assert "address" not in read_trajectories(card.minari_id).record["import"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that says nothing of what it is asked for."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(places: Path, monkeypatch: pytest.MonkeyPatch):
    """A d4rl whose `infos.py` can be read and which cannot be imported, and the server it names."""
    write_d4rl(places / "dots_medium-v2.hdf5", flat_arrays())
    handler = partial(Quiet, directory=str(places))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (places / "site" / "d4rl").mkdir(parents=True)
    (places / "site" / "d4rl" / "__init__.py").write_text("raise ImportError('no mujoco210')")
    address = f"http://127.0.0.1:{server.server_port}"
    (places / "site" / "d4rl" / "infos.py").write_text(INFOS.format(address=address))
    monkeypatch.syspath_prepend(str(places / "site"))
    monkeypatch.setattr(f"{FILES}.find_spec", find_spec)
    yield address
    server.shutdown()
    server.server_close()


def test_a_download_is_asked_for_and_says_from_where(served, places, capsys) -> None:
    card_of(places, "d4rl", "dots-medium-v2")
    said = refused(capsys, places, "import", "mine.toml")
    assert "dots_medium-v2.hdf5" in said and "--download" in said and "--source" in said
    assert main(["import", "mine.toml", "--download"]) == 0
    lines = capsys.readouterr().out.splitlines()
    got = places / "d4rl-data" / "dots_medium-v2.hdf5"
    assert lines[0] == f"Downloading {served}/dots_medium-v2.hdf5 → {got}"
    assert got.read_bytes() == (places / "dots_medium-v2.hdf5").read_bytes()
    assert any("do not compare" in line for line in lines)
    assert any("random -59, expert -8.25" in line for line in lines)
    record = read_trajectories("cpl_bench/mine-v0").record["import"]
    assert record["d4rl_reference"] == {"random_return": -59.0, "expert_return": -8.25}
    assert record["address"] == f"{served}/dots_medium-v2.hdf5"


def test_a_failed_download_leaves_nothing(served, places, capsys) -> None:
    (places / "dots_medium-v2.hdf5").unlink()
    card_of(places, "d4rl", "dots-medium-v2")
    assert "404" in refused(capsys, places, "import", "mine.toml", "--download")
    assert list((places / "d4rl-data").iterdir()) == []


def test_without_the_package_it_is_said_how_to_install_it(places, capsys) -> None:
    card_of(places, "d4rl", "dots-medium-v2")
    assert "pip install --no-deps d4rl" in refused(capsys, places, "import", "mine.toml")


def test_our_cards_name_d4rls_files() -> None:
    if find_spec("d4rl") is None:
        pytest.skip("the package d4rl is not installed: pip install --no-deps d4rl")
    sources = [load_dataset_card(name).source for name in dataset_names()]
    ours = [each for each in sources if each is not None and each.format == "d4rl"]
    assert len(ours) == 26
    for source in ours:
        known = known_of(source.id)
        assert known is not None and known.address.endswith(f"/{source.file}")
        assert None not in known


def test_a_name_of_ones_own_needs_no_d4rl_that_knows_it(served, places) -> None:
    write_d4rl(places / "d4rl-data" / "mine.hdf5", flat_arrays())
    card = card_of(places, "d4rl", "mine-v0", 'file = "mine.hdf5"\n')
    import_trajectories(card)
    assert "address" not in read_trajectories(card.minari_id).record["import"]


def test_a_folder_called_d4rl_is_no_package(places, capsys, monkeypatch) -> None:
    (places / "d4rl").mkdir()
    monkeypatch.syspath_prepend(str(places))
    monkeypatch.setattr(f"{FILES}.find_spec", find_spec)
    card_of(places, "d4rl", "dots-medium-v2")
    assert "which is not installed: pip install" in refused(capsys, places, "import", "mine.toml")


def test_a_server_that_speaks_no_http_is_told_in_a_line(served, places, capsys) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"no http at all\r\n")
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    (places / "site" / "d4rl" / "infos.py").write_text(INFOS.format(address=address))
    card_of(places, "d4rl", "dots-medium-v2")
    said = refused(capsys, places, "import", "mine.toml", "--download")
    assert "cannot be downloaded (BadStatusLine: no http at all" in said
    listener.close()


def test_an_unknown_d4rl_name_suggests_the_nearest(served, places, capsys) -> None:
    card_of(places, "d4rl", "dots-medum-v2")
    said = refused(capsys, places, "import", "mine.toml", "--download")
    assert "Did you mean 'dots-medium-v2'?" in said


# --- Minari ---


def write_minari(root: Path, minari_id: str, space, actions, episodes) -> None:
    """Somebody else's dataset, without an environment."""
    with minari_root(root):
        minari.create_dataset_from_buffers(
            minari_id, episodes, observation_space=space, action_space=actions, data_format="hdf5",
            env=None, algorithm_name="theirs", author="they",
        )  # fmt: skip


def buffers(observe, act, success: bool, lengths=(14, 9)):
    rng = np.random.default_rng(0)
    made = []
    for number, steps in enumerate(lengths):
        over = np.arange(steps) == steps - 1
        infos = {"success": np.r_[False, over]} if success else {"other": np.zeros(steps + 1)}
        made.append(
            EpisodeBuffer(
                id=number, observations=observe(rng, steps + 1), actions=act(rng, steps),
                rewards=rng.normal(size=steps), infos=infos,
                terminations=over & (number == 1), truncations=over & (number != 1),
            )
        )  # fmt: skip
    return made


BOX = gymnasium.spaces.Box
GOALS = gymnasium.spaces.Dict(
    {
        "achieved_goal": BOX(-9, 9, (2,), np.float64),
        "desired_goal": BOX(-9, 9, (2,), np.float64),
        "observation": BOX(-9, 9, (4,), np.float64),
    }
)


def of_goals(rng, count):
    return {name: rng.uniform(-9, 9, (count, *box.shape)) for name, box in GOALS.items()}


def test_goals_are_laid_out_as_our_fetch_tasks_have_them(places: Path) -> None:
    made = buffers(of_goals, lambda rng, n: rng.uniform(-2, 4, (n, 2)).astype(np.float32), True)
    write_minari(places / "data", "foreign/maze-v1", GOALS, BOX(-2, 4, (2,), np.float32), made)
    card = card_of(places, "minari", "foreign/maze-v1")
    import_trajectories(card)
    source = read_trajectories(card.minari_id)
    for ours, theirs in zip(source.trajectories, made, strict=True):
        whole = [theirs.observations["observation"], theirs.observations["desired_goal"]]
        assert np.array_equal(ours.observations, np.hstack(whole).astype(np.float32))
        assert np.allclose(ours.actions, (theirs.actions - 1) / 3, atol=1e-6)
        assert np.array_equal(ours.rewards, theirs.rewards)
        assert ours.successes.tolist() == [False] * (len(ours.rewards) - 1) + [True]
    assert [each.terminated for each in source.trajectories] == [False, True]
    assert load_preferences(label("mine.toml")).successes is not None


def test_other_parts_can_be_asked_for(places: Path) -> None:
    made = buffers(of_goals, lambda rng, n: rng.uniform(-1, 1, (n, 2)).astype(np.float32), False)
    write_minari(places / "data", "foreign/maze-v1", GOALS, BOX(-1, 1, (2,), np.float32), made)
    parts = 'parts = ["achieved_goal", "observation"]\n'
    card = card_of(places, "minari", "foreign/maze-v1", parts)
    import_trajectories(card)
    first = read_trajectories(card.minari_id).trajectories[0].observations
    assert np.allclose(first[:, :2], made[0].observations["achieved_goal"])
    card = card_of(places, "minari", "foreign/maze-v1", 'parts = ["goal"]\n')
    with pytest.raises(UserError, match=r"parts achieved_goal, desired_goal, observation.*`parts`"):
        import_trajectories(card)


def test_a_dataset_is_found_in_minaris_own_folder(places: Path) -> None:
    made = buffers(
        lambda rng, n: rng.uniform(-1, 1, (n, 6)),
        lambda rng, n: rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        False,
    )
    home = places / "home" / ".minari" / "datasets"
    home.mkdir(parents=True)
    spaces = BOX(-1, 1, (6,), np.float64), BOX(-1, 1, (2,), np.float32)
    write_minari(home, "dots/medium-v0", *spaces, made)
    card = card_of(places, "minari", "dots/medium-v0")
    import_trajectories(card)
    record = read_trajectories(card.minari_id).record
    assert not record["knows_successes"]
    shutil.move(home, places / "elsewhere")
    before = record["import"]["sha256"]
    import_trajectories(card, places / "elsewhere")
    assert read_trajectories(card.minari_id).record["import"]["sha256"] == before


def test_discrete_actions_are_refused(places, capsys) -> None:
    made = buffers(
        lambda rng, n: rng.uniform(-1, 1, (n, 6)), lambda rng, n: rng.integers(0, 3, n), False
    )
    spaces = BOX(-1, 1, (6,), np.float64), gymnasium.spaces.Discrete(3)
    write_minari(places / "data", "foreign/keys-v0", *spaces, made)
    card_of(places, "minari", "foreign/keys-v0")
    assert "Discrete(3)" in refused(capsys, places, "import", "mine.toml")


def test_a_minari_id_that_is_not_there_suggests_local_ones(places, capsys) -> None:
    made = buffers(of_goals, lambda rng, n: rng.uniform(-1, 1, (n, 2)).astype(np.float32), False)
    write_minari(places / "data", "foreign/maze-v1", GOALS, BOX(-1, 1, (2,), np.float32), made)
    card_of(places, "minari", "foreign/maz-v1")
    said = refused(capsys, places, "import", "mine.toml")
    assert "Did you mean 'foreign/maze-v1'?" in said and "--download" in said
    card_of(places, "minari", "../foreign-v1")
    assert "no Minari id" in refused(capsys, places, "import", "mine.toml")


def act(rng, n):
    return rng.uniform(-1, 1, (n, 2)).astype(np.float32)


def look(rng, n):
    return rng.uniform(-1, 1, (n, 6))


LOOKS, ACTS = BOX(-1, 1, (6,), np.float64), BOX(-1, 1, (2,), np.float32)
SPEC = {
    "id": "Evil-v0", "entry_point": "os:mkdir", "reward_threshold": None, "nondeterministic": False,
    "max_episode_steps": None, "order_enforce": False, "disable_env_checker": True,
    "kwargs": {"path": "executed"}, "additional_wrappers": [], "vector_entry_point": None,
}  # fmt: skip


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
@pytest.mark.parametrize("reader", ["import", "ours"])
def test_what_a_dataset_names_as_its_environment_is_not_called(
    places, capsys, space, reader
) -> None:
    write_minari(places / "data", "foreign/evil-v0", LOOKS, ACTS, buffers(look, act, False))
    path = places / "data" / "foreign" / "evil-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata[space]
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(SPEC)}))
    if reader == "import":
        card_of(places, "minari", "foreign/evil-v0")
        said = refused(capsys, places, "import", "mine.toml")
    else:
        with pytest.raises(UserError) as problem:
            read_trajectories("foreign/evil-v0")
        said = str(problem.value)
    assert f"names no {space}" in said
    assert not (places / "executed").exists()


KEYS = gymnasium.spaces.Dict({"looks": LOOKS, "key": gymnasium.spaces.Discrete(3)})


def with_a_key(rng, n):
    return {"looks": look(rng, n), "key": rng.integers(0, 3, n)}


GIANT = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("looks", "observe", "acts", "parts", "said"),
    [
        (KEYS, with_a_key, ACTS, "", "observations of Discrete(3): expected numbers in Boxes"),
        (LOOKS, look, ACTS, 'parts = ["looks"]\n', "have no parts, and looks are asked for"),
        (LOOKS, look, BOX(-GIANT, GIANT, (2,), np.float32), "", "bounds within ±1e+06"),
        (LOOKS, look, BOX(np.float32([-1, -np.inf]), np.float32([1, 1])), "", "or none has"),
        (LOOKS, look, BOX(np.float32([-1, 0]), np.float32([1, 0])), "", "below the upper"),
    ],
)
def test_minari_spaces_that_cannot_be_laid_out_are_refused(
    places, capsys, looks, observe, acts, parts, said
) -> None:
    write_minari(places / "data", "foreign/odd-v0", looks, acts, buffers(observe, act, False))
    card_of(places, "minari", "foreign/odd-v0", parts)
    assert said in refused(capsys, places, "import", "mine.toml")


def test_a_discrete_part_can_be_left_out(places) -> None:
    write_minari(places / "data", "foreign/odd-v0", KEYS, ACTS, buffers(with_a_key, act, False))
    card = card_of(places, "minari", "foreign/odd-v0", 'parts = ["looks"]\n')
    import_trajectories(card)
    assert read_trajectories(card.minari_id).trajectories[0].observations.shape == (15, 6)


def test_a_minari_download_comes_whole_or_not_at_all(places, capsys, monkeypatch) -> None:
    """What Minari's own download does: write into its root, and fail half-way or not."""
    whole = False

    def download(minari_id: str) -> None:
        root = Path(os.environ["MINARI_DATASETS_PATH"])
        root.mkdir(parents=True, exist_ok=True)
        if whole:
            write_minari(root, minari_id, LOOKS, ACTS, buffers(look, act, False))
            return
        (root / minari_id / "data").mkdir(parents=True)
        (root / minari_id / "data" / "main_data.hdf5").write_bytes(b"half")
        raise ConnectionError("the line broke")

    monkeypatch.setattr(minari, "download_dataset", download)
    card = card_of(places, "minari", "foreign/dots-v0")
    said = refused(capsys, places, "import", "mine.toml", "--download")
    assert "cannot be downloaded (ConnectionError: the line broke)" in said
    assert list((places / "data").iterdir()) == [], "so that it can be tried again"
    whole = True
    assert main(["import", "mine.toml", "--download"]) == 0
    assert is_imported(card) and not list((places / "data").glob(".downloading*"))


def test_a_download_without_minaris_own_package_says_what_to_install(
    places, capsys, monkeypatch
) -> None:
    def download(minari_id: str) -> None:
        raise ImportError("huggingface_hub is not installed.")

    monkeypatch.setattr(minari, "download_dataset", download)
    card_of(places, "minari", "foreign/dots-v0")
    said = refused(capsys, places, "import", "mine.toml", "--download")
    assert "huggingface_hub is not installed" in said and "'cpl_bench[download]'" in said


def test_running_counts_are_paid_once(places) -> None:
    """Two things are done, one is undone and done again: two steps are paid."""
    made = buffers(look, act, False)
    counts = np.array([0, 0, 1, 1, 2, 1, 2, 2, 2.0])
    made[0].rewards[:], made[1].rewards[:] = np.r_[1.0, np.zeros(13)], counts
    write_minari(places / "data", "foreign/odd-v0", LOOKS, ACTS, made)
    card = card_of(places, "minari", "foreign/odd-v0", 'rewards = "running_count"\n')
    import_trajectories(card)
    first, second = read_trajectories(card.minari_id).trajectories
    assert first.rewards.tolist() == [1.0, *[0.0] * 13]
    assert second.rewards.tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 0]
    assert is_imported(card)
    assert not is_imported(card_of(places, "minari", "foreign/odd-v0")), "another reward"
    with pytest.raises(UserError, match="must be 'paid' or 'running_count', not 'counts'"):
        card_of(places, "minari", "foreign/odd-v0", 'rewards = "counts"\n')


def test_the_kitchens_cards_know_what_minari_pays() -> None:
    """As Minari's authors recorded it: in each step, how many tasks are done by then."""
    for part in ("complete", "partial", "mixed"):
        source = load_dataset_card(f"d4rl-kitchen-{part}-v2").source
        assert source is not None and source.rewards == "running_count"
    task = load_task("kitchen")
    env = gymnasium.make(
        task.source_id,
        tasks_to_complete=task.kwargs["tasks_to_complete"],
        terminate_on_tasks_completed=False,
        remove_task_when_completed=False,
        disable_env_checker=True,
    )
    env.reset(seed=0)
    inner = env.unwrapped
    goal = inner.goal["microwave"]
    qpos, qvel = inner.robot_env.data.qpos.copy(), inner.robot_env.data.qvel.copy()
    qpos[22] = goal[0]  # the door of the microwave stands open
    inner.robot_env.set_state(qpos, qvel)
    paid = [float(env.step(np.zeros(env.action_space.shape))[1]) for _ in range(4)]
    env.close()
    assert paid == [1.0] * 4, "the microwave is paid again in every step"
    assert paid_once(np.array(paid)).tolist() == [1.0, 0, 0, 0]


def test_returns_beyond_an_experts_are_pointed_out(places, capsys) -> None:
    card_of(places, "minari", "foreign/odd-v0")
    path = places / "mine.toml"
    path.write_text(path.read_text().replace('"pointmass"', '"steps.toml"'))
    (places / "steps.toml").write_text(
        'suite = "pointmass"\nsource_id = "PointMass-v0"\nhorizon_steps = 50\nscore = "return"\n'
        "[reference]\nrandom_return = 0\nexpert_return = 4\n"
    )
    made = buffers(look, act, False)
    for each in made:
        each.rewards[:] = 2.0  # returns of 28 and 18
    write_minari(places / "data", "foreign/odd-v0", LOOKS, ACTS, made)
    assert main(["import", "mine.toml"]) == 0
    said = capsys.readouterr().out
    assert "return 23.0, an expert of steps 4.0" in said and 'rewards = "running_count"' in said


def test_our_own_datasets_come_back_as_they_were(places, dots, pool) -> None:
    """States, seeds and levels too: a round trip through Minari loses nothing."""
    collected = read_trajectories(dots[0].minari_id, dots[1])
    shutil.copytree(dots[1] / dots[0].minari_id, places / "data" / "foreign" / "dots-v0")
    metadata = places / "data" / "foreign" / "dots-v0" / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace(dots[0].minari_id, "foreign/dots-v0"))
    card = card_of(places, "minari", "foreign/dots-v0")
    import_trajectories(card)
    again = read_trajectories(card.minari_id)
    assert content_hash(again.trajectories) == content_hash(collected.trajectories)
    for ours, theirs in zip(again.trajectories, collected.trajectories, strict=True):
        assert len(ours.states) and np.array_equal(ours.states, theirs.states)
        assert (ours.seed, ours.policy) == (theirs.seed, theirs.policy)


def test_successes_that_nobody_knows_stay_unknown(places) -> None:
    """Written as Minari, they are read again as what nobody knows, not as failures."""
    write_minari(places / "data", "foreign/a-v0", LOOKS, ACTS, buffers(look, act, False))
    first = card_of(places, "minari", "foreign/a-v0")
    import_trajectories(first)
    (places / "data" / "cpl_bench" / "mine-v0").rename(places / "data" / "foreign" / "b-v0")
    path = places / "data" / "foreign" / "b-v0" / "data" / "metadata.json"
    path.write_text(path.read_text().replace("cpl_bench/mine-v0", "foreign/b-v0"))
    second = card_of(places, "minari", "foreign/b-v0")
    import_trajectories(second)
    assert not read_trajectories(second.minari_id).knows_successes


def test_sound_datasets_of_others_are_verified(places, capsys) -> None:
    made = buffers(of_goals, act, False)
    write_minari(places / "data", "foreign/maze-v1", GOALS, ACTS, made)
    assert main(["verify", str(places / "data")]) == 0
    assert "2 episodes of another program" in capsys.readouterr().out


# --- What cannot be imported ---


def truncated(path: Path, arrays: dict) -> None:
    write_d4rl(path, arrays)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(path: Path, arrays: dict) -> None:
    arrays["rewards"][17] = np.nan
    write_d4rl(path, arrays)


def without_actions(path: Path, arrays: dict) -> None:
    del arrays["actions"]
    write_d4rl(path, arrays)


def of_other_lengths(path: Path, arrays: dict) -> None:
    arrays["rewards"] = arrays["rewards"][:-1]
    write_d4rl(path, arrays)


def of_a_number(path: Path, arrays: dict) -> None:
    write_d4rl(path, arrays | {"observations": np.float32(1)})


def of_nothing(path: Path, arrays: dict) -> None:
    write_d4rl(path, arrays | {"observations": h5py.Empty("f4")})


def of_a_group(path: Path, arrays: dict) -> None:
    del arrays["actions"]
    write_d4rl(path, arrays)
    with h5py.File(path, "a") as file:
        file.create_group("actions")


def never_written(path: Path, arrays: dict) -> None:
    """A few bytes that claim more than any memory holds."""
    count = 10**12
    with h5py.File(path, "w") as file:
        for key in ("observations", "actions"):
            file.create_dataset(key, (count, 11), "f4", chunks=(1000, 11))
        for key in ("rewards", "terminals"):
            file.create_dataset(key, (count,), "f4", chunks=(1000,))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncated, "may be truncated"),
        (with_nan, "rewards must be finite, got nan at [17]"),
        (without_actions, "missing: actions"),
        (of_other_lengths, "rewards must have shape (72,), got (71,)"),
        (lambda p, a: write_d4rl(p, flat_arrays((5, 6), (False, True))), "longest episode has 6"),
        (lambda p, a: write_d4rl(p, flat_arrays(sizes=(7, 2))), "observations of 6 and actions"),
        (lambda p, a: write_d4rl(p, a | {"actions": 3 * a["actions"]}), "within [-1, 1]"),
        (lambda p, a: write_d4rl(p, a | {"terminals": a["terminals"] + 2}), "must be 0 or 1"),
        (lambda p, a: p.write_text("<html>404</html>"), "cannot be read as HDF5"),
        (of_a_number, "observations must have shape (N, n), got ()"),
        (of_nothing, "observations must be numbers"),
        (of_a_group, "actions must be numbers"),
        (never_written, "cannot be read as HDF5"),
        (lambda p, a: None, "there is no such file"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_bad_files_are_refused_in_a_line(places, capsys, spoil, said) -> None:
    spoil(places / "mine.hdf5", flat_arrays())
    card_of(places, "d4rl", "mine.hdf5")
    assert said in refused(capsys, places, "import", "mine.toml")


def test_data_that_are_observed_otherwise_are_trained_on_without_a_simulator(places) -> None:
    write_d4rl(places / "mine.hdf5", flat_arrays(sizes=(4, 2)))
    card = card_of(places, "d4rl", "mine.hdf5", "rolled_out = false\n")
    preferences = load_preferences(label(str(card.path)))
    assert preferences.info.task == "" and preferences.observations.shape[1] == 4
    with minari_root(places / "data"):
        assert minari.load_dataset(card.minari_id).observation_space.shape == (4,)
    small = ["--steps", "20", "--clone.steps", "10", "--policy.hidden", "16", "--segments", "8"]
    assert main(["train", "--data", "mine.toml", "--seeds", "1", "cpl", *small]) == 0


def test_what_another_card_wrote_is_left_alone(places, capsys) -> None:
    write_d4rl(places / "mine.hdf5", flat_arrays())
    card_of(places, "d4rl", "mine.hdf5")
    assert main(["import", "mine.toml"]) == 0
    (places / "other").mkdir()
    shutil.copy(places / "mine.toml", places / "other" / "mine.toml")
    shutil.copy(places / "mine.hdf5", places / "other" / "mine.hdf5")
    capsys.readouterr()
    assert main(["import", "other/mine.toml"]) == 2
    assert "another card of the same name" in capsys.readouterr().err


def test_an_import_is_labelled_without_forking(places, capsys) -> None:
    write_d4rl(places / "mine.hdf5", flat_arrays())
    card_of(places, "d4rl", "mine.hdf5")
    assert "--scorer partial_return" in refused(
        capsys, places, "label", "mine.toml", "--scorer", "regret"
    )
    assert main(["inspect", "mine.toml"]) == 0
    said = capsys.readouterr().out
    assert "imported       d4rl:mine.hdf5" in said and "not written down" in said
    for option in ("--probe", "--record"):
        assert main(["inspect", "mine.toml", option]) == 2


def test_a_changed_source_is_imported_again(places) -> None:
    write_d4rl(places / "a.hdf5", flat_arrays())
    write_d4rl(places / "b.hdf5", flat_arrays(seed=9))
    first = load_preferences(label(str(card_of(places, "d4rl", "a.hdf5").path)))
    second = load_preferences(label(str(card_of(places, "d4rl", "b.hdf5").path)))
    assert first.info.source_hash != second.info.source_hash


def test_the_record_is_whole(places) -> None:
    write_d4rl(places / "mine.hdf5", flat_arrays())
    folder = import_trajectories(card_of(places, "d4rl", "mine.hdf5"))
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    assert metadata["algorithm_name"] == "imported from d4rl:mine.hdf5"
    assert str(places) not in json.dumps(json.loads(metadata["cpl_bench"])["import"])
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        assert len(file) == 3
