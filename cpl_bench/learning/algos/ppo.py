"""Preference-PPO: clone the data, learn a reward from comparisons, improve the clone online.

The paper's online baseline (arXiv 2310.13639v3, appendix) with PPO as in Schulman et al., arXiv
1707.06347. The policy is N(μ(s), σ²), tanh mean, one σ an action dimension; it starts from the
clone and is paid

    r_θ(s, a) − β (log π − log π_ref)                  π_ref: the clone, with the first σ

which is the estimator k1 of KL(π ‖ π_ref). k2 and k3 are costs in the loss instead: paid as
rewards their gradients vanish at the reference, and no β would hold the policy there. (As a loss,
k2 has the gradient of KL(π ‖ π_ref) and k3 that of KL(π_ref ‖ π), as long as π is still π_old.)

A collection is a few whole episodes; time limits bootstrap. An epoch visits as many transitions as
fill its minibatches, in a new order each time. With the true reward in place of the
learned one and β = 0 this is PPO.

Deviations and choices where the paper is silent: clip range 0.2, gradients clipped to norm 0.5, the
value learns standardised returns, advantages are standardised over a collection, the reward is
fitted for 20,000 steps, no entropy bonus. The laptop preset begins with the data's own noise,
σ = 0.3, and lets it fall to 0.2, where the paper limits σ to [0.5, 1.5]. It has a fortieth of the
paper's transitions, so a value that knows nothing must not move the policy: two collections teach
only the value, at a higher rate, then five epochs of minibatches of 512 move the policy in small
steps. Its β is 0.1 (the paper's 2 or 5): 2 holds it at the clone. Rewards fitted to regret are near
advantages, which is why it looks less far ahead (γ = 0.9), and imitation keeps them right near the
data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.config import check_training, refuse
from cpl_bench.learning.interface import Metrics, Phase, RolloutBatch, Rollouts
from cpl_bench.learning.losses import (
    KL_ESTIMATORS,
    adapted_coefficient,
    clipped_surrogate,
    gaussian_kl,
    gaussian_log_prob,
    generalised_advantage,
)
from cpl_bench.learning.networks import MLP, Policy
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.random_bits import bits
from cpl_bench.learning.reward import RewardModel, check_reward
from cpl_bench.learning.state import pack, unpack

ORDER_STREAM = 1000  # in which order an epoch visits its transitions
LARGEST_GRADIENT = 0.5
RETURN_MEMORY = 0.9  # share of the past in the running mean and deviation of returns


@dataclass(frozen=True)
class PPOConfig:
    """Preference-PPO; the defaults are the paper's for Meta-World with state observations."""

    reward: Literal["learned", "true"] = "learned"
    """learned from the comparisons, or the environment's: PPO, an oracle."""
    reward_steps: int = 20_000
    """Gradient steps that fit the reward."""
    reward_ensemble: int = 1
    """Reward networks, of which the mean counts."""
    reward_bounded: bool = True
    """Whether rewards are bounded to [0, 1]."""
    reward_imitation: float = 0.0
    """Weight of cloning preferred segments through a trunk shared with the reward."""
    reward_loss: Literal["pairs", "ranking"] = "pairs"
    """pairs: Bradley–Terry over all pairs; ranking: Plackett–Luce over ranked answers."""
    kl_weight: float = 2.0
    """β: what a nat of divergence from the clone costs, in rewards of one step."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimates the divergence from the action drawn: k1 in the reward, the others in the loss."""
    objective: Literal["clip", "penalty"] = "clip"
    """clip: the clipped surrogate; penalty: an adaptive KL penalty between updates."""
    clip: float = 0.2
    """ε of the clipped surrogate."""
    target_kl: float = 0.01
    """d: the KL between updates that the penalty's coefficient aims at."""
    gamma: float = 0.99
    """The discount."""
    gae_lambda: float = 0.95
    """λ of the advantage estimate."""
    ptx_weight: float = 0.0
    """Weight of the data's negative log-likelihood while improving (PPO-ptx)."""
    initial_std: float = 0.5
    """σ at first, also the reference's."""
    lowest_std: float = 0.5
    """σ never falls below this…"""
    highest_std: float = 1.5
    """…nor rises above this."""
    transitions_per_collection: int = 4096
    """Simulator steps between improvements, rounded up to whole episodes."""
    epochs: int = 10
    """How often the transitions of a collection are gone through."""
    minibatch: int = 128
    """Transitions a gradient step sees while improving."""
    value_collections: int = 0
    """The first collections teach only the value; the policy waits."""
    learning_rate: float = 3e-4
    """Adam's, of the reward."""
    clone_learning_rate: float = 1e-4
    """Adam's, of the policy while cloning."""
    policy_learning_rate: float = 3e-4
    """Adam's, of the policy while improving."""
    value_learning_rate: float = 3e-4
    """Adam's, of the value."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of every network."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit while cloning."""
    steps: int = 520_000
    """Gradient steps in all."""
    clone_steps: int = 200_000
    """The first of them clone all segments."""
    segments_per_batch: int = 192
    """Segments a gradient step sees while cloning and fitting the reward."""

    def __post_init__(self) -> None:
        check_training(self)
        check_reward(self)
        positive = ("positive", lambda value: 0 < value < float("inf"))
        weight = ("at least 0", lambda value: 0 <= value < float("inf"))
        share = ("in [0, 1]", lambda value: 0 <= value <= 1)
        count = ("at least 1", lambda value: value >= 1)
        most = self.transitions_per_collection
        within = f"in [{self.lowest_std}, {self.highest_std}]"
        reward_steps = self.reward_steps if self.reward == "learned" else 0
        improving = self.steps - self.clone_steps - reward_steps
        waiting = self.value_collections * self.epochs * (most // max(self.minibatch, 1))
        refuse(
            self,
            {
                "kl_weight": weight,
                "kl_estimator": (" or ".join(KL_ESTIMATORS), lambda value: value in KL_ESTIMATORS),
                "objective": ("clip or penalty", lambda value: value in ("clip", "penalty")),
                "clip": ("in (0, 1)", lambda value: 0 < value < 1),
                "target_kl": positive,
                "gamma": share,
                "gae_lambda": share,
                "ptx_weight": weight,
                "lowest_std": positive,
                "highest_std": (
                    f"at least --lowest-std, {self.lowest_std}",
                    lambda value: self.lowest_std <= value < float("inf"),
                ),
                "initial_std": (
                    within,
                    lambda value: self.lowest_std <= value <= self.highest_std,
                ),
                "policy_learning_rate": positive,
                "value_learning_rate": positive,
                "transitions_per_collection": count,
                "epochs": count,
                "minibatch": (
                    f"between 1 and the {most} transitions of a collection",
                    lambda value: 1 <= value <= most,
                ),
                "value_collections": (
                    f"at least 0 and leave some of the {improving} improving steps to the policy",
                    lambda value: value >= 0 and (improving <= 0 or waiting < improving),
                ),
            },
        )


PAPER = PPOConfig()
LAPTOP = replace(
    PAPER,
    reward_steps=3000,
    reward_imitation=0.3,
    kl_weight=0.1,
    gamma=0.9,
    initial_std=0.3,
    lowest_std=0.2,
    transitions_per_collection=8192,
    epochs=5,
    minibatch=512,
    value_collections=2,
    clone_learning_rate=3e-4,
    policy_learning_rate=1e-4,
    value_learning_rate=1e-3,
    hidden=(256, 256),
    steps=6960,
    clone_steps=3000,
    segments_per_batch=32,
)


class PPO:
    """See the module's header."""

    def __init__(
        self,
        config: PPOConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config = config
        self.policy = Policy(
            observation_size, action_size, config.hidden, config.dropout, seeds, device
        )
        self.policy.add_optimiser("clone", config.clone_learning_rate)
        self.reference = MLP(self.policy.network.sizes, seeds, device, network=0)
        self.value = MLP([observation_size, *config.hidden, 1], seeds, device, network=1)
        self.reward = RewardModel(config, observation_size, action_size, seeds, device)
        self.examine = self.reward.examine
        self.act, self.weights = self.policy.act, self.policy.weights

        s = len(seeds)
        first = torch.full((s, action_size), config.initial_std, device=device)
        self.log_std = first.log().requires_grad_()
        self._reference_std = first
        self._statistics = {
            "centre": torch.zeros(s, device=device),  # of returns
            "scale": torch.ones(s, device=device),
            "penalty": torch.ones(s, device=device),  # β of the penalty objective
            "transitions": torch.zeros(s, device=device),
        }
        actor = {**self.policy.parameters, "log_std": self.log_std}
        most = LARGEST_GRADIENT
        self._actor = WarmAdam(actor, config.policy_learning_rate, largest_gradient=most)
        self._critic = WarmAdam(
            self.value.parameters, config.value_learning_rate, largest_gradient=most
        )
        self._collection: dict[str, Tensor] = {}
        self._collected = 0  # collections so far
        self._update = 0  # of those that the collection serves

        # --- What the loop needs to know ---
        self.transitions_per_collection = config.transitions_per_collection
        self._updates_per_epoch = config.transitions_per_collection // config.minibatch
        self.updates_per_collection = config.epochs * self._updates_per_epoch
        self.mixes_offline = config.ptx_weight > 0

    def phases(self, total_steps: int) -> list[Phase]:
        """Clone, fit the reward, improve."""
        config = self.config
        clone = min(config.clone_steps, total_steps)
        learned = config.reward == "learned"
        reward = min(config.reward_steps, total_steps - clone) if learned else 0
        return [
            Phase("clone", clone, self.policy.clone),
            Phase("reward", reward, self.reward.fit, "fitting"),
            Phase("ppo", total_steps - clone - reward, self._improve, "rollouts"),
        ]

    def behaviour(self) -> dict[str, np.ndarray]:
        """The weights, and "std" (s, a) to draw actions with."""
        return self.weights() | {"std": self.log_std.detach().exp().cpu().numpy()}

    def state(self) -> dict[str, Tensor]:
        """Networks, optimisers, statistics and the collection in use, flat."""
        state = pack(self._parts())
        state["log_std"] = self.log_std.detach().clone()
        state["collected"] = torch.tensor(self._collected)
        state["update"] = torch.tensor(self._update)
        state |= {f"statistics/{name}": value.clone() for name, value in self._statistics.items()}
        return state | {f"collection/{name}": value for name, value in self._collection.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts(), state)
        device = self.log_std.device
        with torch.no_grad():
            self.log_std.copy_(state["log_std"])
        self._collected, self._update = int(state["collected"]), int(state["update"])
        self._statistics = _under("statistics/", state, device)
        self._collection = _under("collection/", state, device)

    # --- Improve ---

    def _improve(self, batch: RolloutBatch) -> Metrics:
        if batch.fresh is not None:
            self._receive(batch.fresh)
        config, collection = self.config, self._collection
        visited = self._update % self._updates_per_epoch
        if visited == 0:
            count = collection["advantages"].shape[1]
            order = bits(self.policy.keys, batch.step, ORDER_STREAM, count).argsort(1)
            collection["order"] = order
        rows = collection["order"].narrow(1, visited * config.minibatch, config.minibatch)
        observations, actions = (
            _pick(collection, "observations", rows),
            _pick(collection, "actions", rows),
        )
        advantages = collection["advantages"].gather(1, rows)
        old_mean, old_std = _pick(collection, "mean", rows), collection["std"]

        mean = self.policy.mean(observations)
        std = self.log_std.exp().unsqueeze(1).expand_as(mean)
        log_prob = gaussian_log_prob(mean, std, actions)
        log_ratio = log_prob - collection["log_prob"].gather(1, rows)
        kl = gaussian_kl(old_mean, old_std.expand_as(mean), mean, std)
        if config.objective == "clip":
            gain = clipped_surrogate(log_ratio, advantages, config.clip)
        else:
            gain = log_ratio.exp() * advantages - self._statistics["penalty"].unsqueeze(1) * kl
        policy_loss = -gain.mean(1)
        loss = policy_loss
        if config.kl_estimator != "k1":  # in units of the standardised advantages
            apart = collection["reference_log_prob"].gather(1, rows) - log_prob
            cost = KL_ESTIMATORS[config.kl_estimator](apart) / collection["spread"]
            loss = loss + config.kl_weight * cost.mean(1)
        if batch.offline is not None:
            loss = loss + config.ptx_weight * self._cloning_loss(batch)
        if self._collected > config.value_collections:
            self._actor.step(loss.sum())
        with torch.no_grad():
            self.log_std.clamp_(np.log(config.lowest_std), np.log(config.highest_std))

        error = self.value(observations).squeeze(-1) - collection["goals"].gather(1, rows)
        value_loss = error.square().mean(1)
        self._critic.step(value_loss.sum())
        self._update += 1
        clipped = ((log_ratio.detach().exp() - 1).abs() > config.clip).float()
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "kl_to_old": kl.detach().mean(1),
            "clip_fraction": clipped.mean(1),
            "std": self.log_std.detach().exp().mean(1),
            **{name: collection[name] for name in REPORTED},
        }

    def _receive(self, rollouts: Rollouts) -> None:
        """Judge new episodes: what each step paid, and how much better than expected it was."""
        config, statistics = self.config, self._statistics
        s, episodes, steps, _ = rollouts.actions.shape
        with torch.no_grad():
            if not self._collection:
                self.reference.follow(self.policy.network, 1.0)
            elif config.objective == "penalty" and self._collected > config.value_collections:
                moved = self._moved()
                adapted = adapted_coefficient(statistics["penalty"], moved, config.target_kl)
                statistics["penalty"] = adapted
            observations = rollouts.observations[:, :, :-1].flatten(1, 2)
            actions = rollouts.actions.flatten(1, 2)
            mean, std = self.policy.mean(observations), self.log_std.exp().unsqueeze(1)
            reference = self.reference(observations).tanh()
            reference_std = self._reference_std.unsqueeze(1).expand_as(mean)
            log_prob = gaussian_log_prob(mean, std.expand_as(mean), actions)
            reference_log_prob = gaussian_log_prob(reference, reference_std, actions)
            log_ratio = reference_log_prob - log_prob
            paid = rollouts.rewards.flatten(1)
            if config.reward == "learned":
                paid = self.reward(observations, actions.clamp(-1, 1))
            shaped = paid
            if config.kl_estimator == "k1":
                shaped = paid - config.kl_weight * KL_ESTIMATORS["k1"](log_ratio)
            shape = (s, episodes, steps)

            raw = self.value(rollouts.observations.flatten(1, 2)).view(s, episodes, steps + 1)
            values = statistics["centre"].view(s, 1, 1) + statistics["scale"].view(s, 1, 1) * raw
            never = torch.zeros(shape, dtype=torch.bool, device=values.device)
            ended = never.clone()
            ended[:, :, -1] = True  # by the time limit: the next value counts
            advantages = generalised_advantage(
                shaped.view(shape),
                values[:, :, :-1],
                values[:, :, 1:],
                never,
                ended,
                config.gamma,
                config.gae_lambda,
            ).flatten(1)
            returns = advantages + values[:, :, :-1].flatten(1)
            explained = 1 - advantages.var(1) / returns.var(1).clamp_min(1e-8)
            self._remember(returns)
            goals = (returns - statistics["centre"][:, None]) / statistics["scale"][:, None]
            statistics["transitions"] = statistics["transitions"] + episodes * steps
            spread = advantages.std(1, keepdim=True).clamp_min(1e-8)
            kl = gaussian_kl(mean, std.expand_as(mean), reference, reference_std)
            self._collection = {
                "observations": observations,
                "actions": actions,
                "mean": mean,
                "std": std.clone(),
                "log_prob": log_prob,
                "reference_log_prob": reference_log_prob,
                "spread": spread,
                "advantages": (advantages - advantages.mean(1, keepdim=True)) / spread,
                "goals": goals,
                "learned_reward": paid.view(shape).sum(2).mean(1),
                "true_return": rollouts.rewards.sum(2).mean(1),
                "rollout_success": rollouts.successes.float().mean(1),
                "kl_to_reference": kl.mean(1),
                "explained_variance": explained,
                "transitions": statistics["transitions"],
                "penalty": statistics["penalty"],
            }
        self._collected += 1
        self._update = 0

    def _remember(self, returns: Float[Tensor, "s n"]) -> None:
        """Mean and deviation of returns, running; the first collection's are taken as they are."""
        statistics = self._statistics
        kept = (statistics["transitions"] > 0) * RETURN_MEMORY
        for name, now in (("centre", returns.mean(1)), ("scale", returns.std(1).clamp_min(1e-3))):
            statistics[name] = kept * statistics[name] + (1 - kept) * now

    def _moved(self) -> Float[Tensor, " s"]:
        """KL(π_old ‖ π) over the collection that was just used."""
        mean = self.policy.mean(self._collection["observations"])
        std = self.log_std.exp().unsqueeze(1).expand_as(mean)
        old_std = self._collection["std"].expand_as(mean)
        return gaussian_kl(self._collection["mean"], old_std, mean, std).mean(1)

    def _cloning_loss(self, batch: RolloutBatch) -> Float[Tensor, " s"]:
        assert batch.offline is not None
        mean = self.policy.mean(batch.offline.observations.flatten(1, 2))
        std = self.log_std.exp().unsqueeze(1).expand_as(mean)
        return -gaussian_log_prob(mean, std, batch.offline.actions.flatten(1, 2)).mean(1)

    def _parts(self) -> dict[str, Policy | MLP | RewardModel | WarmAdam]:
        return {
            "policy": self.policy,
            "reference": self.reference,
            "value": self.value,
            "reward": self.reward,
            "actor": self._actor,
            "critic": self._critic,
        }


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


def _pick(collection: dict[str, Tensor], name: str, rows: Tensor) -> Tensor:
    """Some rows (s, b) of a tensor (s, n, width)."""
    values = collection[name]
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _under(start: str, state: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {
        name[len(start) :]: value.clone().to(device)
        for name, value in state.items()
        if name.startswith(start)
    }
