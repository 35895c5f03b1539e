"""How fast PPO collects and learns: ours against stable-baselines3's, on one task.

    pip install stable-baselines3
    python scripts/bench_ppo.py                              # some minutes, on an idle machine
    python scripts/bench_ppo.py --rounds 1 --collections 1   # does it run?

Run by hand. Both play the same task with the true reward and two worker processes, with policy and
value networks of the same sizes, collections of 4,250 transitions (17 episodes), minibatches of 128
and ten epochs. The contenders take turns, in another order each round, so that a machine that slows
down slows all of them; each is warmed up by a collection that doesn't count. A figure is
transitions per second of collecting and updating together, the median over rounds; with four
members it counts the transitions of all four. The last line of stdout is JSON.

Not alike: ours plays whole episodes in worker processes that hold the policy and drops the 26
transitions that fill no minibatch; stable-baselines3 asks the policy in the parent at every step
of both environments at once and updates on a last, short minibatch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from cpl_bench import make_env
from cpl_bench.core.cards import load_task
from cpl_bench.core.seeds import training_seeds
from cpl_bench.learning.actor import KLConfig
from cpl_bench.learning.algos.ppo import LAPTOP, PPO, PPOConfig
from cpl_bench.learning.collection import CollectionConfig
from cpl_bench.learning.config import Optimiser, PolicyConfig, Stage, ValueConfig
from cpl_bench.learning.interface import Metrics, OnlinePhase, RolloutBatch
from cpl_bench.runs.feeds import Source, stretches
from cpl_bench.tasks.pool import RolloutPool

HIDDEN = (256, 256)
TRANSITIONS = 4250
MINIBATCH = 128
EPOCHS = 10
INITIAL_STD = 0.5
ADAM = Optimiser(3e-4, largest_gradient=0.5)
NAMES = ("ours", "ours_four_members", "sb3")


@dataclass
class Contender:
    """One implementation under way."""

    collect_and_update: Callable[[], float]
    """One collection and its updates; returns the seconds that the updates took."""
    transitions: int
    """Of a collection, all members together."""
    rates: list[float] = field(default_factory=list)
    """Transitions per second, one a round."""
    update_shares: list[float] = field(default_factory=list)
    """Of the time, one a round."""

    def race(self, collections: int) -> None:
        """Take a round's turn."""
        start = time.perf_counter()
        updating = sum(self.collect_and_update() for _ in range(collections))
        seconds = time.perf_counter() - start
        self.rates.append(collections * self.transitions / seconds)
        self.update_shares.append(updating / seconds)


@contextmanager
def our_ppo(task_name: str, members: int, workers: int) -> Iterator[Contender]:
    """Our preference-PPO with the true reward and without a KL penalty: PPO."""
    device, task = torch.device("cpu"), load_task(task_name)
    with RolloutPool(workers) as pool:
        config = our_config()
        seeds = training_seeds(range(members))
        learner = PPO(config, *sizes_of(task_name), seeds, device)
        improve, updating = learner.phases()[-1], 0.0
        assert isinstance(improve, OnlinePhase)

        def timed(batch: RolloutBatch) -> Metrics:
            nonlocal updating
            start = time.perf_counter()
            metrics = improve.update(batch)
            updating += time.perf_counter() - start
            return metrics

        source = Source(None, task, pool, range(members), seeds, device)  # the true reward is paid
        (training,) = stretches(source, [improve._replace(update=timed)], learner)
        steps = iter(range(config.steps))

        def collect_and_update() -> float:
            before = updating
            for _ in range(config.collection.updates):
                training.take(torch.tensor(next(steps)))
            return updating - before

        yield Contender(collect_and_update, members * TRANSITIONS)


def our_config() -> PPOConfig:
    return replace(
        LAPTOP,
        reward=replace(LAPTOP.reward, source="true"),
        kl=KLConfig(weight=0.0),
        std=replace(LAPTOP.std, initial=INITIAL_STD),
        collection=CollectionConfig(TRANSITIONS, EPOCHS, MINIBATCH),
        gamma=0.99,
        policy=PolicyConfig(HIDDEN),
        clone=Stage(0),
        actor=ADAM,
        value=ValueConfig(HIDDEN, ADAM),
        steps=10**9,  # more than anybody waits for
    )


def sizes_of(task_name: str) -> tuple[int, int]:
    """Of observations and actions."""
    environment = make_env(task_name)
    shapes = environment.observation_space.shape, environment.action_space.shape
    environment.close()
    assert shapes[0] and shapes[1]
    return shapes[0][0], shapes[1][0]


@contextmanager
def sb3_ppo(task_name: str, workers: int) -> Iterator[Contender]:
    """stable-baselines3's PPO with the same settings."""
    import stable_baselines3
    from stable_baselines3.common.vec_env import SubprocVecEnv

    class TimedPPO(stable_baselines3.PPO):
        updating = 0.0

        def train(self) -> None:
            start = time.perf_counter()
            super().train()
            self.updating += time.perf_counter() - start

    warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
    environments = SubprocVecEnv([partial(make_env, task_name) for _ in range(workers)])
    try:
        config = our_config()
        learner = TimedPPO(
            "MlpPolicy",
            environments,
            learning_rate=config.actor.rate,
            n_steps=TRANSITIONS // workers,
            batch_size=MINIBATCH,
            n_epochs=EPOCHS,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.surrogate.clip,
            max_grad_norm=config.actor.largest_gradient,
            policy_kwargs={
                "net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)},
                "activation_fn": torch.nn.ReLU,
                "log_std_init": torch.tensor(INITIAL_STD).log().item(),
            },
            seed=0,
            device="cpu",
        )
        transitions = TRANSITIONS // workers * workers

        def collect_and_update() -> float:
            before = learner.updating
            learner.learn(transitions, reset_num_timesteps=False)
            return learner.updating - before

        yield Contender(collect_and_update, transitions)
    finally:
        environments.close()


def main() -> None:
    """Race the three, then print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", default="drawer-open", help="a task card")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--collections", type=int, default=3, help="a round and contender")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's")
    options = parser.parse_args()
    if min(options.rounds, options.collections, options.workers, options.threads) < 1:
        parser.error("rounds, collections, workers and threads must be at least 1")
    try:
        from stable_baselines3 import __version__ as sb3_version
    except ImportError:
        sys.exit("This compares with stable-baselines3. Install it: pip install stable-baselines3")
    torch.set_num_threads(options.threads)
    task = load_task(options.task)
    if TRANSITIONS % task.horizon_steps:
        parser.error(f"{TRANSITIONS} transitions must be whole episodes of {task.horizon_steps}")

    with ExitStack() as stack:
        contenders = {
            "ours": stack.enter_context(our_ppo(options.task, 1, options.workers)),
            "ours_four_members": stack.enter_context(our_ppo(options.task, 4, options.workers)),
            "sb3": stack.enter_context(sb3_ppo(options.task, options.workers)),
        }
        for contender in contenders.values():  # imports, simulators, memory
            contender.collect_and_update()
        for turn in range(options.rounds):
            for place in range(len(NAMES)):
                name = NAMES[(turn + place) % len(NAMES)]
                contenders[name].race(options.collections)
                rate, share = contenders[name].rates[-1], contenders[name].update_shares[-1]
                print(
                    f"round {turn + 1}/{options.rounds}  {name:<18} {rate:8.0f} transitions/s, "
                    f"{share:.0%} of the time updating",
                    file=sys.stderr,
                    flush=True,
                )

    medians = {name: statistics.median(contenders[name].rates) for name in NAMES}
    for name in NAMES:
        rates = contenders[name].rates
        print(f"{name:<18} {medians[name]:8.0f} transitions/s  ({min(rates):.0f}–{max(rates):.0f})")
    result: dict[str, Any] = {name: round(rate, 1) for name, rate in medians.items()}
    result["ratio"] = round(medians["ours"] / medians["sb3"], 3)
    result["ratio_four_members"] = round(medians["ours_four_members"] / medians["sb3"], 3)
    result["update_share"] = {
        name: round(statistics.median(contenders[name].update_shares), 3) for name in NAMES
    }
    result["settings"] = {
        **vars(options),
        "hidden": HIDDEN,
        "transitions_per_collection": TRANSITIONS,
        "minibatch": MINIBATCH,
        "epochs": EPOCHS,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stable_baselines3": sb3_version,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
