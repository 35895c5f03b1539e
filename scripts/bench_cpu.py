"""How fast this CPU trains and rolls out, as multiples of the plain way of doing it.

    python scripts/bench_cpu.py                 # some four minutes, on an idle machine
    python scripts/bench_cpu.py --seconds 0.2   # does it run?

Run by hand. Plain is a loop as one writes it first, of the same mathematics and the paper's sizes:
nn.Linear, nn.ReLU, nn.Dropout, torch's Adam, float32, batches gathered by numpy, `.item()` for the
log at every step; one simulator at a time, asked by a torch module at every step. Contenders take
turns, so that a machine that slows down slows all of them; a figure is the median over rounds.

`cpl_* piql_* evaluation` are multiples of the plain loop's rate (more is faster), on one thread;
`floor_*` is the time of a CPL step's matrix products at the rate measured here, as a share of the
step; `two_members_*` is two members' time as a multiple of one's; `under_load` is what two threads
beside a busy process keep of their rate alone. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from unittest.mock import patch

from cpl_bench.cli.main import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as on the command line, before torch reads it

import numpy as np
import torch
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from torch import Tensor, nn
from torch.nn.functional import softplus

from cpl_bench.core.cards import load_task
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.algos import cpl, piql
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.methods import preset_of
from cpl_bench.learning.precision import Precision
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.preferences.format import Preferences
from cpl_bench.runs.memory import keep_freed_memory
from cpl_bench.runs.prepare import prepare
from cpl_bench.tasks import metaworld
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.pool import RolloutPool

OBSERVATION, ACTION, HIDDEN, LENGTH, SEGMENTS, DATA = 35, 4, 512, 64, 192, 2_500
DROPOUT, LIMIT = 0.25, 1 - 1e-5
TASK, EPISODES = "drawer-open", 20
CPU = torch.device("cpu")
CPL = replace(cpl.PAPER, clone=replace(cpl.PAPER.clone, steps=0))
PIQL = replace(piql.PAPER, reward=replace(piql.PAPER.reward, steps=1))

Take = Callable[[int], object]


@dataclass
class Contender:
    """Something that takes steps, and how long one takes, a number a round."""

    take: Take
    threads: int = 1
    taken: int = 0
    seconds: list[float] = field(default_factory=list)

    def race(self, seconds: float) -> None:
        """Take a round's turn: at least two steps."""
        torch.set_num_threads(self.threads)
        self.take(self.taken)  # warm up
        start, first = time.perf_counter(), self.taken + 1
        while (now := time.perf_counter() - start) < seconds or self.taken < first + 1:
            self.taken += 1
            self.take(self.taken)
        self.seconds.append(now / (self.taken - first + 1))

    @property
    def step(self) -> float:
        """Seconds, the median over rounds."""
        return statistics.median(self.seconds)


def race(contenders: dict[str, Contender], seconds: float, rounds: int) -> None:
    """Let the contenders take turns, in another order each round."""
    names = list(contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            contenders[name].race(seconds)
    for name, contender in contenders.items():
        print(f"  {name:<28}{contender.step * 1e3:9.1f} ms", flush=True)


# --- Training ---


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


def ours(
    data: Preferences,
    name: str,
    config: MethodConfig,
    members: int = 1,
    precision: Precision = "fp32",
    threads: int = 1,
) -> Contender:
    """The last phase of a method of ours."""
    trainee = prepare(name, config, data, range(members), CPU, None, None, "", precision)
    take = trainee.training[-1].take
    return Contender(lambda step: take(torch.tensor(step)), threads)


def perceptron(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Two hidden layers."""
    layers: list[nn.Module] = []
    for size in (inputs, HIDDEN):
        layers += [nn.Linear(size, HIDDEN), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))


class PlainBatches:
    """Batches of comparisons as a loop in numpy draws them."""

    def __init__(self, data: Preferences):
        steps = data.segment_starts[:, None] + np.arange(LENGTH)
        self.observations = data.observations[steps]
        self.actions = np.clip(data.actions[steps], -LIMIT, LIMIT)
        self.first, self.second = data.first, data.second
        self.answers = data.prefers_second
        self.draw = np.random.default_rng(1)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observations and actions of the first segments, then of the second; answers."""
        chosen = self.draw.integers(0, len(self.first), SEGMENTS // 2)
        segments = np.concatenate([self.first[chosen], self.second[chosen]])
        arrays = self.observations[segments], self.actions[segments], self.answers[chosen]
        looks, acts, answers = (torch.from_numpy(array) for array in arrays)
        return looks, acts, answers.float()


def plain_cpl(data: Preferences) -> Take:
    """CPL's second phase."""
    batches, config = PlainBatches(data), CPL
    policy = nn.Sequential(perceptron(OBSERVATION, ACTION, DROPOUT), nn.Tanh())
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


def plain_piql(data: Preferences) -> Take:
    """P-IQL after its reward is fitted, on all transitions of the segments."""
    batches, config = PlainBatches(data), PIQL
    policy = nn.Sequential(perceptron(OBSERVATION, ACTION, DROPOUT), nn.Tanh())
    value, reward = perceptron(OBSERVATION, 1), perceptron(OBSERVATION + ACTION, 1)
    critics, targets = (
        nn.ModuleList(perceptron(OBSERVATION + ACTION, 1) for _ in range(2)) for _ in range(2)
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


def products(dtype: torch.dtype) -> Take:
    """A CPL step's matrix products and nothing else."""
    rows = SEGMENTS * LENGTH
    sizes = [OBSERVATION, HIDDEN, HIDDEN, ACTION]
    layers = [
        tuple(torch.randn(shape).to(dtype) for shape in ((rows, i), (i, j), (rows, j)))
        for i, j in pairwise(sizes)
    ]
    buffers = [
        (torch.empty_like(g), torch.empty_like(w), torch.empty_like(x)) for x, w, g in layers
    ]

    def take(step: int) -> None:
        for number, ((x, w, g), (y, dw, dx)) in enumerate(zip(layers, buffers, strict=True)):
            torch.mm(x, w, out=y)
            torch.mm(x.T, g, out=dw)
            if number:  # nobody asks for the gradient of observations
                torch.mm(g, w.T, out=dx)

    return take


# --- Rollouts ---


def plain_evaluation() -> Take:
    """One of Meta-World's own class, asked by a torch module at every step; an episode a step."""
    card = load_task(TASK)
    with patch.object(metaworld, "quick", ALL_V3_ENVIRONMENTS.__getitem__):
        task = metaworld.MetaWorldTask(card.source_id, card.horizon_steps)
    policy = nn.Sequential(perceptron(OBSERVATION, ACTION), nn.Tanh())

    def take(step: int) -> None:
        observation, _ = task.reset(seed=step)
        over = False
        while not over:
            with torch.no_grad():
                action = policy(torch.from_numpy(observation)[None])[0].numpy()
            observation, _, ended, cut, _ = task.step(action)
            over = ended or cut

    return take


def our_evaluation(pool: RolloutPool) -> Take:
    """The pool's way, by one worker; EPISODES episodes a step."""
    policy = perceptron(OBSERVATION, ACTION)
    layers = [layer for layer in policy if isinstance(layer, nn.Linear)]
    arrays = {f"w{i}": layer.weight.detach().numpy().T for i, layer in enumerate(layers)}
    arrays |= {f"b{i}": layer.bias.detach().numpy() for i, layer in enumerate(layers)}
    weights, rules = PolicyWeights("deterministic", arrays), EpisodeRules(keep_steps=False)

    def take(step: int) -> None:
        seeds = range(step * EPISODES, (step + 1) * EPISODES)
        pool.episodes(load_task(TASK), seeds, [0] * EPISODES, [weights], rules)

    return take


@contextmanager
def busy() -> Iterator[None]:
    """A process that wants a core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Race, print, and print JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="a contender's turn")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    keep_freed_memory()
    data = preferences()

    print("CPL, paper size, one thread but for the last")
    training = {
        "plain": Contender(plain_cpl(data)),
        "ours, fp32": ours(data, "cpl", CPL),
        "ours, bf16": ours(data, "cpl", CPL, precision="bf16"),
        "products alone, fp32": Contender(products(torch.float32)),
        "products alone, bf16": Contender(products(torch.bfloat16)),
        "two members": ours(data, "cpl", CPL, members=2),
        "two members, two threads": ours(data, "cpl", CPL, members=2, threads=2),
    }
    race(training, asked.seconds, asked.rounds)
    print("P-IQL, paper size, one thread")
    learning = {
        "plain": Contender(plain_piql(data)),
        "ours, fp32": ours(data, "piql", PIQL),
        "ours, bf16": ours(data, "piql", PIQL, precision="bf16"),
    }
    race(learning, asked.seconds, asked.rounds)
    print(f"Evaluation on {TASK}: plain an episode, ours {EPISODES} of them by one worker")
    with RolloutPool(1) as pool:
        rolling = {
            "plain": Contender(plain_evaluation()),
            "ours": Contender(our_evaluation(pool)),
        }
        race(rolling, asked.seconds, asked.rounds)
    print("CPL, laptop preset, four members on two threads")
    laptop = preset_of("cpl", "laptop")
    alone = {"alone": ours(data, "cpl", laptop, members=4, threads=2)}
    race(alone, asked.seconds, asked.rounds)
    with busy():
        beside = {"beside a busy process": ours(data, "cpl", laptop, members=4, threads=2)}
        race(beside, asked.seconds, asked.rounds)

    step = {name: contender.step for name, contender in training.items()}
    figures = {
        "cpl_fp32": step["plain"] / step["ours, fp32"],
        "cpl_bf16": step["plain"] / step["ours, bf16"],
        "piql_fp32": learning["plain"].step / learning["ours, fp32"].step,
        "piql_bf16": learning["plain"].step / learning["ours, bf16"].step,
        "evaluation": EPISODES * rolling["plain"].step / rolling["ours"].step,
        "floor_fp32": step["products alone, fp32"] / step["ours, fp32"],
        "floor_bf16": step["products alone, bf16"] / step["ours, bf16"],
        "two_members_one_thread": step["two members"] / step["ours, fp32"],
        "two_members_two_threads": step["two members, two threads"] / step["ours, fp32"],
        "under_load": alone["alone"].step / beside["beside a busy process"].step,
    }
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
