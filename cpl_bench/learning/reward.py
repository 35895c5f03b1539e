"""Reward models: per-step rewards whose sums over segments explain the comparisons.

Bradley–Terry on sums, −log σ(r(σ⁺) − r(σ⁻)), r(σ) = Σ_t r_θ(s_t, a_t) (Christiano et al., arXiv
1706.03741, eq. 1, there with a mixed-in rate of random answers). Bounding r_θ to [0, 1] is the
trick that arXiv 2310.13639v3 calls crucial for its PPO. With imitation, policy and reward share a
trunk that also clones the preferred segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning.config import RewardConfig
from cpl_bench.learning.interface import Metrics, PreferenceBatch
from cpl_bench.learning.losses import (
    averaged,
    fixed_variance_log_prob,
    of_comparisons,
    preference_accuracy,
    preference_nll,
    preferred,
    ranking_nll,
)
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP, prefixed
from cpl_bench.learning.rankings import not_worse, of_questions
from cpl_bench.learning.state import pack, unpack

NETWORK = 100  # the first number of a reward model's networks
ENSEMBLE_STRIDE = 0x632BE59BD9  # its ensemble begins with weights from seeds this far apart


class RewardModel:
    """r_θ(s, a) for s members, each the mean of an ensemble of E.

    The ensemble's networks see the same batches and differ by their first weights.
    """

    def __init__(
        self,
        config: RewardConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config, self.size = config, config.ensemble
        seeds = [seed + ENSEMBLE_STRIDE * e for seed in seeds for e in range(self.size)]  # (s E)
        if config.imitation:
            first, *later = config.hidden
            self.networks = {
                "trunk": MLP([observation_size, first], seeds, device, NETWORK),
                "reward": MLP([first + action_size, *later, 1], seeds, device, NETWORK + 1),
                "imitation": MLP([first, action_size], seeds, device, NETWORK + 2),
            }
        else:
            sizes = [observation_size + action_size, *config.hidden, 1]
            self.networks = {"reward": MLP(sizes, seeds, device, NETWORK)}
        self.optimiser = WarmAdam(prefixed(self.networks), config.optimiser, config.steps)

    def __call__(
        self, observations: Float[Tensor, "s n o"], actions: Float[Tensor, "s n a"]
    ) -> Float[Tensor, "s n"]:
        """What a step is paid: the ensemble's mean, less its deviation times the pessimism.

        Without gradient.
        """
        rewards = self._each(observations, actions)
        if not self.config.pessimism:
            return rewards.mean(1)
        return rewards.mean(1) - self.config.pessimism * rewards.std(1, correction=0)

    def fit(self, batch: PreferenceBatch) -> Metrics:
        """One gradient step on a batch's comparisons."""
        sums, imitated = self._of_segments(batch)
        first, second = (
            each.repeat_interleave(self.size, 0) for each in (batch.first, batch.second)
        )
        answers = batch.prefers_second.repeat_interleave(self.size, 0)
        weight = batch.weight.repeat_interleave(self.size, 0)
        ends = of_comparisons(sums, first, second)
        if self.config.loss == "ranking":
            loss = self._ranking_loss(sums, batch)
        else:
            loss = averaged(preference_nll(*ends, answers, 1.0), weight)  # (s E)
        metrics = {
            "reward_loss": loss,
            "reward_accuracy": preference_accuracy(*ends, answers, weight),
        }
        if imitated is not None:
            costs = of_comparisons(imitated, first, second)
            clone = averaged(preferred(*costs, answers), weight)
            loss = loss + self.config.imitation * clone
            metrics["reward_imitation_loss"] = clone
        self.optimiser.step(loss.sum())
        return {name: self._members(value) for name, value in metrics.items()}

    def examine(self, batch: PreferenceBatch) -> Metrics:
        """Accuracy and loss of the ensemble's mean on comparisons it was not fitted to."""
        first, second = of_comparisons(self.segment_sums(batch), batch.first, batch.second)
        answers, weight = batch.prefers_second, batch.weight
        return {
            "held_out_accuracy": preference_accuracy(first, second, answers, weight),
            "held_out_loss": averaged(preference_nll(first, second, answers, 1.0), weight),
        }

    def segment_sums(self, batch: PreferenceBatch) -> Float[Tensor, "s m"]:
        """r(σ) of every segment by the ensemble's mean, without gradient."""
        observations, actions = batch.observations.flatten(1, 2), batch.actions.flatten(1, 2)
        return self._each(observations, actions).mean(1).view(batch.actions.shape[:3]).sum(2)

    def state(self) -> dict[str, Tensor]:
        """Networks and optimiser, flat."""
        return pack({**self.networks, "optimiser": self.optimiser})

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack({**self.networks, "optimiser": self.optimiser}, state)

    @torch.no_grad()
    def _each(
        self, observations: Float[Tensor, "s n o"], actions: Float[Tensor, "s n a"]
    ) -> Float[Tensor, "s E n"]:
        """The reward of each step by each network of the ensemble."""
        return self._ensemble(observations, actions)[0].unflatten(0, (-1, self.size))

    def _of_segments(self, batch: PreferenceBatch) -> tuple[Tensor, Tensor | None]:
        """Sums of rewards (s E, m), and what cloning a segment costs (s E, m) if it is cloned."""
        s, m, k, _ = batch.actions.shape
        observations, actions = batch.observations.flatten(1, 2), batch.actions.flatten(1, 2)
        rewards, imitation = self._ensemble(observations, actions)
        sums = rewards.view(s * self.size, m, k).sum(2)
        if imitation is None:
            return sums, None
        log_probs = fixed_variance_log_prob(imitation, actions.repeat_interleave(self.size, 0))
        return sums, -log_probs.view(s * self.size, m, k).mean(2)

    def _ensemble(
        self, observations: Float[Tensor, "s n o"], actions: Float[Tensor, "s n a"]
    ) -> tuple[Tensor, Tensor | None]:
        """Each one's reward (s E, n), and its imitating action (s E, n, a) if it has one."""
        observations = observations.repeat_interleave(self.size, 0)
        actions = actions.repeat_interleave(self.size, 0)
        features, imitation = observations, None
        if "trunk" in self.networks:
            features = self.networks["trunk"](observations).relu()
            imitation = self.networks["imitation"](features).tanh()
        rewards = self.networks["reward"](torch.cat([features, actions], -1)).squeeze(-1)
        return (rewards.sigmoid() if self.config.bounded else rewards), imitation

    def _ranking_loss(self, sums: Float[Tensor, "n m"], batch: PreferenceBatch) -> Tensor:
        if not batch.ranked:
            raise ValueError("a ranking loss needs ranked answers")
        shape = (-1, sums.shape[1] // batch.ranked, batch.ranked)
        within = not_worse(batch).repeat_interleave(self.size, 0)
        weight = of_questions(batch).repeat_interleave(self.size, 0)
        rankings = averaged(ranking_nll(sums.view(shape), within), weight)
        return rankings / (batch.ranked - 1)  # a choice

    def _members(self, values: Float[Tensor, " n"]) -> Float[Tensor, " s"]:
        return values.detach().view(-1, self.size).mean(1)
