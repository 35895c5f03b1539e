"""P-IQL: learn a reward from comparisons, then a policy from it by implicit Q-learning.

The paper's baseline (arXiv 2310.13639v3, appendix), IQL as in Kostrikov et al., arXiv 2110.06169:

    V  ◄── expectile regression on min Q̄(s, a)
    Q  ◄── r_θ(s, a) + γ V(s')            two critics; Q̄ follows them by Polyak averaging
    π  ◄── cloning weighted by exp((min Q̄ − V) / temperature)

The reward is fitted in the first phase, side by side with the rest, and then held; like every
reward model it is fitted to nine tenths of the episodes, and the rest of that phase sees only
those, too. Transitions are those within segments; none terminates, so every one bootstraps. With
the true reward in place of the learned one this is IQL.

Deviations: the paper doesn't say whether the actor drops units; here it does, as everybody's policy
there. Critics and value begin near zero, so that no action is preferred before anything is known.
Our data end an episode soon after its success and show little of what follows. The laptop preset
takes a sixtieth of the steps, and makes them count: transitions drawn one by one rather than in
segments, standardised rewards (with temperature 1), networks that give values in units of 1/(1 − γ)
(Adam moves a network's output by as much a step whatever the value's size), a higher rate, and
targets that follow sooner. Its expectile is 0.5, where 0.7 has not converged in time: the value is
then the data's own, and the policy one step of improvement over theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.config import check_training, refuse
from cpl_bench.learning.interface import Feed, Metrics, Phase, PreferenceBatch
from cpl_bench.learning.losses import expectile_loss
from cpl_bench.learning.networks import MLP, Policy, prefixed
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.reward import RewardModel, check_reward
from cpl_bench.learning.state import pack, unpack


@dataclass(frozen=True)
class PIQLConfig:
    """P-IQL; the defaults are the paper's for Meta-World with state observations."""

    least_segment_length: ClassVar[int] = 2  # a step and what followed it
    reward: Literal["learned", "true"] = "learned"
    """learned from the comparisons, or the environment's: IQL, an oracle."""
    reward_steps: int = 50_000
    """The first steps also fit the reward; the others hold it."""
    reward_ensemble: int = 1
    """Reward networks, of which the mean counts."""
    reward_bounded: bool = False
    """Whether rewards are bounded to [0, 1]."""
    reward_imitation: float = 0.0
    """Weight of cloning preferred segments through a trunk shared with the reward."""
    reward_loss: Literal["pairs", "ranking"] = "pairs"
    """pairs: Bradley–Terry over all pairs; ranking: Plackett–Luce over ranked answers."""
    reward_standardised: bool = False
    """Whether a batch's rewards are given mean 0 and deviation 1. As nothing terminates, that ranks
    policies as before; the value has less to learn, and the temperature means the same for every
    reward."""
    value_scale: float = 1.0
    """Value and critics are their networks' outputs times this."""
    expectile: float = 0.7
    """τ of the value's expectile regression."""
    temperature: float = 1 / 3
    """Advantages are divided by it before they weigh the cloning."""
    largest_weight: float = 100.0
    """Weights are clipped here."""
    gamma: float = 0.99
    """The discount."""
    polyak: float = 0.005
    """Share by which the target critics follow in a step."""
    learning_rate: float = 3e-4
    """Adam's; the actor's falls to 0 by a cosine."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of every network."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit of the policy."""
    steps: int = 500_000
    """Gradient steps in all."""
    segments_per_batch: int = 192
    """Segments whose comparisons a gradient step sees while the reward is fitted."""
    transitions_per_batch: int = 0
    """Transitions of which value, critics and policy learn in a step: drawn one by one, or while
    the reward is fitted spread over its segments; 0: all those of the segments."""

    def __post_init__(self) -> None:
        check_training(self)
        check_reward(self)
        refuse(
            self,
            {
                "expectile": ("in (0, 1)", lambda value: 0 < value < 1),
                "temperature": ("positive", lambda value: 0 < value < float("inf")),
                "largest_weight": ("positive", lambda value: value > 0),
                "gamma": ("in [0, 1)", lambda value: 0 <= value < 1),
                "polyak": ("in (0, 1]", lambda value: 0 < value <= 1),
                "value_scale": ("positive", lambda value: 0 < value < float("inf")),
                "transitions_per_batch": ("0 or at least 2", lambda value: value == 0 or value > 1),
            },
        )


PAPER = PIQLConfig()
LAPTOP = replace(
    PAPER,
    reward_standardised=True,
    value_scale=100.0,
    expectile=0.5,
    temperature=1.0,
    polyak=0.05,
    learning_rate=1e-3,
    hidden=(256, 256),
    steps=8000,
    reward_steps=1500,
    segments_per_batch=32,
    transitions_per_batch=512,
)


class PIQL:
    """See the module's header."""

    def __init__(
        self,
        config: PIQLConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config = config
        self.policy = Policy(
            observation_size, action_size, config.hidden, config.dropout, seeds, device
        )
        self.policy.add_optimiser("iql", config.learning_rate, cosine_steps=config.steps)

        def judge(network: int, inputs: int) -> MLP:
            sizes, near_zero = [inputs, *config.hidden, 1], 0.01 / config.value_scale
            return MLP(sizes, seeds, device, network, output_scale=near_zero)

        of_pair = observation_size + action_size
        self.value = judge(1, observation_size)
        self.critics = {f"critic{i}": judge(2 + i, of_pair) for i in range(2)}
        self.targets = {f"target{i}": judge(2 + i, of_pair) for i in range(2)}
        self.reward = RewardModel(config, observation_size, action_size, seeds, device)
        self.examine = self.reward.examine
        self.act, self.weights = self.policy.act, self.policy.weights
        rate = config.learning_rate
        self._parts = {
            "policy": self.policy,
            "value": self.value,
            **self.critics,
            **self.targets,
            "reward": self.reward,
            "value optimiser": WarmAdam(self.value.parameters, rate),
            "critic optimiser": WarmAdam(prefixed(self.critics), rate),
        }

    def phases(self, total_steps: int) -> list[Phase]:
        """Fit reward and policy side by side, then the policy alone."""
        plain: Feed = "transitions" if self.config.transitions_per_batch else "segments"
        if self.config.reward == "true":
            rewarded: dict[Feed, Feed] = {
                "segments": "rewarded segments",
                "transitions": "rewarded transitions",
            }
            return [Phase("iql", total_steps, self._improve, rewarded[plain])]
        together = min(self.config.reward_steps, total_steps)
        return [
            Phase("reward", together, self._fit_and_improve, "fitting"),
            Phase("iql", total_steps - together, self._improve, plain),
        ]

    def state(self) -> dict[str, Tensor]:
        """Every network and optimiser, flat."""
        return pack(self._parts)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts, state)

    def _fit_and_improve(self, batch: PreferenceBatch) -> Metrics:
        return self.reward.fit(batch) | self._improve(batch)

    def _improve(self, batch: PreferenceBatch) -> Metrics:
        config = self.config
        batch, next_observations = self._transitions(batch)
        observations, actions = batch.observations.flatten(1, 2), batch.actions.flatten(1, 2)
        pairs = torch.cat([observations, actions], -1)  # (s, n, o + a)

        value = self._judged(self.value, observations)
        with torch.no_grad():
            next_value = self._judged(self.value, next_observations)
            judged = torch.minimum(*(self._judged(each, pairs) for each in self.targets.values()))
        value_loss = expectile_loss(judged - value, config.expectile).mean(1)
        self._parts["value optimiser"].step(value_loss.sum())

        rewards = self._rewards(batch, observations, actions)
        if config.reward_standardised:
            spread = rewards.std(1, keepdim=True).clamp_min(1e-6)
            rewards = (rewards - rewards.mean(1, keepdim=True)) / spread
        goal = rewards + config.gamma * next_value
        found = [self._judged(each, pairs) for each in self.critics.values()]
        critic_loss = torch.stack([(each - goal).square().mean(1) for each in found]).sum(0)
        self._parts["critic optimiser"].step(critic_loss.sum())
        for target, critic in zip(self.targets.values(), self.critics.values(), strict=True):
            target.follow(critic, config.polyak)

        advantage = judged - value.detach()
        weight = (advantage / config.temperature).exp().clamp_max(config.largest_weight)
        policy_loss = -(weight * self.policy.log_probs(batch).flatten(1)).mean(1)
        self.policy.improve("iql", policy_loss)
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value": value.detach().mean(1),
            "advantage": advantage.mean(1),
            "weight": weight.mean(1),
        }

    def _judged(self, network: MLP, inputs: Float[Tensor, "s n i"]) -> Float[Tensor, "s n"]:
        return network(inputs).squeeze(-1) * self.config.value_scale

    def _transitions(
        self, batch: PreferenceBatch
    ) -> tuple[PreferenceBatch, Float[Tensor, "s n o"]]:
        """Some steps of each segment, all but the last or evenly spaced ones, and what followed."""
        _, segments, k, _ = batch.observations.shape
        last = k - 1  # it has no next observation
        wanted = self.config.transitions_per_batch or segments * last
        count = min(max(wanted // segments, 1), last)
        spread = torch.arange(count, device=batch.step.device) * last
        steps = (spread + batch.step % last) // count  # over `last` updates each step equally often
        after = batch.observations.index_select(2, steps + 1).flatten(1, 2)
        chosen = replace(
            batch,
            observations=batch.observations.index_select(2, steps),
            actions=batch.actions.index_select(2, steps),
            rewards=None if batch.rewards is None else batch.rewards.index_select(2, steps),
        )
        return chosen, after

    def _rewards(
        self,
        batch: PreferenceBatch,
        observations: Float[Tensor, "s n o"],
        actions: Float[Tensor, "s n a"],
    ) -> Float[Tensor, "s n"]:
        if self.config.reward == "learned":
            return self.reward(observations, actions)
        if batch.rewards is None:
            raise ValueError("the true reward is asked for and the batch has none")
        return batch.rewards.flatten(1)
