"""One equation a function. Losses return one value an item; the caller averages.

Members s, segments m, steps k, actions a, comparisons c. Equations by number: Hejna et al.,
"Contrastive Preference Learning", arXiv 2310.13639v3; others name their source.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

Scalar = float | Tensor
"""One number for all members, or (s, 1): each has its own."""
TINY = 1e-8
"""Least sum of weights that is divided by: with nothing that counts a mean is 0."""


def fixed_variance_log_prob(
    mean: Float[Tensor, "*n a"], action: Float[Tensor, "*n a"]
) -> Float[Tensor, "*n"]:
    """log π(a|s) := −‖μ(s) − a‖², the paper's policy on Meta-World (no ½, no constant)."""
    return -(mean - action).square().sum(-1)


def segment_score(log_probs: Float[Tensor, "s m k"], alpha: Scalar) -> Float[Tensor, "s m"]:
    """S(σ) = Σ_t α log π(a_t|s_t), undiscounted: the estimate of −regret (eq. 3)."""
    return alpha * log_probs.sum(-1)


def mean_segment_score(
    log_probs: Float[Tensor, "s m k"], temperature: Scalar
) -> Float[Tensor, "s m"]:
    """The mean over time of log π(a_t|s_t) / temperature: α Σ_t log π with α = 1/(k·temperature).

    The form that the authors' code for human data has, where log π = −‖(μ − a)/2‖²: its temperature
    is a quarter of this one.
    """
    return log_probs.mean(-1) / temperature


def preference_nll(
    score_first: Float[Tensor, "s c"],
    score_second: Float[Tensor, "s c"],
    prefers_second: Float[Tensor, "s c"],
    lam: Scalar,
) -> Float[Tensor, "s c"]:
    """CPL(λ): y·softplus(λS₁ − S₂) + (1 − y)·softplus(λS₂ − S₁) (eq. 7; λ = 1 is eq. 5)."""
    return contrasted(logistic_loss, score_first, score_second, prefers_second, lam)


def contrasted(
    of_margin: Callable[[Tensor], Tensor],
    score_first: Float[Tensor, "s c"],
    score_second: Float[Tensor, "s c"],
    prefers_second: Float[Tensor, "s c"],
    lam: Scalar,
) -> Float[Tensor, "s c"]:
    """y·f(S₂ − λS₁) + (1 − y)·f(S₁ − λS₂): f of the margin by which the preferred one leads."""
    if_second = of_margin(score_second - lam * score_first)
    if_first = of_margin(score_first - lam * score_second)
    return prefers_second * if_second + (1 - prefers_second) * if_first


def logistic_loss(margin: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """−log σ(M), of CPL and of DPO (Rafailov et al., arXiv 2305.18290, eq. 7)."""
    return softplus(-margin)


def hinge_loss(margin: Float[Tensor, "*n"], least: Scalar) -> Float[Tensor, "*n"]:
    """max(0, δ − M), of SLiC-HF (Zhao et al., arXiv 2305.10425)."""
    return (least - margin).relu()


def squared_loss(margin: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """(M − ½)², of IPO: τ² times eq. 17 of Azar et al., arXiv 2310.12036, with M = τh."""
    return (margin - 0.5).square()


def smoothed(prefers_second: Float[Tensor, "*n"], flipped: Scalar) -> Float[Tensor, "*n"]:
    """(1 − ε)y + ε(1 − y): answers of which the share ε is taken to be wrong.

    Conservative DPO (Mitchell, "A note on DPO with noisy preferences & relationship to IPO", 2023).
    """
    return prefers_second + flipped * (1 - 2 * prefers_second)


def averaged(
    values: Float[Tensor, "s n"], weight: Float[Tensor, "s n"] | None
) -> Float[Tensor, " s"]:
    """Each member's mean, an item counting as much as its weight; 0 if none counts."""
    if weight is None:
        return values.mean(1)
    return (values * weight).sum(1) / weight.sum(1).clamp_min(TINY)


def preference_accuracy(
    score_first: Float[Tensor, "s c"],
    score_second: Float[Tensor, "s c"],
    prefers_second: Float[Tensor, "s c"],
    weight: Float[Tensor, "s c"] | None = None,
) -> Float[Tensor, " s"]:
    """Share of the decided comparisons (no ties) in which the preferred segment scores higher."""
    decided = (prefers_second != 0.5).float()
    if weight is not None:
        decided = decided * weight
    agrees = ((score_second - score_first) * (prefers_second - 0.5) > 0).float()
    return (agrees * decided).sum(-1) / decided.sum(-1).clamp_min(TINY)


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


def acceptance(rewards: Float[Tensor, "s n"], beta: Scalar) -> Float[Tensor, "s n"]:
    """exp((r − r_max)/β), with which RSO accepts its first (Liu et al., arXiv 2309.06657): what is
    accepted so is distributed as the candidates times e^{r/β}. r_max is the candidates' largest.
    """
    return ((rewards - rewards.amax(1, keepdim=True)) / beta).exp()


def ranking_nll(
    scores: Float[Tensor, "s q K"], not_worse: Bool[Tensor, "s q K K"], lam: Scalar = 1.0
) -> Float[Tensor, "s q"]:
    """Plackett–Luce: −Σ_i log(e^{S_i} / Σ_j e^{S_j}) over the j that i is not worse than.

    With λ < 1 all but i itself stand in the sum with λS_j, as the rejected one of CPL(λ) does; a
    tensor (s, 1) gives each member its own.

    `not_worse[…, i, j]`: item i of a question is at least as good as item j; true for i = j. Tied
    items stand in each other's sums (Breslow's rule). With K = 2 and no tie it is Bradley–Terry.
    """
    itself = torch.eye(not_worse.shape[-1], dtype=torch.bool, device=scores.device)
    one = scores.new_ones(())
    factor = lam[..., None, None] if isinstance(lam, Tensor) else lam * one
    others = scores.unsqueeze(-2) * torch.where(itself, one, factor)  # (s, q, K, K)
    others = others.masked_fill(~not_worse, float("-inf"))
    return (others.logsumexp(-1) - scores).sum(-1)


# --- Rewards to values ---


def expectile_loss(error: Float[Tensor, "*n"], expectile: float) -> Float[Tensor, "*n"]:
    """|τ − 1(u < 0)| u²: τ > ½ leans to high targets (arXiv 2110.06169, eq. 5)."""
    return torch.where(error < 0, 1 - expectile, expectile) * error.square()


def generalised_advantage(
    rewards: Float[Tensor, "*n T"],
    values: Float[Tensor, "*n T"],
    next_values: Float[Tensor, "*n T"],
    terminated: Bool[Tensor, "*n T"],
    ended: Bool[Tensor, "*n T"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "*n T"]:
    """GAE(γ, λ): Â_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γV(s_{t+1}) − V(s_t).

    Schulman et al., arXiv 1506.02438, eq. 16. After a termination the value is 0; after a time
    limit it is `next_values`, and in both cases (`ended`) nothing flows back over the end.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    flows = gamma * lam * ~ended
    advantages = torch.empty_like(deltas)
    later = torch.zeros_like(deltas[..., 0])
    for t in range(deltas.shape[-1] - 1, -1, -1):
        later = deltas[..., t] + flows[..., t] * later
        advantages[..., t] = later
    return advantages


# --- Policies that stay near another ---


def gaussian_log_prob(
    mean: Float[Tensor, "*n a"], std: Float[Tensor, "*n a"], action: Float[Tensor, "*n a"]
) -> Float[Tensor, "*n"]:
    """log density of a diagonal Gaussian."""
    scaled = (action - mean) / std
    return -(0.5 * scaled.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_kl(
    mean: Float[Tensor, "*n a"],
    std: Float[Tensor, "*n a"],
    other_mean: Float[Tensor, "*n a"],
    other_std: Float[Tensor, "*n a"],
) -> Float[Tensor, "*n"]:
    """KL(N(mean, std²) ‖ N(other_mean, other_std²)), diagonal, in nats."""
    apart = (std.square() + (mean - other_mean).square()) / (2 * other_std.square())
    return ((other_std / std).log() + apart - 0.5).sum(-1)


def k1(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """−k: unbiased for KL(π ‖ π_ref) over samples of π, k = log π_ref/π; often negative."""
    return -log_ratio


def k2(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """k²/2: biased, never negative, low variance where the policies are near."""
    return log_ratio.square() / 2


def k3(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """e^k − 1 − k: unbiased and never negative (Schulman, "Approximating KL divergence", 2020)."""
    return log_ratio.expm1() - log_ratio


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def clipped_surrogate(
    log_ratio: Float[Tensor, "*n"], advantages: Float[Tensor, "*n"], clip: float
) -> Float[Tensor, "*n"]:
    """min(ρA, clip(ρ, 1 − ε, 1 + ε)A), to be maximised; ρ = π/π_old, `log_ratio` its logarithm.

    Schulman et al., arXiv 1707.06347, eq. 7.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def adapted_coefficient(
    coefficient: Float[Tensor, " s"], kl: Float[Tensor, " s"], target: float
) -> Float[Tensor, " s"]:
    """Double the KL penalty's β above 1.5 d, halve it below d/1.5 (arXiv 1707.06347, section 4)."""
    doubled = torch.where(kl > 1.5 * target, coefficient * 2, coefficient)
    return torch.where(kl < target / 1.5, coefficient / 2, doubled)
