"""Losses equal independent mathematics, and so do their gradients."""

import itertools
import math

import numpy as np
import pytest
import torch

from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.losses import (
    KL_ESTIMATORS,
    adapted_coefficient,
    averaged,
    clipped_surrogate,
    contrasted,
    expectile_loss,
    fixed_variance_log_prob,
    gaussian_kl,
    gaussian_log_prob,
    generalised_advantage,
    hinge_loss,
    k2,
    k3,
    logistic_loss,
    mean_segment_score,
    of_comparisons,
    preference_accuracy,
    preference_nll,
    preferred,
    ranking_nll,
    segment_score,
    smoothed,
    squared_loss,
)

S, M, K, A, C = 3, 5, 7, 2, 11
ALPHA = 0.3


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tensor(values):
    return torch.tensor(np.asarray(values, np.float64))


def random_batch(rng):
    """Means, actions (s, m, k, a), positions and soft answers (s, c), as arrays."""
    means, actions = rng.normal(size=(2, S, M, K, A))
    first, second = rng.integers(0, M, (2, S, C))
    return means, actions, first, second, rng.uniform(0, 1, (S, C))


def nll_of(means, actions, first, second, answers, lam):
    """The whole chain of functions, from the policy's means to the losses (s, c)."""
    scores = segment_score(fixed_variance_log_prob(means, actions), ALPHA)
    ends = of_comparisons(scores, torch.as_tensor(first), torch.as_tensor(second))
    return preference_nll(*ends, answers, lam)


def softplus(x):
    """log(1 + eˣ) by another road than torch's."""
    return np.logaddexp(0.0, x)


# --- Values ---


def test_log_prob_is_minus_the_squared_distance(rng):
    mean, action = rng.normal(size=(2, 4, K, A))
    expected = [
        [-sum((mean[i, t, j] - action[i, t, j]) ** 2 for j in range(A)) for t in range(K)]
        for i in range(4)
    ]
    found = fixed_variance_log_prob(tensor(mean), tensor(action))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_segment_score_sums_over_time_undiscounted(rng):
    log_probs = rng.normal(size=(S, M, K))
    expected = [[ALPHA * math.fsum(log_probs[i, j]) for j in range(M)] for i in range(S)]
    np.testing.assert_allclose(segment_score(tensor(log_probs), ALPHA), expected, rtol=1e-12)


@pytest.mark.parametrize("lam", [0.25, 0.5, 1.0])
def test_preference_nll_equals_numpy(rng, lam):
    first, second = rng.normal(scale=5, size=(2, S, C))
    answers = rng.uniform(0, 1, (S, C))
    # −log of the preferred one's share, where the other counts λ of its score
    likelihood_second = np.exp(second) / (np.exp(second) + np.exp(lam * first))
    likelihood_first = np.exp(first) / (np.exp(first) + np.exp(lam * second))
    expected = -answers * np.log(likelihood_second) - (1 - answers) * np.log(likelihood_first)
    found = preference_nll(tensor(first), tensor(second), tensor(answers), lam)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-9)
    single = preference_nll(
        *(torch.tensor(x, dtype=torch.float32) for x in (first, second, answers)), lam
    )
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


def test_lambda_one_is_the_cross_entropy_of_bradley_terry(rng):
    first, second = rng.normal(size=(2, S, C))
    answers = rng.uniform(0, 1, (S, C))
    probability = 1 / (1 + np.exp(first - second))  # that the second is better
    expected = -(answers * np.log(probability) + (1 - answers) * np.log(1 - probability))
    found = preference_nll(tensor(first), tensor(second), tensor(answers), 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_an_answer_of_one_raises_the_second_and_lowers_the_first():
    scores = [torch.zeros(1, 1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    preference_nll(*scores, tensor([[1.0]]), 0.5).sum().backward()
    first, second = (score.grad.item() for score in scores)
    assert second < 0 < first  # a step against the gradient
    assert first == pytest.approx(-0.5 * second)  # λ of the pull


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_the_loss_of_all_pairs_is_the_mean_over_them_one_by_one(rng, lam):
    means, actions, *_ = random_batch(rng)
    truth = rng.integers(0, 3, (S, M))  # some tie
    pairs = list(itertools.combinations(range(M), 2))
    first, second = (torch.tensor([pair[i] for pair in pairs]).expand(S, -1) for i in range(2))
    answers = tensor([[0.5 + 0.5 * np.sign(t[j] - t[i]) for i, j in pairs] for t in truth])
    found = nll_of(tensor(means), tensor(actions), first, second, answers, lam).mean(1)
    for member in range(S):
        total = 0.0
        for i, j in pairs:
            score = [ALPHA * -((means[member, x] - actions[member, x]) ** 2).sum() for x in (i, j)]
            if_first, if_second = (
                softplus(lam * score[1] - score[0]),
                softplus(lam * score[0] - score[1]),
            )
            if truth[member, i] > truth[member, j]:
                total += if_first
            elif truth[member, i] < truth[member, j]:
                total += if_second
            else:
                total += (if_first + if_second) / 2
        assert found[member].item() == pytest.approx(total / len(pairs), rel=1e-9)


def test_extreme_scores_neither_overflow_nor_lose_their_gradient():
    for size in (1e3, 1e6, 1e30):
        first = torch.tensor([[size, -size, 0.0]], requires_grad=True)
        second = torch.tensor([[-size, size, 0.0]], requires_grad=True)
        for answer in (0.0, 0.5, 1.0):
            loss = preference_nll(first, second, torch.full((1, 3), answer), 0.5)
            assert loss.isfinite().all()
            gradients = torch.autograd.grad(loss.sum(), (first, second))
            assert all(gradient.isfinite().all() for gradient in gradients)
    wrong = preference_nll(torch.tensor([[1e3]]), torch.tensor([[-1e3]]), torch.ones(1, 1), 1.0)
    assert wrong.item() == pytest.approx(2e3)


# --- Other losses of a margin, and other answers ---


def test_the_mean_over_a_temperature_is_a_sum_of_another_alpha(rng):
    log_probs = rng.normal(size=(S, M, K))
    expected = [[math.fsum(log_probs[i, j]) / K / 0.4 for j in range(M)] for i in range(S)]
    found = mean_segment_score(tensor(log_probs), 0.4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found, segment_score(tensor(log_probs), 1 / (K * 0.4)), rtol=1e-12)


LOSSES = {  # of torch, and of NumPy by another road
    "logistic": (logistic_loss, lambda lead: -np.log(1 / (1 + np.exp(-lead)))),
    "hinge": (lambda lead: hinge_loss(lead, 0.7), lambda lead: np.maximum(0, 0.7 - lead)),
    "ipo": (squared_loss, lambda lead: lead**2 - lead + 0.25),
}


@pytest.mark.parametrize("lam", [0.5, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_a_margin_equal_numpy(rng, name, lam):
    first, second = rng.normal(size=(2, S, C))
    answers = rng.uniform(0, 1, (S, C))
    ours, theirs = LOSSES[name]
    expected = [
        [
            y * theirs(two - lam * one) + (1 - y) * theirs(one - lam * two)
            for one, two, y in zip(*row, strict=True)
        ]
        for row in zip(first, second, answers, strict=True)
    ]
    found = contrasted(ours, tensor(first), tensor(second), tensor(answers), lam)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if name == "logistic":
        nll = preference_nll(tensor(first), tensor(second), tensor(answers), lam)
        assert torch.equal(found, nll)
    assert_gradient(
        lambda scores: contrasted(ours, *scores, tensor(answers), lam).mean(),
        np.stack([first, second]),
    )


def test_the_papers_ipo_is_the_square_over_tau_squared(rng):
    """(h − 1/(2τ))², h = log of π(w)π_ref(l) / π(l)π_ref(w)."""
    tau, h = 0.3, rng.normal(scale=3, size=C)
    np.testing.assert_allclose(squared_loss(tensor(tau * h)) / tau**2, (h - 1 / (2 * tau)) ** 2)


def test_smoothing_is_the_mean_over_answers_that_may_be_flipped(rng):
    first, second = rng.normal(size=(2, S, C))
    answers = rng.choice([0.0, 0.5, 1.0], (S, C))

    def loss(y):
        return preference_nll(tensor(first), tensor(second), tensor(y), 0.8)

    expected = 0.9 * loss(answers) + 0.1 * loss(1 - answers)
    np.testing.assert_allclose(loss(smoothed(tensor(answers), 0.1)), expected, rtol=1e-12)
    assert torch.equal(smoothed(tensor(answers), 0.0), tensor(answers))


def least(loss_of):
    """Where a convex function of one number is least, by golden section."""
    low, high, share = -40.0, 40.0, (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - share * (high - low), low + share * (high - low)
        low, high = (low, right) if loss_of(left) < loss_of(right) else (left, high)
    return (low + high) / 2


@pytest.mark.parametrize("often", [0.5, 0.8, 1.0])  # the second is preferred
def test_the_optimum_of_two_segments_is_the_closed_form(often):
    """IPO's policy is π_ref e^{p(σ ≻ ·)/τ}: its lead stays finite, the cross-entropy's doesn't."""
    tau, one = 0.2, torch.ones(1, 1, dtype=torch.float64)

    def mean_loss(of_margin):
        def loss(h):  # h: how far log π/π_ref of the second leads
            return contrasted(of_margin, 0 * one, tau * h * one, often * one, 1.0).item()

        return loss

    chance_to_win = [0.5 * 0.5 + 0.5 * wins for wins in (1 - often, often)]  # over either
    closed = (chance_to_win[1] - chance_to_win[0]) / tau
    assert least(mean_loss(squared_loss)) == pytest.approx(closed, abs=1e-6)
    if often < 1:
        odds = math.log(often / (1 - often)) / tau
        assert least(mean_loss(logistic_loss)) == pytest.approx(odds, abs=1e-5)
    else:
        assert least(mean_loss(logistic_loss)) > 39


def test_conservative_answers_have_a_finite_optimum():
    one = torch.ones(1, 1, dtype=torch.float64)

    def loss(lead):
        return contrasted(logistic_loss, 0 * one, lead * one, smoothed(one, 0.1), 1.0).item()

    assert least(loss) == pytest.approx(math.log(0.9 / 0.1), abs=1e-6)


# --- Gradients ---


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_gradients_equal_finite_differences(rng, lam):
    means, actions, first, second, answers = random_batch(rng)

    def loss(values):
        return nll_of(values, tensor(actions), first, second, tensor(answers), lam).mean()

    assert_gradient(loss, means)


def assert_gradient(loss, at):
    """autograd's gradient of a scalar function at an array equals central differences."""
    values = tensor(at).requires_grad_()
    loss(values).backward()
    step = 1e-6
    expected = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        for sign in (1, -1):
            moved = at.copy()
            moved[place] += sign * step
            expected[place] += sign * loss(tensor(moved)).item() / (2 * step)
    np.testing.assert_allclose(values.grad, expected, atol=1e-8, rtol=1e-5)


def tie_gradients(first, second, lam):
    ends = [tensor(x).requires_grad_() for x in (first, second)]
    loss = preference_nll(*ends, torch.full((S, C), 0.5, dtype=torch.float64), lam)
    return loss.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(loss.sum(), ends))


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_swapping_a_ties_segments_swaps_its_gradients(rng, lam):
    first, second = rng.normal(size=(2, S, C))
    loss, of_first, of_second = tie_gradients(first, second, lam)
    swapped, now_first, now_second = tie_gradients(second, first, lam)
    np.testing.assert_allclose(loss, swapped, rtol=1e-12)
    np.testing.assert_allclose(of_first, now_second, rtol=1e-12)
    np.testing.assert_allclose(of_second, now_first, rtol=1e-12)


def test_a_tie_of_equal_scores_teaches_plain_cpl_nothing(rng):
    scores = rng.normal(size=(S, C))
    _, of_first, of_second = tie_gradients(scores, scores, 1.0)
    np.testing.assert_allclose([of_first, of_second], 0.0, atol=1e-15)
    _, of_first, of_second = tie_gradients(scores, scores, 0.5)
    assert (of_first < 0).all()  # λ < 1 still pulls both up
    assert (of_second < 0).all()


def test_a_swapped_comparison_with_the_other_answer_is_the_same(rng):
    first, second = rng.normal(size=(2, S, C))
    answers = rng.uniform(0, 1, (S, C))
    one = preference_nll(tensor(first), tensor(second), tensor(answers), 0.5)
    other = preference_nll(tensor(second), tensor(first), tensor(1 - answers), 0.5)
    np.testing.assert_allclose(one, other, rtol=1e-12)


# --- Rankings ---


def order_of(ranks):
    """`not_worse` (…, K, K) of ranks (…, K), 0 the best; equal ranks are ties."""
    ranks = torch.as_tensor(ranks)
    return ranks.unsqueeze(-1) <= ranks.unsqueeze(-2)


@pytest.mark.parametrize("items", [2, 3, 5])
def test_ranking_is_the_product_of_choices_one_after_another(rng, items):
    questions = 4
    scores = rng.normal(scale=3, size=(S, questions, items))
    ranks = rng.permuted(np.tile(np.arange(items), (S, questions, 1)), axis=2)
    expected = np.zeros((S, questions))
    for place in np.ndindex(S, questions):
        left = sorted(range(items), key=lambda i: ranks[place][i])
        chance = 1.0
        while left:  # choose the best of those left with probability ∝ eˢ
            weights = [math.exp(scores[place][i]) for i in left]
            chance *= weights[0] / sum(weights)
            left.pop(0)
        expected[place] = -math.log(chance)
    found = ranking_nll(tensor(scores), order_of(ranks))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_probabilities_of_all_rankings_add_up_to_one(rng):
    scores = tensor(rng.normal(size=(1, 1, 4)))
    orders = itertools.permutations(range(4))
    losses = [ranking_nll(scores, order_of([[order]])).item() for order in orders]
    assert math.fsum(math.exp(-loss) for loss in losses) == pytest.approx(1, rel=1e-12)


def test_a_ranking_of_two_is_plain_cpl(rng):
    first, second = rng.normal(scale=3, size=(2, S, C))
    answers = rng.integers(0, 2, (S, C))
    found = ranking_nll(
        tensor(np.stack([first, second], -1)), order_of(np.stack([answers, 1 - answers], -1))
    )
    expected = preference_nll(tensor(first), tensor(second), tensor(answers), 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_a_ranking_with_lambda_holds_the_others_back(rng, lam):
    scores = rng.normal(scale=2, size=(1, 1, 4))
    ranks = np.array([[[2, 0, 3, 1]]])
    s = scores[0, 0][np.argsort(ranks[0, 0])]  # best first
    expected = sum(
        math.log(math.exp(s[i]) + sum(math.exp(lam * x) for x in s[i + 1 :])) - s[i]
        for i in range(4)
    )
    found = ranking_nll(tensor(scores), order_of(ranks), lam)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    two = ranking_nll(tensor(scores[..., :2]), order_of(ranks[..., :2]), lam)
    nll = preference_nll(*tensor(scores[0, :, :2]).T[..., None], tensor([[1.0]]), lam)
    assert two.item() == pytest.approx(nll.item(), rel=1e-12)


def test_tied_items_can_be_exchanged_and_pull_each_other_together(rng):
    scores = rng.normal(size=(S, 1, 4))
    order = order_of(np.tile([0, 1, 1, 2], (S, 1, 1)))
    swapped = scores[:, :, [0, 2, 1, 3]]
    np.testing.assert_allclose(
        ranking_nll(tensor(scores), order), ranking_nll(tensor(swapped), order), rtol=1e-12
    )
    values = tensor([[[0.3, 2.0, 1.0, -0.4]]]).requires_grad_()
    order = order_of([[[1, 0, 0, 2]]])
    ranking_nll(values, order).sum().backward()
    gradient = values.grad[0, 0]
    assert gradient[1] > gradient[2], "a step against the gradient narrows the tie"
    # by hand: each tied item against all four, the third against itself and the last
    e = np.exp([0.3, 2.0, 1.0, -0.4])
    expected = 2 * np.log(e.sum()) + np.log(e[0] + e[3]) + np.log(e[3]) - np.log(e).sum()
    assert ranking_nll(values.detach(), order).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_of_rankings_equal_finite_differences(rng):
    ranks = rng.integers(0, 4, (S, 2, 4))  # some tie
    assert_gradient(
        lambda scores: ranking_nll(scores, order_of(ranks)).mean(), rng.normal(size=(S, 2, 4))
    )


# --- Rewards to values ---


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.95])
def test_the_gradient_vanishes_at_the_expectile(rng, expectile):
    samples = rng.gamma(2.0, size=501)
    value = samples.mean()
    for _ in range(200):  # the expectile is the mean with weights τ above it and 1 − τ below
        weights = np.where(samples > value, expectile, 1 - expectile)
        value = (weights * samples).sum() / weights.sum()
    guess = tensor(value).requires_grad_()
    expectile_loss(tensor(samples) - guess, expectile).mean().backward()
    assert abs(guess.grad.item()) < 1e-6  # τ is held in float32
    assert np.sign(round(value - samples.mean(), 9)) == np.sign(expectile - 0.5)
    above = tensor(value + 0.1).requires_grad_()
    expectile_loss(tensor(samples) - above, expectile).mean().backward()
    assert above.grad.item() > 0


def test_expectile_loss_by_hand():
    found = expectile_loss(tensor([2.0, -2.0, 0.0]), 0.7)
    np.testing.assert_allclose(found, [0.7 * 4, 0.3 * 4, 0])


def joined_episodes(rng, shape=(S, 2), steps=40):
    """Episodes end to end, cut anywhere: (rewards, values, next_values, terminated, ended).

    About every fifth step ends an episode, half of them by termination; the last step may end none.
    """
    rewards, values, other = rng.normal(size=(3, *shape, steps))
    ended = rng.random((*shape, steps)) < 0.2
    terminated = ended & (rng.random(ended.shape) < 0.5)
    ended[0, 0, -1], ended[0, 1, -1], terminated[0, 1, -1] = False, True, False
    following = np.concatenate([values[..., 1:], other[..., -1:]], -1)
    return rewards, values, np.where(ended, other, following), terminated, ended


def advantage_of(rewards, values, next_values, terminated, ended, gamma, lam):
    ends = torch.as_tensor(terminated), torch.as_tensor(ended)
    return generalised_advantage(
        tensor(rewards), tensor(values), tensor(next_values), *ends, gamma, lam
    )


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.5, 0.8), (1.0, 1.0), (0.9, 0.0)])
def test_gae_equals_the_double_sum(rng, gamma, lam):
    rewards, values, next_values, terminated, ended = joined = joined_episodes(rng)
    assert terminated.any() and (ended & ~terminated).any()
    expected = np.zeros_like(rewards)
    for place in np.ndindex(rewards.shape):
        *row, start = place
        for t in range(start, rewards.shape[-1]):
            at = (*row, t)
            after = 0.0 if terminated[at] else next_values[at]
            delta = rewards[at] + gamma * after - values[at]
            expected[place] += (gamma * lam) ** (t - start) * delta
            if ended[at]:
                break
    found = advantage_of(*joined, gamma, lam)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)  # γλ is held in float32


def test_gae_of_lambda_zero_is_the_td_error(rng):
    rewards, values, next_values, terminated, _ = joined = joined_episodes(rng)
    expected = rewards + 0.9 * np.where(terminated, 0, next_values) - values
    np.testing.assert_allclose(advantage_of(*joined, 0.9, 0.0), expected, rtol=1e-12)


def test_gae_of_lambda_one_is_the_return_minus_the_value(rng):
    rewards, values, next_values, terminated, ended = joined = joined_episodes(rng)
    gamma, steps = 0.9, rewards.shape[-1]
    returns = np.zeros_like(rewards)
    for row in np.ndindex(rewards.shape[:-1]):
        starts = [0, *(np.flatnonzero(ended[row][:-1]) + 1), steps]
        for start, stop in itertools.pairwise(starts):  # one episode, or the cut-off last one
            last = stop - 1
            bootstrap = 0.0 if terminated[row][last] else next_values[row][last]
            for t in range(start, stop):
                own = rewards[row][t:stop]
                powers = gamma ** np.arange(len(own) + 1)
                returns[row][t] = (own * powers[:-1]).sum() + powers[-1] * bootstrap
    found = advantage_of(*joined, gamma, 1.0)
    np.testing.assert_allclose(found, returns - values, rtol=1e-6, atol=1e-6)


# --- Policies that stay near another ---


def two_gaussians(rng, count=6, actions=3):
    """Means and standard deviations (count, actions) of two, as tensors."""
    means = rng.normal(size=(2, count, actions))
    stds = rng.uniform(0.3, 2.0, size=(2, count, actions))
    return [tensor(x) for x in (means[0], stds[0], means[1], stds[1])]


def independent(mean, std):
    return torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)


def test_gaussian_log_prob_equals_torchs(rng):
    mean, std, action, _ = two_gaussians(rng)
    np.testing.assert_allclose(
        gaussian_log_prob(mean, std, action), independent(mean, std).log_prob(action), rtol=1e-12
    )


def test_gaussian_kl_equals_torchs(rng):
    mean, std, other_mean, other_std = two_gaussians(rng)
    expected = torch.distributions.kl_divergence(
        independent(mean, std), independent(other_mean, other_std)
    )
    found = gaussian_kl(mean, std, other_mean, other_std)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert not torch.allclose(found, gaussian_kl(other_mean, other_std, mean, std))
    np.testing.assert_allclose(gaussian_kl(mean, std, mean, std), 0.0, atol=1e-15)


def estimates(name, apart, samples=400_000):
    """Samples of an estimator of KL(π ‖ π_ref), and the KL; `apart` is how far the two lie."""
    shape = (samples, 2)
    mean, std = torch.zeros(shape, dtype=torch.float64), torch.full(shape, 0.7).double()
    other_mean, other_std = mean + apart, std * (1 + apart)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.normal(mean, std, generator=generator)
    log_ratio = gaussian_log_prob(other_mean, other_std, drawn) - gaussian_log_prob(
        mean, std, drawn
    )  # π_ref over π
    kl = gaussian_kl(mean[:1], std[:1], other_mean[:1], other_std[:1]).item()
    return KL_ESTIMATORS[name](log_ratio).numpy(), kl


@pytest.mark.parametrize("name", ["k1", "k3"])
@pytest.mark.parametrize("apart", [0.02, 0.3])
def test_k1_and_k3_are_unbiased(name, apart):
    values, kl = estimates(name, apart)
    assert abs(values.mean() - kl) < 4 * values.std() / math.sqrt(len(values))
    assert values.std() / math.sqrt(len(values)) < 0.1 * kl, "or it would say nothing"


def test_k2_is_near_for_near_policies_and_biased_for_others():
    values, kl = estimates("k2", 0.02)
    assert values.mean() == pytest.approx(kl, rel=0.05)
    values, kl = estimates("k2", 0.5)
    assert abs(values.mean() - kl) > 10 * values.std() / math.sqrt(len(values))


def test_k3_varies_less_than_k1_and_k1_is_often_negative():
    k1_values, _ = estimates("k1", 0.1)
    k3_values, _ = estimates("k3", 0.1)
    assert k3_values.std() < 0.5 * k1_values.std()
    assert 0.2 < (k1_values < 0).mean() < 0.8


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_k2_and_k3_are_never_negative(rng, kind):
    sizes = np.concatenate([10 ** rng.uniform(-18, 1.9, 100_000), [0.0, 1e4, 1e30]])
    log_ratios = torch.tensor(np.concatenate([sizes, -sizes]), dtype=kind)
    for estimator in (k2, k3):
        values = estimator(log_ratios)
        assert not values.isnan().any()
        assert (values >= 0).all()
    small = torch.tensor([1e-4, -1e-4], dtype=kind)
    np.testing.assert_allclose(k3(small), [5e-9, 5e-9], rtol=0.01)  # not lost to cancellation


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.1, 0.79, 0.81, 1.0, 1.19, 1.21, 5.0])
def test_the_clip_stops_steps_that_go_too_far_and_only_those(ratio, advantage):
    log_ratio = tensor([math.log(ratio)]).requires_grad_()
    value = clipped_surrogate(log_ratio, tensor([advantage]), 0.2)
    value.sum().backward()
    too_far = ratio > 1.2 if advantage > 0 else ratio < 0.8
    limit = 1.2 if advantage > 0 else 0.8
    assert value.item() == pytest.approx((limit if too_far else ratio) * advantage, rel=1e-12)
    expected = 0.0 if too_far else ratio * advantage  # dρ/d log ρ = ρ
    assert log_ratio.grad.item() == pytest.approx(expected, rel=1e-12)


def test_the_surrogate_is_a_lower_bound(rng):
    log_ratio, advantages = rng.normal(size=(2, 1000))
    found = clipped_surrogate(tensor(log_ratio), tensor(advantages), 0.2)
    ratio = np.exp(log_ratio)
    expected = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found.numpy() <= ratio * advantages + 1e-12).all()


def test_the_coefficient_is_doubled_halved_or_kept():
    kl = tensor([0.16, 0.14, 0.1, 0.07, 0.06, 1e9, 0.0])
    found = adapted_coefficient(torch.full_like(kl, 3.0), kl, 0.1)
    assert found.tolist() == [6, 3, 3, 3, 1.5, 6, 1.5]


@pytest.mark.parametrize("start", [1e-4, 0.3, 1e4])
def test_the_coefficient_finds_its_target(start):
    """Toy: KL falls with β as s/(1 + β) does, with another s for each member."""
    scale, target = tensor([0.5, 1.0, 30.0]), 0.05
    coefficient = torch.full_like(scale, start)
    for _ in range(60):
        coefficient = adapted_coefficient(coefficient, scale / (1 + coefficient), target)
    kl = scale / (1 + coefficient)
    assert ((target / 1.5 <= kl) & (kl <= 1.5 * target)).all(), kl
    assert torch.equal(adapted_coefficient(coefficient, kl, target), coefficient), "it stays"


# --- Comparisons ---


def test_of_comparisons_looks_up_each_members_own_segments():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    first, second = torch.tensor([[0, 2], [1, 1]]), torch.tensor([[1, 0], [2, 0]])
    ends = of_comparisons(values, first, second)
    assert ends[0].tolist() == [[1, 3], [20, 20]]
    assert ends[1].tolist() == [[2, 1], [30, 10]]


def test_preferred_takes_the_better_and_half_of_each_in_a_tie():
    first, second = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[5.0, 5.0, 5.0]])
    found = preferred(first, second, torch.tensor([[0.0, 1.0, 0.5]]))
    assert found.tolist() == [[1.0, 5.0, 3.0]]


def test_accuracy_counts_decided_comparisons_only():
    first = torch.tensor([[0.0, 0.0, 9.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    second = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 2.0]])
    answers = torch.tensor([[1.0, 0.0, 0.5, 0.9], [0.5, 0.5, 0.5, 0.5]])
    assert preference_accuracy(first, second, answers).tolist() == pytest.approx([2 / 3, 0])
    answers = torch.tensor([[1.0, 0.0, 0.5, 0.9], [0.0, 0.5, 0.5, 0.5]])  # a member has its own
    assert preference_accuracy(first, second, answers).tolist() == pytest.approx([2 / 3, 1])


def test_accuracy_counts_by_weight():
    first, second = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, 1.0]])
    answers = torch.tensor([[1.0, 0.0, 1.0, 0.5]])  # right, wrong, wrong, a tie
    for weight, expected in [
        ([1.0, 1.0, 1.0, 1.0], 1 / 3),
        ([1.0, 0.0, 1.0, 1.0], 1 / 2),
        ([1.0, 0.0, 0.0, 0.0], 1),
        ([1.0, 0.5, 0.0, 1.0], 2 / 3),
        ([0.0, 0.0, 0.0, 1.0], 0),
    ]:
        found = preference_accuracy(first, second, answers, torch.tensor([weight]))
        assert found.item() == pytest.approx(expected)
    ones = torch.ones(1, 4)
    plain = preference_accuracy(first, second, answers)
    assert torch.equal(preference_accuracy(first, second, answers, ones), plain)


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_equal_scores_agree_with_nobody(answer):
    same = torch.ones(1, 4)
    assert preference_accuracy(same, same, torch.full((1, 4), answer)).item() == 0


def test_a_weighted_mean_by_hand():
    values, weight = tensor([[1, 2, 4], [3, 5, 7]]), tensor([[1, 0, 0.5], [0, 0, 0]])
    assert averaged(values, weight).tolist() == [(1 + 2) / 1.5, 0]
    assert averaged(values, None).tolist() == pytest.approx([7 / 3, 5])


@pytest.mark.parametrize("count", [1, 2, 7, 28, 496, 1000, 19_900])
def test_with_all_weights_one_it_is_the_plain_mean_to_the_last_bit(rng, count):
    values = [
        torch.tensor(rng.normal(scale=10, size=(S, count)), dtype=torch.float32, requires_grad=True)
        for _ in range(2)
    ]
    with torch.no_grad():
        values[1].copy_(values[0])
    found, expected = averaged(values[0], torch.ones(S, count)), values[1].mean(1)
    assert torch.equal(found, expected)
    for each in (found, expected):
        each.square().sum().backward()
    assert torch.equal(values[0].grad, values[1].grad)


def test_what_weighs_nothing_is_as_good_as_absent(rng):
    values, kept = rng.normal(size=(S, 40)), rng.random((S, 40)) < 0.7
    means = [row[own].mean() for row, own in zip(values, kept, strict=True)]
    leaf = tensor(values).requires_grad_()
    found = averaged(leaf, tensor(kept))
    np.testing.assert_allclose(found.detach(), means, rtol=1e-12)
    found.sum().backward()
    expected = kept / kept.sum(1, keepdims=True)
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-12)


def test_shapes_are_checked_in_tests():
    with pytest.raises(Exception, match="score_second"):
        preference_nll(torch.zeros(1, 3), torch.zeros(1, 4), torch.zeros(1, 3), 0.5)
    with pytest.raises(Exception, match="actions"):
        PreferenceBatch(
            step=torch.tensor(0),
            observations=torch.zeros(1, 4, 3, 6),
            actions=torch.zeros(1, 4, 2, 2),  # a step short
            first=torch.zeros(1, 2, dtype=torch.int64),
            second=torch.zeros(1, 2, dtype=torch.int64),
            prefers_second=torch.zeros(1, 2),
            weight=torch.ones(1, 2),
        )
    with pytest.raises(Exception, match="weight"):
        averaged(torch.zeros(2, 3), torch.zeros(2, 4))
