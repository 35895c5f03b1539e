"""The verb `train` on the command line: shared options, then the method, then its settings.

The line is read in two halves, so that help costs nothing and a method can be anybody's:

    cpl-bench train --data drawer-open-small --seeds 4   cpl   --lam 0.5 --policy.hidden 256 256

Annotations are evaluated here and now (tyro reads them), imports of substance wait for the call.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from cpl_bench.core.counts import MEMBERS, SEED, check_count
from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.progress import say

if TYPE_CHECKING:
    from cpl_bench.learning.config import MethodConfig

FLAGS = ("--resume", "--overwrite", "--no-resume", "--no-overwrite", "-h", "--help")
"""Shared options that take no value."""


@dataclass(frozen=True)
class Shared:
    """Train a method on a dataset, all seeds side by side. The method comes last."""

    data: str
    """A dataset card's name (collected and labelled if need be), its path, or a preference file."""
    seeds: int = 4
    """How many members."""
    first_seed: int = 0
    """Their numbers go on from here; tables use 0 and up, tuning others."""
    preset: Literal["auto", "laptop", "paper"] = "auto"
    """The defaults of the method's settings; auto: laptop on a CPU, paper on a GPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """What matrix products are computed in; auto: fp32. tf32 is a GPU's."""
    threads: int = 0
    """Torch's while it trains; 0: as torch has them, one a core."""
    task: str | None = None
    """Where policies are rolled out, if not where the data come from: a card's name or path, a
    Gymnasium id, or module:Class."""
    evaluate_every: int = 0
    """Gradient steps between evaluations; 0: 500 (laptop) or 5000 (paper)."""
    episodes: int = 25
    """Episodes a seed in each evaluation; 0 trains without a simulator."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Train several settings side by side, a run folder each: --vary lam=0.25,0.5,1. May be said
    again for another setting: every choice of both is trained."""
    note: str = ""
    """Added to the run folder's name."""
    title: str = ""
    """The name in tables and figures; the method's own by default."""
    runs: Path = Path("runs")
    """Where run folders are made."""
    resume: bool = False
    """Continue a run that was cut off."""
    overwrite: bool = False
    """Delete a run of the same name first."""
    workers: int = 0
    """Rollout processes; 0 for one a processor."""


def train(words: Sequence[str]) -> None:
    """Read the rest of a `cpl-bench train` line and train."""
    from cpl_bench.learning.methods import preset_of, summaries

    place = _method_place(words)
    listing = "\n".join(f"  {name:<12}{summary}" for name, summary in summaries().items())
    about = f"{Shared.__doc__}\n\nmethods (cpl-bench train METHOD --help shows one's settings):\n"
    hint = about + listing + "\n  module:ENTRY  one of your own"
    if place is None:
        if any(word in ("-h", "--help") for word in words):
            tyro.cli(Shared, prog="cpl-bench train", args=["--help"], description=hint)
        raise UserError(
            f"Which method? It comes last: {', '.join(summaries())}, or module:ENTRY. As in: "
            "cpl-bench train --data drawer-open-small cpl"
        )
    name, own = words[place], list(words[place + 1 :])
    helping = any(word in ("-h", "--help") for word in own)
    if helping:  # of the method: the shared options may be missing
        shared = Shared(data="", preset=_preset(words))
    else:
        shared = tyro.cli(
            Shared, prog="cpl-bench train", args=list(words[:place]), description=hint
        )
    preset = _chosen(shared.preset, shared.device)
    default = preset_of(name, preset)
    prog = f"cpl-bench train … {name}"
    config = tyro.cli(
        type(default), default=default, prog=prog, args=own, description=type(default).__doc__
    )
    for word in own:
        if word.partition("=")[0] in _options(shared.vary):
            raise UserError(f"--vary gives {word} its numbers: leave it out after {name}.")
    _run(shared, name, preset, config, words)


def _run(
    shared: Shared, name: str, preset: str, config: "MethodConfig", words: Sequence[str]
) -> None:
    from cpl_bench.experiments.training import train as fit
    from cpl_bench.experiments.training import train_grid

    check_count("--seeds", shared.seeds, 1, MEMBERS)
    check_count("--first-seed", shared.first_seed, 0, SEED - MEMBERS)
    kept = ("data", "preset", "seeds", "first_seed", "vary")
    options = {key: getattr(shared, key) for key in vars(shared) if key not in kept}
    whole = [word for word in words if word not in ("--resume", "--overwrite")]
    options |= {
        "settings": asdict(config),  # pyright: ignore[reportArgumentType]
        "preset": preset,
        "seeds": range(shared.first_seed, shared.first_seed + shared.seeds),
        "command": shlex.join(["cpl-bench", "train", *whole]),  # what makes the run from nothing
    }
    if shared.vary:
        runs = train_grid(shared.data, name, _numbers(shared.vary), **options)
        paths = " ".join(str(run.path) for run in runs)
        say(f"Trained: {paths}\nNext: cpl-bench report {paths}")
        return
    run = fit(shared.data, name, **options)
    say(f"Trained: {run.path}\nNext: cpl-bench evaluate {run.path} --episodes 100")


def _options(vary: Sequence[str]) -> list[str]:
    """What the varied settings are called as options of the method."""
    return [f"--{word.partition('=')[0].replace('_', '-')}" for word in vary]


def _numbers(vary: Sequence[str]) -> dict[str, list[float]]:
    """{setting: its numbers} of words like lam=0.25,0.5."""
    found: dict[str, list[float]] = {}
    for word in vary:
        name, _, numbers = word.partition("=")
        name = name.replace("-", "_")
        try:
            values = [float(number) for number in numbers.split(",")]
            if "_" in numbers:  # Python's 1_000
                raise ValueError
        except ValueError:
            raise UserError(f"--vary wants SETTING=NUMBER,NUMBER…, not {shown(word)}.") from None
        if name in found:
            raise UserError(f"--vary names '{name}' twice; put all its numbers in one.")
        found[name] = values
    return found


def _method_place(words: Sequence[str]) -> int | None:
    """Where the method stands: the first word that is no option and no option's value."""
    place = 0
    while place < len(words):
        word = words[place]
        if not word.startswith("-"):
            return place
        place += 1 if word in FLAGS or "=" in word else 2
    return None


def _preset(words: Sequence[str]) -> Any:
    """What --preset says, where the rest of the line need not be whole."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--preset"):
            return word.partition("=")[2] or following
    return "auto"


def _chosen(preset: str, device: str) -> str:
    """The preset that `auto` means."""
    if preset != "auto":
        return preset
    if device.startswith("cpu"):
        return "laptop"
    import torch

    return "paper" if torch.cuda.is_available() else "laptop"
