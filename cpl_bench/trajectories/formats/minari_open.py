"""Minari datasets of anybody's, opened without calling what their metadata name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpl_bench.core.errors import UserError


def open_dataset(minari_id: str, root: Path) -> Any:
    """Minari's view of a dataset below `root`, which is Minari's root for now.

    Where a space is not written down, Minari would make the environment to ask it, and a file may
    name any function of any module as that: here nothing that a file names is called.

    Raises:
        UserError: it does not say what its observations and actions are.
    """
    import minari
    from minari.dataset.minari_storage import MinariStorage

    known = MinariStorage.read_raw_metadata(root / minari_id / "data")
    spaces = ("observation_space", "action_space")
    lacking = [key for key in spaces if not isinstance(known.get(key), str)]
    if lacking:
        raise UserError(
            f"The Minari dataset {minari_id} in {root} names no {' and no '.join(lacking)} in its "
            "metadata.json, and the environment that it names is not made to find out: that could "
            "run anything. Write them there, as minari.serialization.serialize_space does."
        )
    return minari.load_dataset(minari_id)
