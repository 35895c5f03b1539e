"""RSO: what is accepted, how it is labelled, and what it comes to where nothing is rejected."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learning_algos import assert_same, build, draw_for, phase_of

from cpl_bench.core.errors import UserError
from cpl_bench.learning.algos.rso import ACCEPT_STREAM, compared
from cpl_bench.learning.losses import acceptance
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


def test_what_is_accepted_is_distributed_as_the_exponential_of_the_reward():
    """Of uniform candidates with r ~ {0, 1, 2}, those accepted have odds 1 : e^{1/β} : e^{2/β}."""
    beta, steps = 1.5, 400
    draw, counts = np.random.default_rng(0), np.zeros(3)
    for step in range(steps):
        rewards = torch.tensor(draw.integers(0, 3, (1, 64)), dtype=torch.float32)
        drawn = uniform(member_keys([0]), torch.tensor(step), ACCEPT_STREAM, 64)
        for r in rewards[drawn < acceptance(rewards, beta)].int().tolist():
            counts[r] += 1
    expected = np.exp(np.arange(3) / beta)
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), atol=0.015)


def test_uniform_numbers_are_uniform_and_their_own():
    one, other = (uniform(member_keys([5]), torch.tensor(step), 9, 20_000)[0] for step in (0, 1))
    assert ((one >= 0) & (one < 1)).all()
    assert one.mean().item() == pytest.approx(0.5, abs=4 / (12 * 20_000) ** 0.5)
    assert one.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert not torch.equal(one, other)
    assert torch.equal(one[:7], uniform(member_keys([5]), torch.tensor(0), 9, 7)[0])


def test_the_first_accepted_are_compared_and_the_rest_weigh_nothing():
    candidates = draw_for([0, 1])(0)
    rewards = torch.tensor([[0.0, 3, 1, 2, 5, 4, 6, 7], [1.0, 1, 0, 9, 9, 9, 9, 9]])
    accepted = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]]) > 0
    batch = compared(candidates, rewards, accepted, 4, "hard")
    assert torch.equal(batch.observations[0], candidates.observations[0, [1, 3, 4, 6]])
    assert torch.equal(batch.actions[1, :3], candidates.actions[1, :3])
    pairs = list(zip(batch.first[0].tolist(), batch.second[0].tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert batch.prefers_second[0].tolist() == [0, 1, 1, 1, 1, 1]  # 3, 2, 5, 6
    assert batch.weight[0].tolist() == [1] * 6
    assert batch.weight[1].tolist() == [1, 1, 0, 1, 0, 0]  # three of four were accepted
    assert batch.prefers_second[1, :2].tolist() == [0.5, 0]
    soft = compared(candidates, rewards, accepted, 4, "soft").prefers_second[0, :2]
    expected = [1 / (1 + np.exp(3 - 2)), 1 / (1 + np.exp(3 - 5))]
    assert soft.tolist() == pytest.approx(expected, rel=1e-6)


def test_soft_labels_of_certain_rewards_are_hard_ones():
    candidates, whole = draw_for([0, 1])(0), torch.ones(2, 8, dtype=torch.bool)
    rewards = 1e4 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    hard, soft = (compared(candidates, rewards, whole, 8, each) for each in ("hard", "soft"))
    assert torch.equal(hard.prefers_second, soft.prefers_second)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_a_reward_that_says_what_the_answers_say_makes_it_dpo(labels, monkeypatch):
    """Nothing rejected, every candidate compared: the same batch, so the same steps to the bit."""
    learner = build(
        "rso", [0, 1], rejection=False, labels=labels, segments=8, alpha=0.1, policy={"dropout": 0}
    )
    dpo, draw = build("dpo", [0, 1], beta=0.1, policy={"dropout": 0}), draw_for([0, 1])

    def hidden(batch):  # the score that answers them
        size = batch.actions.shape[-1]
        scores = (batch.observations[..., :size].double() * batch.actions.double()).sum((2, 3))
        return 1e3 * scores.round().float()

    monkeypatch.setattr(learner.reward, "segment_sums", hidden)
    for step in range(4):
        found = phase_of(learner, "contrast").update(draw(step))
        expected = phase_of(dpo, "contrast").update(draw(step))
        assert torch.equal(found["contrast_loss"], expected["contrast_loss"])
        assert (found["accepted"] == 1).all()
    assert_same(learner.policy.parameters, dpo.policy.parameters)


def test_where_one_alone_is_accepted_nothing_is_learned():
    learner, batch = build("rso", [0, 1], beta=1e-6), draw_for([0, 1])(0)
    with torch.no_grad():  # rewards that no two segments share
        learner.reward.networks["reward"].parameters["w1"].mul_(50)
    before = {name: value.detach().clone() for name, value in learner.policy.parameters.items()}
    metrics = phase_of(learner, "contrast").update(batch)
    assert (metrics["accepted"] == 1 / 8).all()
    assert not metrics["contrast_loss"].any()
    assert_same(learner.policy.parameters, before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"segments": 33}, "segments must be a whole number from 2 to the 32 candidates, not 33"),
        ({"beta": 0}, "beta must be positive"),
        ({"labels": "warm"}, "'labels' must be 'hard' or 'soft'"),
        ({"reward": {"source": "true"}}, "source must be learned: it labels"),
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
