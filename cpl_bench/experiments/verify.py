"""The verb `verify`: is what lies on disk what was written, and does it still belong together?

Trajectories, preferences, checkpoints and states carry the SHA-256 of what they hold, and name
those of what they were made from: trajectories ◄── preferences ◄── run. Whatever reads them checks
them, too; here all of it is read on purpose. Records and tables carry none: of them it is checked
that they are whole, agree with each other, and give the page's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.published import short
from cpl_bench.core.tables import read_json
from cpl_bench.core.tensors import read_tensors
from cpl_bench.experiments.card import load_experiment
from cpl_bench.experiments.cells import cells
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.labelling import preference_path
from cpl_bench.report.data import published_of
from cpl_bench.report.likelihood import EXTRACT, METRICS
from cpl_bench.report.read import read_run
from cpl_bench.report.report import report
from cpl_bench.runs.evaluations import read_evaluations
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.metrics import read_metrics
from cpl_bench.runs.record import RunRecord, as_table, read_record
from cpl_bench.trajectories.dataset import content_hash
from cpl_bench.trajectories.formats.any_minari import read_any
from cpl_bench.trajectories.formats.minari import read_trajectories

Verdict = Literal["sound", "unfinished", "stale", "damaged"]
TABLES = ("table.csv", "curves.csv", "likelihood.csv")
"""What a page's numbers are, besides its words and pictures."""


class Finding(NamedTuple):
    """What is to be said of a file or a folder."""

    path: Path
    verdict: Verdict
    about: str

    def __str__(self) -> str:
        return f"{self.verdict:<11}{self.path}  {self.about}"


def verify(path: Path) -> Iterator[Finding]:
    """Check a file, a dataset's folder, a run, or all there is below a folder.

    Raises:
        UserError: there is no such thing, or nothing in it that could be checked.
    """
    if not path.exists():
        raise UserError(f"{path} is not there.")
    things = list(_things(path))
    if not things:
        raise UserError(
            f"{path} holds nothing to verify: no run, dataset, preference file or experiment."
        )
    for place, check in things:
        try:
            yield Finding(place, *check(place))
        except UserError as problem:
            yield Finding(place, "damaged", str(problem))


Check = Callable[[Path], tuple[Verdict, str]]


def _things(path: Path) -> Iterator[tuple[Path, Check]]:
    """What is to be checked, sources first."""
    if path.is_file():
        yield path, _check_of(path)
        return
    for found in sorted(path.rglob("metadata.json")):
        if found.parent.name == "data":
            yield found.parent.parent, _trajectories
    runs = [found.parent for found in sorted(path.rglob("run.json"))]
    for found in sorted(path.rglob("*.safetensors")):
        if not any(run in found.parents for run in runs) and ".shared" not in found.parts:
            yield found, _check_of(found)
    for run in runs:
        yield run, _run
    for found in sorted(path.rglob("experiment.toml")):
        yield found.parent, _page


def _check_of(path: Path) -> Check:
    if path.suffix == ".csv":
        return _metrics if path.name in (METRICS, EXTRACT) else _evaluations
    checked = path.parent.name in ("checkpoints", "clones") or path.name == "state.safetensors"
    return _tensors if checked else _preferences


def _tensors(path: Path) -> tuple[Verdict, str]:
    _, arrays = read_tensors(path, "Make it again.")
    return "sound", f"{len(arrays)} arrays"


def _evaluations(path: Path) -> tuple[Verdict, str]:
    return "sound", f"{len(read_evaluations(path)['seed']):,} episodes"


def _metrics(path: Path) -> tuple[Verdict, str]:
    read_metrics(path, "", [])
    return "sound", "metrics"


def _trajectories(folder: Path) -> tuple[Verdict, str]:
    minari_id = _minari_id(folder)
    root = folder.resolve().parents[minari_id.count("/")]
    if "cpl_bench" not in read_json(folder / "data" / "metadata.json"):
        episodes = len(read_any(minari_id, root, ())[0])
        return "sound", f"{episodes:,} episodes of another program, which named no hash"
    found = read_trajectories(minari_id, root)
    named, hashed = found.record.get("content_hash", ""), content_hash(found.trajectories)
    if named and named != hashed:
        raise UserError(f"holds other episodes than were collected (sha256 {short(hashed)}).")
    about = f"{len(found.trajectories):,} episodes, sha256 {short(hashed)}"
    return "sound", about if named else f"{about}; of another program, which named no hash"


def _minari_id(folder: Path) -> str:
    """The dataset's name, which ends its path.

    Raises:
        UserError: it does not, or cannot be read.
    """
    path = folder / "data" / "metadata.json"
    try:
        name = read_json(path)["dataset_id"]
    except (OSError, UserError, KeyError, TypeError) as problem:
        raise UserError(f"{path} cannot be read ({problem}).") from None
    if isinstance(name, str) and folder.resolve().as_posix().endswith(f"/{name}"):
        return name
    raise UserError(f"{path} says that it is of the dataset {shown(name)}, which lies elsewhere.")


def _preferences(path: Path) -> tuple[Verdict, str]:
    info = load_preferences(path).info
    return "sound", f"preferences of {info.title}, sha256 {short(info.preferences_hash)}"


def _run(path: Path) -> tuple[Verdict, str]:
    """Its files one by one, then whether they belong together, then its sources."""
    folder = RunFolder(path)
    record = folder.read()
    for step in folder.checkpoint_steps():
        folder.read_weights(step)
    reached = folder.read_state()[0] if folder.state.is_file() else None
    for name in (METRICS, EXTRACT):
        if (path / name).is_file():
            read_metrics(path / name, "", [])
    if folder.evaluations.is_file():
        read_run(path)
    elif folder.final.is_file():
        read_evaluations(folder.final)
    about = f"{record.method}, {len(record.seeds)} seeds, {record.steps:,} steps"
    if stale := _other_data(record):
        return "stale", f"{about}: {stale}"
    if reached is not None and reached < record.steps:
        return "unfinished", f"{about}: at step {reached:,}"
    return "sound", about


def _other_data(record: RunRecord) -> str:
    """In which way the data of a run are not today's; empty if they are, or nobody knows."""
    info, published = record.preferences, published_of(record.preferences)
    for what, ours, named in (
        ("trajectories", info.source_hash, published.trajectories),
        ("preferences", info.preferences_hash, published.preferences),
    ):
        if ours and named and ours != named:
            return f"its {what} are {short(ours)}, the card now publishes {short(named)}"
    if published.preferences:
        path = preference_path(load_dataset_card(info.card))
        if path.is_file():
            here = load_preferences(path).info.preferences_hash
            if here != info.preferences_hash:
                return f"its preferences are {short(info.preferences_hash)}, {path} {short(here)}"
    return ""


def _page(folder: Path) -> tuple[Verdict, str]:
    """Whether an experiment's tables are those that its runs give."""
    experiment = load_experiment(str(folder))
    runs = [folder / cell.folder for cell in cells(experiment)]
    missing = [run for run in runs if not (run / "run.json").is_file()]
    there = [name for name in TABLES if (folder / name).is_file()]
    if missing or not there:
        lacking = f"{len(missing)} of its {len(runs)} runs are missing" if missing else "no tables"
        return "unfinished", f"{experiment.name}: {lacking}"
    with TemporaryDirectory() as made:
        report(runs, Path(made), experiment.title or experiment.name)
        for name in there:
            again = Path(made) / name
            if not again.is_file() or again.read_bytes() != (folder / name).read_bytes():
                raise UserError(
                    f"{name} is not what its runs give: `cpl-bench sweep {folder} --report-only` "
                    "writes it anew."
                )
    for cell in cells(experiment):
        method = cell.method
        asked = as_table(configured(method.algorithm, cell.preset, method.settings))
        ran = read_record(folder / cell.folder)
        if (ran.config, ran.seeds) != (asked, cell.members):
            said = f"{method.name} ran with other settings or seeds than are asked for today"
            return "stale", f"{experiment.name}: {said}"
    return "sound", f"{experiment.name}: its tables are what {len(runs)} runs give"
