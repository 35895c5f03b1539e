"""Trajectories and answers that somebody else recorded: where a dataset card says they come from.

    [source]
    format = "d4rl"                      # what kind of file
    id = "hopper-medium-v2"              # what whoever made it calls it

A card has either a behaviour, and its data are collected, or a source, and they are imported.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from cpl_bench.core.errors import UserError

Format = Literal["minari", "d4rl", "npz"]
"""minari: a Minari dataset; d4rl: D4RL's flat HDF5; npz: segments and answers, no trajectories."""
Rewards = Literal["paid", "running_count"]
"""paid: what each step earned; running_count: how much has been achieved so far, in every step."""
OneMeans = Literal["first", "second"]
"""Which of a pair a label of 1 prefers: peers disagree, and files do not say."""
Ties = Literal["half", "minus-one"]
"""What a tie is: 0.5, or −1, which elsewhere means the other one of the pair."""
OWN = {
    "file": ("d4rl",),
    "limit_steps": ("d4rl",),
    "parts": ("minari",),
    "rewards": ("minari",),
    "label_one_means": ("npz",),
    "ties": ("npz",),
    "label_key": ("npz",),
    "score_key": ("npz",),
    "annotator": ("npz",),
}
"""Whose keys those are that not every format has."""


@dataclass(frozen=True)
class Source:
    """What a card imports in place of a behaviour's episodes."""

    format: Format
    id: str
    """A Minari id, a name of D4RL's, or the name of an `.npz` file."""
    file: str = ""
    """What D4RL calls the file of `id`; empty: as the installed `d4rl` says."""
    sha256: str = ""
    """Of the file that the card was written for: another one is refused. Empty: any."""
    parts: tuple[str, ...] = ()
    """Of observations that are dictionaries: which are taken, in this order, laid end to end.
    Empty: of goal environments the observation and the desired goal, of others all by name."""
    rewards: Rewards = "paid"
    """Of Minari data: where they are running counts, a step is paid what the count rises by."""
    rolled_out: bool = True
    """Whether the data are observed as the card's task is, so that policies can be rolled out
    there; where not, they are trained without a simulator."""
    limit_steps: int = 0
    """Where D4RL's file has no timeouts: its task's step limit; 0: the horizon of ours."""
    label_one_means: OneMeans | None = None
    """For npz with a label a pair: which of the two a 1 prefers."""
    ties: Ties = "half"
    """For npz with a label a pair: what a tie is, 0.5 or −1."""
    label_key: str = "label"
    """For npz with a label a pair: which of its arrays the labels are."""
    score_key: str = ""
    """For npz with a number a segment: which of its arrays is the score, higher is better."""
    annotator: str = "human"
    """For npz with a label a pair: who answered."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise UserError(f"format must be {' or '.join(get_args(Format))}, not {self.format!r}.")
        if not self.id:
            raise UserError("id must name what is imported.")
        if self.limit_steps < 0:
            raise UserError(f"limit_steps must not be negative, not {self.limit_steps}.")
        of_pairs = self.label_one_means is not None
        if self.format == "npz" and of_pairs == bool(self.score_key):
            raise UserError(
                "An npz file holds a label a pair or a score a segment: say either "
                'label_one_means = "second" (or "first"), or score_key.'
            )
        for entry in fields(self):
            whose = OWN.get(entry.name, (self.format,))
            if self.format not in whose and getattr(self, entry.name) != entry.default:
                raise UserError(f"{entry.name} is for {whose[0]} files only.")
        of_labels = (self.ties, self.label_key, self.annotator)
        if self.score_key and of_labels != ("half", "label", "human"):
            raise UserError(
                "Scores answer for themselves: label_key, ties and annotator are for labels."
            )

    @property
    def answered(self) -> bool:
        """Whether it comes with its segments and answers, so that nothing is left to label."""
        return self.format == "npz"

    @property
    def answers(self) -> str:
        """Who answers what comes with its answers."""
        return "oracle" if self.score_key else self.annotator

    @property
    def read_as(self) -> dict[str, str | None]:
        """What its labels are taken to mean; another meaning makes other answers of one file."""
        labels = {"label_one_means": self.label_one_means, "ties": self.ties}
        if self.label_key != "label":
            labels["label_key"] = self.label_key
        return labels if self.label_one_means else {}

    def __str__(self) -> str:
        return f"{self.format}:{self.id}"
