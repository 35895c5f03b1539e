"""How many of anything may be asked for: far more than anybody needs, and never all the memory."""

from cpl_bench.core.errors import UserError, shown

STEPS = 1_000_000_000
"""Gradient steps, and steps between evaluations."""
EVALUATIONS = 100_000
"""Of one training: each writes a checkpoint."""
MEMBERS = 1_000
"""Seeds of one run."""
SEED = 2**63 - 1
"""The largest seed."""
EPISODES = 1_000_000
HORIZON = 1_000_000
"""Steps of an episode."""
SEGMENTS = 10_000_000
"""In a file."""
COMPARISONS = 10_000_000
"""That a file lists."""
LEVELS = 100
CELLS = 10_000
"""Runs of one experiment."""
PROCESSES = 1_024
"""Workers, or torch's threads."""


def check_count(what: str, value: object, least: int, most: int) -> None:
    """Refuse what is no whole number from `least` to `most`.

    Raises:
        UserError: it is none; `what` is the option's or the key's name.
    """
    if type(value) is not int or not least <= value <= most:
        raise UserError(
            f"{what} must be a whole number from {least:,} to {most:,}, not {shown(value)}."
        )
