"""`cpl-bench verify`, as the command line shows it."""

from pathlib import Path
from typing import Annotated

import tyro


def verify(paths: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Check runs, datasets, preference files and published results, down to their sources.

    Every file is read and compared with the SHA-256 that it carries; a run with the data it names,
    an experiment's tables with what its runs give. Exits with 2 if anything is damaged.

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
            print(finding, flush=True)
            damaged, count = damaged + (finding.verdict == "damaged"), count + 1
    if damaged:
        raise UserError(f"{damaged} of {count} are damaged.")
