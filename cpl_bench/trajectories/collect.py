"""The verb `collect`: a dataset card becomes trajectories.

A behaviour policy that is worth learning from is half-trained, not an expert with noise. So the
scripted expert demonstrates, one clone of it is stopped at several levels of measured success
(`cpl_bench.clone`), and every episode draws its level, like a replay buffer.

    demonstrations ──► clone, stopped at ──► 0.3 ─┐
                                             0.6 ─┼─► an episode draws one, plus action noise
                                             0.8 ─┘
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.progress import say
from cpl_bench.core.seeds import episode_seeds, generator
from cpl_bench.core.versions import installed
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.clone import make_clone, recipe
from cpl_bench.trajectories.dataset import content_hash
from cpl_bench.trajectories.formats.minari import minari_folder, read_record, write_trajectories


def collect(card: DatasetCard, pool: RolloutPool) -> Path:
    """Make the trajectories of a card and write them as a Minari dataset; returns its folder."""
    task = load_task(card.task)
    clone = make_clone(card, task, pool)
    levels = generator("levels", card.seed).integers(0, len(clone.weights), card.episodes)
    rules = EpisodeRules(
        action_noise=card.behaviour.action_noise,
        stop_steps_after_success=card.stop_steps_after_success,
        minimum_steps=card.minimum_steps,
        keep_states=True,
    )
    trajectories = pool.episodes(
        task,
        episode_seeds("data", card.episodes, card.seed),
        levels.tolist(),
        clone.weights,
        rules,
        label=f"collecting {card.name}",
    )
    record = {
        "card": asdict(card),
        "recipe": recipe(card) | {"episodes": card.episodes},
        "content_hash": content_hash(trajectories),
        "levels": [
            {"wanted": wanted, "step": step, "measured": success}
            for wanted, step, success in zip(
                card.behaviour.levels, clone.steps, clone.success, strict=True
            )
        ],
        "versions": installed(task),
    }
    folder = write_trajectories(card.minari_id, task, trajectories, record)
    success = np.mean([trajectory.succeeded for trajectory in trajectories])
    steps = sum(len(trajectory.rewards) for trajectory in trajectories)
    low, high = card.behaviour.success_band
    say(
        f"Collected {card.episodes} episodes, {steps} steps, behaviour success {success:.1%} "
        f"(the card wants {low:.0%} to {high:.0%}) → {folder}"
    )
    return folder


def is_collected(card: DatasetCard) -> bool:
    """Whether the trajectories lie on disk and were made by this very recipe."""
    if not (minari_folder(card.minari_id) / "data" / "main_data.hdf5").is_file():
        return False
    made_by = read_record(card.minari_id).get("recipe")
    return made_by == recipe(card) | {"episodes": card.episodes}
