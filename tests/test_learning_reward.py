"""Reward models: the loss by hand, what the options promise, and a reward that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.learning.config import Optimiser, RewardConfig
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.losses import of_comparisons, preference_nll, ranking_nll
from cpl_bench.learning.methods import configured
from cpl_bench.learning.rankings import not_worse, of_questions
from cpl_bench.learning.reward import RewardModel

CPU = torch.device("cpu")
OBSERVATION, ACTION, SEGMENTS, LENGTH = 4, 2, 12, 5
SMALL = RewardConfig(hidden=(32, 32), optimiser=Optimiser(3e-3))


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
        weight=torch.ones(answers.shape),
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
    if model.config.bounded:
        x = 1 / (1 + np.exp(-x))
    return x[..., 0].sum(-1)  # (m,)


@pytest.mark.parametrize("bounded", [False, True])
def test_the_loss_is_bradley_terry_on_sums(bounded):
    model, batch = model_of(bounded=bounded), batch_of(1)
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
    model, batch = model_of(loss="ranking"), batch_of(1)
    sums = by_hand(model, batch)
    better = {(i, i) for i in range(SEGMENTS)}
    for i, j, y in zip(batch.first[0].tolist(), batch.second[0].tolist(),
                       batch.prefers_second[0].tolist(), strict=True):  # fmt: skip
        better |= {(j, i)} if y == 1 else {(i, j)}
    wins = [sum((i, j) in better for j in range(SEGMENTS)) for i in range(SEGMENTS)]
    order = np.argsort(wins)[::-1]  # best first
    expected = -sum(sums[order[r]] - np.log(np.exp(sums[order[r:]]).sum()) for r in range(SEGMENTS))
    assert model.fit(batch)["reward_loss"].item() == pytest.approx(
        expected / (SEGMENTS - 1), rel=1e-5
    )


def only(batch, kept):
    """The batch with only those comparisons of its one member that are `kept` (1, c)."""
    names = ("first", "second", "prefers_second", "weight")
    return replace(batch, **{name: getattr(batch, name)[kept][None] for name in names})


def test_a_ranking_of_two_is_bradley_terry():
    batch = batch_of(1)
    pairs = replace(only(batch, batch.first // 2 == batch.second // 2), ranked=2)
    ranking, plain = fitted(pairs, loss="ranking"), fitted(pairs, loss="pairs")
    assert ranking[0]["reward_loss"].item() == pytest.approx(plain[0]["reward_loss"].item())
    assert_close(ranking[1:], plain[1:])


def in_fours(batch):
    """The batch as questions of four segments each."""
    return replace(only(batch, batch.first // 4 == batch.second // 4), ranked=4)


def test_rankings_of_a_few_are_not_mixed():
    whole = batch_of(2)
    part = in_fours(whole)
    found = not_worse(part)
    assert found.shape == (1, 3, 4, 4)
    every = not_worse(whole)[0, 0]
    for question in range(3):
        span = slice(4 * question, 4 * question + 4)
        assert torch.equal(found[0, question], every[span, span])
    assert model_of(loss="ranking").fit(part)["reward_loss"].isfinite().all()


def test_a_tie_is_not_worse_either_way():
    batch = batch_of(0, segments=2, ranked=2)
    tied = replace(batch, prefers_second=torch.full((1, 1), 0.5))
    assert not_worse(tied).all()
    decided = replace(batch, prefers_second=torch.ones(1, 1))
    assert not_worse(decided)[0, 0].tolist() == [[True, False], [True, True]]


def test_rankings_cannot_be_made_of_single_comparisons():
    with pytest.raises(ValueError, match="ranked answers"):
        model_of(loss="ranking").fit(batch_of(0, ranked=0))


@pytest.mark.parametrize(
    "settings",
    [{}, {"ensemble": 3}, {"bounded": True}, {"imitation": 0.1}, {"loss": "ranking"},
     {"imitation": 0.1, "ensemble": 2}],
)  # fmt: skip
def test_a_known_reward_is_found(settings):
    model = model_of(seeds=[0], **settings)
    for step in range(400):
        metrics = model.fit(batch_of(step))
    assert all(value.shape == (1,) for value in metrics.values())
    accuracy = np.mean([model.examine(batch_of(s))["held_out_accuracy"] for s in range(1000, 1010)])
    assert accuracy > (0.8 if model.config.bounded else 0.9)
    # the reward itself, up to a shift and a scale, not only its sums
    batch = batch_of(2000)
    rewards = model(batch.observations.flatten(1, 2), batch.actions.flatten(1, 2))[0]
    known = (batch.observations[..., 0] - 2 * batch.actions[..., 1]).flatten()
    assert np.corrcoef(rewards.numpy(), known.numpy())[0, 1] > 0.9


def test_an_ensemble_is_the_mean_of_different_networks():
    model, batch = model_of(seeds=[0, 5], ensemble=3), batch_of(0)
    observations = batch.observations.flatten(1, 2).expand(2, -1, -1)
    actions = batch.actions.flatten(1, 2).expand(2, -1, -1)
    each, _ = model._ensemble(observations, actions)
    assert each.shape == (6, SEGMENTS * LENGTH)
    assert len({round(row.sum().item(), 4) for row in each}) == 6
    expected = torch.stack([each[:3].mean(0), each[3:].mean(0)])
    torch.testing.assert_close(model(observations, actions), expected.detach())


def test_a_pessimist_pays_less_where_the_ensemble_disagrees():
    model, batch = model_of(seeds=[0, 5], ensemble=3, pessimism=2.0), batch_of(0)
    observations = batch.observations.flatten(1, 2).expand(2, -1, -1)
    actions = batch.actions.flatten(1, 2).expand(2, -1, -1)
    each = model._ensemble(observations, actions)[0].detach().double().view(2, 3, -1)
    spread = ((each - each.mean(1, keepdim=True)) ** 2).mean(1).sqrt()
    expected = (each.mean(1) - 2 * spread).float()
    torch.testing.assert_close(model(observations, actions), expected)
    one = model_of(ensemble=3, pessimism=2.0)
    plain = model_of(ensemble=3)
    assert torch.equal(one.segment_sums(batch), plain.segment_sums(batch)), "accuracy is the mean's"


def test_bounded_rewards_stay_in_their_bounds():
    model = model_of(bounded=True)
    far = model(torch.full((1, 3, OBSERVATION), 1e4), torch.ones(1, 3, ACTION))
    assert ((far >= 0) & (far <= 1)).all()


def test_imitation_learns_the_preferred_actions():
    model = model_of(imitation=1.0)
    losses = [model.fit(batch_of(3))["reward_imitation_loss"].item() for _ in range(100)]
    assert losses[-1] < 0.7 * losses[0]


# --- What a comparison counts ---


def fitted(batch, **settings):
    """A first fit's metrics, and the gradients of every network."""
    model = model_of(**settings)
    metrics = model.fit(batch)
    return metrics, {name: value.grad for name, value in model.optimiser.parameters.items()}


def assert_close(one, other):
    for found, expected in zip(one, other, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)


PAIRED = [{}, {"ensemble": 2}, {"bounded": True, "imitation": 0.3}]


@pytest.mark.parametrize("settings", PAIRED)
def test_a_comparison_of_weight_zero_is_as_good_as_absent(settings):
    batch = batch_of(1)
    kept = torch.ones_like(batch.first, dtype=torch.bool)
    kept[0, ::3] = False
    weighted = replace(batch, weight=kept.float())
    assert_close(fitted(weighted, **settings), fitted(only(batch, kept), **settings))
    model = model_of(**settings)
    held, everything = model.examine(weighted), model.examine(batch)
    assert_close([held], [model.examine(only(batch, kept))])
    assert held["held_out_loss"].item() != pytest.approx(everything["held_out_loss"].item())


def test_an_answer_of_half_the_weight_counts_half():
    model, batch = model_of(), batch_of(1)
    sums, ends = model.segment_sums(batch), (batch.first, batch.second)
    losses = preference_nll(*of_comparisons(sums, *ends), batch.prefers_second, 1.0)[0]
    weight = torch.linspace(0, 1, losses.shape[0])
    expected = (losses * weight).sum() / weight.sum()
    weighted = replace(batch, weight=weight[None])
    assert model.examine(weighted)["held_out_loss"].item() == pytest.approx(expected.item())
    assert model.fit(weighted)["reward_loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", ["pairs", "ranking"])
def test_with_all_weights_one_a_loss_is_the_plain_mean(loss):
    model, batch = model_of(loss=loss), in_fours(batch_of(1))
    sums, _ = model._of_segments(batch)
    ends = of_comparisons(sums, batch.first, batch.second)
    plain = preference_nll(*ends, batch.prefers_second, 1.0).mean(1)
    held = model.examine(batch)
    assert torch.equal(held["held_out_loss"], plain.detach())
    if loss == "ranking":
        plain = ranking_nll(sums.view(1, 3, 4), not_worse(batch)).mean(1) / 3
    plain.sum().backward()
    metrics, gradients = fitted(batch, loss=loss)
    assert torch.equal(metrics["reward_loss"], plain.detach())
    for name, value in model.optimiser.parameters.items():
        assert torch.equal(gradients[name], value.grad), name


@pytest.mark.parametrize("settings", [{}, {"ensemble": 2}])
def test_a_skipped_question_counts_nothing(settings):
    batch = in_fours(batch_of(2))
    weight = batch.weight.clone()
    weight[0, 6:12] = 0.0  # the six pairs of the second question
    skipped = replace(batch, weight=weight)
    assert of_questions(skipped).tolist() == [[1, 0, 1]]
    assert of_questions(batch).tolist() == [[1, 1, 1]]
    pairs = batch.first // 4 != 1
    without = only(batch, pairs)
    rows = [*range(4), *range(8, 12)]
    without = replace(
        without,
        observations=without.observations[:, rows],
        actions=without.actions[:, rows],
        first=torch.where(without.first > 7, without.first - 4, without.first),
        second=torch.where(without.second > 7, without.second - 4, without.second),
    )
    found, expected, everything = (
        fitted(each, loss="ranking", **settings) for each in (skipped, without, batch)
    )
    assert_close(found[1:], expected[1:])
    assert_close([{"": found[0]["reward_loss"]}], [{"": expected[0]["reward_loss"]}])
    assert found[0]["reward_loss"].item() != pytest.approx(everything[0]["reward_loss"].item())


def test_of_a_skipped_pair_neither_stands_in_the_others_sum():
    batch = in_fours(batch_of(2))
    weight = batch.weight.clone()
    weight[0, 7] = 0.0  # of the second question, items 0 and 2
    skipped = replace(batch, weight=weight)
    assert (batch.first[0, 7], batch.second[0, 7]) == (4, 6)
    assert of_questions(skipped)[0].tolist() == pytest.approx([1, 5 / 6, 1])
    expected = not_worse(batch)
    expected[0, 1, 0, 2] = expected[0, 1, 2, 0] = False
    assert torch.equal(not_worse(skipped), expected)


@pytest.mark.parametrize("loss", ["pairs", "ranking"])
def test_a_batch_in_which_nothing_counts_teaches_nothing(loss):
    batch = batch_of(1)
    metrics, gradients = fitted(replace(batch, weight=torch.zeros_like(batch.weight)), loss=loss)
    assert metrics["reward_loss"].item() == 0
    assert not any(value.any() for value in gradients.values())


# --- Settings ---


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("ensemble", 0, "ensemble must be a whole number from 1 to 1,000, not 0"),
        ("pessimism", 1.0, "and 0 with a single network"),
        ("pessimism", -1.0, "pessimism must be at least 0"),
        ("imitation", -1.0, "imitation must be at least 0"),
        ("steps", -1, "steps must be a whole number from 1"),
        ("steps", 0, "steps must be a whole number from 1"),
        ("hidden", (8, -8), "hidden must be at most 100 whole widths"),
        ("source", "secret", "source must be learned or true, not 'secret'"),
        ("loss", "hinge", "loss must be pairs or ranking, not 'hinge'"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, value, said):
    with pytest.raises(UserError, match=said):
        replace(SMALL, **{setting: value})


def test_words_that_mean_nothing_are_told_with_their_place():
    with pytest.raises(UserError, match=r"'reward\.source' must be 'learned' or 'true'"):
        configured("piql", "laptop", {"reward": {"source": "secret"}})


def test_a_true_reward_takes_no_steps():
    assert replace(SMALL, steps=7).fitting_steps == 7
    assert replace(SMALL, steps=7, source="true").fitting_steps == 0
