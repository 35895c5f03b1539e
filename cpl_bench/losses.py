"""One equation a function. Losses return one value an item; the caller averages.

Members s, segments m, steps k, actions a, comparisons c. Equations: Hejna et al., "Contrastive
Preference Learning", arXiv 2310.13639v3.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus


def fixed_variance_log_prob(
    mean: Float[Tensor, "*n a"], action: Float[Tensor, "*n a"]
) -> Float[Tensor, "*n"]:
    """log π(a|s) := −‖μ(s) − a‖², the paper's policy on Meta-World (no ½, no constant)."""
    return -(mean - action).square().sum(-1)


def segment_score(log_probs: Float[Tensor, "s m k"], alpha: float) -> Float[Tensor, "s m"]:
    """S(σ) = Σ_t α log π(a_t|s_t), undiscounted: the estimate of −regret (eq. 3)."""
    return alpha * log_probs.sum(-1)


def preference_nll(
    score_first: Float[Tensor, "s c"],
    score_second: Float[Tensor, "s c"],
    prefers_second: Float[Tensor, "s c"],
    lam: float,
) -> Float[Tensor, "s c"]:
    """CPL(λ): y·softplus(λS₁ − S₂) + (1 − y)·softplus(λS₂ − S₁) (eq. 7; λ = 1 is eq. 5)."""
    if_second = softplus(lam * score_first - score_second)
    if_first = softplus(lam * score_second - score_first)
    return prefers_second * if_second + (1 - prefers_second) * if_first


def preference_accuracy(
    score_first: Float[Tensor, "s c"],
    score_second: Float[Tensor, "s c"],
    prefers_second: Float[Tensor, "s c"],
) -> Float[Tensor, " s"]:
    """Share of the decided comparisons (no ties) in which the preferred segment scores higher."""
    decided = (prefers_second != 0.5).float()
    agrees = ((score_second - score_first) * (prefers_second - 0.5) > 0).float()
    return (agrees * decided).sum(-1) / decided.sum(-1).clamp_min(1)


def of_comparisons(
    per_segment: Float[Tensor, "s m"], first: Int[Tensor, "s c"], second: Int[Tensor, "s c"]
) -> tuple[Float[Tensor, "s c"], Float[Tensor, "s c"]]:
    """A per-segment value at both ends of every comparison."""
    return per_segment.gather(1, first), per_segment.gather(1, second)


def preferred(
    of_first: Float[Tensor, "s c"],
    of_second: Float[Tensor, "s c"],
    prefers_second: Float[Tensor, "s c"],
) -> Float[Tensor, "s c"]:
    """The preferred segment's value; a tie takes half of each."""
    return prefers_second * of_second + (1 - prefers_second) * of_first
