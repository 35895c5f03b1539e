"""Contrastive Preference Learning, CPL, and its variants, DPO and IPO among them.

Clone, then contrast. Hejna et al., arXiv 2310.13639v3: after behaviour cloning on all segments, the
policy itself is the advantage, A(s, a) = α log π(a|s), and learns from comparisons by
cross-entropy. λ < 1 lowers the weight of the rejected segment and with it the pull away from the
data. CPL(BC) adds cloning of the preferred segments; CPL(KL) scores by log π/π_ref, the reference
frozen after cloning. Other losses of the same scores: the hinge of SLiC-HF (arXiv 2305.10425, whose
regulariser is CPL(BC)'s), IPO's square, the Plackett–Luce likelihood of rankings.

Direct Preference Optimisation (Rafailov et al., arXiv 2305.18290) on segments is CPL(KL) with
λ = 1; its β is α here. IPO (Azar et al., arXiv 2310.12036; its τ is α here) has a square of the
same scores, (S⁺ − S⁻ − ½)². Its optimum is a finite lead even where every answer agrees; the
cross-entropy's is infinite. With `smoothing` DPO is conservative DPO (Mitchell, 2023): its lead is
finite, too.

Deviations: dense data use every pair of a batch (the paper's dense setting; the released code draws
one partner a segment). The warm-up after cloning is linear, as released. The laptop preset's λ =
0.65 is ours: with 0.5 bin-picking gained about half as much on its clone. λ means for the hinge,
the square and rankings what it means for the cross-entropy, the weight of a rejected segment's
score; their papers have 1. The released settings of CPL(BC) clone both segments of a comparison,
here it is the preferred one. DPO's and IPO's papers compare answers of a language model to one
prompt; segments begin in different states. They have no robots' settings: α is 0.1, DPO's β in its
text experiments (IPO's paper has none), the rest CPL's; after cloning the preset "paper" has the
rate of CPL(KL), 1e-5, the laptop's that of CPL, 3e-4. A tie is half an answer each way. IPO's loss
is τ² times the paper's. A ranking of answers that contradict each other is no likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cpl_bench.learning.config import (
    COUNT,
    LAPTOP_CLONE,
    LAPTOP_POLICY,
    NOT_NEGATIVE,
    POSITIVE,
    SEGMENTS,
    Optimiser,
    PolicyConfig,
    Stage,
    added,
    one_of,
    refuse,
    share_out,
)
from cpl_bench.learning.contrast import (
    NO_MARGIN,
    SMOOTHING,
    Objective,
    Reference,
    accuracy,
    contrast_loss,
    likelihoods,
)
from cpl_bench.learning.interface import Entry, Metrics, Phase, PreferenceBatch, Segments
from cpl_bench.learning.losses import (
    averaged,
    mean_segment_score,
    of_comparisons,
    preferred,
    segment_score,
)
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.state import pack, unpack

Score = Literal["alpha_times_sum", "mean_over_temperature"]


@dataclass(frozen=True)
class CPLConfig:
    """CPL and its variants; the defaults are the paper's for Meta-World with state observations."""

    lam: float = 0.5
    """λ in (0, 1]: the weight of the rejected segment; 1 is plain CPL."""
    alpha: float = 0.1
    """The temperature α of the segment score Σ α log π."""
    bc_weight: float = 0.0
    """Weight of an added cloning loss on the preferred segments; the paper's CPL(BC) has 1."""
    reference: bool = added(False)
    """Whether log π/π_ref takes the place of log π, π_ref the clone: the paper's CPL(KL)."""
    objective: Objective = added("logistic")
    """logistic: cross-entropy; hinge: SLiC's; ipo: a square, finite where every answer agrees;
    ranking: Plackett–Luce over the segments of a ranked answer, with dense data of a batch."""
    margin: float = added(1.0)
    """δ by which the hinge wants a preferred segment to lead."""
    smoothing: float = added(0.0)
    """Share of the answers that is taken to be wrong (conservative DPO); not of rankings."""
    score: Score = added("alpha_times_sum")
    """A segment's score: α Σ log π (the paper), or the mean over its steps of log π / temperature
    (the authors' code for human data)."""
    temperature: float = added(1.0)
    """Of mean_over_temperature, in which alpha has no part. The authors' code for human data halves
    the differences of actions first: its --dist_temperature is a quarter of this one."""
    policy: PolicyConfig = PolicyConfig()
    clone: Stage = Stage(200_000, Optimiser(1e-4))
    """The first steps clone all segments."""
    contrast: Optimiser = Optimiser(1e-4, warmup_steps=10_000)
    """Adam after cloning: fresh, and warmed up."""
    steps: int = 500_000
    """Gradient steps in all."""
    segments: int = 192
    """Segments a gradient step sees; with dense data all their pairs are compared."""

    def __post_init__(self) -> None:
        within = ("in (0, 1] (1 is plain CPL)", lambda value: 0 < value <= 1)
        refuse(self, {"lam": within, "alpha": POSITIVE, "bc_weight": NOT_NEGATIVE})
        refuse(self, {"margin": POSITIVE, "temperature": POSITIVE, "smoothing": SMOOTHING})
        refuse(self, {"objective": one_of(*get_args(Objective)), "score": one_of(*get_args(Score))})
        if self.objective == "ranking":
            refuse(self, {"smoothing": ("0 for a ranking", lambda value: value == 0)})
        if self.objective != "hinge":
            refuse(self, {"margin": NO_MARGIN})
        if self.score == "mean_over_temperature":
            refuse(self, {"alpha": ("0.1 where the score is a mean", lambda value: value == 0.1)})
        else:
            refuse(self, {"temperature": ("1 where the score is a sum", lambda value: value == 1)})
        if self.reference:
            Reference.check(self.clone.steps)
        refuse(self, {"steps": COUNT, "segments": SEGMENTS})
        share_out(self.steps, "contrast", clone=self.clone.steps)


PAPER = CPLConfig()
LAPTOP = CPLConfig(
    lam=0.65,
    policy=LAPTOP_POLICY,
    clone=LAPTOP_CLONE,
    contrast=Optimiser(3e-4, warmup_steps=200),
    steps=8000,
    segments=16,
)


class CPL:
    """See the module's header."""

    def __init__(
        self,
        config: CPLConfig,
        observation_size: int,
        action_size: int,
        seeds: Sequence[int],
        device: torch.device,
    ):
        self.config = config
        sizes = observation_size, action_size
        self.policy = Policy(*sizes, config.policy, seeds, device)
        clone = config.clone.steps
        self.policy.add_optimiser("clone", config.clone.optimiser, clone)
        self.policy.add_optimiser("contrast", config.contrast, config.steps - clone)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.reference = Reference(self.policy, *sizes, seeds) if config.reference else None

    def phases(self) -> list[Phase]:
        """Clone all segments, then contrast them."""
        config, clone = self.config, self.config.clone
        ranked = Segments(config.segments, ranked=config.objective == "ranking")
        return [
            self.policy.clone_phase(clone, Segments(config.segments)),
            Phase("contrast", config.steps - clone.steps, self._contrast, ranked),
        ]

    def state(self) -> dict[str, Tensor]:
        """Of the policy, and of the reference if there is one."""
        return self.policy.state() | (pack({"reference": self.reference}) if self.reference else {})

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        self.policy.load_state(state)
        if self.reference:
            unpack({"reference": self.reference}, state)

    def _contrast(self, batch: PreferenceBatch) -> Metrics:
        config = self.config
        log_probs = gained = self.policy.log_probs(batch)  # (s, m, k)
        if self.reference:
            gained = log_probs - self.reference.log_probs(batch)
        if config.score == "mean_over_temperature":
            scores = mean_segment_score(gained, config.temperature)  # (s, m)
        else:
            scores = segment_score(gained, config.alpha)
        contrast = contrast_loss(
            scores,
            batch,
            config.objective,
            lam=config.lam,
            margin=config.margin,
            smoothing=config.smoothing,
        )
        loss = contrast
        if config.bc_weight:
            ends = of_comparisons(-log_probs.mean(2), batch.first, batch.second)
            clone = averaged(preferred(*ends, batch.prefers_second), batch.weight)
            loss = loss + config.bc_weight * clone
        self.policy.improve("contrast", loss)
        return {
            "contrast_loss": contrast.detach(),
            "accuracy": accuracy(scores, batch),
            **likelihoods(log_probs, batch),
            **({"log_ratio": gained.detach().mean((1, 2))} if self.reference else {}),
        }


def title(config: CPLConfig) -> str:
    """CPL, DPO or IPO, and in brackets what is other than in the plain one."""
    direct, square = config.reference and config.lam == 1, config.objective == "ipo"
    name = ("IPO" if square else "DPO") if direct else "CPL"
    what = {
        "KL": config.reference and not direct,
        "BC": config.bc_weight,
        "hinge": config.objective == "hinge",
        "IPO": square and not direct,
        "ranking": config.objective == "ranking",
        f"λ={config.lam:g}": config.lam < 1,
        f"ε={config.smoothing:g}": config.smoothing,
        "mean score": config.score == "mean_over_temperature",
        "not cloned": not config.clone.steps,
    }
    variant = ", ".join(name for name, holds in what.items() if holds)
    return f"{name}({variant})" if variant else name


def _presets(**changed: Any) -> dict[str, CPLConfig]:
    """Those of CPL, relative to the clone and with λ = 1."""
    direct = {"lam": 1.0, "reference": True, **changed}
    slow = Optimiser(1e-5, warmup_steps=10_000)
    return {
        "paper": replace(PAPER, contrast=slow, **direct),
        "laptop": replace(LAPTOP, **direct),
    }


PER_MEMBER = ("lam", "alpha", "margin", "smoothing", "temperature")
ENTRY = Entry(CPL, {"paper": PAPER, "laptop": LAPTOP}, title, per_member=PER_MEMBER)
DPO = Entry(CPL, _presets(), title, per_member=PER_MEMBER)
IPO = Entry(CPL, _presets(objective="ipo"), title, per_member=PER_MEMBER)
