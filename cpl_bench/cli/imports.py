"""`cpl-bench import` and `export`, as the command line shows them.

Annotations are evaluated here and now (tyro reads them), imports of substance wait for the call.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

Name = Annotated[str, tyro.conf.Positional]


def import_(
    what: Name,
    /,
    source: Path | None = None,
    download: bool = False,
    out: Path | None = None,
    task: str = "",
    label_one_means: Literal["first", "second"] | None = None,
    ties: Literal["half", "minus-one"] | None = None,
    label_key: str = "",
    annotator: str = "",
    score_key: str = "",
    pairs: Literal["dense", "sparse"] | None = None,
    rows: tuple[Path, Path] | None = None,
    trajectories: str = "",
    segment_length: int = 0,
    limit_steps: int = 0,
) -> None:
    """Bring data: a card's Minari, D4RL or npz source, or a file of answers without a card.

    cpl-bench import hopper-medium-v2                     a card, by name or path
    cpl-bench import human.npz --label-one-means second   answers, to human.safetensors

    Args:
        what: a dataset card; an .npz file; pickled labels, with --rows; a folder of Parquet tables.
        source: of a card: where the file is, or the folder that Minari datasets lie below.
        download: of a card: it may be fetched; from where is said first.
        out: of a file: the preference file; by default of the same name, here.
        task: of a file: where policies are rolled out, a card's name or path, or a Gymnasium id.
        label_one_means: of a file with a label a pair: which of the two a 1 prefers.
        ties: of a file with a label a pair: what a tie is, 0.5 (half) or -1; by default half.
        label_key: of an .npz with a label a pair: which array the labels are; by default label.
        annotator: of a file with a label a pair: who answered; by default human.
        score_key: of an .npz with numbers a segment: which array is the score, higher is better.
        pairs: of such an .npz: dense: any two segments; sparse: segment i with segment i + n/2; by
            default dense.
        rows: of pickled labels: the files of first rows, the first segments' and the second ones'.
        trajectories: of pickled labels: D4RL's name or file that the rows are of.
        segment_length: of pickled labels: steps in a segment.
        limit_steps: of pickled labels: D4RL's step limit, where its file has no timeouts.
    """
    from cpl_bench.core.dataset_cards import load_dataset_card
    from cpl_bench.core.errors import UserError
    from cpl_bench.core.folders import is_file
    from cpl_bench.experiments.imports import Answers, import_card, import_file

    path = Path(what)
    about = Answers(
        task=task,
        annotator=annotator,
        label_one_means=label_one_means,
        ties=ties,
        label_key=label_key,
        score_key=score_key,
        pairs=pairs,
        rows=rows,
        trajectories=trajectories,
        segment_length=segment_length,
        limit_steps=limit_steps,
    )
    if not (path.suffix == ".npz" or is_file(path / "episodes.parquet") or rows):
        if not what.endswith(".toml"):
            load_dataset_card(what)  # where it is none, this says what it is
        about.refuse_but(f"{what} is a dataset card, which says itself what it holds")
        if out:
            raise UserError(f"{what} is a dataset card, which has its place: no --out.")
        print(f"Imported: {import_card(what, source, download)}")
        return
    if source or download:
        raise UserError(f"{what} is a file: --source and --download are for dataset cards.")
    target = out or Path(f"{path.stem}.safetensors")
    command = shlex.join(["cpl-bench", *sys.argv[1:]])
    print(f"Preferences: {import_file(path, target, about, command)}")


def export(data: Name, out: Annotated[Path, tyro.conf.Positional], /, workers: int = 0) -> None:
    """Write preferences as others keep them: FILE.npz of CPL's authors, or a folder of Parquet.

    cpl-bench export drawer-open-small drawer.npz    cpl-bench export mine.safetensors mine-parquet

    Args:
        data: a dataset card (collected and labelled if need be), its path, or a preference file.
        out: FILE.npz, or a folder that is to be made, with a dataset card as Hugging Face reads it.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.imports import check_export
    from cpl_bench.experiments.imports import export as write
    from cpl_bench.experiments.make import find_preferences
    from cpl_bench.tasks.pool import RolloutPool

    check_export(out)
    with RolloutPool(workers or None) as pool:
        _, preferences = find_preferences(data, pool)
    for line in write(preferences, out):
        print(f"  Mind: {line}")
    print(f"Exported: {out}")
