"""Annotators: two scores in, one answer out, in one convention everywhere.

An answer is `prefers_second`: 1 if the second segment is better, 0 if the first is, 0.5 for a tie.
An annotator works element by element and broadcasts, on NumPy arrays and on torch tensors alike.
"""

from collections.abc import Callable
from typing import Any

Annotator = Callable[[Any, Any], Any]


def oracle(score_first: Any, score_second: Any) -> Any:
    """The answer of someone who never errs: the higher score is better, equal scores tie.

    Args:
        score_first: the first segments' scores, finite, higher is better.
        score_second: the second segments' scores, broadcastable with the first.

    Returns:
        prefers_second, in {0, 0.5, 1}, of the broadcast shape.
    """
    return 0.5 * (score_second >= score_first) + 0.5 * (score_second > score_first)


ANNOTATORS: dict[str, Annotator] = {
    "oracle": oracle,
}
"""What `label --annotator` and a dataset card may name."""
