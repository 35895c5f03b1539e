"""The command line: `cpl-bench VERB …`. A verb's own modules are imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cpl_bench.core.errors import UserError, unknown_name

INTRODUCTION = """\
The benchmark for learning robot policies from preferences, offline.

  task card ──► collect ──► trajectories ──► label ──► preferences ──► train ──► evaluate ──► report

usage: cpl-bench VERB [...]        cpl-bench VERB --help explains one

"""
VERBS = {
    "quickstart": "everything on one small task, in minutes",
    "list": "tasks, datasets, algorithms, scorers, runs",
    "collect": "make a dataset's trajectories",
    "label": "say which segments are better",
    "inspect": "what is in a dataset; --probe: can it tell methods apart?",
    "train": "train a method on a dataset",
    "evaluate": "roll a run's policies out; --video",
    "report": "learning curves and a table from runs",
    "sweep": "run a published experiment again",
}
SPINS = "20000"
"""How often torch's threads look for work before they sleep. GNU's OpenMP has them look fifteen
times as often, which takes the cores from whatever else wants one (docs/performance.md)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (2 for the user's mistakes, without a traceback)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(INTRODUCTION + "\n".join(f"  {name:<11}{text}" for name, text in VERBS.items()))
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("cpl-bench"))
        return 0
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    try:
        if words[0] not in VERBS:
            raise unknown_name("verb", words[0], VERBS)
        from cpl_bench.cli.verbs import call

        call(words[0], words[1:])
    except UserError as mistake:
        print(f"cpl-bench: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncpl-bench: interrupted; --resume continues a training.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
