"""The verb `collect`: a dataset card becomes trajectories.

A behaviour policy that is worth learning from is half-trained, not an expert with noise. So the
scripted expert demonstrates, one clone of it is stopped at several levels of measured success
(`cpl_bench.trajectories.clone`), and every episode draws its level, like a replay buffer.

    demonstrations ──► clone, stopped at ──► 0.3 ─┐
                                             0.6 ─┼─► an episode draws one, plus action noise
                                             0.8 ─┘

Where there is no expert, a card may name a file of checkpoints that were trained elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cpl_bench.core.dataset_cards import DatasetCard
from cpl_bench.core.progress import say
from cpl_bench.core.published import Published
from cpl_bench.core.seeds import episode_seeds, generator
from cpl_bench.core.versions import installed, processor
from cpl_bench.tasks.episodes import EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.trajectories.checkpoints import behaviour_of
from cpl_bench.trajectories.clone import make_clone, recipe
from cpl_bench.trajectories.dataset import content_hash, scores_of
from cpl_bench.trajectories.formats.minari import CLONE, read_record, write_trajectories
from cpl_bench.trajectories.place import check_place


def collect(card: DatasetCard, pool: RolloutPool) -> Path:
    """Make the trajectories of a card and write them as a Minari dataset; returns its folder.

    Raises:
        UserError: the task has no expert to clone, the card's checkpoints can't be read, or
            something that isn't this card's lies there.
    """
    task = find_task(card.task)
    check_place(card)
    trained_elsewhere = bool(card.cloned.checkpoints)
    clone = behaviour_of(card, task) if trained_elsewhere else make_clone(card, task, pool)
    levels = generator("levels", card.seed).integers(0, len(clone.policies), card.episodes)
    rules = EpisodeRules(
        action_noise=card.cloned.action_noise,
        stop_steps_after_success=card.stop_steps_after_success,
        minimum_steps=card.minimum_steps,
        keep_states=True,
    )
    trajectories = pool.episodes(
        task,
        episode_seeds("data", card.episodes, card.seed),
        levels.tolist(),
        clone.policies,
        rules,
        caption=f"collecting {card.name}",
    )
    record = {
        "card": asdict(replace(card, published=Published())),
        "recipe": recipe(card) | {"episodes": card.episodes},
        "content_hash": content_hash(trajectories),
        "levels": [
            {"wanted": wanted, "step": step, "measured": score}
            for wanted, step, score in zip(
                card.cloned.levels, clone.steps, clone.score, strict=True
            )
        ],
        "versions": installed(task) | {"numpy": version("numpy")},
        "machine": {"processor": processor(), "mathematics": pool.mathematics()},
    }
    players = f"the policies in {card.cloned.checkpoints}" if trained_elsewhere else CLONE
    folder = write_trajectories(card.minari_id, task, trajectories, record, players)
    scoring, (low, high) = task.scoring, card.cloned.score_band
    score = float(np.mean(scores_of(task, trajectories)))
    steps = sum(len(trajectory.rewards) for trajectory in trajectories)
    say(
        f"Collected {card.episodes} episodes, {steps} steps, behaviour {scoring.name} "
        f"{scoring.shown(score)}{scoring.unit} (the card wants {scoring.shown(low, 0)} to "
        f"{scoring.shown(high, 0)}{scoring.unit}) → {folder}"
    )
    return folder


def is_collected(card: DatasetCard) -> bool:
    """Whether the trajectories lie on disk and were made by this very recipe.

    Raises:
        UserError: what lies there cannot be read, or another program wrote it.
    """
    record = read_record(card.minari_id)
    return record is not None and record.get("recipe") == recipe(card) | {"episodes": card.episodes}
