"""Reward models: the loss by hand, what the options promise, and a reward that is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.learning.algos.ppo import PPOConfig
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.reward import RewardModel, check_reward, not_worse

CPU = torch.device("cpu")
OBSERVATION, ACTION, SEGMENTS, LENGTH = 4, 2, 12, 5
SMALL = PPOConfig(hidden=(32, 32), learning_rate=3e-3, reward_bounded=False)


def batch_of(seed, segments=SEGMENTS, ranked=SEGMENTS):
    """All pairs of one member's segments, preferred by a reward linear in state and action."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(1, segments, LENGTH, OBSERVATION))
    actions = rng.uniform(-1, 1, (1, segments, LENGTH, ACTION))
    scores = (observations[..., 0] - 2 * actions[..., 1]).sum(-1)  # (1, m)
    first, second = (torch.tensor(each)[None] for each in np.triu_indices(segments, 1))
    found = torch.tensor(scores)
    answers = 0.5 + 0.5 * (found.gather(1, second) - found.gather(1, first)).sign()
    return PreferenceBatch(
        step=torch.tensor(seed),
        observations=torch.tensor(observations, dtype=torch.float32),
        actions=torch.tensor(actions, dtype=torch.float32),
        first=first,
        second=second,
        prefers_second=answers.float(),
        ranked=ranked,
    )


def model_of(seeds=(0,), **settings):
    return RewardModel(replace(SMALL, **settings), OBSERVATION, ACTION, list(seeds), CPU)


def by_hand(model, batch):
    """Each segment's sum of rewards in float64, from a plain reward network."""
    x = np.concatenate([batch.observations[0], batch.actions[0]], -1).astype(np.float64)
    weights = model.networks["reward"].parameters
    for i in range(3):
        x = x @ weights[f"w{i}"][0].detach().double().numpy()
        x = x + weights[f"b{i}"][0].detach().double().numpy()
        x = np.maximum(x, 0) if i < 2 else x
    if model.config.reward_bounded:
        x = 1 / (1 + np.exp(-x))
    return x[..., 0].sum(-1)  # (m,)


@pytest.mark.parametrize("bounded", [False, True])
def test_the_loss_is_bradley_terry_on_sums(bounded):
    model, batch = model_of(reward_bounded=bounded), batch_of(1)
    sums = by_hand(model, batch)
    pairs = zip(batch.first[0].tolist(), batch.second[0].tolist(), batch.prefers_second[0].tolist(),
                strict=True)  # fmt: skip
    losses, right = [], []
    for i, j, y in pairs:
        gap = sums[j] - sums[i] if y == 1 else sums[i] - sums[j]
        losses.append(np.log1p(np.exp(-gap)))
        right.append(gap > 0)
    held_out = model.examine(batch)
    fitted = model.fit(batch)
    for metrics, name in ((held_out, "held_out"), (fitted, "reward")):
        assert metrics[f"{name}_loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert metrics[f"{name}_accuracy"].item() == pytest.approx(np.mean(right), rel=1e-6)


def test_plackett_luce_over_the_whole_batch():
    model, batch = model_of(reward_loss="ranking"), batch_of(1)
    sums = by_hand(model, batch)
    better = {(i, i) for i in range(SEGMENTS)}
    for i, j, y in zip(batch.first[0].tolist(), batch.second[0].tolist(),
                       batch.prefers_second[0].tolist(), strict=True):  # fmt: skip
        better |= {(j, i)} if y == 1 else {(i, j)}
    wins = [sum((i, j) in better for j in range(SEGMENTS)) for i in range(SEGMENTS)]
    order = np.argsort(wins)[::-1]  # best first
    expected = -sum(sums[order[r]] - np.log(np.exp(sums[order[r:]]).sum()) for r in range(SEGMENTS))
    assert model.fit(batch)["reward_loss"].item() == pytest.approx(expected / SEGMENTS, rel=1e-5)


def test_rankings_of_a_few_are_not_mixed():
    whole = batch_of(2)
    rows = (whole.first // 4) == (whole.second // 4)  # three questions of four segments
    part = replace(
        whole,
        first=whole.first[rows][None],
        second=whole.second[rows][None],
        prefers_second=whole.prefers_second[rows][None],
        ranked=4,
    )
    found = not_worse(part)
    assert found.shape == (1, 3, 4, 4)
    every = not_worse(whole)[0, 0]
    for question in range(3):
        span = slice(4 * question, 4 * question + 4)
        assert torch.equal(found[0, question], every[span, span])
    assert model_of(reward_loss="ranking").fit(part)["reward_loss"].isfinite().all()


def test_a_tie_is_not_worse_either_way():
    batch = batch_of(0, segments=2, ranked=2)
    tied = replace(batch, prefers_second=torch.full((1, 1), 0.5))
    assert not_worse(tied).all()
    decided = replace(batch, prefers_second=torch.ones(1, 1))
    assert not_worse(decided)[0, 0].tolist() == [[True, False], [True, True]]


def test_rankings_cannot_be_made_of_single_comparisons():
    with pytest.raises(ValueError, match="ranked answers"):
        model_of(reward_loss="ranking").fit(batch_of(0, ranked=0))


@pytest.mark.parametrize(
    "settings",
    [{}, {"reward_ensemble": 3}, {"reward_bounded": True}, {"reward_imitation": 0.1},
     {"reward_loss": "ranking"}, {"reward_imitation": 0.1, "reward_ensemble": 2}],
)  # fmt: skip
def test_a_known_reward_is_found(settings):
    model = model_of(seeds=[0], **settings)
    for step in range(400):
        metrics = model.fit(batch_of(step))
    assert all(value.shape == (1,) for value in metrics.values())
    accuracy = np.mean([model.examine(batch_of(s))["held_out_accuracy"] for s in range(1000, 1010)])
    assert accuracy > (0.8 if model.config.reward_bounded else 0.9)
    # the reward itself, up to a shift and a scale, not only its sums
    batch = batch_of(2000)
    rewards = model(batch.observations.flatten(1, 2), batch.actions.flatten(1, 2))[0]
    known = (batch.observations[..., 0] - 2 * batch.actions[..., 1]).flatten()
    assert np.corrcoef(rewards.numpy(), known.numpy())[0, 1] > 0.9


def test_an_ensemble_is_the_mean_of_different_networks():
    model, batch = model_of(seeds=[0, 5], reward_ensemble=3), batch_of(0)
    observations = batch.observations.flatten(1, 2).expand(2, -1, -1)
    actions = batch.actions.flatten(1, 2).expand(2, -1, -1)
    each, _ = model._ensemble(observations, actions)
    assert each.shape == (6, SEGMENTS * LENGTH)
    assert len({round(row.sum().item(), 4) for row in each}) == 6
    expected = torch.stack([each[:3].mean(0), each[3:].mean(0)])
    torch.testing.assert_close(model(observations, actions), expected.detach())


def test_bounded_rewards_stay_in_their_bounds():
    model = model_of(reward_bounded=True)
    far = model(torch.full((1, 3, OBSERVATION), 1e4), torch.ones(1, 3, ACTION))
    assert ((far >= 0) & (far <= 1)).all()


def test_imitation_learns_the_preferred_actions():
    model = model_of(reward_imitation=1.0)
    losses = [model.fit(batch_of(3))["reward_imitation_loss"].item() for _ in range(100)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("reward_ensemble", 0), ("reward_imitation", -1.0), ("reward_steps", -1)],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(setting, value):
    with pytest.raises(UserError, match=setting.replace("_", "-")):
        replace(SMALL, **{setting: value})


@pytest.mark.parametrize(("setting", "value"), [("reward", "secret"), ("reward_loss", "hinge")])
def test_words_that_mean_nothing_are_refused(setting, value):
    settings = SimpleNamespace(**{setting: value})
    with pytest.raises(UserError, match=setting.replace("_", "-")):
        check_reward(settings)
