"""Preference-PPO: it solves what is solvable with the true reward, and stays where it is held."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.algos.ppo import LAPTOP, PPO, PPOConfig
from cpl_bench.learning.interface import RolloutBatch, Rollouts
from cpl_bench.learning.loop import fit
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.assess import assess
from cpl_bench.runs.feeds import Source, make_feeds

CPU = torch.device("cpu")
SMALL = replace(
    LAPTOP,
    hidden=(64, 64),
    dropout=0.0,
    clone_learning_rate=1e-3,
    learning_rate=1e-3,
    policy_learning_rate=1e-3,
    value_learning_rate=1e-3,
    value_collections=0,
    gamma=0.99,
    kl_weight=2.0,
    reward_imitation=0.0,
    transitions_per_collection=2048,
    minibatch=256,
    epochs=5,
    clone_steps=100,
    reward_steps=300,
)


def train_on_dots(dots, pool, members=(0, 1, 2), **settings):
    """The learner, and the mean of each metric at the end of its last phase."""
    config = replace(SMALL, **settings)
    preferences = load_preferences(dots[2])
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    seeds = [100 + member for member in members]
    learner = PPO(config, *widths, seeds, CPU)
    phases = learner.phases(config.steps)
    source = Source(preferences, load_task("pointmass"), pool, members, seeds, CPU)
    feeds = make_feeds(source, phases, learner, config)
    last = {}
    for pause in fit(phases, feeds, [config.steps - 5], CPU):
        last = pause.metrics
    return learner, last


def success_of(learner, pool, members=(0, 1, 2)):
    episodes = [episode_seeds("test", 30, member) for member in members]
    rows = assess(pool, load_task("pointmass"), learner.weights(), members, episodes, 0, "test")
    return [rows["success"][rows["seed"] == member].mean() for member in members]


def test_with_the_true_reward_it_solves_the_point_mass(dots, pool):
    learner, last = train_on_dots(dots, pool, reward="true", kl_weight=0.0, steps=900)
    assert min(success_of(learner, pool)) >= 0.95
    assert (last["explained_variance"] > 0.8).all()
    assert torch.equal(last["learned_reward"], last["true_return"])
    assert (last["transitions"] == 41 * 50 * 20).all()
    assert (last["kl_to_reference"] > 0.1).all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_huge_kl_weight_holds_it_at_the_clone(dots, pool, estimator):
    _, held = train_on_dots(
        dots, pool, (0,), reward="true", kl_weight=1e3, kl_estimator=estimator, steps=500
    )
    assert held["kl_to_reference"].item() < 0.01


def test_the_penalty_keeps_updates_near_their_target(dots, pool):
    settings = {"reward": "true", "kl_weight": 0.0, "steps": 900}
    learner, last = train_on_dots(
        dots, pool, objective="penalty", target_kl=0.005, **settings
    )  # fmt: skip
    assert min(success_of(learner, pool)) >= 0.9
    assert (last["penalty"] != 1).all()
    assert ((last["kl_to_old"] > 0.0005) & (last["kl_to_old"] < 0.02)).all()


def test_cloning_the_data_meanwhile_keeps_their_actions(dots, pool):
    costs = []
    for weight in (0.0, 30.0):
        learner, _ = train_on_dots(
            dots, pool, (0,), reward="true", kl_weight=0.0, ptx_weight=weight, steps=500
        )
        preferences = load_preferences(dots[2])
        observations = torch.tensor(preferences.observations)[None]
        costs.append(
            (learner.act(observations) - torch.tensor(preferences.actions)).square().mean()
        )
    assert costs[1] < 0.97 * costs[0]


# --- A collection, by hand ---


def toy(**settings):
    """A learner in its last phase and one collection: 2 episodes of 6 steps."""
    config = replace(
        SMALL, reward="true", clone_steps=0, transitions_per_collection=12, minibatch=4, epochs=2,
        **settings,
    )  # fmt: skip
    learner = PPO(config, 3, 2, [0, 1], CPU)
    draw = torch.Generator().manual_seed(0)
    rollouts = Rollouts(
        torch.randn(2, 2, 7, 3, generator=draw),
        torch.randn(2, 2, 6, 2, generator=draw),
        torch.randn(2, 2, 6, generator=draw),
        torch.tensor([[True, False], [False, False]]),
    )
    return learner, rollouts


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_step_is_paid_its_reward_less_its_divergence(estimator):
    learner, rollouts = toy(kl_weight=0.7, kl_estimator=estimator, gamma=0.9, gae_lambda=0.8)
    learner._receive(rollouts)  # the reference is made here
    with torch.no_grad():  # now let policy and σ differ from it
        learner.policy.parameters["b2"] += 0.3
        learner.log_std += 0.2
    before = {name: value.clone() for name, value in learner._statistics.items()}
    learner._receive(rollouts)
    collection = learner._collection
    for member in range(2):
        observations = rollouts.observations[member].double()
        actions = rollouts.actions[member].double()
        mean = learner.act(rollouts.observations.flatten(1, 2))[member].view(2, 7, 2)[:, :-1]
        reference = learner.reference(rollouts.observations.flatten(1, 2))[member].tanh()
        reference = reference.view(2, 7, 2)[:, :-1]
        std = learner.log_std[member].exp()
        now = torch.distributions.Normal(mean.double(), std.double())
        then = torch.distributions.Normal(
            reference.double(), learner._reference_std[member].double()
        )
        k = (then.log_prob(actions) - now.log_prob(actions)).sum(-1)
        cost = -k if estimator == "k1" else 0  # the others are costs in the loss
        paid = rollouts.rewards[member].double() - 0.7 * cost
        raw = learner.value(rollouts.observations.flatten(1, 2))[member].view(2, 7).double()
        value = before["centre"][member] + before["scale"][member] * raw
        expected = torch.zeros(2, 6, dtype=torch.float64)
        for e in range(2):
            for t in range(6):
                for later in range(t, 6):
                    delta = paid[e, later] + 0.9 * value[e, later + 1] - value[e, later]
                    expected[e, t] += (0.9 * 0.8) ** (later - t) * delta
        flat = expected.flatten()
        standard = (flat - flat.mean()) / flat.std()
        torch.testing.assert_close(
            collection["advantages"][member].double(), standard.detach(), atol=1e-4, rtol=1e-4
        )
        assert observations.shape == (2, 7, 3)
    closed = torch.distributions.kl_divergence(now, then).sum(-1).mean()
    assert collection["kl_to_reference"][1].item() == pytest.approx(closed.item(), rel=1e-4)
    torch.testing.assert_close(collection["rollout_success"], torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(collection["true_return"], rollouts.rewards.sum(2).mean(1))


def test_an_epoch_visits_every_transition_once():
    learner, rollouts = toy()
    for update in range(learner.updates_per_collection):
        fresh = rollouts if update == 0 else None
        learner._improve(RolloutBatch(torch.tensor(update), fresh))
        if update % 3 == 2:
            order = learner._collection["order"]
            assert torch.equal(order.sort(1).values, torch.arange(12).expand(2, -1))
    assert learner.updates_per_collection == 6


def test_the_policy_waits_for_the_value():
    learner, rollouts = toy(value_collections=2)
    before = learner.policy.state() | {"log_std": learner.log_std.detach().clone()}
    values = learner.value.state()
    for update in range(3 * learner.updates_per_collection):
        fresh = rollouts if update % learner.updates_per_collection == 0 else None
        if update == 2 * learner.updates_per_collection:
            now = learner.policy.state() | {"log_std": learner.log_std.detach()}
            assert all(torch.equal(now[name], before[name]) for name in before)
            assert not torch.equal(learner.value.state()["w0"], values["w0"])
        learner._improve(RolloutBatch(torch.tensor(update), fresh))
    assert not torch.equal(learner.policy.state()["w0"], before["w0"])
    assert not torch.equal(learner.log_std, before["log_std"])


def test_the_penalty_waits_with_the_policy():
    learner, rollouts = toy(objective="penalty", value_collections=2)
    updates = learner.updates_per_collection
    for update in range(4 * updates):
        fresh = rollouts if update % updates == 0 else None
        metrics = learner._improve(RolloutBatch(torch.tensor(update), fresh))
        if update // updates < 3:
            assert (metrics["penalty"] == 1).all()
    assert (metrics["penalty"] != 1).all()


def test_the_first_ratio_is_one():
    learner, rollouts = toy()
    metrics = learner._improve(RolloutBatch(torch.tensor(0), rollouts))
    assert metrics["kl_to_old"].abs().max() < 1e-6
    assert metrics["clip_fraction"].max() == 0
    assert metrics["policy_loss"].abs().max() < 1  # −mean of standardised advantages


def test_the_deviation_stays_within_its_limits():
    learner, rollouts = toy(lowest_std=0.299, highest_std=0.301, initial_std=0.3)
    for update in range(30):
        learner._improve(RolloutBatch(torch.tensor(update), rollouts if update == 0 else None))
        learner._update %= learner.updates_per_collection
    std = learner.behaviour()["std"]
    assert std.shape == (2, 2)
    assert ((std > 0.2989) & (std < 0.3011)).all()
    assert not np.allclose(std, 0.3, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("kl_weight", -0.1, "--kl-weight must be at least 0"),
        ("minibatch", 5000, "--minibatch must be between 1 and the 4096 transitions"),
        ("initial_std", 0.01, r"--initial-std must be in \[0.5, 1.5\]"),
        ("clip", 0.0, "--clip must be in"),
        ("gamma", 1.1, "--gamma must be in"),
        ("epochs", 0, "--epochs must be at least 1"),
        ("ptx_weight", -1.0, "--ptx-weight must be at least 0"),
        ("policy_learning_rate", 0.0, "--policy-learning-rate must be positive"),
        ("value_learning_rate", -1.0, "--value-learning-rate must be positive"),
        ("value_collections", -1, "--value-collections must be at least 0"),
        ("value_collections", 938, "leave some of the 300000 improving steps to the policy"),
        ("lowest_std", 2.0, "--highest-std must be at least --lowest-std, 2.0, not 1.5"),
        ("hidden", (), "--reward-imitation must be at least 0, and 0 without --hidden layers"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, value, said):
    with pytest.raises(UserError, match=said):
        replace(PPOConfig(reward_imitation=0.1), **{setting: value})


def test_the_last_collection_may_be_the_policys():
    assert replace(PPOConfig(), value_collections=937).value_collections == 937
