"""RSO: what is accepted, how it is labelled, and what it comes to where nothing is rejected."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from test_learning_algos import assert_same, build, draw_for, phase_of

from cpl_bench.core.errors import UserError
from cpl_bench.learning.algos.rso import ACCEPT_STREAM, accepted_first, compared
from cpl_bench.learning.losses import acceptance, segment_score
from cpl_bench.learning.methods import configured, find_method
from cpl_bench.learning.random_bits import member_keys, uniform

REWARDS = torch.tensor([[0.0, -0.5, -1.0, -3.0], [2.0, 2.0, 1.0, 0.0]])


def test_the_rate_of_acceptance_is_the_analytic_one():
    """exp((r − r_max)/β), for each candidate, over many steps."""
    beta, steps, keys = 0.5, 4000, member_keys([3, 7])
    chances = acceptance(REWARDS, beta)
    analytic = [[np.exp((r - max(row)) / beta) for r in row] for row in REWARDS.tolist()]
    np.testing.assert_allclose(chances, analytic, rtol=1e-6)
    rates = torch.zeros_like(REWARDS)
    for step in range(steps):
        rates += uniform(keys, torch.tensor(step), ACCEPT_STREAM, 4) < chances
    spread = np.sqrt(chances * (1 - chances) / steps)
    assert ((rates / steps - chances).abs() <= 4 * spread + 1e-9).all()
    assert (rates[chances == 1] == steps).all(), "the best is always accepted"


def rejected_one_by_one(rewards, beta, wanted, draw):
    """The paper's section 3.2: candidates are tried until one is accepted, then without it."""
    left, accepted = list(range(len(rewards))), []
    while len(accepted) < wanted:
        i = left[draw.integers(len(left))]
        largest = max(rewards[j] for j in left)
        if draw.random() < np.exp((rewards[i] - largest) / beta):
            accepted.append(i)
            left.remove(i)
    return accepted


def rejected_in_passes(rewards, beta, wanted, draw):
    """The paper's algorithm 1, in random order: the largest reward is looked up once a pass."""
    left, accepted = list(draw.permutation(len(rewards))), []
    while len(accepted) < wanted:
        largest = max(rewards[j] for j in left)
        for i in list(left):
            if len(accepted) < wanted and draw.random() < np.exp((rewards[i] - largest) / beta):
                accepted.append(i)
                left.remove(i)
    return accepted


def test_what_is_accepted_is_what_the_papers_rejection_accepts():
    """How often each of six is among the first, and among the two that are accepted."""
    rewards, beta, rounds = np.array([0.0, 0.2, 0.5, 0.9, 1.4, 1.5]), 0.5, 20_000
    log_odds = torch.tensor(rewards[None] / beta, dtype=torch.float32).expand(rounds, -1)
    drawn = uniform(member_keys(range(rounds)), torch.tensor(3), ACCEPT_STREAM, 6)
    places = accepted_first(log_odds, drawn).numpy()
    first = np.bincount(places[:, 0], minlength=6) / rounds
    expected = np.exp(rewards / beta) / np.exp(rewards / beta).sum()
    np.testing.assert_allclose(first, expected, atol=0.015)
    draw = np.random.default_rng(0)
    theirs = [rejected_one_by_one(rewards, beta, 2, draw) for _ in range(rounds)]
    ours = np.bincount(places[:, :2].ravel(), minlength=6) / rounds
    np.testing.assert_allclose(ours, np.bincount(np.ravel(theirs)) / rounds, atol=0.015)
    passes = [rejected_in_passes(rewards, beta, 2, draw) for _ in range(rounds)]
    passes = np.bincount(np.ravel(passes)) / rounds
    assert ours[-1] / 2 == pytest.approx(0.37, abs=0.01), "as the module's header has them"
    assert passes[-1] / 2 == pytest.approx(0.43, abs=0.01)


def test_the_least_of_uniform_numbers_is_accepted_last():
    order = accepted_first(torch.zeros(1, 3), torch.tensor([[0.0, 1 - 2**-24, 0.5]]))
    assert order.tolist() == [[1, 2, 0]]


def test_uniform_numbers_are_uniform_and_their_own():
    one, other = (uniform(member_keys([5]), torch.tensor(step), 9, 20_000)[0] for step in (0, 1))
    assert ((one >= 0) & (one < 1)).all()
    assert one.mean().item() == pytest.approx(0.5, abs=4 / (12 * 20_000) ** 0.5)
    assert one.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert not torch.equal(one, other)
    assert torch.equal(one[:7], uniform(member_keys([5]), torch.tensor(0), 9, 7)[0])


def test_all_pairs_of_the_accepted_are_labelled_by_their_rewards():
    candidates = draw_for([0, 1])(0)
    rewards = torch.tensor([[0.0, 3, 1, 2, 5, 4, 6, 7], [1.0, 1, 0, 9, 9, 9, 9, 9]])
    places = torch.tensor([[1, 3, 4, 6], [0, 1, 2, 3]])
    batch = compared(candidates, rewards, places, "hard")
    assert torch.equal(batch.observations[0], candidates.observations[0, [1, 3, 4, 6]])
    assert torch.equal(batch.actions[1], candidates.actions[1, :4])
    pairs = list(zip(batch.first[0].tolist(), batch.second[0].tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert batch.prefers_second[0].tolist() == [0, 1, 1, 1, 1, 1]  # 3, 2, 5, 6
    assert batch.prefers_second[1].tolist() == [0.5, 0, 1, 0, 1, 1]  # 1, 1, 0, 9
    assert (batch.weight == 1).all()
    soft = compared(candidates, rewards, places, "soft").prefers_second[0, :2]
    expected = [1 / (1 + np.exp(3 - 2)), 1 / (1 + np.exp(3 - 5))]
    assert soft.tolist() == pytest.approx(expected, rel=1e-6)


def test_soft_labels_of_certain_rewards_are_hard_ones():
    candidates, whole = draw_for([0, 1])(0), torch.arange(8).expand(2, -1)
    rewards = 1e4 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    hard, soft = (compared(candidates, rewards, whole, each) for each in ("hard", "soft"))
    assert torch.equal(hard.prefers_second, soft.prefers_second)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_a_reward_that_says_what_the_answers_say_makes_it_dpo(labels, monkeypatch):
    """Nothing rejected, every candidate compared: the same batch, so the same steps to the bit."""
    learner = build(
        "rso", [0, 1], rejection=False, labels=labels, segments=8, alpha=0.1, policy={"dropout": 0}
    )
    dpo, draw = build("dpo", [0, 1], alpha=0.1, policy={"dropout": 0}), draw_for([0, 1])

    def hidden(batch):  # the score that answers them
        size = batch.actions.shape[-1]
        scores = (batch.observations[..., :size].double() * batch.actions.double()).sum((2, 3))
        return 1e3 * scores.round().float()

    monkeypatch.setattr(learner.reward, "segment_sums", hidden)
    for step in range(4):
        found = phase_of(learner, "contrast").update(draw(step))
        expected = phase_of(dpo, "contrast").update(draw(step))
        assert torch.equal(found["contrast_loss"], expected["contrast_loss"])
    assert_same(learner.policy.parameters, dpo.policy.parameters)


def test_soft_labels_are_what_is_contrasted():
    """The loss by hand, of the reward model's own probabilities; hard labels give another."""
    settings = {"rejection": False, "reference": False, "policy": {"dropout": 0}}
    soft, hard = (build("rso", [0, 1], labels=each, **settings) for each in ("soft", "hard"))
    batch, lam = draw_for([0, 1])(0), 0.6
    soft.config = replace(soft.config, lam=lam)
    with torch.no_grad():
        soft.reward.networks["reward"].parameters["w1"].mul_(5)
        hard.reward.networks["reward"].parameters["w1"].mul_(5)
        rewards = soft.reward.segment_sums(batch)[:, :6].double()
        scores = segment_score(soft.policy.log_probs(batch), 0.1)[:, :6].double()
    expected = []
    for reward, score in zip(rewards.tolist(), scores.tolist(), strict=True):
        costs = []
        for i, j in combinations(range(6), 2):
            second = 1 / (1 + np.exp(reward[i] - reward[j]))
            costs.append(second * np.logaddexp(0, lam * score[i] - score[j]))
            costs[-1] += (1 - second) * np.logaddexp(0, lam * score[j] - score[i])
        expected.append(np.mean(costs))
    found = phase_of(soft, "contrast").update(batch)["contrast_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    hard.config = replace(hard.config, lam=lam)
    assert (phase_of(hard, "contrast").update(batch)["contrast_loss"] - found).abs().min() > 1e-3


def test_where_nothing_is_rejected_no_rate_is_told():
    told = phase_of(build("rso", [0], rejection=False), "contrast").update(draw_for([0])(0))
    assert "acceptance" not in told and "accuracy" in told


def test_where_beta_is_small_the_best_are_compared():
    learner, batch = build("rso", [0, 1], beta=1e-6, segments=3), draw_for([0, 1])(0)
    with torch.no_grad():  # rewards that no two segments share
        learner.reward.networks["reward"].parameters["w1"].mul_(50)
    rewards = learner.reward.segment_sums(batch)
    places = learner._accepted(rewards, batch)
    assert torch.equal(places, rewards.argsort(1, descending=True)[:, :3])
    metrics = phase_of(learner, "contrast").update(batch)
    assert (metrics["acceptance"] == 1 / 8).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"segments": 65}, "segments must be a whole number from 2 to the 64 candidates, not 65"),
        ({"beta": 0}, "beta must be positive"),
        ({"labels": "warm"}, "'labels' must be 'hard' or 'soft'"),
        ({"reward": {"source": "true"}}, "source must be learned: it labels"),
        (
            {"reward": {"pessimism": 1.0, "ensemble": 3}},
            "pessimism must be 0: the ensemble's mean labels",
        ),
        ({"margin": 2}, "margin must be 1 where there is no hinge"),
        ({"clone": {"steps": 0}}, "A reference is the clone"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        configured("rso", "laptop", settings)
    assert configured("rso", "laptop", {"reference": False, "clone": {"steps": 0}})


def test_titles_tell_variants_apart():
    entry, config = find_method("rso"), configured("rso", "laptop", {})
    assert entry.title(config) == "RSO"
    soft = replace(config, labels="soft", rejection=False, reference=False, lam=0.5)
    assert entry.title(soft) == "RSO(no rejection, soft, no reference, λ=0.5)"
    assert entry.title(replace(config, objective="hinge")) == "RSO(hinge)"
