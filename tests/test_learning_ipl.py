"""IPL: the critic's implied reward, against arithmetic written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learning_algos import build, draw_for

from cpl_bench.core.errors import UserError
from cpl_bench.learning.methods import configured
from cpl_bench.tasks.policies import mlp_action

SETTINGS = {"policy": {"dropout": 0.0}, "gamma": 0.9, "regularisation": 0.3}


def judged(network, inputs, scale=10.0):
    """A network's output in float64, before an update moves it."""
    x = inputs.double()
    for i in range(3):
        weight, bias = (network.parameters[f"{name}{i}"][0].double() for name in "wb")
        x = x @ weight + bias
        x = x.relu() if i < 2 else x
    return (scale * x.squeeze(-1)).detach().numpy()


@pytest.mark.parametrize("ends", [False, True])
def test_the_first_losses_of_ipl_by_hand(ends):
    learner, batch = build("ipl", [0], **SETTINGS), draw_for([0])(0)
    judges = learner.critics
    with torch.no_grad():  # outputs begin near zero
        for network in judges.networks.values():
            network.parameters["w2"].mul_(100)
    if ends:  # two segments end their task with their last step
        terminated = torch.zeros(batch.actions.shape[:3], dtype=torch.bool)
        terminated[0, [1, 4], -1] = True
        batch = replace(batch, terminated=terminated)
    observations, actions = batch.observations[0], batch.actions[0]
    pairs = torch.cat([observations, actions], -1)
    value = judged(judges.value, observations)  # (m, k)
    targets = np.minimum(*(judged(each, pairs) for each in judges.targets.values()))
    critics = [judged(each, pairs) for each in judges.critics.values()]
    metrics = learner.phases()[0].update(batch)
    after = judged(judges.value, observations)  # the critics see the value once it has moved

    m, k = value.shape
    counted = [(i, t) for i in range(m) for t in range(k) if t < k - 1 or (ends and i in (1, 4))]
    apart = [targets[place] - value[place] for place in counted]
    weights = [0.7 if x > 0 else 0.3 for x in apart]
    assert metrics["value_loss"].item() == pytest.approx(
        np.mean([w * x * x for w, x in zip(weights, apart, strict=True)]), rel=1e-4
    )
    told, squares, both = 0.0, 0.0, np.zeros(m)
    for q in critics:
        implied = {
            (i, t): q[i, t] - (0.9 * after[i, t + 1] if t < k - 1 else 0.0) for i, t in counted
        }
        sums = [sum(r for (i, _), r in implied.items() if i == segment) for segment in range(m)]
        both += sums
        rows = zip(batch.first[0], batch.second[0], batch.prefers_second[0].tolist(), strict=True)
        told += np.mean(
            [
                y * np.logaddexp(0, sums[i] - sums[j])
                + (1 - y) * np.logaddexp(0, sums[j] - sums[i])
                for i, j, y in rows
            ]
        )
        squares += np.mean(np.square(list(implied.values())))
    assert metrics["preference_loss"].item() == pytest.approx(told / 2, rel=1e-4)
    assert metrics["implied_square"].item() == pytest.approx(squares / 2, rel=1e-4)
    weight = [min(np.exp(x / 0.5), 100) for x in apart]
    arrays = build("ipl", [0], **SETTINGS).weights().members()[0].arrays
    means = mlp_action({k: v.astype(np.float64) for k, v in arrays.items()}, observations.numpy())
    log_probs = -((means - actions.numpy()) ** 2).sum(-1)
    expected = -np.mean([w * log_probs[p] for w, p in zip(weight, counted, strict=True)])
    assert metrics["policy_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert metrics["weight"].item() == pytest.approx(np.mean(weight), rel=1e-4)


def test_the_critics_learn_to_explain_the_answers_and_the_regulariser_holds_them():
    """Of one batch again and again: by its labels alone the implied reward would grow on."""
    squares = []
    for weight in (0.01, 1.0):
        learner = build("ipl", [0], **SETTINGS | {"regularisation": weight}, steps=150)
        batch, (phase,) = draw_for([0])(0), learner.phases()
        for _ in range(150):
            metrics = phase.update(batch)
        squares.append(metrics["implied_square"].item())
        assert weight == 1.0 or metrics["accuracy"].item() > 0.9
    assert squares[0] > 3 * squares[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"regularisation": -1}, "regularisation must be at least 0"),
        ({"gamma": 1.0}, "gamma must be in"),
        ({"expectile": 0}, "expectile must be in"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        configured("ipl", "laptop", settings)
