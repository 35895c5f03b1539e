"""What the presets were chosen from: trials of settings, and the page that compares them.

    python scripts/tuning.py --run sft cpl piql ppo ipl  # hours; → results/presets/*/trials.csv
    python scripts/tuning.py                         # → results/presets/tuning.md

A trial's score on a task is the mean of its last two evaluations, over seeds: monitoring episodes,
none of the test episodes that tables are made of.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpl_bench.core.files import write_atomically
from cpl_bench.core.published import SHOWN
from cpl_bench.experiments.card import Experiment, Method, load_experiment
from cpl_bench.experiments.cells import cells, one_by_one
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.methods import configured, find_method
from cpl_bench.report.markdown import table
from cpl_bench.report.read import read_run
from cpl_bench.tasks.pool import RolloutPool

PRESETS = Path(__file__).parents[1] / "results" / "presets"
EXPERIMENTS = ("sft", "cpl", "piql", "ppo", "ipl")
COLUMNS = ("dataset", "data", "trial", "step", "seed", "episodes", "score")
LAST = 2
"""Evaluations that a score is the mean of."""

INTRODUCTION = """\
<!-- Written by scripts/tuning.py: edits are lost. -->

# What the laptop presets were chosen from

One preset a method, for all tasks; chosen on three: {tasks}.
Seeds {seeds}, which no table uses, and monitoring episodes alone. Each method had a first
setting, and trials that change of it, or of the trial before, what their names say. Success in
percent, the mean of the last two evaluations; *mean* is over the tasks, *gain* is what a trial
gains on the first setting with the standard error of that gain, from episodes and seeds. *Clone* is
the mean after the cloning that a method begins with.

Steps were decided last: 8,000 for every offline method, as CPL(λ) and P-IQL have their highest
means there; CPL(λ) contrasts 16 segments at a time, which does as well as 32 for half the work.
P-PPO takes the others' longer cloning, which gains it nothing. That was decided on these three
tasks, but four cells of a table had been seen on their test episodes with the presets before (4,000
steps; CPL(λ) and P-IQL had 59.5 and 59.0 on plate-slide, 76.5 and 73.0 on sweep-into), and wanted
more.

The methods have not had the same number of trials. Not listed are looks at single tasks in search
of causes, whose runs were not kept: cloning fetch-push for longer, wider, at other rates and
batches (seeds 20 and 21), CPL's α there, and on bin-picking P-IQL with γ = 0, with γ = 0.9 and a
higher temperature, and with fewer steps of reward or of all (10 and 11).

IPL came last. Its preset before, found on the point mass, did not converge on segments of 64
steps, and its scores in `results/objectives` were known (66.5, 57.0 and 67.5 on drawer-open,
plate-slide and sweep-into). What its critics converge with was sought on drawer-open-small without
a rollout, by the loss of the comparisons alone (10 and 11, a dozen runs of 1,000 to 8,000 steps,
not kept).

The trials are in `*/experiment.toml`, their evaluations in `*/trials.csv`;
`python scripts/tuning.py --run {names}` makes both again.
"""


@dataclass(frozen=True)
class Score:
    """Of one trial on one task."""

    by_seed: tuple[float, ...]
    """The mean of the last evaluations, each seed's."""
    clone: float
    """The mean over seeds at the end of the cloning; NaN for methods without."""
    episodes: int
    """Behind each seed's."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.by_seed))

    @property
    def variance(self) -> float:
        """Of the mean: what the episodes leave open, or more if the seeds say so."""
        of_episodes = self.mean * (1 - self.mean) / (self.episodes * len(self.by_seed))
        return max(of_episodes, float(np.var(self.by_seed, ddof=1)) / len(self.by_seed))


def gather(name: str, runs: Path) -> None:
    """Write an experiment's `trials.csv` from the run folders below `runs`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells(load_experiment(str(PRESETS / name))):
        run = read_run(runs / cell.folder)
        data = run.record.preferences.preferences_hash[:SHOWN]
        for place, seed in enumerate(run.record.seeds):
            for step, episodes in zip(run.checkpoints, run.episodes, strict=True):
                scores = episodes[place]
                fields = (cell.dataset, data, cell.method.name, step, seed, len(scores))
                writer.writerow([*fields, f"{scores.mean():.4f}"])
    write_atomically(PRESETS / name / "trials.csv", text.getvalue())


def scores_of(name: str) -> dict[tuple[str, str], Score]:
    """{(trial, task): score} of an experiment's `trials.csv`."""
    clones = {
        method.name: method.settings.get("clone", {}).get("steps", 0)
        for method in load_experiment(str(PRESETS / name)).methods
    }
    found: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
    episodes = 0
    with (PRESETS / name / "trials.csv").open() as file:
        for row in csv.DictReader(file):
            curves = found.setdefault((row["trial"], row["dataset"]), {})
            curves.setdefault(int(row["seed"]), {})[int(row["step"])] = float(row["score"])
            episodes = int(row["episodes"])
    result = {}
    for (trial, task), curves in found.items():
        steps = sorted(next(iter(curves.values())))
        at = [step for step in steps if step <= clones[trial]]
        result[trial, task] = Score(
            tuple(float(np.mean([c[step] for step in steps[-LAST:]])) for c in curves.values()),
            float(np.mean([curve[at[-1]] for curve in curves.values()])) if at else np.nan,
            LAST * episodes,
        )
    return result


def section(name: str) -> list[str]:
    """An experiment's table."""
    experiment, scores = load_experiment(str(PRESETS / name)), scores_of(name)
    tasks, laptop = experiment.datasets, preset_of_trials(experiment)
    first = experiment.methods[0].name
    lines = [f"## {experiment.title.partition(':')[0]}", "", budget(experiment), ""]
    rows = []
    for method in experiment.methods:
        own = [scores[method.name, task] for task in tasks]
        base = [scores[first, task] for task in tasks]
        mean, gain, error = compared(own, base)
        clone = np.mean([each.clone for each in own])
        cells_ = [f"{100 * each.mean:.1f}" for each in own]
        cells_ += [f"**{100 * mean:.1f}**" if method.name in laptop else f"{100 * mean:.1f}"]
        cells_ += ["" if method.name == first else f"{100 * gain:+.1f} ± {100 * error:.1f}"]
        cells_ += ["" if np.isnan(clone) else f"{100 * clone:.1f}"]
        named = f"**{method.name}**" if method.name in laptop else method.name
        rows.append([named, *cells_])
    said = "In bold: what the laptop preset is." if laptop else "The laptop preset is none of them."
    return [*lines, table(["trial", *tasks, "mean", "gain", "clone"], rows), "", said, ""]


def compared(own: Sequence[Score], base: Sequence[Score]) -> tuple[float, float, float]:
    """Mean over tasks, its gain on the first setting's, and the gain's standard error."""
    mean = float(np.mean([each.mean for each in own]))
    gain = mean - float(np.mean([each.mean for each in base]))
    both = sum(each.variance for each in (*own, *base))
    return mean, gain, float(np.sqrt(both)) / len(own)


def budget(experiment: Experiment) -> str:
    """How much was tried."""
    methods = experiment.methods
    steps = {configured(m.algorithm, experiment.preset, m.settings).steps for m in methods}
    of = f"{min(steps):,}" if len(steps) == 1 else f"{min(steps):,} to {max(steps):,}"
    trials = "1 trial" if len(methods) == 1 else f"{len(methods)} trials"
    return (
        f"{trials} × {len(experiment.datasets)} tasks × {experiment.seeds} seeds, {of} gradient "
        f"steps each; {LAST * experiment.episodes} episodes behind each seed's score."
    )


def preset_of_trials(experiment: Experiment) -> set[str]:
    """The trials whose settings are the laptop preset's."""

    def config(method: Method) -> MethodConfig:
        return configured(method.algorithm, experiment.preset, method.settings)

    return {
        method.name
        for method in experiment.methods
        if config(method) == find_method(method.algorithm).presets["laptop"]
    }


def page() -> str:
    """The whole page."""
    experiment = load_experiment(str(PRESETS / EXPERIMENTS[0]))
    seeds = range(experiment.first_seed, experiment.first_seed + experiment.seeds)
    tasks, numbers = ", ".join(experiment.datasets), " and ".join(map(str, seeds))
    known = [name for name in EXPERIMENTS if (PRESETS / name / "trials.csv").is_file()]
    parts = [INTRODUCTION.format(tasks=tasks, seeds=numbers, names=" ".join(EXPERIMENTS))]
    parts += ["\n".join(section(name)) for name in known]
    return "\n".join(parts)


def main() -> None:
    """Run and gather what is asked for; then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", nargs="+", choices=EXPERIMENTS, default=(), help="try again")
    parser.add_argument("--runs", type=Path, default=Path("runs/presets"), help="where they lie")
    arguments = parser.parse_args()
    for name in arguments.run:
        with RolloutPool() as pool:
            todo = cells(load_experiment(str(PRESETS / name)))
            if stopped := one_by_one(todo, arguments.runs / name, pool):
                sys.exit(f"{len(stopped)} trials stopped; the same command goes on with them.")
        gather(name, arguments.runs / name)
    write_atomically(PRESETS / "tuning.md", page())


if __name__ == "__main__":
    main()
