"""A film on a report's page."""

from collections.abc import Sequence
from pathlib import Path

from cpl_bench.report.read import EvaluatedRun
from cpl_bench.runs.webp import FILM, TRIES_IN_WORDS, Film, origin_of, read_film


def film_of(runs: Sequence[EvaluatedRun], out: Path) -> Film | None:
    """The film in the folder of a report, if it shows the last checkpoint of one of its runs.

    That of an older run with the same names does not.
    """
    film = read_film(out / FILM)
    if film is None:
        return None
    for run in runs:
        last = int(run.checkpoints[-1])
        if film.origin == origin_of(run.folder, last) and film.seed in run.record.seeds:
            return film
    return None


def film_section(film: Film) -> str:
    """Markdown: a heading, the film, and which episode it is."""
    which = (
        f"the first success among {TRIES_IN_WORDS} test episodes"
        if film.succeeded
        else f"the last of {TRIES_IN_WORDS} test episodes, none of which succeeded"
    )
    what = f"One episode of {film.origin.method} on {film.origin.dataset}"
    return f"## Film\n\n![{what}]({FILM})\n\n{what}, seed {film.seed}: {which}."
