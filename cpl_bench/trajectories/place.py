"""Where a card's trajectories go: not over what something else wrote."""

from __future__ import annotations

from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.errors import UserError
from cpl_bench.trajectories.formats.minari import minari_folder, read_record


def check_place(card: DatasetCard) -> None:
    """Refuse to write where something lies that this card did not make.

    Raises:
        UserError: a dataset of another program's, an unreadable one, or another card's.
    """
    there = read_record(card.minari_id)
    if there is None:
        return
    other = there.get("card", {}).get("file", "")
    if other != card.file:
        raise UserError(
            f"{minari_folder(card.minari_id)} holds the data of another card of the same name "
            f"({other or 'an official one'}, not {card.file or 'the official one'}). Give the card "
            "another name, or point MINARI_DATASETS_PATH elsewhere."
        )
