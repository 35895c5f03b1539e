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
there. Our data end an episode soon after its success and show little of what follows. The laptop
preset has fewer and smaller batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.interface import Metrics, Phase, PreferenceBatch
from cpl_bench.losses import expectile_loss
from cpl_bench.networks import MLP, Policy, check_training, pack, prefixed, refuse, unpack
from cpl_bench.optimisers import WarmAdam
from cpl_bench.reward import RewardModel, check_reward


@dataclass(frozen=True)
class PIQLConfig:
    """P-IQL; the defaults are the paper's for Meta-World with state observations."""

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
    """Whether a batch's rewards are given mean 0 and deviation 1. As nothing terminates, this changes
    no ranking of policies; the value has less to learn, and the temperature means the same for
    every reward."""
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
    """Segments a gradient step sees."""

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
            },
        )


PAPER = PIQLConfig()
LAPTOP = replace(PAPER, hidden=(256, 256), steps=4000, reward_steps=1000, segments_per_batch=16)


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
        of_pair = [observation_size + action_size, *config.hidden, 1]
        self.value = MLP([observation_size, *config.hidden, 1], seeds, device, network=1)
        self.critics = {f"critic{i}": MLP(of_pair, seeds, device, network=2 + i) for i in range(2)}
        self.targets = {f"target{i}": MLP(of_pair, seeds, device, network=2 + i) for i in range(2)}
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
        if self.config.reward == "true":
            return [Phase("iql", total_steps, self._improve, "rewarded segments")]
        together = min(self.config.reward_steps, total_steps)
        return [
            Phase("reward", together, self._fit_and_improve, "fitting"),
            Phase("iql", total_steps - together, self._improve),
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
        s, m, k, _ = batch.observations.shape
        observations = batch.observations.flatten(1, 2)
        actions = batch.actions.flatten(1, 2)
        pairs = torch.cat([observations, actions], -1)

        value = self.value(observations).squeeze(-1)  # (s, m k)
        with torch.no_grad():
            judged = [target(pairs).squeeze(-1) for target in self.targets.values()]
            judged = torch.minimum(*judged)  # (s, m k)
        value_loss = expectile_loss(judged - value, config.expectile).mean(1)
        self._parts["value optimiser"].step(value_loss.sum())

        # a segment's last step has no next observation: the critics learn from the others
        before = pairs.unflatten(1, (m, k))[:, :, :-1].flatten(1, 2)  # (s, m (k-1), o+a)
        next_value = value.detach().view(s, m, k)[:, :, 1:].flatten(1)
        goal = self._rewards(batch, observations, actions) + config.gamma * next_value
        found = [critic(before).squeeze(-1) for critic in self.critics.values()]
        critic_loss = torch.stack([(each - goal).square().mean(1) for each in found]).sum(0)
        self._parts["critic optimiser"].step(critic_loss.sum())
        for target, critic in zip(self.targets.values(), self.critics.values(), strict=True):
            target.follow(critic, config.polyak)

        advantage = judged - value.detach()
        weight = (advantage / config.temperature).exp().clamp_max(config.largest_weight)
        log_probs = self.policy.log_probs(batch).flatten(1)
        policy_loss = -(weight * log_probs).mean(1)
        self.policy.improve("iql", policy_loss)
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value": value.detach().mean(1),
            "advantage": advantage.mean(1),
            "weight": weight.mean(1),
        }

    def _rewards(
        self,
        batch: PreferenceBatch,
        observations: Float[Tensor, "s n o"],
        actions: Float[Tensor, "s n a"],
    ) -> Float[Tensor, "s r"]:
        """Of every step but each segment's last."""
        if self.config.reward == "learned":
            rewards = self.reward(observations, actions).view(batch.actions.shape[:3])
        elif batch.rewards is None:
            raise ValueError("the true reward is asked for and the batch has none")
        else:
            rewards = batch.rewards
        rewards = rewards[:, :, :-1].flatten(1)
        if self.config.reward_standardised:
            spread = rewards.std(1, keepdim=True).clamp_min(1e-6)
            rewards = (rewards - rewards.mean(1, keepdim=True)) / spread
        return rewards
