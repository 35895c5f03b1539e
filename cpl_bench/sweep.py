"""From cards to evidence: makes what is missing, runs an experiment, publishes its results.

experiment ──► for each dataset: collect, label ──► for each method: train, evaluate ──► report
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from cpl_bench.cards import DatasetCard, load_dataset_card
from cpl_bench.collect import collect, is_collected
from cpl_bench.errors import UserError
from cpl_bench.evaluate import evaluate, film
from cpl_bench.evaluated import read_run
from cpl_bench.experiments import Experiment, Method
from cpl_bench.files import write_atomically
from cpl_bench.label import check_labelling, is_labelled, label, preference_path
from cpl_bench.preferences import load_preferences
from cpl_bench.progress import say
from cpl_bench.report import ReportResult, report
from cpl_bench.rollouts import RolloutPool

EVIDENCE = ("table.csv", "curves.csv", "curves.png", "README.md")
RUN_EVIDENCE = ("run.json", "evaluations.csv", "final.csv")
REWARD_FIGURE, METRICS = "reward.png", "metrics.csv"
LARGEST_METRICS_BYTES = 200_000
"""A larger file of metrics is not published with its run."""


def ensure_trajectories(card: DatasetCard, pool: RolloutPool) -> None:
    """Collect unless this card's trajectories lie on disk."""
    if not is_collected(card):
        say(f"No trajectories of {card.name} yet: collecting {card.episodes} episodes (minutes).")
        collect(card, pool)


def ensure_preferences(card: DatasetCard, pool: RolloutPool) -> Path:
    """Label, and collect, unless this card's preferences lie on disk."""
    check_labelling(card.task, card.segments, card.label)
    ensure_trajectories(card, pool)
    if not is_labelled(card):
        say(
            f"No {card.label.scorer} preferences of {card.name} yet: labelling "
            f"{card.segments.count} segments (minutes)."
        )
        label(card, pool)
    return preference_path(card)


def find_preferences(data: str, pool: RolloutPool) -> tuple[str, Path]:
    """A dataset's name and its preference file; `data` names a card or is such a file.

    Raises:
        UserError: neither.
    """
    if data.endswith(".safetensors"):
        path = Path(data)
        return f"{load_preferences(path).info.card}-{path.stem}".lstrip("-"), path
    card = load_dataset_card(data)
    return card.name, ensure_preferences(card, pool)


def run_experiment(experiment: Experiment, out: Path, pool: RolloutPool) -> ReportResult:
    """Run what is missing of an experiment under `out` and report there.

    A run that was cut off is resumed; nothing that is on disk is done again.
    """
    from cpl_bench.presets import EVALUATE_EVERY, configured
    from cpl_bench.train import TrainOptions, train

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


def publish(experiment: Experiment, out: Path, results: Path) -> None:
    """Copy the small files that are evidence from `out` to `results`, run folders included.

    Metrics are copied of runs with online steps: the numbers behind `reward.png`.
    """
    if not (results / "experiment.toml").is_file():
        raise UserError(f"{results} is no experiment: it has no experiment.toml.")
    for name in EVIDENCE:
        write_atomically(results / name, (out / name).read_bytes())
    _copy(REWARD_FIGURE, out, results, (out / REWARD_FIGURE).exists())
    for dataset in experiment.datasets:
        for method in experiment.methods:
            run = Path(dataset) / f"{method.algorithm}-{slug(method.label)}"
            for name in RUN_EVIDENCE:
                write_atomically(results / run / name, (out / run / name).read_bytes())
            metrics = out / run / METRICS
            wanted = read_run(out / run).online_transitions > 0 and metrics.exists()
            if wanted and metrics.stat().st_size >= LARGEST_METRICS_BYTES:
                say(f"{metrics} stays unpublished: {LARGEST_METRICS_BYTES:,} bytes or more.")
                wanted = False
            _copy(METRICS, out / run, results / run, wanted)
    say(f"Published {experiment.name} → {results}")


def _copy(name: str, origin: Path, target: Path, wanted: bool) -> None:
    """Copy a file that not every experiment has, or take an older one away."""
    if wanted:
        write_atomically(target / name, (origin / name).read_bytes())
    else:
        (target / name).unlink(missing_ok=True)


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
