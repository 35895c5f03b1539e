"""Losses equal independent mathematics, and so do their gradients."""

import itertools
import math

import numpy as np
import pytest
import torch

from cpl_bench.interface import PreferenceBatch
from cpl_bench.losses import (
    fixed_variance_log_prob,
    of_comparisons,
    preference_accuracy,
    preference_nll,
    preferred,
    segment_score,
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


# --- Gradients ---


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_gradients_equal_finite_differences(rng, lam):
    means, actions, first, second, answers = random_batch(rng)

    def loss(values):
        return nll_of(values, tensor(actions), first, second, tensor(answers), lam).mean()

    policy = tensor(means).requires_grad_()
    loss(policy).backward()
    step = 1e-6
    expected = np.zeros_like(means)
    for place in np.ndindex(means.shape):
        for sign in (1, -1):
            moved = means.copy()
            moved[place] += sign * step
            expected[place] += sign * loss(tensor(moved)).item() / (2 * step)
    np.testing.assert_allclose(policy.grad, expected, atol=1e-8, rtol=1e-5)


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


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_equal_scores_agree_with_nobody(answer):
    same = torch.ones(1, 4)
    assert preference_accuracy(same, same, torch.full((1, 4), answer)).item() == 0


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
        )
