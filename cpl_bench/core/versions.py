"""The versions behind a number: of packages, simulators and this checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cpl_bench.core import folders
from cpl_bench.core.cards import TaskCard


def installed(task: TaskCard) -> dict[str, str]:
    """The installed versions of what a task is simulated with."""
    return {name: _version(name) for name in task.simulators}


def versions(simulators: Mapping[str, str]) -> dict[str, str]:
    """Installed versions of the packages behind a run."""
    return {name: _version(name) for name in ("cpl-bench", "torch", "numpy", *simulators)}


def _version(package: str) -> str:
    """What is installed; training takes no simulator."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """What the machine calls its processor: AMD EPYC, family 25, model 17."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    parts = [facts.get("model name") or platform.machine()]
    parts += [f"{key.split()[-1]} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return ", ".join(parts)


def commit() -> str | None:
    """The checkout's commit, with a `+` if files differ from it; None outside a checkout."""
    if not (folders.CHECKOUT / ".git").exists():
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    ask = ["git", "-C", str(folders.CHECKOUT)]
    try:
        head = subprocess.run(
            [*ask, "rev-parse", "HEAD"], capture_output=True, text=True, env=environment, check=True
        )
        changed = subprocess.run(
            [*ask, "status", "--porcelain", "--", "cpl_bench", "envs", "datasets"],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
