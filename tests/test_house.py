"""The architecture: who may import whom, what stays light, what never enters the repository."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cpl_bench"

FLOORS = {
    "core": 0,
    "tasks": 1,
    "learning": 1,
    "trajectories": 2,
    "preferences": 3,
    "runs": 4,
    "report": 5,
    "experiments": 6,
    "cli": 7,
}
"""A room imports only rooms of lower floors, and itself."""
VERBS = (
    "trajectories.collect",
    "preferences.label",
    "preferences.inspect",
    "runs.train",
    "runs.evaluate",
    "runs.film",
    "report.report",
)
TORCH_FREE = (
    "core",
    "tasks",
    "preferences.annotators",
    "preferences.stepwise",
    "preferences.teachers",
    "preferences.scorers",
    "preferences.segments",
    "report.intervals",
    "report.posterior",
    "report.stats",
)
ALGORITHMS_MAY_IMPORT = ("cpl_bench.learning", "cpl_bench.core.errors")
ALGORITHMS_MAY_USE = {"torch", "numpy", "jaxtyping"} | sys.stdlib_module_names
UNPICKLER = PACKAGE / "preferences" / "formats" / "pickles.py"
"""The one file that reads a pickle: by an allow-list, and people's labels alone."""
PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
HEAVY = ("torch", "gymnasium", "matplotlib", "minari", "mujoco", "metaworld", "tensorboard")
LARGEST_FILE_BYTES = 500_000


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Full names of what is imported anywhere in `tree`; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def parse(path: Path) -> tuple[str, ast.Module]:
    """The dotted name and the syntax tree of a module of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts), ast.parse(path.read_text())


def ours(path: Path) -> set[str]:
    """Full names of what a file imports from `cpl_bench`, at any depth."""
    return {name for name in imported(*reversed(parse(path))) if name.startswith("cpl_bench.")}


def rooms(path: Path) -> set[str]:
    """The rooms of `cpl_bench` that a file imports from, at any depth."""
    return {name.split(".")[1] for name in ours(path)} & set(FLOORS)


def module(name: str) -> str:
    """The module that an imported name is, or lies in: `cpl_bench.core.files.atomic_path`."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    found = path.is_dir() or path.with_suffix(".py").is_file()
    return name if found else name.rpartition(".")[0]


def foreign(path: Path) -> set[str]:
    """The top-level packages other than `cpl_bench` that a file imports, at any depth."""
    return {name.split(".")[0] for name in imported(*reversed(parse(path)))} - {"cpl_bench"}


def files_of(place: str) -> list[Path]:
    """The files of a room, or the one file that `room.file` names."""
    path = PACKAGE.joinpath(*place.split("."))
    return [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else [*path.rglob("*.py")]


def run_python(program: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = [path for path in MODULES if path.parent != PACKAGE]
METHODS = [
    path
    for path in sorted((PACKAGE / "learning" / "algos").glob("*.py"))
    if path.stem != "__init__"
]


# --- The reader of imports itself ---


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn as nn", ["torch.nn"]),
        ("from cpl_bench.core import toml, cards", ["cpl_bench.core.toml", "cpl_bench.core.cards"]),
        ("from . import bc", ["cpl_bench.learning.algos.bc"]),
        ("from ..loop import fit", ["cpl_bench.learning.loop.fit"]),
        ("def late():\n    from cpl_bench.a.b import c", ["cpl_bench.a.b.c"]),
    ],
)
def test_imports_are_read_whole(source: str, names: list[str]) -> None:
    assert list(imported(ast.parse(source), "cpl_bench.learning.algos.cpl")) == names


# --- A room imports only rooms below it; inside a room there is no circle ---


def test_every_room_has_its_floor_and_its_name_plate() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert folders == set(FLOORS)
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    for plate in PACKAGE.rglob("*/__init__.py"):
        statements = ast.parse(plate.read_text()).body
        assert len(statements) == 1 and ast.get_docstring(ast.parse(plate.read_text())), plate


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    assert {other for other in rooms(path) if FLOORS[other] >= FLOORS[room]} <= {room}


def test_no_file_imports_itself_through_others() -> None:
    arrows = {parse(path)[0]: {module(name) for name in ours(path)} for path in ROOMS}
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


# --- A method can be tested with a hand-made batch ---


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_methods_import_what_a_hand_made_batch_can_test(path: Path) -> None:
    assert all(name.startswith(ALGORITHMS_MAY_IMPORT) for name in ours(path))
    assert not any(name.startswith("cpl_bench.learning.algos") for name in ours(path))
    assert foreign(path) <= ALGORITHMS_MAY_USE


# --- Workers start quickly ---


@pytest.mark.parametrize("room", TORCH_FREE)
def test_light_rooms_do_not_name_torch(room: str) -> None:
    files = files_of(room)
    assert files, f"there is no room {room}"
    assert [path.name for path in files if "torch" in foreign(path)] == []


def test_light_rooms_do_not_load_torch_through_others() -> None:
    modules = [parse(path)[0].removesuffix(".__init__") for r in TORCH_FREE for path in files_of(r)]
    program = f"""
        import importlib, sys
        for name in {modules}:
            importlib.import_module(name)
            if "torch" in sys.modules:
                print(name)
                break
    """
    assert run_python(program) == "", "the first that loads torch"


# --- Verbs meet through files ---


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_do_not_import_each_other(verb: str) -> None:
    (path,) = files_of(verb)
    others = tuple(f"cpl_bench.{other}." for other in VERBS if other != verb)
    assert not [name for name in ours(path) if name.startswith(others)]


# --- What there is none of ---


def test_folders_of_cards_are_not_packages() -> None:
    assert [*(ROOT / "envs").glob("*.py"), *(ROOT / "datasets").glob("*.py")] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_two_rooms(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


def test_there_is_no_drawer_for_everything() -> None:
    assert [path for path in MODULES if path.stem in ("utils", "util", "helpers", "common")] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_pickled(path: Path) -> None:
    name, tree = parse(path)
    picklers = {found for found in imported(tree, name) if found.split(".")[0] in PICKLERS}
    assert picklers == ({"pickle"} if path == UNPICKLER else set())
    assert {"torch.load", "torch.save"}.isdisjoint(imported(tree, name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save", "pickle.load")
            assert ast.unparse(node) not in ("pickle.loads", "pickle.dump", "pickle.dumps")
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle" or ast.unparse(node.value) == "False"


def test_no_large_file_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = [path for path in paths if path.is_file() and path.stat().st_size > LARGEST_FILE_BYTES]
    assert large == []


# --- What stays light ---


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"""
        import sys
        import cpl_bench
        print([name for name in {HEAVY} if name in sys.modules])
    """
    assert run_python(program) == "[]\n"


def test_help_loads_nothing_heavy() -> None:
    program = f"""
        import contextlib, io, sys
        sys.argv = ["cpl-bench", "--help"]
        from cpl_bench.cli.main import main
        with contextlib.redirect_stdout(io.StringIO()) as help, contextlib.suppress(SystemExit):
            main()
        assert "train" in help.getvalue() and "report" in help.getvalue()
        print([name for name in {HEAVY} if name in sys.modules])
    """
    assert run_python(program) == "[]\n"
