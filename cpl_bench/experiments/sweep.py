"""From cards to evidence: makes what is missing, runs an experiment, publishes its results.

experiment ──► for each dataset: collect, label ──► for each method: train, evaluate ──► report
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.card import Experiment, Method
from cpl_bench.experiments.make import ensure_preferences
from cpl_bench.report.report import ReportResult, report
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.film import film
from cpl_bench.tasks.pool import RolloutPool


def run_experiment(experiment: Experiment, out: Path, pool: RolloutPool) -> ReportResult:
    """Run what is missing of an experiment under `out` and report there.

    A run that was cut off is resumed; nothing that is on disk is done again.
    """
    from cpl_bench.learning.presets import EVALUATE_EVERY, configured
    from cpl_bench.runs.train import TrainOptions, train

    _check(experiment)
    cards = {name: load_dataset_card(name) for name in experiment.datasets}
    configs = {
        method.label: configured(method.algorithm, experiment.preset, method.settings)
        for method in experiment.methods
    }
    runs: list[Path] = []
    for dataset, card in cards.items():
        preferences = ensure_preferences(card, pool)
        for method in experiment.methods:
            config = configs[method.label]
            options = TrainOptions(
                seeds=tuple(range(experiment.seeds)),
                note=slug(method.label),
                method=method.label,
                runs=out,
                resume=True,
                evaluate_every=EVALUATE_EVERY[experiment.preset],
            )
            command = equivalent_command(experiment, dataset, method)
            run = train(preferences, dataset, method.algorithm, config, options, pool, command)
            evaluate(run, pool, experiment.final_episodes)
            runs.append(run)
    title = experiment.title or experiment.name
    result = report(
        runs, out, title, "\n\n".join([experiment.description, _next_steps(experiment)])
    )
    if experiment.video:
        best = max(range(len(runs)), key=lambda i: result.rows[i].last)
        target = out / "rollout.webp"
        if not target.exists():
            film(runs[best], path=target)
    return result


def equivalent_command(experiment: Experiment, dataset: str, method: Method) -> str:
    """The `train` command that makes the same run by hand."""
    words = ["cpl-bench", "train", "--data", dataset, "--seeds", str(experiment.seeds)]
    words += ["--preset", experiment.preset, "--note", slug(method.label)]
    words += ["--title", method.label, method.algorithm]
    for key, value in method.settings.items():
        option = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{option}", *map(str, values)]
    return shlex.join(words)


def slug(text: str) -> str:
    """A folder's name from a method's label: "CPL (λ = 0.5)" → "cpl-lam-0.5"."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("λ", "lam")).strip("-")


def _check(experiment: Experiment) -> None:
    slugs = [slug(method.label) for method in experiment.methods]
    if not experiment.datasets or not slugs:
        raise UserError(f"{experiment.name}: an experiment names at least a dataset and a method.")
    if len(set(slugs)) < len(slugs):
        raise UserError(f"{experiment.name}: two methods share a label: {', '.join(slugs)}.")
    if experiment.seeds < 1 or experiment.final_episodes < 1:
        raise UserError(f"{experiment.name}: seeds and final_episodes must be at least 1.")


def _next_steps(experiment: Experiment) -> str:
    dataset, method = experiment.datasets[0], experiment.methods[-1]
    run = f"runs/{dataset}/{method.algorithm}-{slug(method.label)}"
    commands = [
        f"cpl-bench inspect {dataset}",
        equivalent_command(replace(experiment, seeds=4), dataset, method),
        f"cpl-bench evaluate {run} --episodes 100 --video",
        f"cpl-bench report runs/{dataset}/*",
    ]
    return "Go on from here:\n\n```bash\n" + "\n".join(commands) + "\n```"
