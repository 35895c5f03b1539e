"""The snippets of the docs, run as a reader would: in a folder of their own, in order.

`CPL_BENCH_PYTHON` chooses the interpreter: `scripts/test.sh` runs them from the wheel, too.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.environ.get("CPL_BENCH_PYTHON", sys.executable)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")
LONGEST = 20
"""Lines of a snippet, blank ones and those of imports not counted."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of a page."""
    return BLOCK.findall(page.read_text())


def test_snippets_run_from_the_first_to_the_last(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MINARI_DATASETS_PATH": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    ran = 0
    for language, text in blocks(ROOT / "docs" / "library.md"):
        if named := FILE.match(text):
            (tmp_path / named[1]).write_text(text)
            continue
        if language == "toml":
            continue
        words = [PYTHON, "-c", text]
        if language == "bash":
            words = ["bash", "-ec", text.replace("cpl-bench", f'"{PYTHON}" -m cpl_bench.cli.main')]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 7
    assert {path.name for path in (tmp_path / "runs" / "dots").iterdir()} == {
        "cpl",
        "sft",
        "cloning-entry",
        "cloning-entry-shell",
        ".shared",
    }


def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "first_look.ipynb").read_text("utf-8"))
    cells = [each for each in notebook["cells"] if each["cell_type"] == "code"]
    assert not any(each["outputs"] for each in cells), "outputs are committed by nobody"
    code = "\n".join("".join(each["source"]) for each in cells)
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    words = [PYTHON, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rates = re.findall(r"^(sft|cpl): (\d+)% of the episodes succeed$", done.stdout, re.MULTILINE)
    tested = {name: int(rate) for name, rate in rates}
    assert tested["cpl"] > tested["sft"]
    assert (tmp_path / "runs" / "compared" / "curves.png").is_file()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_snippets_are_short(page: Path) -> None:
    for language, text in blocks(page):
        lines = [line for line in text.splitlines() if line.strip() and "import " not in line]
        assert language != "python" or len(lines) < LONGEST, text


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
