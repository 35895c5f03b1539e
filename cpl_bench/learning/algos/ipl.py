"""IPL: inverse preference learning, implicit Q-learning whose reward is what its critic implies.

Hejna & Sadigh, arXiv 2305.15363. For a fixed policy a Q-function and a reward say the same,
r(s, a) = Q(s, a) − γ V(s'): so the critic itself is fitted to the comparisons, and there is no
reward network:

    V  ◄── expectile regression on min Q̄(s, a)
    Q  ◄── −log σ(Σ_{σ⁺} r − Σ_{σ⁻} r) + λ r²          r = Q − γ V(s'), V held
    π  ◄── cloning weighted by exp((min Q̄ − V) / temperature)

λ r² makes the reward unique: without it, what no comparison tells apart goes anywhere.

Deviations: a segment's last step counts only where its task ended there, since the batch doesn't
show what followed it; the authors cut such steps off, too. Their code draws a part of each segment
(16 steps of 25), here all of it is seen, and on locomotion it has unlabelled data beside the
compared segments, here there are none; there they clip V(s') at ±1/(λ(1 − γ)), too, which is left
out. The actor is weighted by advantages over the value from before this step's update. The preset
"paper" has the numbers of their Meta-World experiments, a learned σ among them; the laptop's has
their critics with another γ, expectile and temperature (`results/presets/tuning.md`), a fixed σ and
P-IQL's actor.

V is a part of r, and a segment's sum adds up its errors. On segments of 64 steps the loss of the
comparisons, 0.69 by chance, ends at 0.5 to 0.8 with the laptop preset, and four of five are
answered rightly; with the paper's γ of 0.99 it ended at 1.3 on drawer-open, with targets and a rate
that are faster, too, in the thousands. The metric `preference_loss` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.chunks import refuse_for_values
from cpl_bench.learning.config import Optimiser, PolicyConfig, ValueConfig
from cpl_bench.learning.contrast import accuracy, contrast_loss, likelihoods
from cpl_bench.learning.critics import Critics, judging
from cpl_bench.learning.interface import Entry, Metrics, Phase, PreferenceBatch, Segments
from cpl_bench.learning.losses import averaged
from cpl_bench.learning.moves import Moves, moves_of
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.state import Part, pack, unpack


@dataclass(frozen=True)
class IPLConfig:
    """IPL; the defaults are its authors' for Meta-World."""

    regularisation: float = 3.0
    """λ of λ r²: the weight of the implied reward's mean square (0.5 on locomotion)."""
    policy: PolicyConfig = PolicyConfig((256, 256, 256), dropout=0.0, variance="learned")
    actor: Optimiser = Optimiser(3e-4)
    value: ValueConfig = ValueConfig((256, 256, 256))
    """Value and critics."""
    value_scale: float = 1.0
    """Value and critics are their networks' outputs times this."""
    expectile: float = 0.75
    """τ of the value's expectile regression."""
    temperature: float = 1 / 3
    """Advantages are divided by it before they weigh the cloning."""
    largest_weight: float = 100.0
    """Weights are clipped here."""
    gamma: float = 0.99
    """The discount."""
    polyak: float = 0.005
    """Share by which the target critics follow in a step."""
    steps: int = 200_000
    """Gradient steps."""
    segments: int = 32
    """Segments a gradient step sees; with dense data all their pairs are compared."""

    def __post_init__(self) -> None:
        positive = settings.POSITIVE
        settings.refuse(
            self,
            {
                "regularisation": settings.NOT_NEGATIVE,
                "temperature": positive,
                "largest_weight": positive,
                "segments": settings.SEGMENTS,
            },
        )
        judging(self)  # which refuses its own
        refuse_for_values(self.policy, "IPL")


PAPER = IPLConfig()
LAPTOP = IPLConfig(
    policy=settings.LAPTOP_POLICY,
    actor=Optimiser(1e-3, cosine=True),
    value=ValueConfig((256, 256)),
    expectile=0.5,
    temperature=0.1,
    gamma=0.9,
    steps=8000,
    segments=8,
)


class IPL:
    """See the module's header."""

    def __init__(
        self,
        config: IPLConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config, sizes, steps = config, (observation_size, action_size), config.steps
        self.policy = Policy(*sizes, config.policy, seeds, device)
        self.policy.add_optimiser("ipl", config.actor, steps)
        self.critics = Critics(judging(config), *sizes, seeds, device)
        self.act, self.weights = self.policy.act, self.policy.weights
        self._parts: dict[str, Part] = {
            "policy": self.policy,
            **self.critics.networks,
            **self.critics.optimisers,
        }

    def phases(self) -> list[Phase]:
        """Everything at once, from the first step."""
        feed = Segments(self.config.segments, least_length=2)
        return [Phase("ipl", self.config.steps, self._improve, feed)]

    def state(self) -> dict[str, Tensor]:
        """Every network and optimiser, flat."""
        return pack(self._parts)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts, state)

    def _improve(self, batch: PreferenceBatch) -> Metrics:
        config, critics, moves = self.config, self.critics, moves_of(batch)
        pairs = torch.cat([moves.observations, moves.actions], -1)  # (s, n, o + a)
        judged, value, value_loss = critics.raise_value(moves.observations, pairs, moves.counts)

        # --- Fit the reward that the critics imply to the comparisons ---
        follows = critics.following(moves.next_observations, moves.terminated)
        implied = [q - config.gamma * follows for q in critics.found(pairs)]
        sums = [self._sums(each, batch, moves) for each in implied]  # (s, m) each
        told = torch.stack([contrast_loss(each, batch) for each in sums]).sum(0)
        squares = [averaged(each.square(), moves.counts) for each in implied]
        spread = torch.stack(squares).sum(0)
        critics.improve_critics(told + config.regularisation * spread)

        # --- Clone what was better than expected ---
        advantage = judged - value
        weight = (advantage / config.temperature).exp().clamp_max(config.largest_weight)
        log_probs = self.policy.log_probs(moves.segments)  # (s, m, k')
        policy_loss = -averaged(weight * log_probs.flatten(1), moves.counts)
        self.policy.improve("ipl", policy_loss)
        return {
            "value_loss": value_loss,
            "preference_loss": told.detach() / 2,
            "implied_square": spread.detach() / 2,
            "accuracy": accuracy(torch.stack(sums).mean(0), batch),
            "policy_loss": policy_loss.detach(),
            "value": averaged(value, moves.counts),
            "advantage": averaged(advantage, moves.counts),
            "weight": averaged(weight, moves.counts),
            **likelihoods(log_probs, batch),
        }

    def _sums(
        self, implied: Float[Tensor, "s n"], batch: PreferenceBatch, moves: Moves
    ) -> Float[Tensor, "s m"]:
        """Of the implied rewards over each segment."""
        counted = implied if moves.counts is None else implied * moves.counts
        return counted.view(*batch.actions.shape[:2], -1).sum(2)


ENTRY = Entry(IPL, {"paper": PAPER, "laptop": LAPTOP}, title=lambda config: "IPL")
