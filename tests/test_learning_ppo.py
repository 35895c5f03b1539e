"""Preference-PPO: it solves what is solvable with the true reward, and stays where it is held."""

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.core.toml import replaced
from cpl_bench.learning.actor import Surrogate, SurrogateConfig
from cpl_bench.learning.algos.ppo import LAPTOP, PPO
from cpl_bench.learning.collection import Collection, CollectionConfig, happened
from cpl_bench.learning.interface import Episodes, RolloutBatch, Rollouts, Segments
from cpl_bench.learning.loop import fit
from cpl_bench.learning.losses import gaussian_log_prob
from cpl_bench.learning.methods import configured, find_method
from cpl_bench.learning.random_bits import member_keys
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.assess import assess
from cpl_bench.runs.feeds import Source, stretches
from cpl_bench.runs.rollouts import stacked
from cpl_bench.tasks.episodes import Trajectory

CPU = torch.device("cpu")
RATE, WIDTHS = {"rate": 1e-3}, {"hidden": (64, 64)}
SMALL = replaced(
    LAPTOP,
    {
        "policy": {**WIDTHS, "dropout": 0.0},
        "clone": {"steps": 100, "optimiser": RATE},
        "reward": {**WIDTHS, "steps": 300, "optimiser": RATE, "imitation": 0.0},
        "actor": RATE,
        "value": {**WIDTHS, "optimiser": RATE},
        "collection": {"transitions": 2048, "epochs": 5, "minibatch": 256, "value_only": 0},
        "kl": {"weight": 2.0},
        "gamma": 0.99,
    },
    "SMALL",
)
TRUE, FREE = {"source": "true"}, {"weight": 0.0}


def train_on_dots(dots, pool, members=(0, 1, 2), **settings):
    """The learner, and the mean of each metric at the end of its last phase."""
    config = replaced(SMALL, settings, "SMALL")
    preferences = load_preferences(dots[2])
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    seeds = [100 + member for member in members]
    learner = PPO(config, *widths, seeds, CPU)
    source = Source(preferences, load_task("pointmass"), pool, members, seeds, CPU)
    last = {}
    for pause in fit(stretches(source, learner.phases(), learner), [config.steps - 5], CPU):
        last = pause.metrics
    return learner, last


def success_of(learner, pool, members=(0, 1, 2)):
    episodes = [episode_seeds("test", 30, member) for member in members]
    rows = assess(pool, load_task("pointmass"), learner.weights(), members, episodes, 0, "test")
    return [rows["success"][rows["seed"] == member].mean() for member in members]


def test_with_the_true_reward_it_solves_the_point_mass(dots, pool):
    learner, last = train_on_dots(dots, pool, reward=TRUE, kl=FREE, steps=900)
    assert min(success_of(learner, pool)) >= 0.95
    assert (last["explained_variance"] > 0.8).all()
    assert torch.equal(last["learned_reward"], last["true_return"])
    assert (last["transitions"] == 41 * 50 * 20).all()
    assert (last["kl_to_reference"] > 0.1).all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_huge_kl_weight_holds_it_at_the_clone(dots, pool, estimator):
    kl = {"weight": 1e3, "estimator": estimator}
    _, held = train_on_dots(dots, pool, (0,), reward=TRUE, kl=kl, steps=500)
    assert held["kl_to_reference"].item() < 0.03  # left free it goes beyond 0.1


def test_the_penalty_keeps_updates_near_their_target(dots, pool):
    surrogate = {"objective": "penalty", "target_kl": 0.005}
    learner, last = train_on_dots(dots, pool, surrogate=surrogate, reward=TRUE, kl=FREE, steps=900)
    assert min(success_of(learner, pool)) >= 0.9
    assert (last["penalty"] != 1).all()
    assert ((last["kl_to_old"] > 0.0005) & (last["kl_to_old"] < 0.02)).all()


def test_cloning_the_data_meanwhile_keeps_their_actions(dots, pool):
    costs = []
    for weight in (0.0, 30.0):
        learner, _ = train_on_dots(
            dots, pool, (0,), reward=TRUE, kl=FREE, ptx_weight=weight, steps=500
        )
        preferences = load_preferences(dots[2])
        observations = torch.tensor(preferences.observations)[None]
        costs.append(
            (learner.act(observations) - torch.tensor(preferences.actions)).square().mean()
        )
    assert costs[1] < 0.97 * costs[0]


# --- The plain policy gradient ---

REINFORCE = {"objective": "reinforce"}


def test_reinforce_has_the_bandits_analytic_gradient():
    """One state, reward −(a − c)², a ~ N(μ, σ²): ∇_μ E r = −2(μ − c), ∇_σ E r = −2σ."""
    mean, std, best, n = 0.4, 0.6, -0.3, 400_000
    draw = torch.Generator().manual_seed(0)
    mu, sigma = (
        torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (mean, std)
    )
    actions = mean + std * torch.randn(1, n, 1, generator=draw, dtype=torch.float64)
    rewards = -(actions - best).square().squeeze(-1)
    advantages = rewards - rewards.mean()  # the baseline changes nothing but the noise
    log_prob = gaussian_log_prob(*(each.expand(1, n, 1) for each in (mu, sigma)), actions)
    surrogate = Surrogate(SurrogateConfig(objective="reinforce"), 1, CPU)
    log_ratio = log_prob - log_prob.detach()
    surrogate.gain(log_ratio, advantages, torch.zeros(1, n)).mean().backward()
    apart = (actions - mean).squeeze(-1)
    samples = torch.stack([apart / std**2, apart**2 / std**3 - 1 / std]) * advantages
    noise = samples.std(-1).flatten() / n**0.5
    for found, sampled, analytic, error in zip(
        (mu.grad, sigma.grad), samples.mean(-1), (-2 * (mean - best), -2 * std), noise, strict=True
    ):
        assert found.item() == pytest.approx(sampled.item(), rel=1e-9)
        assert found.item() == pytest.approx(analytic, abs=5 * error.item())


def test_the_first_update_of_reinforce_is_ppos_and_later_ones_are_not_clipped():
    """As long as π is π_old, the ratio's gradient is log π's."""
    gradients, weights = [], []
    for objective in ("clip", "reinforce"):
        learner, rollouts = toy(surrogate={"objective": objective}, actor={"rate": 0.1})
        improve, updates = improving(learner)
        for update in range(updates):
            improve(RolloutBatch(torch.tensor(update), rollouts if update == 0 else None))
            if update == 0:
                gradients.append(learner.policy.parameters["w0"].grad.clone())
        weights.append(learner.policy.state()["w0"])
    torch.testing.assert_close(*gradients)
    assert not torch.allclose(*weights, rtol=1e-2)


def test_reinforce_of_the_reward_to_go_solves_the_point_mass(dots, pool):
    once = {"transitions": 512, "epochs": 1, "minibatch": 512}  # a collection, an update
    learner, _ = train_on_dots(
        dots,
        pool,
        (0,),
        reward=TRUE,
        kl=FREE,
        surrogate=REINFORCE,
        gae_lambda=1.0,
        collection=once,
        value={"optimiser": {"rate": 3e-3}},
        steps=300,
    )
    assert min(success_of(learner, pool, (0,))) >= 0.8


@pytest.mark.parametrize(
    ("objective", "learned", "true"),
    [
        ("clip", "P-PPO", "PPO (true reward)"),
        ("penalty", "P-PPO(penalty)", "PPO(penalty) (true reward)"),
        ("reinforce", "P-REINFORCE", "REINFORCE (true reward)"),
    ],
)
def test_a_title_names_the_surrogate(objective, learned, true):
    surrogate = {"surrogate": {"objective": objective}}
    titles = [
        find_method("ppo").title(
            configured("ppo", "laptop", surrogate | {"reward": {"source": each}})
        )
        for each in ("learned", "true")
    ]
    assert titles == [learned, true]


# --- A collection, by hand ---


def toy(collection=None, **settings):
    """A learner in its last phase and one collection: 2 episodes of 6 steps."""
    small = {"transitions": 12, "minibatch": 4, "epochs": 2, **(collection or {})}
    wanted = {"reward": TRUE, "clone": {"steps": 0}, "collection": small, **settings}
    learner = PPO(replaced(SMALL, wanted, "toy"), 3, 2, [0, 1], CPU)
    draw = torch.Generator().manual_seed(0)
    return learner, Episodes(
        observations=torch.randn(2, 2, 7, 3, generator=draw),
        actions=torch.randn(2, 2, 6, 2, generator=draw),
        rewards=torch.randn(2, 2, 6, generator=draw),
        terminated=torch.zeros(2, 2, 6, dtype=torch.bool),
        lengths=torch.full((2, 2), 6),
        successes=torch.tensor([[True, False], [False, False]]),
    )


def improving(learner):
    """The update of the phase "ppo", and how many of them a collection serves."""
    return learner.phases()[-1].update, learner.config.collection.updates


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_step_is_paid_its_reward_less_its_divergence(estimator):
    kl = {"weight": 0.7, "estimator": estimator}
    learner, rollouts = toy(kl=kl, gamma=0.9, gae_lambda=0.8)
    learner._receive(rollouts)  # the reference is made here
    actor = learner.actor
    with torch.no_grad():  # now let policy and σ differ from it
        learner.policy.parameters["b2"] += 0.3
        actor.log_std += 0.2
    before = learner.collection.returns.state()
    learner._receive(rollouts)
    collection = learner.collection.tensors
    for member in range(2):
        observations = rollouts.observations[member].double()
        actions = rollouts.actions[member].double()
        mean = learner.policy.mean(rollouts.observations.flatten(1, 2)).detach()
        mean = mean[member].view(2, 7, 2)[:, :-1]
        reference, first_std = actor.reference(rollouts.observations.flatten(1, 2))
        reference = reference[member].view(2, 7, 2)[:, :-1]
        std = actor.log_std[member].exp()
        now = torch.distributions.Normal(mean.double(), std.double())
        then = torch.distributions.Normal(
            reference.double(), first_std[member].view(2, 7, 2)[:, :-1].double()
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
    improve, updates = improving(learner)
    for update in range(updates):
        fresh = rollouts if update == 0 else None
        improve(RolloutBatch(torch.tensor(update), fresh))
        if update % 3 == 2:
            order = learner.collection.tensors["order"]
            assert torch.equal(order.sort(1).values, torch.arange(12).expand(2, -1))
    assert updates == 6


def test_the_policy_waits_for_the_value():
    learner, rollouts = toy({"value_only": 2})
    before = learner.policy.state() | {"log_std": learner.actor.log_std.detach().clone()}
    values = learner.value.state()
    improve, updates = improving(learner)
    for update in range(3 * updates):
        fresh = rollouts if update % updates == 0 else None
        if update == 2 * updates:
            now = learner.policy.state() | {"log_std": learner.actor.log_std.detach()}
            assert all(torch.equal(now[name], before[name]) for name in before)
            assert not torch.equal(learner.value.state()["w0"], values["w0"])
        improve(RolloutBatch(torch.tensor(update), fresh))
    assert not torch.equal(learner.policy.state()["w0"], before["w0"])
    assert not torch.equal(learner.actor.log_std, before["log_std"])


def test_the_penalty_waits_with_the_policy():
    learner, rollouts = toy({"value_only": 2}, surrogate={"objective": "penalty"})
    improve, updates = improving(learner)
    for update in range(4 * updates):
        fresh = rollouts if update % updates == 0 else None
        metrics = improve(RolloutBatch(torch.tensor(update), fresh))
        if update // updates < 3:
            assert (metrics["penalty"] == 1).all()
    assert (metrics["penalty"] != 1).all()


def test_the_first_ratio_is_one():
    learner, rollouts = toy()
    metrics = improving(learner)[0](RolloutBatch(torch.tensor(0), rollouts))
    assert metrics["kl_to_old"].abs().max() < 1e-6
    assert metrics["clip_fraction"].max() == 0
    assert metrics["policy_loss"].abs().max() < 1  # −mean of standardised advantages


def test_the_deviation_stays_within_its_limits():
    learner, rollouts = toy(std={"lowest": 0.299, "highest": 0.301, "initial": 0.3})
    improve, updates = improving(learner)
    for update in range(30):
        improve(RolloutBatch(torch.tensor(update), rollouts if update == 0 else None))
        learner.collection.update %= updates
    weights = learner.behaviour()
    std = weights.arrays["std"]
    assert weights.kind == "gaussian" and learner.weights().kind == "deterministic"
    assert std.shape == (2, 2)
    assert ((std > 0.2989) & (std < 0.3011)).all()
    assert not np.allclose(std, 0.3, atol=1e-5)


# --- Episodes of unequal lengths ---

LENGTHS = [[3, 5, 7], [7, 2, 4]]
TERMINATED = [[True, False, False], [False, True, False]]  # time ends the others


def unequal(padding=0.0):
    """Three episodes of each of two members; after the end of one comes `padding`."""
    rng = np.random.default_rng(1)
    own = [
        [
            Trajectory(
                seed=0,
                policy=0,
                observations=rng.normal(size=(length + 1, 3)).astype(np.float32),
                actions=rng.normal(size=(length, 2)).astype(np.float32),
                rewards=rng.normal(size=length),
                successes=np.zeros(length, bool),
                states=np.zeros((0, 0)),
                terminated=terminated,
            )
            for length, terminated in zip(lengths, ends, strict=True)
        ]
        for lengths, ends in zip(LENGTHS, TERMINATED, strict=True)
    ]
    episodes = stacked(own, CPU)
    alive, _ = happened(episodes)
    episodes.observations[:, :, 1:][~alive] = padding
    episodes.actions[~alive] = padding
    return episodes


def of_episodes(rewards, values, gamma, lam):
    """(advantages, values) of every step that happened, each episode for itself."""
    found = []
    for i, lengths in enumerate(LENGTHS):
        own = []
        for e, length in enumerate(lengths):
            paid, worth = rewards[i, e, :length], values[i, e, : length + 1].copy()
            if TERMINATED[i][e]:
                worth[length] = 0.0  # nothing follows
            for t in range(length):
                deltas = [paid[x] + gamma * worth[x + 1] - worth[x] for x in range(t, length)]
                advantage = sum((gamma * lam) ** x * delta for x, delta in enumerate(deltas))
                own.append((advantage, worth[t]))
        found.append(np.array(own))
    return found


def received(rounds=1, gamma=0.9, lam=0.8):
    """A collection of unequal episodes, and what was known when the last round came in."""
    config = CollectionConfig(transitions=12, epochs=2, minibatch=4)
    collection, episodes = Collection(config, member_keys([0, 1])), unequal()
    alive, _ = happened(episodes)
    draw = torch.Generator().manual_seed(2)
    for _ in range(rounds):
        rewards, raw = (torch.randn(2, 3, 7 + i, generator=draw) for i in range(2))
        rewards[~alive] = 1e3
        raw[:, :, 1:][~alive] = -1e3
        before = collection.returns.state()
        places = torch.arange(21).expand(2, -1)
        steps = {"place": places, "pair": torch.stack([places, -places], -1)}
        collection.receive(episodes, rewards, raw, (gamma, lam), steps, {"fact": rewards[0]})
    return collection, rewards.double().numpy(), raw.double().numpy(), before


@pytest.mark.parametrize("rounds", [1, 3])
def test_episodes_are_judged_each_for_itself_however_they_end(rounds):
    collection, rewards, raw, before = received(rounds)
    tensors, n = collection.tensors, 13  # the second member has no more
    places = [[*range(3), *range(7, 12), *range(14, 19)], [*range(9), *range(14, 18)]]
    assert tensors["place"].tolist() == places
    assert torch.equal(tensors["pair"][..., 0], -tensors["pair"][..., 1])
    centre, scale = (before[name].double().numpy()[:, None, None] for name in ("centre", "scale"))
    assert (scale == 1).all() == (rounds == 1)
    for i, judged in enumerate(of_episodes(rewards, centre + scale * raw, 0.9, 0.8)):
        advantages, values = judged[:n].T
        returns = advantages + values
        standard = (advantages - advantages.mean()) / advantages.std(ddof=1)
        np.testing.assert_allclose(tensors["advantages"][i], standard, rtol=1e-4, atol=1e-5)
        assert tensors["spread"][i].item() == pytest.approx(advantages.std(ddof=1), rel=1e-4)
        kept = 0.9 if rounds > 1 else 0.0
        mean = kept * centre[i].item() + (1 - kept) * returns.mean()
        spread = kept * scale[i].item() + (1 - kept) * returns.std(ddof=1)
        np.testing.assert_allclose(
            tensors["goals"][i], (returns - mean) / spread, rtol=1e-4, atol=1e-4
        )
        explained = 1 - advantages.var() / returns.var()
        assert tensors["explained_variance"][i].item() == pytest.approx(explained, rel=1e-3)
    assert tensors["transitions"].tolist() == [15 * rounds, 13 * rounds]
    assert torch.equal(tensors["fact"].double(), torch.tensor(rewards[0]))


def test_padding_is_never_visited():
    collection, *_ = received()
    alive = happened(unequal())[0].flatten(1)
    for _ in range(4):
        visited = []
        for _ in range(collection.config.updates_per_epoch):
            rows = collection.rows(torch.tensor(collection.update))
            places = collection.pick("place", rows)
            assert places.shape == (2, 4)
            assert alive.gather(1, places).all()
            assert torch.equal(collection.pick("pair", rows)[..., 0], places)
            visited.append(places)
            collection.update += 1
        for own in torch.cat(visited, 1):
            assert len(set(own.tolist())) == 12


@pytest.mark.parametrize("source", ["true", "learned"])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_what_comes_after_the_end_is_not_felt(source, estimator):
    results = []
    for padding in (0.0, 50.0):
        learner, _ = toy(reward={"source": source}, kl={"weight": 0.1, "estimator": estimator})
        improve, updates = improving(learner)
        for update in range(2 * updates):
            fresh = unequal(padding) if update % updates == 0 else None
            metrics = improve(RolloutBatch(torch.tensor(update), fresh))
        results.append(metrics | learner.state())
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_sums_are_an_episodes_and_the_divergence_a_steps():
    learner, _ = toy(reward={"source": "learned"})
    episodes = unequal()
    learner._receive(episodes)
    with torch.no_grad():
        learner.policy.parameters["b2"] += 0.3
    learner._receive(episodes)
    known = learner.collection.tensors
    for i, lengths in enumerate(LENGTHS):
        paid, true, apart = [], [], []
        for e, length in enumerate(lengths):
            seen = episodes.observations[:, e, :length]
            done = episodes.actions[:, e, :length].clamp(-1, 1)
            paid.append(learner.reward(seen, done)[i].sum().item())
            true.append(episodes.rewards[i, e, :length].sum().item())
            now, std = (x[i] for x in learner.actor.look(seen))
            then, first = (x[i] for x in learner.actor.reference(seen))
            kl = torch.distributions.kl_divergence(
                torch.distributions.Normal(now, std), torch.distributions.Normal(then, first)
            )
            apart += kl.sum(-1).tolist()
        assert known["learned_reward"][i].item() == pytest.approx(np.mean(paid), rel=1e-5)
        assert known["true_return"][i].item() == pytest.approx(np.mean(true), rel=1e-5)
        assert known["kl_to_reference"][i].item() == pytest.approx(np.mean(apart), rel=1e-4)
        assert sum(lengths) == len(apart)
    assert known["transitions"].tolist() == [30, 26]


# --- Settings ---


def test_what_a_collection_is_fed_with():
    learner, _ = toy(ptx_weight=0.0)
    assert learner.phases()[-1].feed == Rollouts(12, 6)
    learner, _ = toy(ptx_weight=0.5)
    assert learner.phases()[-1].feed == Rollouts(12, 6, Segments(32))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl": {"weight": -0.1}}, "kl.weight must be at least 0"),
        ({"kl": {"estimator": "k4"}}, "'kl.estimator' must be 'k1' or 'k2' or 'k3', not 'k4'"),
        (
            {"collection": {"minibatch": 5000}},
            "collection.minibatch must be between 1 and the 4096 transitions",
        ),
        ({"std": {"initial": 0.01}}, r"std.initial must be in \[lowest, highest\] = \[0.5, 1.5\]"),
        ({"surrogate": {"clip": 0.0}}, "surrogate.clip must be in"),
        (
            {"surrogate": {"objective": "reinforce", "clip": 0.1}},
            "surrogate.clip must be 0.2 where nothing is clipped, not 0.1",
        ),
        (
            {"surrogate": {"target_kl": 0.1}},
            "surrogate.target_kl must be 0.01 where no penalty aims at it, not 0.1",
        ),
        ({"gamma": 1.1}, "gamma must be in"),
        ({"collection": {"epochs": 0}}, "collection.epochs must be a whole number from 1"),
        ({"ptx_weight": -1.0}, "ptx_weight must be at least 0"),
        ({"actor": {"rate": 0.0}}, "actor.rate must be positive"),
        ({"value": {"optimiser": {"rate": -1.0}}}, "value.optimiser.rate must be positive"),
        ({"collection": {"value_only": -1}}, "value_only must be a whole number from 0"),
        (
            {"collection": {"value_only": 938}},
            "leave some of the 300,000 improving steps to the policy; 938 collections take 300,160",
        ),
        ({"std": {"lowest": 2.0}}, r"std.initial must be in \[lowest, highest\] = \[2.0, 1.5\]"),
        (
            {"reward": {"hidden": [], "imitation": 0.1}},
            "reward.imitation must be at least 0, and 0 without hidden layers",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(UserError, match=f"settings of ppo: .*{said}"):
        configured("ppo", "paper", settings)


def test_the_last_collection_may_be_the_policys():
    config = configured("ppo", "paper", {"collection": {"value_only": 937}})
    assert config.collection.value_only == 937
