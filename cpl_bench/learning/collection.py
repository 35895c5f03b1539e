"""A collection of episodes as PPO goes through it: trimmed, scaled, in minibatches.

s members × E episodes × T steps ──► the first n steps that happened, (s, n) ──► epochs of
minibatches, each epoch in an order of its own
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpl_bench.core.errors import UserError
from cpl_bench.learning.config import BATCH, COUNT, COUNT_OR_NONE, refuse
from cpl_bench.learning.interface import Episodes
from cpl_bench.learning.losses import generalised_advantage
from cpl_bench.learning.random_bits import bits
from cpl_bench.learning.state import Named, pack, unpack

ORDER_STREAM = 1000  # in which order an epoch visits its transitions
RETURN_MEMORY = 0.9  # share of the past in the running mean and deviation of returns
REPORTED = (
    "learned_reward",
    "true_return",
    "rollout_success",
    "kl_to_reference",
    "explained_variance",
    "transitions",
    "penalty",
)
"""What a collection says of itself. Reward and return are sums over an episode, averaged over its
episodes; the KL is a step's."""


STEPS = (
    *("observations", "actions", "mean", "log_prob", "reference_log_prob"),
    *("advantages", "goals"),
)
"""What is known of each transition of a collection."""
FACTS = ("spread", "std", *REPORTED)


@dataclass(frozen=True)
class CollectionConfig:
    """How many transitions are collected, and how often they are gone through."""

    transitions: int = 4096
    """Simulator steps between improvements, rounded up to whole episodes."""
    epochs: int = 10
    """How often the transitions of a collection are gone through."""
    minibatch: int = 128
    """Transitions a gradient step sees."""
    value_only: int = 0
    """The first collections teach only the value; the policy waits."""

    def __post_init__(self) -> None:
        refuse(self, {"transitions": BATCH, "epochs": COUNT, "value_only": COUNT_OR_NONE})
        most = self.transitions
        within = (f"between 1 and the {most} transitions of a collection",)
        refuse(self, {"minibatch": (*within, lambda value: 1 <= value <= most)})

    def check(self, improving: int) -> None:
        """Refuse to leave the policy none of the `improving` steps.

        Raises:
            UserError: the collections that teach only the value take all of them.
        """
        if self.waiting >= improving:
            raise UserError(
                f"collection.value_only must leave some of the {improving:,} improving steps to "
                f"the policy; {self.value_only} collections take {self.waiting:,}."
            )

    @property
    def waiting(self) -> int:
        """Gradient steps that teach only the value."""
        return self.value_only * self.updates

    @property
    def updates_per_epoch(self) -> int:
        """Minibatches that the transitions fill."""
        return self.transitions // self.minibatch

    @property
    def updates(self) -> int:
        """Gradient steps that one collection serves."""
        return self.epochs * self.updates_per_epoch


class Collection:
    """The transitions in use, by name, and how far they have been gone through."""

    def __init__(self, config: CollectionConfig, keys: Int[Tensor, " s"]):
        self.config, self.keys = config, keys
        self.tensors = Named(keys.device)
        self.returns = ReturnScale(len(keys), keys.device)
        self.transitions = torch.zeros(len(keys), device=keys.device)  # steps so far, (s,)
        self.count = 0  # collections so far
        self.update = 0  # of those that this one serves

    def receive(
        self,
        episodes: Episodes,
        rewards: Float[Tensor, "s E T"],
        raw_values: Float[Tensor, "s E T1"],
        discounts: tuple[float, float],
        steps: dict[str, Tensor],
        facts: dict[str, Tensor],
    ) -> None:
        """Judge new episodes, in place of those before: how much better than expected was a step?

        Args:
            episodes: as they were run.
            rewards: what each step was paid.
            raw_values: what the value's network says of every observation.
            discounts: γ and λ of the advantages.
            steps: further tensors of each step, (s, E·T) or (s, E·T, width), to be picked from.
            facts: tensors of the whole collection.
        """
        alive, last = happened(episodes)
        values = self.returns.values(raw_values)
        advantages = generalised_advantage(
            rewards, values[:, :, :-1], values[:, :, 1:], episodes.terminated, last, *discounts
        )
        returns, rows = (advantages + values[:, :, :-1]).flatten(1), first_ones(alive)
        steps = {**steps, "advantages": advantages.flatten(1), "goals": returns}
        kept = steps if rows is None else {k: _picked(v, rows) for k, v in steps.items()}
        advantages, returns = kept["advantages"], kept["goals"]
        spread = advantages.std(1, keepdim=True).clamp_min(1e-8)
        self.transitions = self.transitions + episodes.lengths.sum(1)
        judged = {
            "spread": spread,
            "explained_variance": 1 - advantages.var(1) / returns.var(1).clamp_min(1e-8),
            "advantages": (advantages - advantages.mean(1, keepdim=True)) / spread,
            "goals": self.returns.goals(returns),
            "transitions": self.transitions,
        }
        self.tensors = Named(self.keys.device, kept | judged | facts)
        self.count += 1
        self.update = 0

    def rows(self, step: Int[Tensor, ""]) -> Int[Tensor, "s b"]:
        """Which transitions this update visits."""
        visited = self.update % self.config.updates_per_epoch
        if visited == 0:
            n = self.tensors["advantages"].shape[1]
            self.tensors["order"] = bits(self.keys, step, ORDER_STREAM, n).argsort(1)
        size = self.config.minibatch
        return self.tensors["order"].narrow(1, visited * size, size)

    def pick(self, name: str, rows: Int[Tensor, "s b"]) -> Tensor:
        """Some rows of a tensor (s, n) or (s, n, width)."""
        return _picked(self.tensors[name], rows)

    def state(self) -> dict[str, Tensor]:
        """The transitions, and how far they have been gone through."""
        counts = {"count": torch.tensor(self.count), "update": torch.tensor(self.update)}
        counts["transitions"] = self.transitions.clone()
        return counts | pack({"tensors": self.tensors, "returns": self.returns})

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        self.count, self.update = int(state["count"]), int(state["update"])
        if self.count:
            self._check(state)
        self.transitions = state["transitions"].clone().to(self.keys.device)
        unpack({"tensors": self.tensors, "returns": self.returns}, state)

    def _check(self, state: dict[str, Tensor]) -> None:
        """Refuse a collection that lacks something, or whose rows do not go together."""
        count, n = len(self.keys), state["tensors/advantages"].shape[1]
        for name in (*FACTS, *STEPS, *(["order"] if self.update else [])):
            value = state[f"tensors/{name}"]
            rows = n if name in (*STEPS, "order") else 1
            kind = torch.int64 if name == "order" else torch.float32
            if value.shape[:2] not in ((count, rows), (count,)) or value.dtype != kind:
                raise ValueError(f"the collection's {name} is {value.dtype} of {value.shape}")
        if n < self.config.minibatch:
            raise ValueError(f"the collection holds {n} transitions")
        order = state.get("tensors/order", torch.zeros(1))
        if not 0 <= int(order.min()) <= int(order.max()) < n:
            raise ValueError("the collection's order names rows that it has not")


class ReturnScale:
    """Mean and deviation of returns, running, so that a value learns numbers near 1."""

    def __init__(self, members: int, device: torch.device):
        self._tensors = Named(
            device,
            {
                "centre": torch.zeros(members, device=device),
                "scale": torch.ones(members, device=device),
                "begun": torch.zeros(members, device=device),
            },
        )
        self.state, self.load_state = self._tensors.state, self._tensors.load_state

    def values(self, raw: Float[Tensor, "s E T"]) -> Float[Tensor, "s E T"]:
        """A network's outputs as returns."""
        centre, scale = (self._tensors[name].view(-1, 1, 1) for name in ("centre", "scale"))
        return centre + scale * raw

    def goals(self, returns: Float[Tensor, "s n"]) -> Float[Tensor, "s n"]:
        """What the network shall say: remembers these returns first."""
        kept = self._tensors["begun"] * RETURN_MEMORY  # the first ones are taken as they are
        now = {"centre": returns.mean(1), "scale": returns.std(1).clamp_min(1e-3)}
        for name, value in now.items():
            self._tensors[name] = kept * self._tensors[name] + (1 - kept) * value
        self._tensors["begun"] = torch.ones_like(kept)
        return (returns - self._tensors["centre"][:, None]) / self._tensors["scale"][:, None]


def happened(episodes: Episodes) -> tuple[Bool[Tensor, "s E T"], Bool[Tensor, "s E T"]]:
    """Which steps are no padding, and which of them are an episode's last."""
    steps = torch.arange(episodes.rewards.shape[2], device=episodes.rewards.device)
    lengths = episodes.lengths.unsqueeze(-1)
    return steps < lengths, steps == lengths - 1


def first_ones(alive: Bool[Tensor, "s E T"]) -> Int[Tensor, "s n"] | None:
    """Rows of the first n steps that happened, n as many as every member has; None: all did."""
    flat = alive.flatten(1)
    if bool(flat.all()):
        return None
    n = int(flat.sum(1).min())
    return flat.int().argsort(dim=1, descending=True, stable=True)[:, :n]


def _picked(values: Tensor, rows: Int[Tensor, "s b"]) -> Tensor:
    """Some rows of a tensor (s, n) or (s, n, width)."""
    if values.ndim == 2:
        return values.gather(1, rows)
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
