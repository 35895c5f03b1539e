"""DPO and IPO on segments: clone, then let comparisons move the policy relative to the clone.

Direct Preference Optimisation, Rafailov et al., arXiv 2305.18290: with π_ref frozen,

    S(σ) = β Σ_t log π(a_t|s_t)/π_ref(a_t|s_t),  −log σ(S(σ⁺) − S(σ⁻))        the hinge is SLiC's

IPO, Azar et al., arXiv 2310.12036: with the same scores (β is its τ) a square, (S⁺ − S⁻ − ½)². Its
optimum is a finite lead even where every answer agrees; the cross-entropy's is infinite. With
`smoothing` DPO is conservative DPO (Mitchell, 2023): its lead is finite, too.

Deviations: an answer of a language model is one long action from one prompt; here it is a segment,
and segments begin in different states. The sum over their steps makes this CPL(KL) with λ = 1,
α = β. No paper has robots' settings: the network, data and steps of the preset "paper" are those of
CPL's (arXiv 2310.13639v3), rate 1e-5 after cloning as its CPL(KL), β as in the papers' text
experiments: 0.1. A tie is half an answer each way. IPO's loss is τ² times the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from cpl_bench.learning import config as settings
from cpl_bench.learning.config import Optimiser, PolicyConfig, Stage
from cpl_bench.learning.contrast import (
    SMOOTHING,
    OfPairs,
    Reference,
    accuracy,
    contrast_loss,
    likelihoods,
)
from cpl_bench.learning.interface import Entry, Metrics, Phase, PreferenceBatch, Segments
from cpl_bench.learning.losses import segment_score
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.state import Part, pack, unpack


@dataclass(frozen=True)
class DPOConfig:
    """DPO and IPO on segments; the defaults are the papers' β in CPL's setting."""

    beta: float = 0.1
    """β of the segment score Σ β log π/π_ref; IPO's τ. Less lets the policy leave the clone."""
    objective: OfPairs = "logistic"
    """logistic: DPO's cross-entropy; hinge: SLiC's; ipo: a square with a finite optimum."""
    margin: float = 1.0
    """δ by which the hinge wants a preferred segment to lead; the others have none."""
    smoothing: float = 0.0
    """Share of the answers that is taken to be wrong: conservative DPO."""
    policy: PolicyConfig = PolicyConfig()
    clone: Stage = Stage(200_000, Optimiser(1e-4))
    """The first steps clone all segments; what comes out is the reference."""
    contrast: Optimiser = Optimiser(1e-5, warmup_steps=10_000)
    """Adam after cloning: fresh, and warmed up."""
    steps: int = 500_000
    """Gradient steps in all."""
    segments: int = 192
    """Segments a gradient step sees; with dense data all their pairs are compared."""

    def __post_init__(self) -> None:
        positive, count = settings.POSITIVE, settings.COUNT
        settings.refuse(self, {"beta": positive, "margin": positive, "smoothing": SMOOTHING})
        settings.refuse(self, {"objective": settings.one_of(*get_args(OfPairs))})
        settings.refuse(self, {"steps": count, "segments": settings.SEGMENTS})
        Reference.check(self.clone.steps)
        settings.share_out(self.steps, "contrast", clone=self.clone.steps)


PAPER = DPOConfig()
LAPTOP = DPOConfig(
    policy=settings.LAPTOP_POLICY,
    clone=settings.LAPTOP_CLONE,
    contrast=Optimiser(3e-4, warmup_steps=200),
    steps=8000,
    segments=16,
)


class DPO:
    """See the module's header."""

    def __init__(
        self,
        config: DPOConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config, sizes, clone = config, (observation_size, action_size), config.clone
        self.policy = Policy(*sizes, config.policy, seeds, device)
        self.policy.add_optimiser("clone", clone.optimiser, clone.steps)
        self.policy.add_optimiser("contrast", config.contrast, config.steps - clone.steps)
        self.reference = Reference(self.policy, *sizes, seeds)
        self.act, self.weights = self.policy.act, self.policy.weights
        self._parts: dict[str, Part] = {"policy": self.policy, "reference": self.reference}

    def phases(self) -> list[Phase]:
        """Clone all segments, then contrast them."""
        clone, feed = self.config.clone, Segments(self.config.segments)
        return [
            self.policy.clone_phase(clone, feed),
            Phase("contrast", self.config.steps - clone.steps, self._contrast, feed),
        ]

    def state(self) -> dict[str, Tensor]:
        """Of policy and reference."""
        return pack(self._parts)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        unpack(self._parts, state)

    def _contrast(self, batch: PreferenceBatch) -> Metrics:
        config = self.config
        log_probs = self.policy.log_probs(batch)  # (s, m, k)
        gained = log_probs - self.reference.log_probs(batch)
        scores = segment_score(gained, config.beta)  # (s, m)
        of = {"margin": config.margin, "smoothing": config.smoothing}
        loss = contrast_loss(scores, batch, config.objective, **of)
        self.policy.improve("contrast", loss)
        return {
            "contrast_loss": loss.detach(),
            "accuracy": accuracy(scores, batch),
            "log_ratio": gained.detach().mean((1, 2)),
            **likelihoods(log_probs, batch),
        }


def title(config: DPOConfig) -> str:
    """DPO or IPO, and in brackets what is other than in the plain one."""
    name = "IPO" if config.objective == "ipo" else "DPO"
    what = {"hinge": config.objective == "hinge", f"ε={config.smoothing:g}": config.smoothing}
    variant = ", ".join(each for each, holds in what.items() if holds)
    return f"{name}({variant})" if variant else name


ENTRY = Entry(DPO, {"paper": PAPER, "laptop": LAPTOP}, title=title)
IPO = Entry(
    DPO,
    {"paper": replace(PAPER, objective="ipo"), "laptop": replace(LAPTOP, objective="ipo")},
    title=title,
)
