"""One function a verb, as the command line shows it: options from signatures, help from docstrings.

Annotations are evaluated here and now (tyro reads them), imports of substance wait for the call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cpl_bench.core.errors import UserError, unknown_name

Name = Annotated[str, tyro.conf.Positional]
ListKind = Literal["all", "tasks", "datasets", "algos", "scorers", "runs"]


def call(verb: str, words: Sequence[str]) -> None:
    """Read the rest of the command line and run the verb."""
    if verb == "train":
        from cpl_bench.cli.train import train

        return train(words)
    function = {
        "quickstart": quickstart,
        "list": list_,
        "collect": collect,
        "label": label,
        "inspect": inspect,
        "evaluate": evaluate,
        "report": report,
        "sweep": sweep,
    }[verb]
    return tyro.cli(function, prog=f"cpl-bench {verb}", args=list(words))


def quickstart(out: Path = Path("runs/quickstart"), workers: int = 0) -> None:
    """Everything on one small task, in minutes: data, SFT, P-PPO, CPL, CPL(λ), curves, a page.

    What is on disk is not done again: after an interruption, give the same command.

    Args:
        out: where runs, figures and the page go.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.card import load_experiment
    from cpl_bench.experiments.sweep import run_experiment
    from cpl_bench.tasks.pool import RolloutPool

    with RolloutPool(workers or None) as pool:
        result = run_experiment(load_experiment("quickstart"), out, pool)
    print(f"\n{_table(result)}\n\nLook at {result.page} and {result.figure}.")


def list_(what: Annotated[ListKind, tyro.conf.Positional] = "all") -> None:
    """What there is: tasks, datasets, algorithms, scorers, runs.

    Args:
        what: a kind, or all of them.
    """
    from cpl_bench.cli.list import KINDS

    for kind, lines in KINDS.items():
        if what in ("all", kind):
            print(f"{kind}:", *lines(), sep="\n  ")


def collect(dataset: Name, /, workers: int = 0) -> None:
    """Make the trajectories of a dataset card.

    Args:
        dataset: a card's name, or the path of one.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.core.dataset_cards import load_dataset_card
    from cpl_bench.experiments.make import ensure_trajectories
    from cpl_bench.tasks.pool import RolloutPool
    from cpl_bench.trajectories.formats.minari import minari_folder

    card = load_dataset_card(dataset)
    with RolloutPool(workers or None) as pool:
        ensure_trajectories(card, pool)
    print(f"Trajectories: {minari_folder(card.minari_id)}")


def label(
    dataset: Name,
    /,
    scorer: str | None = None,
    annotator: str | None = None,
    segments: int | None = None,
    segment_length: int | None = None,
    pairs: Literal["dense", "sparse", "ranked"] | None = None,
    ranked_size: int | None = None,
    workers: int = 0,
) -> None:
    """Say which segments are better: trajectories become preferences.

    What isn't given is as on the card. Collects first if need be.

    Args:
        dataset: a card's name, or the path of one.
        scorer: regret, return_regret or partial_return.
        annotator: oracle.
        segments: how many are drawn, from all episodes alike.
        segment_length: steps in a segment.
        pairs: dense: any two segments are compared; sparse: one comparison for two segments;
            ranked: groups of segments are put in order.
        ranked_size: segments in such a group.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.core.dataset_cards import load_dataset_card
    from cpl_bench.experiments.make import ensure_preferences
    from cpl_bench.preferences.label import with_options
    from cpl_bench.tasks.pool import RolloutPool

    card = load_dataset_card(dataset)
    card = with_options(card, scorer, annotator, segments, segment_length, pairs, ranked_size)
    with RolloutPool(workers or None) as pool:
        print(f"Preferences: {ensure_preferences(card, pool)}")


def inspect(
    dataset: Name,
    /,
    scorers: tuple[str, ...] = (),
    probe: bool = False,
    reward: bool = False,
    workers: int = 0,
) -> None:
    """What is in a dataset: shapes, success, scores, ties, agreement of scorers; a picture.

    Args:
        dataset: a card's name, or the path of one.
        scorers: further scorers to compare the labels with (takes as long as labelling).
        probe: also measure expert and SFT, decide whether the card is accepted, and put the line
            into datasets/README.md of a checkout.
        reward: also fit a reward model, print its accuracy and calibration on held-out episodes,
            and put the line into datasets/README.md of a checkout.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.core.dataset_cards import load_dataset_card
    from cpl_bench.experiments.make import ensure_preferences
    from cpl_bench.preferences.inspect import inspect as show
    from cpl_bench.preferences.scorers import SCORERS
    from cpl_bench.tasks.pool import RolloutPool

    for name in scorers:
        if name not in SCORERS:
            raise unknown_name("scorer", name, SCORERS)
    card = load_dataset_card(dataset)
    with RolloutPool(workers or None) as pool:
        path = ensure_preferences(card, pool)
        show(card, path, pool, scorers)
        if probe:
            _probe(card, path, pool)
        if reward:
            _calibrate(card, path)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    episodes: int = 100,
    checkpoint: int | None = None,
    video: bool = False,
    workers: int = 0,
) -> None:
    """Roll the policies of a run out on test episodes, which training never sees.

    Args:
        run: a run folder.
        episodes: episodes a seed.
        checkpoint: its gradient step; the last by default.
        video: also film one episode of the best member.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.runs.evaluate import evaluate as measure
    from cpl_bench.runs.film import film
    from cpl_bench.tasks.pool import RolloutPool

    with RolloutPool(workers or None) as pool:
        measure(run, pool, episodes, checkpoint)
    if video:
        film(run, checkpoint)


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    out: Path | None = None,
    title: str = "",
) -> None:
    """Learning curves and a table with intervals from run folders.

    Args:
        runs: run folders, such as runs/drawer-open/*; a `report` among them is passed over.
        out: where the report goes; by default `report` beside the first run.
        title: the page's heading.
    """
    from cpl_bench.report.report import report as compare

    folders = [run for run in runs if run.name != "report"]
    if not folders:
        raise UserError("There are no runs to report on. Name run folders: runs/drawer-open/*.")
    result = compare(folders, out or folders[0].parent / "report", title)
    print(f"{_table(result)}\n\n→ {result.page}, {result.figure}, {result.table}")


def sweep(experiment: Name, /, workers: int = 0) -> None:
    """Run a published experiment again and put its evidence back beside its experiment.toml.

    Args:
        experiment: a folder such as results/quickstart, or its name.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.card import experiment_folder, load_experiment
    from cpl_bench.experiments.publish import publish
    from cpl_bench.experiments.sweep import run_experiment
    from cpl_bench.tasks.pool import RolloutPool

    loaded = load_experiment(experiment)
    out = Path("runs") / loaded.name
    with RolloutPool(workers or None) as pool:
        result = run_experiment(loaded, out, pool)
    print(f"\n{_table(result)}\n")
    folder = experiment_folder(experiment)
    if folder is None:
        print(f"Not published: no checkout of results/{loaded.name} here. Everything is in {out}.")
    else:
        publish(loaded, out, folder)


def _probe(card: Any, path: Path, pool: Any) -> None:
    from cpl_bench.experiments import probe
    from cpl_bench.preferences.file import load_preferences
    from cpl_bench.preferences.format import success_rate

    behaviour = success_rate(load_preferences(path))
    assert behaviour is not None, "collected data know their successes"
    measured = probe.probe(card, path, behaviour, pool)
    print(f"probe          {measured.row()}\nverdict        {measured.verdict}")
    _record("probe", card.name, measured.row())


def _calibrate(card: Any, path: Path) -> None:
    from cpl_bench.experiments.calibration import calibrate

    measured = calibrate(path)
    print(*measured.lines(), sep="\n")
    _record("reward", card.name, measured.row())


def _record(section: Any, card: str, row: str) -> None:
    from cpl_bench.core import folders
    from cpl_bench.experiments.datasets_page import record

    if folders.is_checkout():
        record(folders.CHECKOUT / "datasets" / "README.md", section, card, row)


def _table(result: Any) -> str:
    """The table of a report, for a terminal."""
    rows = result.rows
    head = f"{'dataset':<24}{'method':<18}{'peak':>7}{'last':>7}   95 % interval of last"
    lines = [
        f"{row.dataset:<24}{row.method:<18}{row.peak:>7.1%}{row.last:>7.1%}   "
        f"[{row.ci_low:.1%}, {row.ci_high:.1%}]  {row.seeds} seeds × {row.episodes} episodes"
        for row in rows
    ]
    lines += [
        f"{method} took {steps:,} simulator steps a seed to learn; offline methods take none."
        for method, steps in result.online_transitions.items()
    ]
    return "\n".join([head, *lines])
