"""RSO and soft labels: a reward model says what to compare, and which of two is better.

Statistical rejection sampling optimisation, Liu et al., arXiv 2309.06657. After cloning and fitting
a Bradley–Terry reward model:

    candidates ──► accepted with probability exp((r(σ) − r_max)/β) ──► compared, all pairs
    of the data                                                        labelled by the reward model

    S(σ) = α Σ log π/π_ref, fitted as by DPO or by the hinge of SLiC-HF

What is accepted is distributed as π_ref e^{r/β}, the policy that is sought: its comparisons are the
ones that tell good from better. With `labels = "soft"` a label is the reward model's probability
σ(r(σ₂) − r(σ₁)) in place of 0 or 1, which tempers what it isn't sure of; without `rejection` and
with soft labels this is CPL or DPO with the model's answers in place of the given ones.

Deviations: the paper's candidates are answers that the cloned policy gives to one prompt; here they
are segments of the behaviour data, of any state, and r_max is the largest among the candidates of
a gradient step. They are drawn anew in each, so are those accepted, of which the first `segments`
are compared; fewer than two teach nothing. The paper's α (there γ) is 0.05 and β 0.5. The laptop
preset accepts more, β = 10, and scores as DPO's does, α = 0.1. A reward tells states apart as well
as actions: rejection keeps the segments of good states, and on the point mass the policy then loses
its way elsewhere. Without rejection it did better there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.config import Optimiser, PolicyConfig, RewardConfig, Stage
from cpl_bench.learning.contrast import (
    OfPairs,
    Reference,
    accuracy,
    contrast_loss,
    likelihoods,
)
from cpl_bench.learning.interface import Entry, Metrics, Phase, PreferenceBatch, Segments
from cpl_bench.learning.losses import acceptance, segment_score
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.random_bits import uniform
from cpl_bench.learning.reward import RewardModel
from cpl_bench.learning.state import Part, pack, unpack

ACCEPT_STREAM = 1001  # which candidates are accepted
Labels = Literal["hard", "soft"]


@dataclass(frozen=True)
class RSOConfig:
    """RSO and soft labels; the defaults are the papers' numbers in CPL's setting."""

    beta: float = 0.5
    """β of the acceptance exp((r − r_max)/β): less accepts only the best of the candidates."""
    rejection: bool = True
    """Whether candidates are rejected; else all are compared."""
    labels: Labels = "hard"
    """hard: the better one by the reward model; soft: its probability that the second is better."""
    alpha: float = 0.05
    """α of the segment score Σ α log π/π_ref."""
    lam: float = 1.0
    """λ in (0, 1]: the weight of the rejected segment's score, as in CPL."""
    objective: OfPairs = "logistic"
    """logistic: DPO's cross-entropy; hinge: SLiC's; ipo: a square with a finite optimum."""
    margin: float = 1.0
    """δ by which the hinge wants a preferred segment to lead; the others have none."""
    reference: bool = True
    """Whether scores are relative to the clone, log π/π_ref; else as CPL's."""
    reward: RewardConfig = RewardConfig(steps=20_000)
    policy: PolicyConfig = PolicyConfig()
    clone: Stage = Stage(200_000, Optimiser(1e-4))
    """The first steps clone all segments; what comes out is the reference."""
    contrast: Optimiser = Optimiser(1e-5, warmup_steps=10_000)
    """Adam of the last phase: fresh, and warmed up."""
    steps: int = 500_000
    """Gradient steps in all."""
    candidates: int = 192
    """Segments that a gradient step draws: the reward model's comparisons, and what is accepted."""
    segments: int = 96
    """Accepted segments that a gradient step compares, at most."""

    def __post_init__(self) -> None:
        positive, one_of = settings.POSITIVE, settings.one_of
        within = ("in (0, 1]", lambda value: 0 < value <= 1)
        settings.refuse(self, {"beta": positive, "alpha": positive, "margin": positive})
        settings.refuse(self, {"lam": within, "labels": one_of(*get_args(Labels))})
        settings.refuse(self, {"objective": one_of(*get_args(OfPairs))})
        settings.refuse(self.reward, {"source": ("learned: it labels", "learned".__eq__)})
        settings.refuse(self, {"steps": settings.COUNT, "candidates": settings.SEGMENTS})
        few = f"a whole number from 2 to the {self.candidates} candidates"
        holds = settings.SEGMENTS[1]
        settings.refuse(
            self, {"segments": (few, lambda value: holds(value) and value <= self.candidates)}
        )
        if self.reference:
            Reference.check(self.clone.steps)
        fitting = self.reward.fitting_steps
        settings.share_out(self.steps, "contrast", clone=self.clone.steps, reward=fitting)


PAPER = RSOConfig()
LAPTOP = RSOConfig(
    beta=10.0,
    alpha=0.1,
    reward=settings.LAPTOP_REWARD,
    policy=settings.LAPTOP_POLICY,
    clone=settings.LAPTOP_CLONE,
    contrast=Optimiser(3e-4, warmup_steps=200),
    steps=8000,
    candidates=32,
    segments=16,
)


class RSO:
    """See the module's header."""

    def __init__(
        self,
        config: RSOConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config, sizes, clone = config, (observation_size, action_size), config.clone
        self.policy = Policy(*sizes, config.policy, seeds, device)
        self.policy.add_optimiser("clone", clone.optimiser, clone.steps)
        self.policy.add_optimiser("contrast", config.contrast, self.contrasting)
        self.reward = RewardModel(config.reward, *sizes, seeds, device)
        self.reference = Reference(self.policy, *sizes, seeds) if config.reference else None
        self.act, self.weights = self.policy.act, self.policy.weights
        self.examine = self.reward.examine
        self._parts: dict[str, Part] = {"policy": self.policy, "reward": self.reward}
        if self.reference:
            self._parts["reference"] = self.reference

    @property
    def contrasting(self) -> int:
        """Steps of the last phase."""
        return self.config.steps - self.config.clone.steps - self.config.reward.fitting_steps

    def phases(self) -> list[Phase]:
        """Clone all segments, fit the reward, contrast what it accepts."""
        config, feed = self.config, Segments(self.config.candidates)
        fitting = replace(feed, side="fitting", ranked=config.reward.loss == "ranking")
        return [
            self.policy.clone_phase(config.clone, feed),
            Phase("reward", config.reward.fitting_steps, self.reward.fit, fitting),
            Phase("contrast", self.contrasting, self._contrast, feed),
        ]

    def state(self) -> dict[str, Tensor]:
        """Of policy, reward and reference."""
        return pack(self._parts)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts, state)

    def _contrast(self, candidates: PreferenceBatch) -> Metrics:
        config = self.config
        rewards = self.reward.segment_sums(candidates)  # (s, candidates)
        accepted = self._accepted(rewards, candidates.step)
        batch = compared(candidates, rewards, accepted, config.segments, config.labels)

        log_probs = gained = self.policy.log_probs(batch)  # (s, m, k)
        if self.reference:
            gained = log_probs - self.reference.log_probs(batch)
        scores = segment_score(gained, config.alpha)
        of = {"lam": config.lam, "margin": config.margin}
        loss = contrast_loss(scores, batch, config.objective, **of)
        self.policy.improve("contrast", loss)
        return {
            "contrast_loss": loss.detach(),
            "accuracy": accuracy(scores, batch),
            "accepted": accepted.float().mean(1),
            **likelihoods(log_probs, batch),
        }

    def _accepted(
        self, rewards: Float[Tensor, "s n"], step: Int[Tensor, ""]
    ) -> Bool[Tensor, "s n"]:
        if not self.config.rejection:
            return torch.ones_like(rewards, dtype=torch.bool)
        drawn = uniform(self.policy.keys, step, ACCEPT_STREAM, rewards.shape[1])
        return drawn < acceptance(rewards, self.config.beta)


def compared(
    candidates: PreferenceBatch,
    rewards: Float[Tensor, "s n"],
    accepted: Bool[Tensor, "s n"],
    segments: int,
    labels: Labels,
) -> PreferenceBatch:
    """The first accepted segments and all their pairs, labelled by their rewards.

    Where fewer are accepted, others fill the batch, and their pairs weigh nothing.
    """
    places = accepted.int().argsort(dim=1, descending=True, stable=True)[:, :segments]  # (s, m)
    counts, rewards = accepted.gather(1, places).float(), rewards.gather(1, places)
    pairs = torch.triu_indices(segments, segments, 1, device=places.device)
    first, second = pairs.unsqueeze(1).expand(-1, len(places), -1)  # (s, c) each
    lead = rewards.gather(1, second) - rewards.gather(1, first)
    member = torch.arange(len(places), device=places.device).unsqueeze(1)
    return PreferenceBatch(
        step=candidates.step,
        observations=candidates.observations[member, places],
        actions=candidates.actions[member, places],
        first=first,
        second=second,
        prefers_second=lead.sigmoid() if labels == "soft" else 0.5 + 0.5 * lead.sign(),
        weight=counts.gather(1, first) * counts.gather(1, second),
    )


def title(config: RSOConfig) -> str:
    """RSO, and in brackets what is other than in the plain one."""
    what = {
        "no rejection": not config.rejection,
        "soft": config.labels == "soft",
        "no reference": not config.reference,
        "hinge": config.objective == "hinge",
        "IPO": config.objective == "ipo",
        f"λ={config.lam:g}": config.lam < 1,
    }
    variant = ", ".join(name for name, holds in what.items() if holds)
    return f"RSO({variant})" if variant else "RSO"


ENTRY = Entry(RSO, {"paper": PAPER, "laptop": LAPTOP}, title=title)
