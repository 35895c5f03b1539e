"""Damage files of every kind and read them, call verbs with odd words: no traceback may come.

    python scripts/fuzz.py                        # ten minutes
    python scripts/fuzz.py --minutes 1 --only run.json
    python scripts/fuzz.py --again run.json FILE  # one finding again, with its traceback

A small dataset is made first, with runs on it. Then each reader is given its files with flipped,
lost, doubled and swapped bytes, and files whose TOML, JSON, CSV or tensors say odd things under
hashes that are right. It must succeed or raise UserError, within ten seconds and two gigabytes, and
nothing may be written outside its folder. Whatever else happens is a finding: it is printed with
the file that shows it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from safetensors.numpy import load, save

from cpl_bench.cli.main import VERBS, main
from cpl_bench.core import folders, published, tensors
from cpl_bench.core.cards import load_task, task_cards
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import HIDDEN, UserError
from cpl_bench.core.versions import installed
from cpl_bench.experiments.card import load_experiment
from cpl_bench.experiments.cells import cells
from cpl_bench.experiments.datasets_page import record as record_row
from cpl_bench.experiments.imports import Answers, import_file
from cpl_bench.experiments.library import report
from cpl_bench.experiments.make import ensure_preferences
from cpl_bench.experiments.run import Run
from cpl_bench.experiments.sweep import check_experiment
from cpl_bench.experiments.verify import verify
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import PreferenceInfo, Preferences, behaviour_score
from cpl_bench.preferences.format import preferences_hash as hash_of
from cpl_bench.preferences.formats.parquet import write_parquet
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.report.read import read_run
from cpl_bench.report.reward_history import read_reward_history
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.evaluations import drop_after, read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.metrics import drop_metrics_after, read_metrics
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.prepare import prepare
from cpl_bench.runs.train import train
from cpl_bench.runs.webp import read_film
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.clone import _read_clone
from cpl_bench.trajectories.formats.minari import minari_folder, read_record, read_trajectories

ROOT = Path(__file__).resolve().parent.parent
SECONDS, BYTES, ROUND_SECONDS = 10, 2 * 2**30, 6.0
CARD = """
task = "pointmass"
episodes = 12
minimum_steps = 12
stop_steps_after_success = 3
description = "what is damaged"
[behaviour]
levels = [0.3, 0.7]
score_band = [0.1, 0.9]
demonstrations = 4
clone_steps = 60
probe_episodes = 4
[segments]
count = 24
length = 6
[labelling]
annotator = "noisy"
annotator_settings = { error_rate = 0.1 }
"""
EXPERIMENT = """
title = "Two"
datasets = ["../tiny.toml"]
seeds = 2
final_episodes = 2
episodes = 2
evaluate_every = 4
preset = "laptop"
[settings]
policy.hidden = [8, 8]
clone.steps = 4
steps = 8
[[methods]]
name = "SFT"
algorithm = "sft"
[[methods]]
name = "CPL"
algorithm = "cpl"
settings = { lam = 0.5, contrast.rate = 1e-3 }
"""
SMALL: dict[str, dict[str, Any]] = {
    "sft": {"steps": 8, "clone": {"steps": 4}, "segments": 8, "policy": {"hidden": [8]}},
    "piql": {
        **{"steps": 8, "segments": 8, "policy": {"hidden": [8]}, "value": {"hidden": [8]}},
        **{"reward": {"steps": 4, "hidden": [8]}, "transitions": 16},
    },
    "ppo": {
        **{"steps": 12, "segments": 8, "policy": {"hidden": [8]}, "value": {"hidden": [8]}},
        **{"reward": {"steps": 2, "hidden": [8]}, "clone": {"steps": 2}},
        "collection": {"transitions": 120, "epochs": 1, "minibatch": 15, "value_only": 0},
    },
}
DEEP = 3000
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**53, -(2**63), 10**22, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", " ", "x", "0", "../../escaped", "../escaped.toml", ".", ".."),
    *("\x1b[31mred", "a\nb", "\0", "\ud800", "λ" * 50, "x" * 400, "/", "a:b", "$\\foo$", "<b>|"),
    *([], {}, [[]], [None], {"": 0}, [1, "2"], {"a": {"b": [1]}}, [0] * 200, "module:NAME", "nan"),
]


class Slow(BaseException):
    """It took too long."""


class Reader(NamedTuple):
    """What is read, how it is damaged, and by whom it is read."""

    files: Callable[[Path], list[Path]]
    """The whole ones, in the workshop."""
    damage: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path, Path], object]
    """Given a damaged file, in its place, and the workshop."""


# --- What is whole ---


def make(folder: Path) -> None:
    """A dataset, its preferences, an experiment and three runs."""
    (folder / "house" / "envs").mkdir(parents=True)
    (folder / "house" / "pyproject.toml").write_text("")
    for name in ("pointmass", "metaworld"):
        shutil.copy(ROOT / "envs" / f"{name}.toml", folder / "house" / "envs")
    (folder / "house" / "datasets").mkdir()
    shutil.copy(ROOT / "datasets" / "README.md", folder / "house" / "datasets")
    film = ROOT / "results" / "quickstart" / "rollout.webp"
    if film.is_file():
        shutil.copy(film, folder / "rollout.webp")
    (folder / "tiny.toml").write_text(CARD)
    (folder / "two").mkdir()
    (folder / "two" / "experiment.toml").write_text(EXPERIMENT)
    card = load_dataset_card(str(folder / "tiny.toml"))
    with RolloutPool(2) as pool:
        preferences = load_preferences(ensure_preferences(card, pool))
        for name, settings in SMALL.items():
            options = TrainOptions((0, 1), "cpu", evaluate_every=4, episodes=2, runs=folder)
            config = configured(name, "laptop", settings)
            run = train(preferences, "tiny", name, config, options, pool, load_task("pointmass"))
            evaluate(run, pool, 2)
    make_foreign(folder / "foreign", preferences)


def make_foreign(folder: Path, preferences: Preferences) -> None:
    """Small files in the forms of other people's data: what `import` reads."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    steps = {
        side: {
            f"obs_{side}": rng.normal(size=(6, 4, 4)),
            f"action_{side}": rng.uniform(-1, 1, (6, 4, 2)),
            f"reward_{side}": rng.normal(size=(6, 4)),
        }
        for side in "12"
    }
    pairs = steps["1"] | steps["2"] | {"label": np.array([0, 1, 0.5, 1, 0, 1])}
    np.savez(folder / "pairs.npz", **pairs)
    np.savez_compressed(folder / "packed.npz", **pairs)
    scored = {name[:-2]: array for name, array in steps["1"].items()} | {"rl_sum": np.arange(6.0)}
    np.savez(folder / "scored.npz", **scored)
    write_parquet(folder / "tables", preferences)
    with h5py.File(folder / "flat.hdf5", "w") as file:
        for name, array in {
            "observations": rng.normal(size=(40, 4)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (40, 2)).astype(np.float32),
            "rewards": rng.normal(size=40).astype(np.float32),
            "terminals": np.arange(40) == 19,
            "timeouts": np.arange(40) == 39,
        }.items():
            file[name] = array
    for name, numbers in {"labels": [0, 1, -1], "first": [0, 5, 9], "second": [22, 30, 24]}.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(np.array(numbers)))


# --- How it is damaged ---


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are other, lost, doubled, moved or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        here, there = (rng.randrange(len(data) + 1) for _ in range(2))
        here, there = min(here, there), min(max(here, there), here + rng.choice((1, 4, 64, 4096)))
        how = rng.randrange(6)
        if how == 0 and data:
            data[min(here, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[here:]
        elif how == 2:
            del data[here:there]
        elif how == 3:
            data[here:here] = data[here:there]
        elif how == 4:
            data[here:there] = rng.randbytes(there - here)
        else:
            odd = (
                b"\xff\xfe",
                b"\0",
                b"\x1b[2J",
                b"\r\n",
                b"\xef\xbb\xbf",
                b"9" * 5000,
                b"[" * DEEP,
            )
            data[here:here] = rng.choice(odd)
    return bytes(data)


def lines(content: bytes, rng: random.Random) -> bytes:
    """Lines and cells of a CSV that are other, lost, doubled or swapped."""
    rows = content.decode(errors="replace").split("\n")
    for _ in range(rng.choice((1, 2, 6))):
        here, there = rng.randrange(len(rows)), rng.randrange(len(rows))
        how, cells_ = rng.randrange(5), rows[here].split(",")
        if how == 0:
            rows[here], rows[there] = rows[there], rows[here]
        elif how == 1:
            rows.insert(there, rows[here])
        elif how == 2 and len(rows) > 1:
            del rows[here]
        else:
            written = (
                "9" * 5000,
                "1e999",
                "-1",
                "nan",
                "1_0",
                "１",
                "²",
                "0x1",
                "9" * 19,
                "1.5",
                "",
            )
            text = rng.choice((*written, str(rng.choice(ODD))))
            cells_[rng.randrange(len(cells_))] = text
            rows[here] = ",".join(cells_)
    return "\n".join(rows).encode(errors="surrogatepass")


def odd_json(value: Any, rng: random.Random) -> Any:
    """A value of JSON with one place in it other, lost or renamed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, how = rng.choice(keys), rng.random()
        copy = dict(value) if isinstance(value, dict) else list(value)
        if how < 0.1:
            del copy[key]
        elif how < 0.15 and isinstance(copy, dict):
            copy[str(rng.choice(ODD))] = copy.pop(key)
        elif how < 0.2 and isinstance(copy, list):
            copy.append(copy[key])
        else:
            copy[key] = odd_json(value[key], rng)
        return copy
    return rng.choice(ODD)


def json_text(content: bytes, rng: random.Random) -> bytes:
    """JSON that says something odd; at times with what only its text can be."""
    found = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        found = odd_json(found, rng)
    text = json.dumps(found)
    if rng.random() < 0.1:
        raw = ("[" * DEEP + "]" * DEEP, "9" * 5000, "NaN", "1e999", '{"a":' * DEEP, '"\\ud800"')
        text = re.sub(r"\b\d+\b", lambda _: rng.choice(raw), text, count=rng.choice((1, 3)))
    return text.encode()


def toml_text(content: bytes, rng: random.Random) -> bytes:
    """TOML with keys and values that are odd."""
    rows = content.decode().split("\n")
    raw = (
        "[" * DEEP + "]" * DEEP,
        "9" * 5000,
        "0x" + "f" * 5000,
        "nan",
        "-inf",
        "1979-05-27",
        "{}",
    )
    for _ in range(rng.choice((1, 1, 2, 4))):
        here = rng.randrange(len(rows))
        key, equals, value = rows[here].partition("=")
        how = rng.random()
        if how < 0.15:
            del rows[here : here + 1]
            rows = rows or [""]
        elif how < 0.25:
            rows.insert(rng.randrange(len(rows)), rows[here])
        elif how < 0.3:
            rows[here] = f"{'a.' * rng.choice((20, DEEP))}a = 1"
        elif how < 0.35:
            rows[here] = f"{key.strip()[:20]}x{equals}{value}"
        elif equals and how < 0.5:
            rows[here] = f"{key}= {rng.choice(raw)}"
        elif equals:
            other = rng.choice([each for each in ODD if each is not None])
            rows[here] = f"{key}= {_toml(other)}"
    return "\n".join(rows).encode(errors="surrogatepass")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value if each is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def odd_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """Named arrays of which one is lost, renamed, misshapen, of another type or odd."""
    result, how = dict(arrays), rng.randrange(9)
    if not result:
        return result
    name = rng.choice(sorted(result))
    array = np.array(result.pop(name))
    if how == 0:
        return {} if rng.random() < 0.2 else result
    if how == 1:
        return {**result, rng.choice(("x", f"{name}0", "w9", name.upper())): array}
    if how == 2:
        array = array[: len(array) // 2] if array.ndim else array[None]
    elif how == 3:
        array = array[..., None] if rng.random() < 0.5 else array.reshape(-1)
    elif how == 4:
        kinds = (np.float64, np.float32, np.float16, np.int64, np.uint8, bool, np.int8)
        with np.errstate(invalid="ignore"):
            array = array.astype(rng.choice(kinds))
    elif how == 5:
        array = np.zeros((0, *array.shape[1:]), array.dtype)
    elif how == 6 and array.ndim == 2:
        array = array.T
    elif array.size and array.dtype != bool:
        values = (np.nan, np.inf, -np.inf, 1e30) if array.dtype.kind == "f" else (-1, 10**6, 255)
        value = rng.choice(values)
        if (
            array.dtype.kind == "f"
            or np.iinfo(array.dtype).min <= value <= np.iinfo(array.dtype).max
        ):
            array.flat[rng.randrange(array.size)] = value
    return {**result, name: array}


def hashed(content: bytes, rng: random.Random) -> bytes:
    """A checkpoint, state or clone that is odd, with the hash of what it holds."""
    arrays, about = load(content), json.loads(_metadata(content)[tensors.KEY])["about"]
    if rng.random() < 0.4:
        about = odd_json(about, rng)
    else:
        arrays = odd_arrays(arrays, rng)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    digest = tensors._hash(arrays, about) if isinstance(about, dict) else ""
    return save(arrays, {tensors.KEY: json.dumps({"about": about, "sha256": digest})})


def labelled(content: bytes, rng: random.Random) -> bytes:
    """A preference file that is odd, with the hash of what it holds, if it can have one."""
    arrays, info = load(content), json.loads(_metadata(content)["cpl_bench"])
    if rng.random() < 0.5:
        info = odd_json(info, rng)
    else:
        arrays = odd_arrays(arrays, rng)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with contextlib.suppress(Exception):
        own = {name: value for name, value in info.items() if name != "format_version"}
        info["preferences_hash"] = hash_of(Preferences(**arrays, info=PreferenceInfo(**own)))
    return save(arrays, {"cpl_bench": json.dumps(info)})


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def episodes(content: bytes, rng: random.Random) -> bytes:
    """HDF5 of which arrays are lost, shorter or odd."""
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as data:
        names: list[str] = []
        data.visititems(lambda name, each: names.append(name) if hasattr(each, "shape") else None)
        name, how = rng.choice(names), rng.random()
        array = data[name][()]
        if how < 0.2:
            del data[name]
        elif how < 0.3:
            del data[name.split("/")[0]]
        elif how < 0.4:
            group = data[name.split("/")[0]]
            for key in list(group.attrs):
                group.attrs[key] = rng.choice((-1, "x", 2**40, 1.5))
        else:
            changed = odd_arrays({"x": array}, rng).get("x", array[:0])
            del data[name]
            data[name] = changed
    return file.getvalue()


def mixed(
    *ways: Callable[[bytes, random.Random], bytes],
) -> Callable[[bytes, random.Random], bytes]:
    """One of several ways, bytes that are flipped among them."""
    return lambda content, rng: rng.choice((flipped, *ways, *ways))(content, rng)


# --- By whom it is read ---


def read_card(path: Path, _: Path) -> None:
    task = load_task(str(path))
    assert task.references is not None and installed(task) is not None and task.fingerprint


def read_house(path: Path, _: Path) -> None:
    for name, card in task_cards().items():
        assert load_task(name).name == card.name


def read_dataset_card(path: Path, _: Path) -> None:
    card = load_dataset_card(str(path))
    assert folders.data_root() in preference_path(card).parents
    assert folders.data_root() in minari_folder(card.minari_id).parents
    with_options(card, segments=10)
    published.record(path, card.published)
    load_dataset_card(str(path))


def read_experiment(path: Path, workshop: Path) -> None:
    experiment = load_experiment(str(path.parent))
    check_experiment(experiment, workshop / "out")
    for cell in cells(experiment):
        assert (workshop / "out") in (workshop / "out" / cell.folder).resolve().parents
        assert cell.command.isprintable()


def read_preferences(path: Path, workshop: Path) -> None:
    preferences, task = load_preferences(path), load_task("pointmass")
    behaviour_score(preferences, task.scoring)
    config, device = configured("cpl", "laptop", SMALL["sft"]), _device()
    for stretch in prepare("cpl", config, preferences, [0], device, None, None).training:
        stretch.take(_zero())
    options = TrainOptions((0,), "cpu", overwrite=True, runs=workshop / "made")
    train(preferences, preferences.info.card or "x", "cpl", config, options, None, None)


def read_record_of(path: Path, workshop: Path) -> None:
    folder = RunFolder(path.parent)
    record = folder.read()
    record.rolled_out(None)
    Run(path.parent).table()
    _, weights, _ = RunFolder(path.parent).acting(None)
    Run(path.parent).policy()(np.zeros((1, weights.sizes[0]), np.float32))
    list(verify(path.parent))
    with open(os.devnull, "w") as out, contextlib.redirect_stdout(out):  # noqa: PTH123
        assert main(["list", "runs"]) in (0, 2)


def read_for_report(path: Path, workshop: Path) -> None:
    report(path.parent, workshop / "page")


def read_episodes(path: Path, workshop: Path) -> None:
    read_evaluations(path)
    read_run(path.parent)
    copy = workshop / "copy.csv"
    shutil.copy(path, copy)
    drop_after(copy, 4)


def read_notes(path: Path, workshop: Path) -> None:
    copy = workshop / "copy.csv"
    shutil.copy(path, copy)
    drop_metrics_after(copy, 4)
    read_metrics(copy, "", [])
    read_metrics(path, "ppo", ["learned_reward"])
    read_reward_history(read_run(path.parent))


def read_checkpoint(path: Path, _: Path) -> None:
    run, step = Run(path.parent.parent), int(path.stem)
    _, weights, _ = RunFolder(run.path).acting(step)
    run.policy(1, step)(np.zeros((3, weights.sizes[0]), np.float32))
    list(verify(path))


def read_state(path: Path, workshop: Path) -> None:
    """Go on from it, for a step or two."""
    name = path.parent.name
    (card,) = (workshop / "data" / "preferences" / "tiny").glob("*.safetensors")
    preferences, task = load_preferences(card), load_task("pointmass")
    from cpl_bench.learning.state import take_up

    config = configured(name, "laptop", SMALL[name])
    trainee = prepare(name, config, preferences, [0, 1], _device(), task, _pool())
    _, state = RunFolder(path.parent).read_state()
    take_up(trainee.learner, state)
    if name != "ppo":  # its collection is not due
        for stretch in trainee.training:
            stretch.take(_zero())
    trainee.weights()


def read_clone(path: Path, _: Path) -> None:
    found = _read_clone(path, 2)
    if found is not None:
        assert [policy.sizes for policy in found.policies]
        assert np.isfinite(sum(found.steps) + sum(found.score))
    list(verify(path))


def read_dataset(path: Path, _: Path) -> None:
    read_record("cpl_bench/tiny-v0")
    read_trajectories("cpl_bench/tiny-v0")
    list(verify(minari_folder("cpl_bench/tiny-v0")))


def read_foreign(path: Path, workshop: Path) -> None:
    """Import it, and what came of it must be a preference file."""
    out, folder = workshop / "imported.safetensors", workshop / "foreign"
    out.unlink(missing_ok=True)
    about = Answers()
    if path.stem in ("pairs", "packed"):
        about = Answers(label_one_means="second")
    elif path.stem == "scored":
        about = Answers(score_key="rl_sum")
    elif path.parent == folder:  # steps, labels, or rows of one of the two
        about = Answers(
            label_one_means="first",
            ties="minus-one",
            rows=(folder / "first.pkl", folder / "second.pkl"),
            trajectories=str(folder / "flat.hdf5"),
            segment_length=4,
        )
        path = folder / "labels.pkl"
    try:
        import_file(path if path.parent == folder else path.parent, out, about)
    except UserError:
        assert not out.exists(), "a refused import left a file"
        raise
    load_preferences(out)


def read_picture(path: Path, _: Path) -> None:
    read_film(path)


def read_page(path: Path, _: Path) -> None:
    record_row(path, "probe", "tiny", "| tiny | 1 |")


def _device() -> Any:
    import torch

    return torch.device("cpu")


def _zero() -> Any:
    import torch

    return torch.zeros((), dtype=torch.int64)


def _pool() -> RolloutPool:
    return RolloutPool(1)


# --- The command line ---

WORDS = [
    *(
        "0",
        "1",
        "2",
        "-1",
        "3.5",
        "9" * 22,
        "9" * 5000,
        "nan",
        "",
        "x",
        "..",
        "/nowhere",
        "\x1b[31m",
    )
]
WORDS += ["x" * 400, "λ", "a\nb", "\ud800", "--", "-h", "--help", "../../escaped", "x.toml", "a:b"]
WORDS += [
    "None",
    "True",
    "--seeds",
    "--steps",
    "--out",
    "tiny.toml",
    "{}",
    "[",
    "1e999",
    "-0",
    "two",
]
LINES = [
    "list all", "list runs", "list tasks", "collect tiny.toml --workers 1", "verify tiny two data",
    "label tiny.toml --scorer partial_return --segments 12 --segment-length 6 --workers 1",
    "label tiny.toml --annotator noisy --annotator-settings error_rate 0.1 --pairs ranked "
    "--ranked-size 3 --scorer partial_return --workers 1",
    "inspect missing --scorers regret", "evaluate tiny/sft --episodes 2 --workers 1",
    "report tiny/sft --out page --title T", "sweep two --report-only", "reproduce tiny/nothing",
    "quickstart --out tiny.toml --workers 0", "verify tiny/sft", "report tiny/sft tiny/piql",
    "train --data PREFERENCES --episodes 0 --seeds 1 --device cpu --overwrite --runs made cpl "
    "--steps 4 --clone.steps 2 --policy.hidden 4 --segments 4 --contrast.warmup-steps 1 --lam 0.5",
    "train --data PREFERENCES --episodes 0 --seeds 1 --device cpu --overwrite --runs made piql "
    "--steps 4 --reward.steps 2 --reward.hidden 4 --reward.ensemble 1 --policy.hidden 4 "
    "--value.hidden 4 --segments 4 --transitions 4 --first-seed 0 --threads 1 --note n",
    "train --data PREFERENCES --episodes 0 --seeds 1 --device cpu --overwrite --runs made "
    "--vary lam=0.5,1 --vary alpha=1e-2 cpl --steps 4 --clone.steps 2 --policy.hidden 4",
]  # fmt: skip


def command(rng: random.Random, preferences: Path) -> list[str]:
    """A line of which some words are odd."""
    words = rng.choice(LINES).replace("PREFERENCES", str(preferences)).split()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        here, how = rng.randrange(len(words)), rng.random()
        if how < 0.6 and here:
            words[here] = rng.choice(WORDS)
        elif how < 0.7 and here:
            words.insert(here, rng.choice(WORDS))
        elif how < 0.8 and len(words) > 1:
            del words[here]
        elif here:
            words[here] += rng.choice(("0", "=", "x", ".", "\x1b"))
        else:
            words[0] = rng.choice((*VERBS, "x", "--version"))
    return words if words[0] != "quickstart" or "tiny.toml" in words else ["quickstart", "--out"]


def call(words: list[str]) -> None:
    """Call a verb as a terminal does; what is shown may not steer it."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(words)
    except SystemExit as end:
        if end.code not in (0, 1, 2):
            raise AssertionError(f"it ended with {end.code!r}") from None
        return  # tyro's own words
    assert status in (0, 1, 2), f"it ended with {status}"
    steering = {each for each in out.getvalue() if each in "\x1b\0\x07\x08"}
    assert not steering, f"it shows {steering}"


# --- The rounds ---


def files_of(pattern: str) -> Callable[[Path], list[Path]]:
    return lambda workshop: sorted(workshop.glob(pattern))


READERS: dict[str, Reader] = {
    "task card": Reader(files_of("house/envs/pointmass.toml"), mixed(toml_text), read_card),
    "task family": Reader(files_of("house/envs/metaworld.toml"), mixed(toml_text), read_house),
    "dataset card": Reader(files_of("tiny.toml"), mixed(toml_text), read_dataset_card),
    "experiment card": Reader(files_of("two/experiment.toml"), mixed(toml_text), read_experiment),
    "preferences": Reader(
        files_of("data/preferences/tiny/*.safetensors"), mixed(labelled), read_preferences
    ),
    "run.json": Reader(files_of("tiny/*/run.json"), mixed(json_text), read_record_of),
    "run.json in a report": Reader(files_of("tiny/*/run.json"), json_text, read_for_report),
    "metrics": Reader(files_of("tiny/*/metrics.csv"), mixed(lines), read_notes),
    "evaluations": Reader(files_of("tiny/*/evaluations.csv"), mixed(lines), read_episodes),
    "final": Reader(files_of("tiny/*/final.csv"), mixed(lines), read_episodes),
    "checkpoint": Reader(
        files_of("tiny/*/checkpoints/*.safetensors"), mixed(hashed), read_checkpoint
    ),
    "state": Reader(files_of("tiny/*/state.safetensors"), mixed(hashed), read_state),
    "clone": Reader(files_of("data/clones/*.safetensors"), mixed(hashed), read_clone),
    "dataset's record": Reader(
        files_of("data/cpl_bench/*/data/metadata.json"), mixed(json_text), read_dataset
    ),
    "trajectories": Reader(
        files_of("data/cpl_bench/*/data/*.hdf5"), mixed(episodes), read_dataset
    ),
    "npz": Reader(files_of("foreign/*.npz"), flipped, read_foreign),
    "parquet": Reader(files_of("foreign/tables/*.parquet"), flipped, read_foreign),
    "parquet's card": Reader(files_of("foreign/tables/*.md"), mixed(lines), read_foreign),
    "pickle": Reader(files_of("foreign/*.pkl"), flipped, read_foreign),
    "D4RL": Reader(files_of("foreign/*.hdf5"), mixed(episodes), read_foreign),
    "film": Reader(files_of("rollout.webp"), flipped, read_picture),
    "datasets' page": Reader(files_of("house/datasets/README.md"), flipped, read_page),
}  # fmt: skip
COMMAND_LINE = "command line"


class Finding(NamedTuple):
    """Something that is neither success nor the user's mistake."""

    reader: str
    what: str
    file: str

    @property
    def kind(self) -> tuple[str, str]:
        """What makes two findings one."""
        last = self.what.splitlines()[-1]
        return self.reader, last[:100] if not self.place else f"{last.split(':')[0]} {self.place}"

    @property
    def place(self) -> str:
        """The last line of ours in its traceback."""
        ours = re.findall(r'File ".*?/(cpl_bench/\S+)", line (\d+)', self.what)
        return ":".join(ours[-1]) if ours else ""


def tried(what: Callable[[], object]) -> str:
    """What went wrong, with its traceback; empty if nothing did."""

    def late(*_: object) -> None:
        raise Slow(f"more than {SECONDS} s")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        what()
    except UserError:
        pass
    except (Exception, Slow, SystemExit):
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def one_round(
    name: str, workshop: Path, rng: random.Random, seconds: float, kept: Path
) -> Iterator[Finding | None]:
    """Inputs of a reader, one after the other: a finding, or None for one that went well."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if name == COMMAND_LINE:
            (data,) = sorted((workshop / "data" / "preferences" / "tiny").glob("*noisy*seed0.s*"))[
                :1
            ]
            words = command(rng, data)
            kept.write_text(json.dumps(words))
            problem = tried(lambda words=words: call(words))
        else:
            reader = READERS[name]
            path = rng.choice(reader.files(workshop))
            whole = path.read_bytes()
            damaged = reader.damage(whole, rng)
            kept.write_bytes(damaged)
            kept.with_suffix(".where").write_text(str(path.relative_to(workshop)))
            path.write_bytes(damaged)
            problem = tried(lambda read=reader.read, path=path: read(path, workshop))
            if path.is_symlink() or path.is_file():
                path.unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(whole)
        yield Finding(name, problem, str(kept)) if problem else None


def limit_memory() -> None:
    """BYTES more than now, for this process and its like."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def in_a_child(name: str, workshop: Path, seed: str, seconds: float, found: Path) -> dict[str, Any]:
    """A round in a process of its own: {tried, refused…}; a crash and a hang are findings, too."""
    kept, report_ = (
        found / f"{re.sub('[^a-z]', '-', name)}-{seed.replace('/', '-')}",
        found / "said",
    )
    report_.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        limit_memory()
        count, kinds, said = 0, set(), []
        for count, each in enumerate(
            one_round(name, workshop, random.Random(seed), seconds, kept), start=1
        ):
            if each is not None and each.kind not in kinds:
                kinds.add(each.kind)
                own = kept.with_name(f"{kept.name}-{count}")
                shutil.copy(kept, own)
                if (where := kept.with_suffix(".where")).exists():
                    shutil.copy(where, own.with_suffix(".where"))
                said.append(each._replace(file=str(own)))
            report_.write_text(json.dumps({"count": count, "findings": said}))
        os._exit(0)
    end = time.monotonic() + seconds + 4 * SECONDS
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    result = json.loads(report_.read_text()) if report_.exists() else {"count": 0, "findings": []}
    if done[1]:
        ended = f"the process ended with {os.waitstatus_to_exitcode(done[1])}"
        shutil.copy(kept, own := kept.with_name(f"{kept.name}-crash"))
        result["findings"].append([name, ended, str(own)])
    return result


def escaped(base: Path, workshop: Path) -> list[Path]:
    """Files that lie outside the workshop, where nothing lay before."""
    return [path for path in base.rglob("*") if path.is_file() and workshop not in path.parents]


def prepared(base: Path) -> Path:
    """The workshop in which all is made and read, some folders below `base`."""
    workshop = base / "a" / "b" / "c" / "workshop"
    workshop.mkdir(parents=True)
    os.environ["MINARI_DATASETS_PATH"] = str(workshop / "data")
    os.chdir(workshop)
    with contextlib.redirect_stdout(io.StringIO()):
        make(workshop)
    folders.CHECKOUT = workshop / "house"
    return workshop


def fuzz(minutes: float, seed: int, only: list[str], found: Path) -> int:
    """Rounds over all readers until the time is over; the number of findings."""
    names = only or [*READERS, COMMAND_LINE]
    base = Path(tempfile.mkdtemp(prefix="cpl-bench-fuzz-"))
    workshop = prepared(base)
    master = shutil.copytree(workshop, base / "a" / "b" / "c" / "master")
    before = set(escaped(base, workshop))
    counts: Counter[str] = Counter()
    findings: dict[tuple[str, str], Finding] = {}
    end, number = time.monotonic() + 60 * minutes, 0
    while (left := end - time.monotonic()) > 0:
        number += 1
        for name in names:
            seconds = min(ROUND_SECONDS, max(left / len(names), 0.5))
            said = in_a_child(name, workshop, f"{seed}/{number}", seconds, found)
            counts[name] += said["count"]
            for each in (Finding(*each) for each in said["findings"]):
                if each.kind not in findings:
                    print(f"--- {name}: {each.file}\n{each.what}", flush=True)
                findings.setdefault(each.kind, each)
            outside = set(escaped(base, workshop)) - before
            if outside and name != COMMAND_LINE:  # there the user says where
                each = Finding(name, f"it wrote {sorted(map(str, outside))}", "")
                print(f"--- {name}: {each.what}", flush=True)
                findings.setdefault(each.kind, each)
            before |= outside
            shutil.rmtree(workshop)
            shutil.copytree(master, workshop)
            os.chdir(workshop)
    for name in names:
        print(f"{name:<24}{counts[name]:>9,} inputs")
    print(f"{'all':<24}{sum(counts.values()):>9,} inputs, {len(findings)} findings")
    os.chdir(ROOT)
    shutil.rmtree(base)
    return len(findings)


def again(name: str, file: Path) -> int:
    """Read one kept input again, and show what happens."""
    content = file.read_bytes()
    where = file.with_suffix(".where")
    with tempfile.TemporaryDirectory() as base:
        workshop = prepared(Path(base))
        if name == COMMAND_LINE:
            problem = tried(lambda: call(json.loads(content)))
        else:
            place = READERS[name].files(workshop)[0]
            path = workshop / where.read_text() if where.exists() else place
            path.write_bytes(content)
            problem = tried(lambda: READERS[name].read(path, workshop))
        os.chdir(ROOT)
    print(problem or "It is read, or refused.")
    return bool(problem)


if __name__ == "__main__":
    assert HIDDEN
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], choices=[*READERS, COMMAND_LINE])
    parser.add_argument("--again", nargs=2, metavar=("READER", "FILE"))
    parser.add_argument("--keep", type=Path, default=None, help="where inputs of findings go")
    options = parser.parse_args()
    if options.again:
        sys.exit(again(options.again[0], Path(options.again[1]).resolve()))
    keep = options.keep or Path(tempfile.mkdtemp(prefix="cpl-bench-findings-"))
    keep.mkdir(parents=True, exist_ok=True)
    sys.exit(1 if fuzz(options.minutes, options.seed, options.only, keep.resolve()) else 0)
