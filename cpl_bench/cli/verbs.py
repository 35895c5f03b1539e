"""One function a verb, as the command line shows it: options from signatures, help from docstrings.

Annotations are evaluated here and now (tyro reads them), imports of substance wait for the call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cpl_bench.cli.imports import export, import_
from cpl_bench.cli.inspect import inspect
from cpl_bench.cli.tables import results_table
from cpl_bench.cli.verify import reproduce, verify
from cpl_bench.core.progress import say

Name = Annotated[str, tyro.conf.Positional]
ListKind = Literal["all", "tasks", "datasets", "algos", "scorers", "annotators", "runs"]


def call(verb: str, words: Sequence[str]) -> None:
    """Read the rest of the command line and run the verb."""
    if verb == "train":
        from cpl_bench.cli.train import train

        return train(words)
    function = {
        "quickstart": quickstart,
        "list": list_,
        "collect": collect,
        "import": import_,
        "export": export,
        "label": label,
        "inspect": inspect,
        "evaluate": evaluate,
        "report": report,
        "sweep": sweep,
        "verify": verify,
        "reproduce": reproduce,
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
    say(f"\n{results_table(result)}\n\nLook at {result.page} and {result.figure}.")


def list_(what: Annotated[ListKind, tyro.conf.Positional] = "all") -> None:
    """What there is: tasks, datasets, algorithms, scorers, annotators, runs.

    Args:
        what: a kind, or all of them.
    """
    from cpl_bench.cli.list import KINDS

    for kind, lines in KINDS.items():
        if what in ("all", kind):
            say("\n  ".join([f"{kind}:", *lines()]))


def collect(dataset: Name, /, sample: bool = False, workers: int = 0) -> None:
    """Make the trajectories of a dataset card.

    Args:
        dataset: a card's name, or the path of one.
        sample: only see, in a temporary folder, whether the card's sample comes out here as the
            card names it: 40 episodes and 100 labels.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.library import collect as make

    if not sample:
        say(f"Trajectories: {make(dataset, workers=workers)}")
        return
    from cpl_bench.core.dataset_cards import load_dataset_card
    from cpl_bench.experiments.sample import check_sample
    from cpl_bench.tasks.pool import RolloutPool

    with RolloutPool(workers or None) as pool:
        say(f"sample         {check_sample(load_dataset_card(dataset), pool)}")


def label(
    dataset: Name,
    /,
    scorer: str | None = None,
    annotator: str | None = None,
    annotator_settings: dict[str, float] | None = None,
    segments: int | None = None,
    segment_length: int | None = None,
    pairs: Literal["dense", "sparse", "ranked"] | None = None,
    ranked_size: int | None = None,
    comparisons: int | None = None,
    discount: float | None = None,
    workers: int = 0,
) -> None:
    """Say which segments are better: trajectories become preferences.

    What isn't given is as on the card. Collects first if need be.

    Args:
        dataset: a card's name, or the path of one.
        scorer: regret, return_regret, partial_return, success, goal_distance, advantage, or
            module:function.
        annotator: oracle, noisy, one of B-Pref's teachers (bpref_stochastic, bpref_mistake,
            bpref_skip, bpref_equal, bpref_myopic), or module:function.
        annotator_settings: names and numbers, such as: error_rate 0.1 rationality 2.
        segments: how many are drawn, from all episodes alike.
        segment_length: steps in a segment.
        pairs: dense: any two segments are compared; sparse: one comparison for two segments;
            ranked: groups of segments are put in order.
        ranked_size: segments in such a group.
        comparisons: how many each segment is in, for sparse pairs.
        discount: of a myopic teacher: what each step back from a segment's end counts less.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.library import label as make

    path = make(
        dataset,
        scorer=scorer,
        annotator=annotator,
        annotator_settings=annotator_settings,
        segments=segments,
        segment_length=segment_length,
        pairs=pairs,
        ranked_size=ranked_size,
        comparisons=comparisons,
        discount=discount,
        workers=workers,
    )
    say(f"Preferences: {path}")


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    episodes: int = 100,
    checkpoint: int | None = None,
    task: str | None = None,
    video: bool = False,
    workers: int = 0,
) -> None:
    """Roll the policies of a run out on test episodes, which training never sees.

    Args:
        run: a run folder.
        episodes: episodes a seed.
        checkpoint: its gradient step; the last by default.
        task: where, if not where the data come from.
        video: also film one episode of the best member.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.library import evaluate as measure
    from cpl_bench.runs.film import film
    from cpl_bench.tasks.registry import find_task

    measure(run, task, episodes=episodes, checkpoint=checkpoint, workers=workers)
    if video:
        film(run, checkpoint, task=find_task(task) if task else None)


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
    from cpl_bench.experiments.library import report as compare

    result = compare([run for run in runs if run.name != "report"], out, title)
    say(f"{results_table(result)}\n\n→ {result.page}, {result.figure}, {result.table}")


def sweep(
    experiment: Name,
    /,
    report_only: bool = False,
    only_missing: bool = False,
    workers: int = 0,
) -> None:
    """Run a published experiment again and put its evidence back beside its experiment.toml.

    Args:
        experiment: a folder such as results/quickstart, or its name.
        report_only: run nothing: tables, figures and page anew from the published runs.
        only_missing: let published runs stand and run the others: a method or a dataset that came.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.core.errors import UserError
    from cpl_bench.experiments.card import experiment_folder, load_experiment
    from cpl_bench.experiments.publish import publish
    from cpl_bench.experiments.sweep import report_on, run_experiment
    from cpl_bench.tasks.pool import RolloutPool

    if report_only and only_missing:
        raise UserError("--report-only runs nothing, --only-missing what is missing. Choose one.")
    loaded, folder = load_experiment(experiment), experiment_folder(experiment)
    if report_only:
        if folder is None:
            raise UserError(f"There is no checkout of results/{loaded.name} here to report on.")
        say(f"{results_table(report_on(loaded, folder))}\n\n→ {folder}")
        return
    out = Path("runs") / loaded.name
    with RolloutPool(workers or None) as pool:
        result = run_experiment(loaded, out, pool, published=folder if only_missing else None)
    say(f"\n{results_table(result)}\n")
    if folder is None:
        say(f"Not published: no checkout of results/{loaded.name} here. Everything is in {out}.")
    else:
        publish(loaded, out, folder)
