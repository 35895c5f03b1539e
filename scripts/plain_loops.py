"""Training loops as one writes them first, for benchmarks to compare with: of the same mathematics.

nn.Linear, nn.ReLU, nn.Dropout, torch's Adam, float32, batches gathered by numpy, `.item()` for the
log at every step; the paper's sizes, on random data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cpl_bench.learning.algos import cpl, piql
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.format import Preferences

OBSERVATION, ACTION, HIDDEN, LENGTH, SEGMENTS, DATA = 35, 4, 512, 64, 192, 2_500
DROPOUT, LIMIT = 0.25, 1 - 1e-5
CPU = torch.device("cpu")
CPL = replace(cpl.PAPER, clone=replace(cpl.PAPER.clone, steps=0))
PIQL = replace(piql.PAPER, reward=replace(piql.PAPER.reward, steps=1))

Take = Callable[[int], object]


def preferences() -> Preferences:
    """Random segments of the size of Meta-World's, with as many comparisons."""
    draw = np.random.default_rng(0)
    return preferences_from_arrays(
        draw.normal(size=(DATA, LENGTH, OBSERVATION)).astype(np.float32),
        draw.uniform(-1, 1, (DATA, LENGTH, ACTION)).astype(np.float32),
        draw.integers(0, DATA, DATA),
        (draw.integers(1, DATA, DATA) + np.arange(DATA)) % DATA,
        draw.integers(0, 2, DATA).astype(np.float32),
    )


def perceptron(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Two hidden layers."""
    layers: list[nn.Module] = []
    for size in (inputs, HIDDEN):
        layers += [nn.Linear(size, HIDDEN), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))


class PlainBatches:
    """Batches of comparisons as a loop in numpy draws them."""

    def __init__(self, data: Preferences, device: torch.device):
        steps = data.segment_starts[:, None] + np.arange(LENGTH)
        self.observations = data.observations[steps]
        self.actions = np.clip(data.actions[steps], -LIMIT, LIMIT)
        self.first, self.second = data.first, data.second
        self.answers = data.prefers_second
        self.draw, self.device = np.random.default_rng(1), device

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observations and actions of the first segments, then of the second; answers."""
        chosen = self.draw.integers(0, len(self.first), SEGMENTS // 2)
        segments = np.concatenate([self.first[chosen], self.second[chosen]])
        arrays = self.observations[segments], self.actions[segments], self.answers[chosen]
        looks, acts, answers = (torch.from_numpy(array).to(self.device) for array in arrays)
        return looks, acts, answers.float()


def plain_cpl(data: Preferences, device: torch.device = CPU) -> Take:
    """CPL's second phase."""
    batches, config = PlainBatches(data, device), CPL
    policy = nn.Sequential(perceptron(OBSERVATION, ACTION, DROPOUT), nn.Tanh()).to(device)
    adam = torch.optim.Adam(policy.parameters(), config.contrast.rate)

    def take(step: int) -> float:
        looks, acts, answers = batches()
        log_probs = -(policy(looks) - acts).square().sum(-1)
        first, second = (config.alpha * log_probs.sum(-1)).chunk(2)
        losses = answers * softplus(config.lam * first - second)
        losses = losses + (1 - answers) * softplus(config.lam * second - first)
        loss = losses.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return take


def plain_piql(data: Preferences, device: torch.device = CPU) -> Take:
    """P-IQL after its reward is fitted, on all transitions of the segments."""
    batches, config = PlainBatches(data, device), PIQL
    policy = nn.Sequential(perceptron(OBSERVATION, ACTION, DROPOUT), nn.Tanh()).to(device)
    value = perceptron(OBSERVATION, 1).to(device)
    reward = perceptron(OBSERVATION + ACTION, 1).to(device)
    critics, targets = (
        nn.ModuleList(perceptron(OBSERVATION + ACTION, 1) for _ in range(2)).to(device)
        for _ in range(2)
    )
    adams = [torch.optim.Adam(net.parameters(), 3e-4) for net in (policy, value, critics)]

    def follow(loss: Tensor, adam: torch.optim.Optimizer) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    def take(step: int) -> float:
        looks, acts, _ = batches()
        now, then, acts = looks[:, :-1], looks[:, 1:], acts[:, :-1]
        pairs = torch.cat([now, acts], -1)
        found = value(now)
        with torch.no_grad():
            judged = torch.minimum(*(target(pairs) for target in targets))
            goal = reward(pairs) + config.gamma * value(then)
        error = judged - found
        weight = torch.where(error < 0, 1 - config.expectile, config.expectile)
        value_loss = (weight * error.square()).mean()
        follow(value_loss, adams[1])
        critic_loss = torch.stack([(net(pairs) - goal).square().mean() for net in critics]).sum()
        follow(critic_loss, adams[2])
        with torch.no_grad():
            for old, new in zip(targets.parameters(), critics.parameters(), strict=True):
                old.lerp_(new, config.polyak)
        weight = (error.detach() / config.temperature).exp().clamp(max=config.largest_weight)
        distance = (policy(now) - acts).square().sum(-1, keepdim=True)
        policy_loss = (weight * distance).mean()
        follow(policy_loss, adams[0])
        return value_loss.item() + critic_loss.item() + policy_loss.item()

    return take
