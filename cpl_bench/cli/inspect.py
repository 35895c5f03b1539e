"""The verb `inspect` on the command line, with what its options measure.

Annotations are evaluated here and now (tyro reads them), imports of substance wait for the call.
"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from cpl_bench.core.progress import say

Name = Annotated[str, tyro.conf.Positional]


def inspect(
    dataset: Name,
    /,
    against: str | None = None,
    scorers: tuple[str, ...] = (),
    probe: bool = False,
    reward: bool = False,
    record: bool = False,
    film: bool = False,
    pair: tuple[int, int] | None = None,
    workers: int = 0,
) -> None:
    """What is in a dataset: shapes, success, scores, ties, noise, agreement of scorers, coverage;
    pictures.

    Args:
        dataset: a card's name, or the path of one; or a preference file.
        against: another one: on how many comparisons of the same segments do the two agree?
        scorers: further scorers to compare the labels with (takes as long as labelling).
        probe: also measure expert, SFT, CPL(λ) and P-IQL, decide whether the card is accepted, and
            put the line into datasets/README.md of a checkout.
        reward: also fit a reward model, print its accuracy and calibration on held-out episodes,
            and put the line into datasets/README.md of a checkout.
        record: also write the hashes of the data into the card, as the published ones.
        film: also film a pair of segments side by side with its answer, and draw several.
        pair: the positions of the two segments that are filmed.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.core import folders
    from cpl_bench.core.dataset_cards import load_dataset_card
    from cpl_bench.core.errors import UserError
    from cpl_bench.experiments.make import ensure_preferences, has_trajectories
    from cpl_bench.preferences.inspect import inspect as show
    from cpl_bench.preferences.published import preferences_verdict, trajectories_verdict
    from cpl_bench.preferences.scorers import find_scorer
    from cpl_bench.tasks.pool import RolloutPool

    for name in scorers:
        find_scorer(name)
    if against or not has_trajectories(dataset):
        if probe or reward or record:
            raise UserError(f"{dataset} is only looked at: leave out what measures or records.")
        with RolloutPool(workers or None) as pool:
            path = _look_at(dataset, against, scorers, pool)
        return _film(path, film, pair)
    card = load_dataset_card(dataset)
    if (probe or record) and card.source:
        raise UserError(f"{card.name} is imported: nothing of ours to probe or to record.")
    if record and not (card.file or folders.is_checkout()):
        raise UserError(f"{card.path} is an installed copy; record hashes in a checkout.")
    with RolloutPool(workers or None) as pool:
        path = ensure_preferences(card, pool)
        verdicts = f"{trajectories_verdict(card)}\n{preferences_verdict(card)}".splitlines()
        show(card, path, pool, scorers, verdicts)
        if probe:
            _probe(card, path, pool)
        if reward:
            _calibrate(card, path)
        if record:
            _publish(card, pool)
    _film(path, film, pair)


def _film(path: Path, film: bool, pair: tuple[int, int] | None) -> None:
    from cpl_bench.preferences.file import load_preferences
    from cpl_bench.runs.pair_film import film_pairs

    if film or pair:
        film_pairs(load_preferences(path), path.parent, path.stem, pair)


def _look_at(data: str, against: str | None, scorers: tuple[str, ...], pool: Any) -> Path:
    from cpl_bench.experiments.make import find_file, find_preferences
    from cpl_bench.preferences.answers import agreement_line
    from cpl_bench.preferences.inspect import inspect_file

    path = find_file(data, pool)
    preferences = inspect_file(path, pool, scorers)
    if against:
        say(agreement_line(preferences, find_preferences(against, pool)[1]))
    return path


def _probe(card: Any, path: Path, pool: Any) -> None:
    from cpl_bench.experiments import probe
    from cpl_bench.preferences.file import load_preferences
    from cpl_bench.preferences.format import behaviour_score
    from cpl_bench.tasks.registry import find_task

    behaviour = behaviour_score(load_preferences(path), find_task(card.task).scoring)
    assert behaviour is not None, "collected data know what they achieved"
    measured = probe.probe(card, path, behaviour, pool)
    say(f"probe          {measured.row()}\nverdict        {measured.verdict}")
    _record("probe", card.name, measured.row())


def _calibrate(card: Any, path: Path) -> None:
    from cpl_bench.experiments.calibration import calibrate

    measured = calibrate(path)
    say("\n".join(measured.lines()))
    _record("reward", card.name, measured.row())


def _publish(card: Any, pool: Any) -> None:
    from cpl_bench.core import published
    from cpl_bench.preferences.published import measured

    found = measured(card, pool)
    published.record(card.path, found)
    say(f"recorded       {card.path}: {published.short(found.preferences)}")


def _record(section: Any, card: str, row: str) -> None:
    from cpl_bench.core import folders
    from cpl_bench.experiments.datasets_page import record

    if folders.is_checkout():
        record(folders.CHECKOUT / "datasets" / "README.md", section, card, row)
