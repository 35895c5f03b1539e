"""The command line: `cpl-bench VERB …`. A verb's own modules are imported when it is called."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cpl_bench.core.errors import UserError, unknown_name, visible

INTRODUCTION = """\
The benchmark for learning robot policies from preferences, offline.

  task card ──► collect ──► trajectories ──► label ──► preferences ──► train ──► evaluate ──► report

usage: cpl-bench VERB [...]        cpl-bench VERB --help explains one

"""
VERBS = {
    "quickstart": "everything on one small task, in minutes",
    "list": "tasks, datasets, algorithms, scorers, runs",
    "collect": "make a dataset's trajectories",
    "import": "bring data: Minari, D4RL, npz files, people's labels",
    "export": "write preferences as others keep them",
    "label": "say which segments are better",
    "inspect": "what is in a dataset; --probe: can it tell methods apart?",
    "train": "train a method on a dataset",
    "evaluate": "roll a run's policies out; --video",
    "report": "learning curves and a table from runs",
    "sweep": "run a published experiment again",
    "verify": "is what lies on disk what was written?",
    "reproduce": "make a run again from its run.json, and compare",
}
AFTER_A_STOP = {
    "train": "The same command with --resume goes on from the last checkpoint.",
    "quickstart": "The same command goes on where it was.",
    "sweep": "The same command goes on where it was.",
    "reproduce": "The same command goes on where it was.",
    "label": "Nothing half-made is left: the same command begins again.",
    "collect": "Nothing half-made is left: the same command begins again.",
    "import": "Nothing half-made is left: the same command begins again.",
}
"""What to type next."""
STOPS = [signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
ADVICE = {
    errno.ENOSPC: "Make room, and give the same command again.",
    errno.EDQUOT: "Make room, and give the same command again.",
    errno.EROFS: "Choose a place that can be written.",
    errno.EACCES: "Choose a place that you may write.",
    errno.EPERM: "Choose a place that you may write.",
    errno.ENOTDIR: "A file lies where a folder should be: move it away, or choose another place.",
    errno.EEXIST: "A file lies where a folder should be: move it away, or choose another place.",
    errno.EISDIR: "A folder lies where a file should be: move it away, or choose another place.",
    errno.ENAMETOOLONG: "Choose shorter names.",
    errno.ELOOP: "A link lies where a file is written, and is not followed: move it away.",
}
SPINS = "20000"
"""How often torch's threads look for work before they sleep. GNU's OpenMP has them look fifteen
times as often, which takes the cores from whatever else wants one (docs/performance.md)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (2 for the user's mistakes, without a traceback)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stops_heard():
            _answer(words)
            sys.stdout.flush()
    except UserError as mistake:
        print(f"cpl-bench: {visible(str(mistake))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        advice = AFTER_A_STOP.get(words[0], "") if words else ""
        print(f"\ncpl-bench: stopped. {advice}", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # whoever read has enough, as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as problem:
        print(f"cpl-bench: {visible(said_of(problem))}", file=sys.stderr)
        return 2
    return 0


def _answer(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(INTRODUCTION + "\n".join(f"  {name:<11}{text}" for name, text in VERBS.items()))
        return
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("cpl-bench"))
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    if words[0] not in VERBS:
        raise unknown_name("verb", words[0], VERBS)
    from cpl_bench.cli.verbs import call

    call(words[0], words[1:])


@contextmanager
def stops_heard() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP stop a verb as Ctrl-C does: files are closed, and it is said how
    to go on."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    ours = threading.current_thread() is threading.main_thread()  # elsewhere none can be set
    before = {number: signal.getsignal(number) for number in STOPS} if ours else {}
    try:
        for number, how in before.items():
            if how not in (signal.SIG_IGN, None):  # as nohup has it; or of another language
                signal.signal(number, stop)
        yield
    finally:
        for number, how in before.items():
            if how is not None:
                signal.signal(number, how)


def said_of(problem: OSError) -> str:
    """What the operating system refused, and what to do about it."""
    where = f"{problem.filename}: " if problem.filename else ""
    advice = ADVICE.get(problem.errno or 0, "")
    return f"{where}{problem.strerror or problem}. {advice}".strip()


if __name__ == "__main__":
    sys.exit(main())
