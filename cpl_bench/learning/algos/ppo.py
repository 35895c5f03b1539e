"""Preference-PPO: clone the data, learn a reward from comparisons, improve the clone online.

The paper's online baseline (arXiv 2310.13639v3, appendix) with PPO as in Schulman et al., arXiv
1707.06347. The policy is N(μ(s), σ²), tanh mean, one σ an action dimension; it starts from the
clone and is paid

    r_θ(s, a) − β (log π − log π_ref)                  π_ref: the clone, with the first σ

which is the estimator k1 of KL(π ‖ π_ref). k2 and k3 are costs in the loss instead: paid as
rewards their gradients vanish at the reference, and no β would hold the policy there. (As a loss,
k2 has the gradient of KL(π ‖ π_ref) and k3 that of KL(π_ref ‖ π), as long as π is still π_old.)

A collection is a few whole episodes; time limits bootstrap, terminations do not. An epoch visits
as many transitions as fill its minibatches. With the true reward and β = 0 this is PPO. The
surrogate "reinforce" is the policy gradient with a baseline (Williams, 1992), of the reward to go
where `gae_lambda` is 1, unbiased where a collection serves one update.

Deviations and choices where the paper is silent: clip range 0.2, gradients clipped to norm 0.5, the
value learns standardised returns, advantages are standardised over a collection, the reward is
fitted for 20,000 steps, no entropy bonus. The laptop preset begins with the data's own noise,
σ = 0.3, and lets it fall to 0.2, where the paper limits σ to [0.5, 1.5]. It has a fortieth of the
paper's transitions, so two collections teach only the value, at a higher rate, then five epochs of
minibatches of 512 move the policy in small steps. Its β is 0.1 (the paper's 2 or 5; 2 holds it at
the clone), its γ 0.9, and the reward imitates; without, or with γ = 0.99, two seeds showed no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.actor import Actor, KLConfig, StdConfig, Surrogate, SurrogateConfig
from cpl_bench.learning.chunks import refuse_for_values
from cpl_bench.learning.collection import REPORTED, Collection, CollectionConfig, happened
from cpl_bench.learning.config import Optimiser, PolicyConfig, RewardConfig, Stage, ValueConfig
from cpl_bench.learning.interface import (
    Entry,
    Episodes,
    Metrics,
    OnlinePhase,
    Phase,
    RolloutBatch,
    Rollouts,
    Segments,
)
from cpl_bench.learning.losses import averaged, gaussian_kl, gaussian_log_prob
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP
from cpl_bench.learning.reward import RewardModel
from cpl_bench.learning.state import Part, pack, unpack


@dataclass(frozen=True)
class PPOConfig:
    """Preference-PPO; the defaults are the paper's for Meta-World with state observations."""

    reward: RewardConfig = RewardConfig(steps=20_000, bounded=True)
    kl: KLConfig = KLConfig()
    std: StdConfig = StdConfig()
    collection: CollectionConfig = CollectionConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    gamma: float = 0.99
    """The discount."""
    gae_lambda: float = 0.95
    """λ of the advantage estimate."""
    ptx_weight: float = 0.0
    """Weight of the data's negative log-likelihood while improving (PPO-ptx)."""
    policy: PolicyConfig = PolicyConfig()  # improving drops no units
    clone: Stage = Stage(200_000, Optimiser(1e-4))
    """The first steps clone all segments."""
    actor: Optimiser = Optimiser(3e-4, largest_gradient=0.5)
    """The policy's while improving."""
    value: ValueConfig = ValueConfig(optimiser=Optimiser(3e-4, largest_gradient=0.5))
    steps: int = 520_000
    """Gradient steps in all."""
    segments: int = 192
    """Segments a gradient step sees while cloning and fitting the reward."""

    def __post_init__(self) -> None:
        settings.refuse(self, {"gamma": settings.SHARE, "gae_lambda": settings.SHARE})
        settings.refuse(self, {"ptx_weight": settings.NOT_NEGATIVE})
        settings.refuse(self, {"steps": settings.COUNT, "segments": settings.SEGMENTS})
        fitting = self.reward.fitting_steps
        settings.share_out(self.steps, "ppo", clone=self.clone.steps, reward=fitting)
        refuse_for_values(self.policy, "preference-PPO", own_std=True)
        self.collection.check(self.improving)

    @property
    def improving(self) -> int:
        """Steps of the phase "ppo"."""
        return self.steps - self.clone.steps - self.reward.fitting_steps


PAPER = PPOConfig()
LAPTOP = PPOConfig(
    reward=settings.LAPTOP_REWARD,
    kl=KLConfig(weight=0.1),
    std=StdConfig(initial=0.3, lowest=0.2),
    collection=CollectionConfig(transitions=8192, epochs=5, minibatch=512, value_only=2),
    gamma=0.9,
    policy=settings.LAPTOP_POLICY,
    clone=settings.LAPTOP_CLONE,
    actor=Optimiser(1e-4, largest_gradient=0.5),
    value=ValueConfig((256, 256), Optimiser(1e-3, largest_gradient=0.5)),
    steps=4960,
    segments=32,
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
        self.config, steps, waits = config, config.improving, config.collection.waiting
        self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
        self.policy.add_optimiser("clone", config.clone.optimiser, config.clone.steps)
        self.actor = Actor(self.policy, config.std, config.kl, config.actor, steps - waits, seeds)
        self.value = MLP([observation_size, *config.value.hidden, 1], seeds, device, network=1)
        self.reward = RewardModel(config.reward, observation_size, action_size, seeds, device)
        self.collection = Collection(config.collection, self.policy.keys)
        self._critic = WarmAdam(self.value.parameters, config.value.optimiser, steps)
        self.surrogate = Surrogate(config.surrogate, len(seeds), device)
        self.examine, self.behaviour = self.reward.examine, self.actor.behaviour
        self.act, self.weights = self.policy.act, self.policy.weights
        self._parts: dict[str, Part] = {
            "policy": self.policy,
            "actor": self.actor,
            "value": self.value,
            "reward": self.reward,
            "critic": self._critic,
            "collection": self.collection,
            "surrogate": self.surrogate,
        }

    def phases(self) -> list[Phase | OnlinePhase]:
        """Clone, fit the reward, improve."""
        config, data, of = self.config, Segments(self.config.segments), self.config.collection
        fitting = Segments(config.segments, "fitting", ranked=config.reward.loss == "ranking")
        own = Rollouts(of.transitions, of.updates, data if config.ptx_weight else None)
        return [
            self.policy.clone_phase(config.clone, data),
            Phase("reward", config.reward.fitting_steps, self.reward.fit, fitting),
            OnlinePhase("ppo", config.improving, self._improve, own),
        ]

    def state(self) -> dict[str, Tensor]:
        """Networks, optimisers, statistics and the collection in use, flat."""
        return pack(self._parts)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts, state)

    def _improve(self, batch: RolloutBatch) -> Metrics:
        if batch.fresh is not None:
            self._receive(batch.fresh)
        config, collection = self.config, self.collection
        rows, known = collection.rows(batch.step), collection.tensors
        observations = collection.pick("observations", rows)
        advantages = collection.pick("advantages", rows)

        # --- Move the policy ---
        mean, std = self.actor.look(observations)
        log_prob = gaussian_log_prob(mean, std, collection.pick("actions", rows))
        log_ratio = log_prob - collection.pick("log_prob", rows)
        old_mean = collection.pick("mean", rows)
        kl = gaussian_kl(old_mean, known["std"].expand_as(mean), mean, std)
        policy_loss = -self.surrogate.gain(log_ratio, advantages, kl).mean(1)
        loss, far = policy_loss, collection.pick("reference_log_prob", rows)
        if (cost := self.actor.kl_loss(log_prob, far, known["spread"])) is not None:
            loss = loss + cost
        if batch.offline is not None:
            loss = loss + config.ptx_weight * self.actor.cloning_loss(batch.offline)
        if collection.count > config.collection.value_only:
            self.actor.improve(loss)
        self.actor.limit()

        # --- Teach the value ---
        error = self.value(observations).squeeze(-1) - collection.pick("goals", rows)
        value_loss = error.square().mean(1)
        self._critic.step(value_loss.sum())
        collection.update += 1
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "kl_to_old": kl.detach().mean(1),
            "clip_fraction": self.surrogate.clipped(log_ratio),
            "std": self.actor.log_std.detach().exp().mean(1),
            **{name: known[name] for name in REPORTED},
        }

    @torch.no_grad()
    def _receive(self, episodes: Episodes) -> None:
        """Pay new episodes, and judge them by what was expected."""
        config, collection, actor = self.config, self.collection, self.actor
        if not collection.count:
            actor.begin()
        elif collection.count > config.collection.value_only:
            self.surrogate.adapt(actor.moved(collection.tensors))
        observations = episodes.observations[:, :, :-1].flatten(1, 2)
        actions = episodes.actions.flatten(1, 2)
        (mean, std), far = actor.look(observations), actor.reference(observations)
        log_prob = gaussian_log_prob(mean, std, actions)
        reference_log_prob = gaussian_log_prob(*far, actions)
        paid = episodes.rewards.flatten(1)
        if config.reward.source == "learned":
            paid = self.reward(observations, actions.clamp(-1, 1))
        shaped = actor.shaped(paid, log_prob, reference_log_prob)
        raw = self.value(episodes.observations.flatten(1, 2))
        alive, _ = happened(episodes)
        collection.receive(
            episodes,
            shaped.view(alive.shape),
            raw.view(*alive.shape[:2], -1),
            (config.gamma, config.gae_lambda),
            steps={
                "observations": observations,
                "actions": actions,
                "mean": mean,
                "log_prob": log_prob,
                "reference_log_prob": reference_log_prob,
            },
            facts={
                "std": actor.log_std.exp().unsqueeze(1),
                "learned_reward": (paid.view(alive.shape) * alive).sum(2).mean(1),
                "true_return": episodes.rewards.sum(2).mean(1),
                "rollout_success": episodes.successes.float().mean(1),
                "kl_to_reference": averaged(gaussian_kl(mean, std, *far), alive.flatten(1).float()),
                "penalty": self.surrogate.penalty,
            },
        )


ENTRY = Entry(
    PPO,
    {"paper": PAPER, "laptop": LAPTOP},
    title=lambda config: config.surrogate.title(config.reward.source == "learned"),
)
