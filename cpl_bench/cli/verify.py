"""`cpl-bench verify` and `reproduce`, as the command line shows them."""

from pathlib import Path
from typing import Annotated

import tyro

from cpl_bench.core.progress import say


def verify(paths: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Check runs, datasets, preference files and published results, down to their sources.

    Data, checkpoints and states are compared with the SHA-256 that they carry, a run with the data
    it names, an experiment's tables with what its runs give. Records and CSVs carry no hash: they
    are read whole. Exits with 2 if anything is damaged.

    Args:
        paths: files and folders; a folder stands for all there is below it.
    """
    from cpl_bench.core.errors import UserError
    from cpl_bench.experiments.verify import verify as check

    if not paths:
        raise UserError("Which? As in: cpl-bench verify runs results")
    damaged, count = 0, 0
    for path in paths:
        for finding in check(path):
            say(str(finding))
            damaged, count = damaged + (finding.verdict == "damaged"), count + 1
    if damaged:
        raise UserError(f"{damaged} of {count} are damaged.")


def reproduce(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    out: Path = Path("runs/reproduced"),
    data: str | None = None,
    workers: int = 0,
) -> None:
    """Make a run again from its run.json alone, and compare file by file.

    On the same machine, versions and code every byte is to be the same; what is other is said
    first. Exits with 1 if a file is not the same.

    Args:
        run: a run folder, published ones too.
        out: where the new run goes.
        data: a dataset card or preference file, if not the card that the run names.
        workers: rollout processes; 0 for one a processor.
    """
    from cpl_bench.experiments.reproduce import reproduce as make_again
    from cpl_bench.tasks.pool import RolloutPool

    with RolloutPool(workers or None) as pool:
        again, compared = make_again(run, pool, out, data)
    for each in compared:
        say(f"{each.name:<24}{each.about}")
    say(f"\n{run} was made again in {again}.")
    if not all(each.same for each in compared):
        raise SystemExit(1)
