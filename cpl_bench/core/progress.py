"""What the user sees while waiting."""

import sys

from tqdm import tqdm

from cpl_bench.core.errors import visible


def say(text: str) -> None:
    """A line for the user that leaves progress bars whole; nothing in it steers the terminal."""
    tqdm.write(visible(text), file=sys.stdout)
    sys.stdout.flush()


def progress_bar(caption: str, total: int, done: int = 0) -> tqdm:
    """The house's progress bar: appears after a second, with an ETA; quiet lines in a log file."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=visible(caption),
        delay=1,
        leave=False,
        mininterval=0.2 if interactive else 15,
        dynamic_ncols=interactive,
    )
