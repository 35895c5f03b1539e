"""RSO and soft labels: a reward model says what to compare, and which of two is better.

Statistical rejection sampling optimisation, Liu et al., arXiv 2309.06657, after cloning and fitting
a Bradley–Terry reward:

    segments ──► drawn one by one, in proportion to e^{r(σ)/β} ──► compared, all pairs
    of the data                                                  labelled by the reward model

    S(σ) = α Σ log π/π_ref, fitted as by DPO or by the hinge of SLiC-HF

What is accepted is distributed as π_ref e^{r/β}, the policy that is sought: its comparisons are the
ones that tell good from better. With `labels = "soft"` a label is the reward model's probability
σ(r(σ₂) − r(σ₁)) in place of 0 or 1, which tempers what it isn't sure of; without `rejection` and
with soft labels this is CPL or DPO with the model's answers in place of the given ones.

Its section 3.2 accepts with probability exp((r − r_max)/β), r_max the largest that is left: each
one accepted is drawn from those left in proportion to e^{r/β}. The order of r/β plus Gumbel noise
is the same draw without the waiting. Its algorithm 1 keeps r_max for a pass through all candidates
and takes the best somewhat more often (two of the tests' six: 43 % of what it accepts, here 37 %).

Deviations: the paper's candidates are answers that the cloned policy gives to one prompt; here they
are segments that were compared, of any state, drawn anew in each gradient step. The paper's numbers
are 8 of 64, β 0.5 and α (there γ) 0.05; the laptop preset rejects less, β = 10, and scores as DPO's
does, α = 0.1. A reward tells states apart, too: rejection keeps the segments of good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.config import Optimiser, PolicyConfig, RewardConfig, Stage
from cpl_bench.learning.contrast import (
    NO_MARGIN,
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
    """β of the odds e^{r/β}: less accepts only the best of the candidates."""
    rejection: bool = True
    """Whether rewards say which candidates are compared; else any are, and beta has no part."""
    labels: Labels = "hard"
    """hard: the better one by the reward model; soft: its probability that the second is better."""
    alpha: float = 0.05
    """α of the segment score Σ α log π/π_ref."""
    lam: float = 1.0
    """λ in (0, 1]: the weight of the rejected segment's score, as in CPL."""
    objective: OfPairs = "logistic"
    """logistic: DPO's cross-entropy; hinge: SLiC's; ipo: a square with a finite optimum."""
    margin: float = 1.0
    """δ by which the hinge wants a preferred segment to lead."""
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
    """Segments that a gradient step draws, and of whose comparisons the reward model learns."""
    segments: int = 24
    """Those of them that are accepted and compared."""

    def __post_init__(self) -> None:
        positive, one_of = settings.POSITIVE, settings.one_of
        within = ("in (0, 1]", lambda value: 0 < value <= 1)
        settings.refuse(self, {"beta": positive, "alpha": positive, "margin": positive})
        settings.refuse(self, {"lam": within, "labels": one_of(*get_args(Labels))})
        settings.refuse(self, {"objective": one_of(*get_args(OfPairs))})
        if self.objective != "hinge":
            settings.refuse(self, {"margin": NO_MARGIN})
        mean = ("0: the ensemble's mean labels", lambda value: value == 0)
        learned = ("learned: it labels", "learned".__eq__)
        settings.refuse(self.reward, {"source": learned, "pessimism": mean})
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
    candidates=64,
    segments=8,
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
        self.contrasting = config.steps - clone.steps - config.reward.fitting_steps
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
        batch = compared(candidates, rewards, self._accepted(rewards, candidates), config.labels)

        log_probs = gained = self.policy.log_probs(batch)  # (s, m, k)
        if self.reference:
            gained = log_probs - self.reference.log_probs(batch)
        scores = segment_score(gained, config.alpha)
        of = {"lam": config.lam, "margin": config.margin}
        loss = contrast_loss(scores, batch, config.objective, **of)
        self.policy.improve("contrast", loss)
        odds = {"acceptance": acceptance(rewards, config.beta).mean(1)} if config.rejection else {}
        return {
            "contrast_loss": loss.detach(),
            "accuracy": accuracy(scores, batch),
            **likelihoods(log_probs, batch),
            **odds,
        }

    def _accepted(
        self, rewards: Float[Tensor, "s n"], candidates: PreferenceBatch
    ) -> Int64[Tensor, "s m"]:
        """Places among the candidates, in the order of acceptance."""
        config, places = self.config, torch.arange(rewards.shape[1], device=rewards.device)
        if not config.rejection:
            return places[: config.segments].expand(len(rewards), -1)
        drawn = uniform(self.policy.keys, candidates.step, ACCEPT_STREAM, len(places))
        return accepted_first(rewards / config.beta, drawn)[:, : config.segments]


def accepted_first(
    log_odds: Float[Tensor, "s n"], drawn: Float[Tensor, "s n"]
) -> Int64[Tensor, "s n"]:
    """Places in the order in which they are drawn with these odds, without replacement.

    Gumbel noise −log(−log u) makes it of `drawn`, uniform in [0, 1).
    """
    return (log_odds - (-drawn.log()).log()).argsort(dim=1, descending=True, stable=True)


def compared(
    candidates: PreferenceBatch,
    rewards: Float[Tensor, "s n"],
    places: Int64[Tensor, "s m"],
    labels: Labels,
) -> PreferenceBatch:
    """The segments at these places and all their pairs, labelled by their rewards."""
    pairs = torch.triu_indices(places.shape[1], places.shape[1], 1, device=places.device)
    first, second = pairs.unsqueeze(1).expand(-1, len(places), -1)  # (s, c) each
    found = rewards.gather(1, places)
    lead = found.gather(1, second) - found.gather(1, first)
    member = torch.arange(len(places), device=places.device).unsqueeze(1)
    return PreferenceBatch(
        step=candidates.step,
        observations=candidates.observations[member, places],
        actions=candidates.actions[member, places],
        first=first,
        second=second,
        prefers_second=lead.sigmoid() if labels == "soft" else 0.5 + 0.5 * lead.sign(),
        weight=torch.ones_like(lead),
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


PER_MEMBER = ("lam", "alpha", "beta", "margin")
ENTRY = Entry(RSO, {"paper": PAPER, "laptop": LAPTOP}, title, per_member=PER_MEMBER)
