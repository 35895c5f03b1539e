"""P-IQL: learn a reward from comparisons, then a policy from it by implicit Q-learning.

The paper's baseline (arXiv 2310.13639v3, appendix), IQL as in Kostrikov et al., arXiv 2110.06169:

    V  ◄── expectile regression on min Q̄(s, a)
    Q  ◄── r_θ(s, a) + γ V(s')            two critics; Q̄ follows them by Polyak averaging
    π  ◄── cloning weighted by exp((min Q̄ − V) / temperature)

The reward is fitted in the first phase, side by side with the rest, and then held; like every
reward model it is fitted to nine tenths of the episodes, and the rest of that phase sees only
those, too. Transitions are those within segments; after a termination the next value is 0, after
any other step it is V. With the true reward in place of the learned one this is IQL.

Deviations: the actor is weighted by advantages over the value from before this step's update, where
the authors of IQL take the one after it. The paper doesn't say whether the actor drops units; here
it does, as everybody's policy there. Critics and value begin near zero. Our data end an episode
soon after its success and show little of what follows. The laptop preset takes a hundredth of the
steps, and makes them count: transitions drawn one by one rather than in segments, a reward that
also imitates (on bin-picking a policy learns and then falls back; this lessens it and does not end
it), standardised rewards with temperature 1, networks that give values in units of 1/(1 − γ) (Adam
moves a network's output by as much a step whatever the value's size), a higher rate, targets that
follow sooner, expectile 0.5: the value is the data's own, the policy one step of improvement over
theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.chunks import refuse_for_values
from cpl_bench.learning.config import Optimiser, PolicyConfig, RewardConfig, ValueConfig
from cpl_bench.learning.critics import Critics, judging
from cpl_bench.learning.interface import (
    Entry,
    Feed,
    Metrics,
    Phase,
    PreferenceBatch,
    Segments,
    Transitions,
)
from cpl_bench.learning.losses import averaged
from cpl_bench.learning.moves import Moves, moves_of, standardised
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.reward import RewardModel
from cpl_bench.learning.state import Part, pack, unpack


@dataclass(frozen=True)
class PIQLConfig:
    """P-IQL; the defaults are the paper's for Meta-World with state observations."""

    reward: RewardConfig = RewardConfig()
    """The first steps also fit its model."""
    standardise_rewards: bool = False
    """Whether a batch's rewards are given mean 0 and deviation 1: the value has less to learn, and
    the temperature means the same for every reward. Where tasks terminate, policies rank anew."""
    policy: PolicyConfig = PolicyConfig()
    actor: Optimiser = Optimiser(3e-4, cosine=True)
    value: ValueConfig = ValueConfig()
    """Value and critics."""
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
    steps: int = 500_000
    """Gradient steps in all."""
    segments: int = 192
    """Segments whose comparisons a gradient step sees while the reward is fitted."""
    transitions: int = 0
    """Transitions of which value, critics and policy learn in a step: drawn one by one, or while
    the reward is fitted spread over its segments; 0: all those of the segments."""

    def __post_init__(self) -> None:
        positive = settings.POSITIVE
        settings.refuse(
            self,
            {
                "temperature": positive,
                "largest_weight": positive,
                "segments": settings.SEGMENTS,
                "transitions": (
                    "0 or at least 2, and at most 1,000,000",
                    lambda value: value == 0 or 1 < value <= 10**6,
                ),
            },
        )
        judging(self)  # which refuses its own
        settings.share_out(self.steps, "iql", reward=self.reward.fitting_steps)
        refuse_for_values(self.policy, "P-IQL")


PAPER = PIQLConfig()
LAPTOP = PIQLConfig(
    reward=settings.LAPTOP_REWARD,
    standardise_rewards=True,
    policy=settings.LAPTOP_POLICY,
    actor=Optimiser(1e-3, cosine=True),
    value=ValueConfig((256, 256), Optimiser(1e-3)),
    value_scale=100.0,
    expectile=0.5,
    temperature=1.0,
    polyak=0.05,
    steps=8000,
    segments=32,
    transitions=256,
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
        self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
        self.policy.add_optimiser("iql", config.actor, config.steps)
        self.judges = Critics(judging(config), observation_size, action_size, seeds, device)
        self.value, self.critics = self.judges.value, self.judges.critics
        self.targets = self.judges.targets
        self.reward = RewardModel(config.reward, observation_size, action_size, seeds, device)
        self.examine = self.reward.examine
        self.act, self.weights = self.policy.act, self.policy.weights
        self._parts: dict[str, Part] = {
            "policy": self.policy,
            **self.judges.networks,
            "reward": self.reward,
            **self.judges.optimisers,
        }

    def phases(self) -> list[Phase]:
        """Fit reward and policy side by side, then the policy alone."""
        config = self.config
        together, ranked = config.reward.fitting_steps, config.reward.loss == "ranking"
        fitting = Segments(config.segments, "fitting", ranked=ranked, least_length=2)
        true = config.reward.source == "true"
        alone: Feed = Segments(config.segments, rewards=true, least_length=2)
        if config.transitions:
            alone = Transitions(config.transitions, rewards=true)
        return [
            Phase("reward", together, self._fit_and_improve, fitting),
            Phase("iql", config.steps - together, self._improve, alone),
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
        config, moves = self.config, moves_of(batch, self.config.transitions)
        rewards = self._rewards(moves)
        if config.standardise_rewards:
            rewards = standardised(rewards, moves.counts)
        judged, value, losses = self.judges.improve(
            moves.observations,
            moves.actions,
            moves.next_observations,
            rewards,
            moves.terminated,
            moves.counts,
        )

        # --- Clone what was better than expected ---
        advantage = judged - value
        weight = (advantage / config.temperature).exp().clamp_max(config.largest_weight)
        log_probs = self.policy.log_probs(moves.segments).flatten(1)
        policy_loss = -averaged(weight * log_probs, moves.counts)
        self.policy.improve("iql", policy_loss)
        return {
            **losses,
            "policy_loss": policy_loss.detach(),
            "value": averaged(value, moves.counts),
            "advantage": averaged(advantage, moves.counts),
            "weight": averaged(weight, moves.counts),
            "log_prob": averaged(log_probs.detach(), moves.counts),
        }

    def _rewards(self, moves: Moves) -> Float[Tensor, "s n"]:
        if self.config.reward.source == "learned":
            return self.reward(moves.observations, moves.actions)
        if moves.rewards is None:
            raise ValueError("the true reward is asked for and the batch has none")
        return moves.rewards


ENTRY = Entry(
    PIQL,
    {"paper": PAPER, "laptop": LAPTOP},
    title=lambda config: "P-IQL" if config.reward.source == "learned" else "IQL (true reward)",
)
