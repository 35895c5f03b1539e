"""The architecture: who may import whom, what stays light, what never enters the repository."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cpl_bench"

VERBS = ("collect", "label", "inspect", "train", "evaluate", "report")
TORCH_FREE = (
    "cards",
    "experiments",
    "pairs",
    "stats",
    "tasks",
    "rollouts",
    "worker",
    "annotators",
    "seeds",
    "errors",
    "files",
    "evaluations",
    "scorers",
    "progress",
)
ALGORITHMS_MAY_IMPORT = {
    "interface", "losses", "networks", "optimisers", "reward", "random_bits", "errors"
}  # fmt: skip
ALGORITHMS_MAY_USE = {"torch", "numpy", "jaxtyping"} | sys.stdlib_module_names
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


def rooms(path: Path) -> set[str]:
    """The rooms of `cpl_bench` that a file imports from, at any depth."""
    names = [name.split(".") for name in imported(*reversed(parse(path)))]
    return {name[1] for name in names if name[0] == "cpl_bench"}


def foreign(path: Path) -> set[str]:
    """The top-level packages other than `cpl_bench` that a file imports, at any depth."""
    return {name.split(".")[0] for name in imported(*reversed(parse(path)))} - {"cpl_bench"}


def files_of(room: str) -> list[Path]:
    """The files of a room, which is a module or a package."""
    module = PACKAGE / f"{room}.py"
    return [module] if module.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def run_python(program: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MODULES = sorted(PACKAGE.rglob("*.py"))
METHODS = [path for path in sorted((PACKAGE / "algos").glob("*.py")) if path.stem != "__init__"]


# --- The reader of imports itself ---


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.nn as nn", ["torch.nn"]),
        ("from cpl_bench import stats, cards", ["cpl_bench.stats", "cpl_bench.cards"]),
        ("from . import bc", ["cpl_bench.algos.bc"]),
        ("from ..train import train", ["cpl_bench.train.train"]),
        ("def late():\n    from cpl_bench.train import train", ["cpl_bench.train.train"]),
    ],
)
def test_imports_are_read_whole(source: str, names: list[str]) -> None:
    assert list(imported(ast.parse(source), "cpl_bench.algos.cpl")) == names


# --- Rule 1: a method can be tested with a hand-made batch ---


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_methods_import_what_a_hand_made_batch_can_test(path: Path) -> None:
    assert rooms(path) <= ALGORITHMS_MAY_IMPORT
    assert foreign(path) <= ALGORITHMS_MAY_USE


# --- Rule 2: workers start quickly ---


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


# --- Rule 3: a trajectory walks through the rooms in one direction ---


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_do_not_import_each_other(verb: str) -> None:
    path = PACKAGE / f"{verb}.py"
    assert path.is_file()
    assert rooms(path).isdisjoint({*VERBS, "sweep", "cli", "commands", "train_command"} - {verb})


# --- What there is none of ---


def test_folders_of_cards_are_not_packages() -> None:
    assert [*(ROOT / "envs").glob("*.py"), *(ROOT / "datasets").glob("*.py")] == []


def test_there_is_no_drawer_for_everything() -> None:
    assert [path for path in MODULES if path.stem in ("utils", "util", "helpers", "common")] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_pickled(path: Path) -> None:
    name, tree = parse(path)
    assert {found.split(".")[0] for found in imported(tree, name)}.isdisjoint(PICKLERS)
    assert {"torch.load", "torch.save"}.isdisjoint(imported(tree, name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save")
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
        from cpl_bench.cli import main
        with contextlib.redirect_stdout(io.StringIO()) as help, contextlib.suppress(SystemExit):
            main()
        assert "train" in help.getvalue() and "report" in help.getvalue()
        print([name for name in {HEAVY} if name in sys.modules])
    """
    assert run_python(program) == "[]\n"
