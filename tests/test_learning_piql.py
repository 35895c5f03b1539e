"""P-IQL: its losses by hand, its size, and IQL on a problem whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.core.toml import replaced
from cpl_bench.learning.algos.piql import PAPER, PIQL
from cpl_bench.learning.interface import PreferenceBatch, Segments, Transitions
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import configured
from cpl_bench.learning.moves import moves_of, standardised
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.assess import assess
from cpl_bench.runs.feeds import Source, check_feeds, followed_rows, stretches

CPU = torch.device("cpu")
WIDTHS = {"hidden": (16, 16)}
SMALL = replaced(
    PAPER,
    {
        "policy": {**WIDTHS, "dropout": 0.0},
        "value": WIDTHS,
        "reward": {**WIDTHS, "source": "true"},
    },
    "SMALL",
)


def of(**settings):
    """SMALL with some nested settings replaced."""
    return replaced(SMALL, settings, "SMALL")


def improving(learner):
    """The update of the phase "iql"."""
    return learner.phases()[-1].update


def test_parameter_count_is_the_papers():
    learner = PIQL(PAPER, 35, 4, [0], CPU)
    networks = [learner.policy, learner.value, *learner.critics.values()]
    networks += learner.reward.networks.values()
    count = sum(each[0].numel() for network in networks for each in network.parameters.values())
    assert count == 1_415_688


def batch_of(members=1, segments=4, steps=5):
    draw = torch.Generator().manual_seed(3)
    none = torch.zeros(members, 0, dtype=torch.int64)
    return PreferenceBatch(
        step=torch.tensor(0),
        observations=torch.randn(members, segments, steps, 3, generator=draw),
        actions=torch.rand(members, segments, steps, 2, generator=draw) * 1.8 - 0.9,
        first=none,
        second=none,
        prefers_second=torch.zeros(members, 0),
        weight=torch.zeros(members, 0),
        rewards=torch.rand(members, segments, steps, generator=draw),
    )


def by_hand(network, x):
    """A network's only output in float64."""
    for i in range(3):
        weights = network.parameters[f"w{i}"][0], network.parameters[f"b{i}"][0]
        weight, bias = (each.detach().double().numpy() for each in weights)
        x = x @ weight + bias
        x = np.maximum(x, 0) if i < 2 else x
    return x[..., 0]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_first_losses(scale):
    config = of(temperature=0.1, largest_weight=1.0, expectile=0.8, gamma=0.9, value_scale=scale)
    learner, batch = PIQL(config, 3, 2, [0], CPU), batch_of()
    with torch.no_grad():  # targets that differ from the critics, and spread-out values
        for target in learner.targets.values():
            target.parameters["b2"] += 0.2
            target.parameters["w2"] *= 100

    def judged_by(network, x):
        return scale * by_hand(network, x)

    observations = batch.observations[0].double().numpy()
    actions = batch.actions[0].double().numpy()
    pairs = np.concatenate([observations, actions], -1)[:, :-1]
    value = judged_by(learner.value, observations)
    judged = np.minimum(*(judged_by(target, pairs) for target in learner.targets.values()))
    error = judged - value[:, :-1]
    value_loss = (np.where(error < 0, 0.2, 0.8) * error**2).mean()
    goal = batch.rewards[0, :, :-1].double().numpy() + 0.9 * value[:, 1:]
    critic_loss = sum(
        ((judged_by(critic, pairs) - goal) ** 2).mean() for critic in learner.critics.values()
    )
    weight = np.minimum(np.exp(error / 0.1), 1.0)
    mean = learner.act(batch.observations.flatten(1, 2)).view(batch.actions.shape)[0]
    log_prob = -((mean.double().numpy() - actions) ** 2).sum(-1)[:, :-1]
    policy_loss = -(weight * log_prob).mean()

    metrics = improving(learner)(batch)
    assert metrics["value_loss"].item() == pytest.approx(value_loss, rel=1e-5)
    assert metrics["critic_loss"].item() == pytest.approx(critic_loss, rel=1e-5)
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss, rel=1e-5)
    assert (weight == 1.0).any() and (weight < 1.0).any()


@pytest.mark.parametrize(("wanted", "count"), [(0, 7), (8, 2), (12, 3), (36, 7), (3, 1)])
def test_steps_of_a_segment_are_spread_evenly(wanted, count):
    whole, drawn = batch_of(segments=4, steps=8), []
    for step in range(7):
        batch = replace(whole, step=torch.tensor(step))
        moves = moves_of(batch, wanted)
        chosen, after = moves.segments, moves.next_observations
        steps = [
            int((batch.observations[0, 0] == row).all(1).nonzero())
            for row in chosen.observations[0, 0]
        ]
        assert len(steps) == count and all(np.diff(steps) >= 7 // count)
        assert torch.equal(chosen.observations, batch.observations[:, :, steps])
        assert torch.equal(chosen.actions, batch.actions[:, :, steps])
        assert torch.equal(moves.observations, chosen.observations.flatten(1, 2))
        assert torch.equal(moves.actions, chosen.actions.flatten(1, 2))
        assert torch.equal(moves.rewards, batch.rewards[:, :, steps].flatten(1))
        assert moves.terminated is None and moves.counts is None
        following = batch.observations[:, :, [each + 1 for each in steps]]
        assert torch.equal(after, following.flatten(1, 2))
        drawn += steps
    assert np.bincount(drawn).tolist() == [count] * 7


def fed(source, phase, step=0):
    """The batch that a phase is given."""
    (only,) = stretches(source, [phase._replace(update=lambda batch: batch)], None)
    return only.take(torch.tensor(step))


def test_transitions_are_drawn_one_by_one_from_the_segments(dots, pool):
    preferences = load_preferences(dots[2])
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    source = Source(preferences, load_task("pointmass"), pool, [0, 1], [0, 1], CPU)
    within = np.zeros(len(preferences.observations), bool)  # rows that a segment goes on from
    for start in preferences.segment_starts:
        within[start : start + preferences.info.segment_length - 1] = True
    expected = {tuple(row) for row in preferences.observations[within].tolist()}
    for reward in ("learned", "true"):
        config = of(reward={"source": reward, "steps": 1}, transitions=4000, steps=2)
        learner = PIQL(config, *widths, [0, 1], CPU)
        phase = learner.phases()[-1]
        assert phase.feed == Transitions(4000, rewards=reward == "true")
        batch = fed(source, phase)
        assert batch.observations.shape == (2, 4000, 2, widths[0])
        first = batch.observations[0, :, 0].numpy()
        assert {tuple(row) for row in first.tolist()} <= expected
        rows = [np.flatnonzero((preferences.observations == row).all(1))[0] for row in first[:50]]
        after = preferences.observations[np.array(rows) + 1]
        np.testing.assert_array_equal(batch.observations[0, :50, 1], after)
        if reward == "learned":
            assert batch.rewards is None
        else:
            np.testing.assert_array_equal(batch.rewards[0, :50, 0], preferences.rewards[rows])


@pytest.mark.parametrize("source", ["true", "learned"])
@pytest.mark.parametrize("transitions", [0, 64])
def test_segments_of_one_step_are_refused(dots, source, transitions):
    info = replace(load_preferences(dots[2]).info, segment_length=1)
    phases = PIQL(of(reward={"source": source}, transitions=transitions), 3, 2, [0], CPU).phases()
    with pytest.raises(UserError, match="segments of 1 step, and P-IQL needs at least 2"):
        check_feeds(phases, info, True, "P-IQL")
    check_feeds(phases, replace(info, segment_length=2), True, "P-IQL")


def test_targets_follow_slowly():
    learner, batch = PIQL(replace(SMALL, polyak=0.25), 3, 2, [0], CPU), batch_of()
    before = learner.targets["target0"].parameters["w1"].clone()
    improving(learner)(batch)
    critic = learner.critics["critic0"].parameters["w1"]
    expected = before + 0.25 * (critic - before)
    assert not torch.equal(critic, before)
    torch.testing.assert_close(learner.targets["target0"].parameters["w1"], expected)


def test_phases_depend_on_the_reward():
    config = of(reward={"source": "learned", "steps": 30}, steps=100)
    learned = PIQL(config, 3, 2, [0], CPU).phases()
    assert [(each.name, each.steps, each.feed) for each in learned] == [
        ("reward", 30, Segments(192, "fitting", least_length=2)),
        ("iql", 70, Segments(192, least_length=2)),
    ]
    true = [phase for phase in PIQL(of(steps=100), 3, 2, [0], CPU).phases() if phase.steps]
    assert len(true) == 1 and true[0][:2] == ("iql", 100)
    assert true[0].feed == Segments(192, rewards=True, least_length=2)


def test_with_the_true_reward_it_solves_the_point_mass(dots, pool):
    members = [0, 1]
    rate, widths = {"optimiser": {"rate": 1e-3}}, {"hidden": (64, 64)}
    config = of(
        policy=widths,
        value={**widths, **rate},
        reward={**widths, **rate},
        actor=rate["optimiser"],
        steps=1100,
        temperature=0.05,
        segments=24,
    )
    preferences, task = load_preferences(dots[2]), load_task("pointmass")
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = PIQL(config, *widths, members, CPU)
    source = Source(preferences, task, pool, members, members, CPU)
    for _ in fit(stretches(source, learner.phases(), learner), [], CPU):
        pass
    episodes = [episode_seeds("test", 30, member) for member in members]
    rows = assess(pool, task, learner.weights(), members, episodes, 0, "test")
    assert rows["success"].mean() >= 0.9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expectile": 1.0}, "expectile must be in"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"largest_weight": 0.0}, "largest_weight must be positive"),
        ({"gamma": 1.0}, "gamma must be in"),
        ({"polyak": 0.0}, "polyak must be in"),
        ({"value_scale": 0.0}, "value_scale must be positive"),
        ({"transitions": -1}, "transitions must be 0 or at least 2, and at most 1,000,000, not -1"),
        ({"transitions": 1}, "transitions must be 0 or at least 2, and at most 1,000,000, not 1"),
        ({"reward": {"imitation": -1.0}}, r"reward\.imitation must be at least 0"),
        ({"value": {"hidden": [0]}}, r"value\.hidden must be at most 100 whole widths"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(UserError, match=f"settings of piql: {said}"):
        configured("piql", "paper", settings)


# --- Where the task terminates ---


def ending(batch, *segments):
    """The batch, with the task ended by the last step of these segments."""
    terminated = torch.zeros(batch.actions.shape[:3], dtype=torch.bool)
    terminated[:, list(segments), -1] = True
    return replace(batch, terminated=terminated)


def test_a_terminal_step_is_a_move_and_another_last_step_is_none():
    batch = ending(batch_of(members=2, segments=4, steps=5), 1, 3)
    moves = moves_of(batch)
    counts, terminated = moves.counts.view(2, 4, 5), moves.terminated.view(2, 4, 5)
    assert counts[:, :, :-1].all()
    assert counts[0, :, -1].tolist() == counts[1, :, -1].tolist() == [0, 1, 0, 1]
    assert torch.equal(terminated, batch.terminated)
    assert torch.equal(moves.observations, batch.observations.flatten(1, 2))
    assert torch.equal(moves.rewards, batch.rewards.flatten(1))
    after = moves.next_observations.view(batch.observations.shape)
    assert torch.equal(after[:, :, :-1], batch.observations[:, :, 1:])
    plain = moves_of(replace(batch, terminated=None))
    counted = moves.counts[0] > 0
    kept = torch.arange(5).repeat(4)[counted] < 4  # the others are the terminal steps
    assert torch.equal(moves.observations[:, counted][:, kept], plain.observations)
    assert torch.equal(moves.next_observations[:, counted][:, kept], plain.next_observations)
    assert counted.sum() == plain.observations.shape[1] + 2


@pytest.mark.parametrize(("wanted", "count"), [(0, 5), (8, 2), (12, 3), (99, 5), (1, 1)])
def test_terminal_steps_come_as_often_as_others(wanted, count):
    batch, drawn = ending(batch_of(segments=4, steps=5), 2), torch.zeros(5)
    for step in range(5):
        moves = moves_of(replace(batch, step=torch.tensor(step)), wanted)
        assert moves.observations.shape[1] == 4 * count
        for i, row in enumerate(moves.observations[0].view(4, count, -1)[2]):
            place = (batch.observations[0, 2] == row).all(1).nonzero().item()
            drawn[place] += 1
            assert moves.counts.view(4, count)[2, i] == 1
            assert moves.terminated.view(4, count)[2, i] == (place == 4)
    assert drawn.tolist() == [count] * 5


def drawn_moves(terminated, step):
    """Moves of single transitions: two steps each, the first of some of them terminal."""
    batch = replace(batch_of(segments=6, steps=2), step=torch.tensor(step))
    flags = torch.zeros(1, 6, 2, dtype=torch.bool)
    flags[0, terminated, 0] = True
    return batch, moves_of(replace(batch, terminated=flags), 6)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_of_a_transition_drawn_alone_the_first_step_is_the_move(step):
    batch, moves = drawn_moves([1, 4], step)
    assert torch.equal(moves.observations, batch.observations[:, :, 0])
    assert torch.equal(moves.next_observations, batch.observations[:, :, 1])
    assert moves.terminated[0].tolist() == [False, True, False, False, True, False]
    assert moves.counts is None or moves.counts.all()


def test_what_does_not_count_does_not_standardise():
    draw = torch.Generator().manual_seed(0)
    rewards = torch.randn(2, 9, generator=draw)
    assert torch.equal(
        standardised(rewards, None),
        (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True),
    )
    counts = torch.ones(2, 9)
    counts[:, 4:6] = 0
    found = standardised(rewards, counts)
    kept = found[:, [0, 1, 2, 3, 6, 7, 8]]
    torch.testing.assert_close(kept.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(kept.std(1), torch.ones(2))
    elsewhere = rewards.clone()
    elsewhere[:, 4:6] = 1e3
    assert torch.equal(standardised(elsewhere, counts)[:, :4], found[:, :4])


@pytest.mark.parametrize("ended", [[], [1, 2]])
def test_after_a_termination_the_critics_learn_the_reward_alone(ended):
    learner = PIQL(of(gamma=0.9, expectile=0.8, temperature=0.5), 3, 2, [0], CPU)
    with torch.no_grad():  # values that matter
        learner.value.parameters["b2"] += 3.0
        for target in learner.targets.values():
            target.parameters["b2"] += 0.2
    batch = ending(batch_of(segments=4, steps=5), *ended)
    observations, actions = (x[0].double().numpy() for x in (batch.observations, batch.actions))
    pairs = np.concatenate([observations, actions], -1)
    value = by_hand(learner.value, observations)
    assert (value > 2).all()
    critics = [by_hand(critic, pairs) for critic in learner.critics.values()]
    judged = np.minimum(*(by_hand(target, pairs) for target in learner.targets.values()))
    mean = learner.act(batch.observations.flatten(1, 2)).view(batch.actions.shape)[0]
    log_prob = -((mean.double().numpy() - actions) ** 2).sum(-1)
    critic, values, policy = [], [], []
    for i in range(4):
        for t in range(5):
            terminal = t == 4 and i in ended
            if t == 4 and not terminal:
                continue  # nobody knows what followed
            goal = batch.rewards[0, i, t].item() + (0 if terminal else 0.9 * value[i, t + 1])
            critic.append(sum((each[i, t] - goal) ** 2 for each in critics))
            error = judged[i, t] - value[i, t]
            values.append((0.2 if error < 0 else 0.8) * error**2)
            policy.append(-min(np.exp(error / 0.5), 100) * log_prob[i, t])
    assert len(critic) == 16 + len(ended)
    metrics = improving(learner)(batch)
    assert metrics["critic_loss"].item() == pytest.approx(np.mean(critic), rel=1e-5)
    assert metrics["value_loss"].item() == pytest.approx(np.mean(values), rel=1e-5)
    assert metrics["policy_loss"].item() == pytest.approx(np.mean(policy), rel=1e-5)


def terminating(ended, length=4, segments=6):
    """Preferences over episodes that are their own segments, some of which end by termination."""
    rng = np.random.default_rng(0)
    terminations = np.zeros((segments, length))
    terminations[ended, -1] = 1
    return preferences_from_arrays(
        rng.normal(size=(segments, length, 3)),
        rng.uniform(-0.9, 0.9, (segments, length, 2)),
        scores=np.arange(segments),
        rewards=rng.normal(size=(segments, length)),
        terminations=terminations,
    )


def test_terminal_rows_are_followed_by_the_end():
    preferences = terminating([1, 4])
    rows = np.sort(followed_rows(preferences))
    assert rows.tolist() == [r for r in range(24) if r % 4 < 3 or r // 4 in (1, 4)]
    none = replace(preferences, terminations=None)
    assert np.sort(followed_rows(none)).tolist() == [r for r in range(24) if r % 4 < 3]


def test_terminal_transitions_are_drawn_and_learned_from():
    preferences = terminating([1, 5])  # the last row of all is terminal
    config = of(transitions=3000, steps=2, gamma=0.9)
    learner = PIQL(config, 3, 2, [0, 1], CPU)
    with torch.no_grad():
        learner.value.parameters["b2"] += 5.0
    phase = learner.phases()[-1]
    source = Source(preferences, None, None, [0, 1], [0, 1], CPU)
    for step in (0, 1):  # whether it is even or odd, every transition counts
        batch = fed(source, phase, step)
        first, values = batch.observations[:, :, 0], preferences.observations
        rows = torch.cdist(first.double(), torch.tensor(values)[None].double()).argmin(-1)
        assert (
            np.bincount(rows.flatten(), minlength=24).nonzero()[0].tolist()
            == np.sort(followed_rows(preferences)).tolist()
        )
        is_terminal = (rows == 7) | (rows == 23)
        assert torch.equal(batch.terminated[:, :, 0], is_terminal)
        assert not batch.terminated[:, :, 1].any()
        assert torch.equal(batch.rewards[:, :, 0], torch.tensor(preferences.rewards)[rows])
        after = torch.tensor(values)[(rows + 1).clamp_max(23)]
        assert torch.equal(batch.observations[:, :, 1][~is_terminal], after[~is_terminal])
        with torch.no_grad():
            pairs = torch.cat([first, batch.actions[:, :, 0]], -1)
            following = learner.value(after).squeeze(-1) * ~is_terminal
            goal = batch.rewards[:, :, 0] + 0.9 * following
            expected = sum(
                (critic(pairs).squeeze(-1) - goal).square().mean(1)
                for critic in learner.critics.values()
            )
            assert (following[~is_terminal] > 2).all()
        metrics = phase.update(batch)
        if step == 0:  # the value has moved since
            torch.testing.assert_close(metrics["critic_loss"], expected, rtol=1e-5, atol=1e-5)
        assert (metrics["value_loss"] > 0.1).all()


def test_a_termination_holds_the_value_down():
    """One state, one action, reward 1: worth 1 if it ends there, 1/(1 − γ) if it goes on."""
    found = {}
    for ends in (False, True):
        shape = (40, 2)
        preferences = preferences_from_arrays(
            np.ones((*shape, 3)),
            np.zeros((*shape, 2)),
            scores=np.arange(40),
            rewards=np.ones(shape),
            terminations=np.tile([0, 1], (40, 1)) if ends else None,
        )
        rate = {"optimiser": {"rate": 1e-2}}
        config = of(transitions=32, steps=450, gamma=0.8, polyak=0.2, expectile=0.5, value=rate)
        learner = PIQL(config, 3, 2, [0], CPU)
        source = Source(preferences, None, None, [0], [0], CPU)
        for _ in fit(stretches(source, learner.phases(), learner), [], CPU):
            pass
        found[ends] = learner.value(torch.ones(1, 1, 3)).item()
    assert found[False] == pytest.approx(5, rel=0.05)
    # each second draw is the terminal step, and all look alike: v = 1 + γ v/2
    assert found[True] == pytest.approx(1 / (1 - 0.4), rel=0.05)
