"""A film on a report's page."""

from collections.abc import Sequence
from pathlib import Path

from cpl_bench.report.read import EvaluatedRun
from cpl_bench.runs.webp import FILM, TRIES_IN_WORDS, Film, read_film


def film_of(runs: Sequence[EvaluatedRun], out: Path) -> Film | None:
    """The film in the folder of a report, if it shows one of its runs."""
    film = read_film(out / FILM)
    if film is None:
        return None
    shown = [
        run
        for run in runs
        if (run.dataset, run.method) == (film.dataset, film.method)
        and film.seed in run.record.seeds
    ]
    return film if shown else None


def film_section(film: Film) -> str:
    """Markdown: a heading, the film, and which episode it is."""
    which = (
        f"the first success among {TRIES_IN_WORDS} test episodes"
        if film.succeeded
        else f"the last of {TRIES_IN_WORDS} test episodes, none of which succeeded"
    )
    what = f"One episode of {film.method} on {film.dataset}"
    return f"## Film\n\n![{what}]({film.path.name})\n\n{what}, seed {film.seed}: {which}."
