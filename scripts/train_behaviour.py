"""Train a behaviour policy with Stable-Baselines3; export what it was on the way, as arrays.

    pip install -e '.[behaviour]'
    python scripts/train_behaviour.py hopper --out datasets/hopper-ppo.safetensors
    python scripts/train_behaviour.py hopper --steps 4096 --out try.safetensors    # does it run?

PPO (Schulman et al., arXiv 1707.06347) on a task card's own environment, on one thread; minutes to
an hour. Its policy is a perceptron with ReLU layers and a tanh at the end, which is what workers
play: the normalisation of observations is folded into the first layer. A dataset card then names
the file, `[behaviour] checkpoints`, and chooses by `levels` which of its policies an episode draws.

The file is kept in git beside the card, for training is not repeated bit for bit elsewhere; what is
collected from it is.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from cpl_bench.core.cards import load_task
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import make_env
from cpl_bench.trajectories.checkpoints import Checkpoints, write_checkpoints
from cpl_bench.trajectories.dataset import scores_of

ENVIRONMENTS = 8
SETTINGS = {
    "n_steps": 512,
    "batch_size": 256,
    "n_epochs": 5,
    "learning_rate": 5e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
HIDDEN = (64, 64)


class SquashedPolicy(ActorCriticPolicy):
    """Stable-Baselines3's perceptrons, with a tanh around the mean action."""

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = torch.nn.Sequential(self.action_net, torch.nn.Tanh())


def exported(model: PPO) -> PolicyWeights:
    """The deterministic policy as it is now, of observations as the task gives them."""
    normalise = model.get_vec_normalize_env()
    mean = normalise.obs_rms.mean
    spread = np.sqrt(normalise.obs_rms.var + normalise.epsilon)
    layers = [*model.policy.mlp_extractor.policy_net, *model.policy.action_net]
    linear = [each for each in layers if isinstance(each, torch.nn.Linear)]
    arrays = {}
    for i, layer in enumerate(linear):
        weights = layer.weight.detach().double().numpy().T  # (inputs, outputs)
        biases = layer.bias.detach().double().numpy()
        if i == 0:
            weights, biases = weights / spread[:, None], biases - (mean / spread) @ weights
        arrays[f"w{i}"], arrays[f"b{i}"] = weights.astype(np.float32), biases.astype(np.float32)
    return PolicyWeights("deterministic", arrays)


class Keep(BaseCallback):
    """Export the policy every so many steps, the untrained one first."""

    def __init__(self, every: int):
        super().__init__()
        self.every, self.steps, self.policies = every, [], []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.every * len(self.steps):
            self._keep()

    def _on_training_end(self) -> None:
        self._keep()

    def _on_step(self) -> bool:
        return True

    def _keep(self) -> None:
        self.steps.append(self.num_timesteps)
        self.policies.append(exported(self.model))


def trained(task: str, steps: int, keep_every: int, seed: int) -> tuple[PPO, Keep]:
    """The model at the end, and what was kept of it on the way."""
    torch.set_num_threads(1)
    environments = DummyVecEnv([lambda: make_env(task)] * ENVIRONMENTS)
    model = PPO(
        SquashedPolicy,
        VecNormalize(environments, clip_obs=np.inf, gamma=SETTINGS["gamma"]),
        policy_kwargs={"net_arch": list(HIDDEN), "activation_fn": torch.nn.ReLU},
        seed=seed,
        device="cpu",
        **SETTINGS,
    )
    keep = Keep(keep_every)
    return model.learn(steps, callback=keep), keep


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("task", help="a task card")
    parser.add_argument("--out", type=Path, required=True, help="the file to be written")
    parser.add_argument("--steps", type=int, default=400_000, help="of the environment")
    parser.add_argument("--keep-every", type=int, default=20_000, help="steps between checkpoints")
    parser.add_argument("--episodes", type=int, default=20, help="that measure a checkpoint")
    parser.add_argument("--action-noise", type=float, default=0.1, help="while measuring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None)
    chosen = parser.parse_args()
    card = load_task(chosen.task)
    _, keep = trained(chosen.task, chosen.steps, chosen.keep_every, chosen.seed)
    seeds, score = episode_seeds("clone probe", chosen.episodes, chosen.seed), []
    rules = EpisodeRules(action_noise=chosen.action_noise, keep_steps=False)
    with RolloutPool(chosen.workers) as pool:
        for step, policy in zip(keep.steps, keep.policies, strict=True):
            episodes = pool.episodes(card, seeds, [0] * len(seeds), [policy], rules)
            score.append(float(np.mean(scores_of(card, episodes))))
            shown = f"{card.scoring.shown(score[-1])}{card.scoring.unit}"
            say(f"step {step}: {card.scoring.name} {shown}")
    about = {
        "task": list(card.simulated),
        "algorithm": {"name": "PPO", "hidden": HIDDEN, "environments": ENVIRONMENTS, **SETTINGS},
        "seed": chosen.seed,
        "action_noise": chosen.action_noise,
        "episodes": chosen.episodes,
        "versions": installed(card)
        | {name: version(name) for name in ("stable-baselines3", "torch", "numpy")},
    }
    write_checkpoints(chosen.out, Checkpoints(keep.policies, keep.steps, score), about)
    say(f"{len(score)} policies → {chosen.out}")


if __name__ == "__main__":
    main()
