"""The verb `train` on the command line: the method is a subcommand with options of its own.

Annotations are evaluated here and now (tyro reads them), imports of substance wait for the call.
"""

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tyro

from cpl_bench.core.errors import UserError


def train(words: Sequence[str]) -> None:
    """Read the rest of a `cpl-bench train` line and train."""
    from cpl_bench.learning.methods import ALGOS

    preset = _preset(words)
    methods: Any = tyro.extras.subcommand_type_from_defaults(
        {name: entry.presets[preset] for name, entry in ALGOS.items()},
        {name: entry.summary for name, entry in ALGOS.items()},
        prefix_names=False,
    )

    def run(
        data: str,
        method: tyro.conf.OmitArgPrefixes[methods],  # pyright: ignore[reportInvalidTypeForm]
        seeds: int = 4,
        preset: Literal["auto", "laptop", "paper"] = "auto",
        device: str = "auto",
        evaluate_every: int = 0,
        episodes: int = 25,
        note: str = "",
        title: str = "",
        runs: Path = Path("runs"),
        resume: bool = False,
        overwrite: bool = False,
        workers: int = 0,
    ) -> None:
        """Train a method on a dataset, all seeds side by side. The method comes last.

        Args:
            data: a dataset card's name (collected and labelled if need be) or a preference file.
            method: the algorithm and its settings.
            seeds: how many members, numbered from 0.
            preset: the defaults of the method's settings; auto: laptop on a CPU, paper on a GPU.
            device: auto, cpu, cuda or cuda:N.
            evaluate_every: gradient steps between evaluations; 0: 500 (laptop) or 5000 (paper).
            episodes: episodes a seed in each evaluation.
            note: added to the run folder's name.
            title: the name in tables and figures; the algorithm's own by default.
            runs: where run folders are made.
            resume: continue a run that was cut off.
            overwrite: delete a run of the same name first.
            workers: rollout processes; 0 for one a processor.
        """
        from cpl_bench.experiments.make import find_preferences
        from cpl_bench.learning.presets import EVALUATE_EVERY, algorithm_of
        from cpl_bench.runs.train import TrainOptions, choose_device
        from cpl_bench.runs.train import train as fit
        from cpl_bench.tasks.pool import RolloutPool

        if seeds < 1 or episodes < 1 or evaluate_every < 0:
            raise UserError(
                "--seeds and --episodes must be at least 1, --evaluate-every at least 0."
            )
        choose_device(device)  # refuse before data are made
        every = EVALUATE_EVERY[_preset(words)]
        options = TrainOptions(
            seeds=tuple(range(seeds)),
            device=device,
            evaluate_every=evaluate_every or every,
            episodes=episodes,
            note=note,
            method=title,
            runs=runs,
            resume=resume,
            overwrite=overwrite,
        )
        with RolloutPool(workers or None) as pool:
            dataset, path = find_preferences(data, pool)
            command = shlex.join(["cpl-bench", "train", *words])
            folder = fit(path, dataset, algorithm_of(method), method, options, pool, command)
        print(f"Trained: {folder}\nNext: cpl-bench evaluate {folder} --episodes 100")

    tyro.cli(run, prog="cpl-bench train", args=list(words))


def _preset(words: Sequence[str]) -> str:
    """What --preset says: it decides the defaults that the rest of the line is read with."""
    options = dict(pairwise([part for word in words for part in word.split("=", 1)]))
    if options.get("--preset") in ("laptop", "paper"):
        return options["--preset"]
    if options.get("--device", "auto").startswith("cpu"):
        return "laptop"
    import torch

    return "paper" if torch.cuda.is_available() else "laptop"
