"""Members do not meet in networks and optimisers, and states come back as they were packed."""

import math

import numpy as np
import pytest
import torch

from cpl_bench.core.errors import UserError
from cpl_bench.learning.config import COUNT, Optimiser, PolicyConfig, Stage, refuse
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.perceptrons import MLP, prefixed
from cpl_bench.learning.state import pack, unpack

CPU = torch.device("cpu")
SEEDS = [3, 4, 5]
SIZES = [6, 16, 8, 2]


def members_input(members=3, rows=10):
    """The same rows for every member, (s, n, i)."""
    rows = torch.randn(rows, SIZES[0], generator=torch.Generator().manual_seed(0))
    return rows.expand(members, -1, -1)


def moves(adam, parameter, gradients):
    """How far a one-number parameter moves at each step with these gradients."""
    found = []
    for gradient in gradients:
        before = parameter.item()
        adam.step((parameter * gradient).sum())
        found.append(before - parameter.item())
    return found


# --- The optimiser ---


def test_the_rate_falls_along_a_cosine_and_stays_at_nothing():
    weight = torch.zeros(1, 1, requires_grad=True)
    adam = WarmAdam({"w": weight}, Optimiser(0.1, cosine=True), steps=4)
    expected = [0.1 * (0.5 + 0.5 * math.cos(math.pi * t / 4)) for t in range(4)]
    found = moves(adam, weight, [3.0] * 7)  # a constant gradient: Adam moves by its rate
    assert found == pytest.approx([*expected, 0, 0, 0], rel=1e-4, abs=1e-8)


def test_warm_up_and_cosine_multiply():
    weight = torch.zeros(1, 1, requires_grad=True)
    adam = WarmAdam({"w": weight}, Optimiser(0.1, warmup_steps=2, cosine=True), steps=4)
    falls = [0.5 + 0.5 * math.cos(math.pi * t / 4) for t in range(4)]
    expected = [0.1 * share * fall for share, fall in zip([0.5, 1, 1, 1], falls, strict=True)]
    assert moves(adam, weight, [3.0] * 4) == pytest.approx(expected, rel=1e-4)


def gradients_of(network):
    return {name: value.grad.clone() for name, value in network.parameters.items()}


def norms_of(gradients):
    """The norm over all parameters, by member."""
    flat = np.concatenate([g.flatten(1).double().numpy() for g in gradients.values()], axis=1)
    return np.linalg.norm(flat, axis=1)


def steps_with(scales, largest):
    """A network's gradients after a step whose loss is scaled by `scales` (s,)."""
    network = MLP(SIZES, SEEDS, CPU, network=0)
    adam = WarmAdam(network.parameters, Optimiser(1e-3, largest_gradient=largest))
    loss = network(members_input()).square().mean((1, 2)) * torch.tensor(scales)  # (s,)
    adam.step(loss.sum())
    return gradients_of(network)


def test_one_members_large_gradient_shortens_no_others():
    scales = [1.0, 1e4, 1e-3]
    free, bounded = steps_with(scales, 0.0), steps_with(scales, 0.5)
    lengths = norms_of(free)
    assert lengths[1] > 0.5 > lengths[2]
    expected = np.minimum(lengths, 0.5)
    np.testing.assert_allclose(norms_of(bounded), expected, rtol=1e-4)
    for name in free:
        for i in range(len(SEEDS)):  # shortened, never turned
            share = torch.tensor(expected[i] / lengths[i], dtype=torch.float32)
            torch.testing.assert_close(bounded[name][i], free[name][i] * share, rtol=1e-4, atol=0)
        assert torch.equal(bounded[name][2], free[name][2]), "a short one is left as it is"


def test_the_other_members_scale_is_not_felt():
    calm, wild = steps_with([1.0, 1.0, 1.0], 0.5), steps_with([1.0, 1e6, 1.0], 0.5)
    for name in calm:
        assert torch.equal(calm[name][[0, 2]], wild[name][[0, 2]])


# --- Perceptrons side by side ---


def test_a_perceptron_equals_numpy():
    network = MLP(SIZES, SEEDS, CPU, network=0)
    x = members_input()
    found = network(x).detach().numpy()
    for i in range(len(SEEDS)):
        own = {name: value[i].detach().numpy() for name, value in network.parameters.items()}
        hidden = np.maximum(x[i].numpy() @ own["w0"] + own["b0"], 0)
        hidden = np.maximum(hidden @ own["w1"] + own["b1"], 0)
        expected = hidden @ own["w2"] + own["b2"]
        np.testing.assert_allclose(found[i], expected, atol=1e-5)
        assert expected.min() < 0, "nothing bends the output"


def trained(seeds, network=0, steps=5):
    """A network after a few steps on targets that depend on the member's seed."""
    learner = MLP(SIZES, seeds, CPU, network)
    adam = WarmAdam(learner.parameters, Optimiser(1e-2, largest_gradient=0.3))
    target = torch.tensor(seeds, dtype=torch.float32).view(-1, 1, 1)
    for _ in range(steps):
        adam.step((learner(members_input(len(seeds))) - target).square().mean((1, 2)).sum())
    return learner


def test_a_member_learns_the_same_alone_and_among_others():
    together = trained(SEEDS).state()
    for i, seed in enumerate(SEEDS):
        for name, value in trained([seed]).state().items():
            torch.testing.assert_close(value[0], together[name][i], rtol=1e-5, atol=1e-6)


def test_one_members_loss_has_no_gradient_in_another():
    network = MLP(SIZES, SEEDS, CPU, network=0)
    network(members_input())[1].sum().backward()
    for value in network.parameters.values():
        assert not value.grad[[0, 2]].any()
        assert value.grad[1].any()


def test_members_and_networks_begin_with_weights_of_their_own():
    first, again, second = (MLP(SIZES, SEEDS, CPU, network=n).parameters for n in (0, 0, 1))
    seen = [each["w0"][i] for each in (first, second) for i in range(len(SEEDS))]
    for i, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:i])
    assert all(torch.equal(first[name], again[name]) for name in first)
    policy = Policy(SIZES[0], SIZES[-1], PolicyConfig(tuple(SIZES[1:-1]), 0.0), SEEDS, CPU)
    assert torch.equal(policy.parameters["w0"], first["w0"]), "network 0 begins as a policy does"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_follower_moves_by_its_share(share):
    leader, follower = MLP(SIZES, SEEDS, CPU, network=0), MLP(SIZES, SEEDS, CPU, network=1)
    ahead, before = leader.state(), follower.state()
    follower.follow(leader, share)
    for name, value in follower.state().items():
        expected = (1 - share) * before[name] + share * ahead[name]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    if share == 1.0:
        assert all(torch.equal(follower.state()[name], ahead[name]) for name in ahead)
    assert all(torch.equal(leader.state()[name], ahead[name]) for name in ahead)
    assert all(value.requires_grad for value in follower.parameters.values())


# --- States ---


def two_networks():
    """(parts, the optimiser's parameters) of a method with two networks under one optimiser."""
    networks = {name: MLP(SIZES, SEEDS, CPU, n) for n, name in enumerate(("value", "critic"))}
    return {
        **networks,
        "adam": WarmAdam(prefixed(networks), Optimiser(1e-2, cosine=True), steps=20),
    }


def steps_of(parts, count):
    for _ in range(count):
        output = parts["value"](members_input()) - parts["critic"](members_input())
        parts["adam"].step(output.square().mean((1, 2)).sum())


def test_prefixed_names_each_networks_parameters():
    parts = two_networks()
    names = parts["adam"].parameters
    assert set(names) == {
        f"{n}.{k}{i}" for n in ("value", "critic") for k in "wb" for i in range(3)
    }
    assert names["critic.w1"] is parts["critic"].parameters["w1"]


@pytest.mark.parametrize("taken", [0, 3])
def test_an_unpacked_state_goes_on_as_the_packed_one_would(taken):
    parts, other = two_networks(), two_networks()
    steps_of(parts, taken)
    steps_of(other, 7)  # must leave no trace
    kept = pack(parts)
    unpack(other, kept)
    assert pack(other).keys() == kept.keys()
    for name, value in pack(other).items():
        assert torch.equal(value, kept[name]), name
    steps_of(parts, 4)
    steps_of(other, 4)
    for name, value in pack(parts).items():
        assert torch.equal(value, pack(other)[name]), name
    assert not torch.equal(pack(parts)["value/w0"], kept["value/w0"]), "a state is a copy"


def test_names_that_begin_alike_are_told_apart():
    parts, fresh = (
        {name: MLP(SIZES, [seed], CPU, 0) for name, seed in zip(("q", "q1"), seeds, strict=True)}
        for seeds in ((0, 1), (8, 9))
    )
    unpack(fresh, pack(parts))
    for name, network in fresh.items():
        assert torch.equal(network.parameters["w0"], parts[name].parameters["w0"])


# --- Settings ---


def test_refuse_names_the_setting_what_it_may_be_and_what_it_is():
    class Config:
        weight_of_all = -1.0

    wanted = {"weight_of_all": ("at least 0", lambda value: value >= 0)}
    with pytest.raises(UserError, match=r"weight_of_all must be at least 0, not -1\.0"):
        refuse(Config(), wanted)
    Config.weight_of_all = 0.0
    refuse(Config(), wanted)


@pytest.mark.parametrize("count", [0, -1, 1.0, 1.5, True, "3", float("nan")])
def test_a_count_is_a_whole_number_from_one(count):
    class Config:
        steps = count

    with pytest.raises(
        UserError, match="steps must be a whole number from 1 to 1,000,000,000, not "
    ):
        refuse(Config(), {"steps": COUNT})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PolicyConfig(dropout=0.999), r"dropout must be in \[0, 0\.998\], not 0\.999"),
        (lambda: PolicyConfig(dropout=1.0), r"dropout must be in \[0, 0\.998\]"),
        (lambda: PolicyConfig(dropout=-0.1), r"dropout must be in \[0, 0\.998\]"),
        (lambda: PolicyConfig(dropout=float("nan")), r"dropout must be in \[0, 0\.998\]"),
        (lambda: PolicyConfig(dropout=float("inf")), r"dropout must be in \[0, 0\.998\]"),
        (
            lambda: PolicyConfig(hidden=("a",)),
            r"hidden must be at most 100 whole widths from 1 to 8,192, not \('a',\)",
        ),
        (
            lambda: PolicyConfig(hidden=(8, 0)),
            "hidden must be at most 100 whole widths from 1 to 8,192",
        ),
        (lambda: Optimiser(rate=0), "rate must be positive, not 0"),
        (lambda: Optimiser(rate=-1e-3), "rate must be positive"),
        (lambda: Optimiser(rate=float("inf")), "rate must be positive"),
        (lambda: Optimiser(rate=float("nan")), "rate must be positive"),
        (lambda: Optimiser(warmup_steps=-1), "warmup_steps must be a whole number from 0"),
        (lambda: Optimiser(largest_gradient=-0.5), "largest_gradient must be at least 0"),
        (lambda: Stage(-1), "steps must be a whole number from 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_the_largest_dropout_leaves_something():
    policy = Policy(3, 1, PolicyConfig((50,), 0.998), [0], CPU)
    assert policy.dropped_of_256 == 255
    dropped, scale = policy._dropped(torch.ones(1, 4000, 50), torch.tensor(0), 0)
    assert (~dropped).float().mean().item() * scale == pytest.approx(1, abs=0.05)
