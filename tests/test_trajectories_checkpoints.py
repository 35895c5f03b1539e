"""Behaviour that was trained elsewhere: a file of policies in place of a clone."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.tensors import read_about, write_tensors
from cpl_bench.experiments.make import check_card
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import with_options
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.trajectories.checkpoints import (
    Checkpoints,
    behaviour_of,
    read_checkpoints,
    write_checkpoints,
)
from cpl_bench.trajectories.clone import recipe
from cpl_bench.trajectories.collect import collect, is_collected
from cpl_bench.trajectories.formats.minari import read_trajectories

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "train_behaviour.py"
POINTMASS = load_task("pointmass")
CARD = """
task = "pointmass"
episodes = 12
minimum_steps = 10
[behaviour]
levels = [0.9, 0.25]
score_band = [0.0, 1.0]
action_noise = 0.0
checkpoints = "three.safetensors"
[segments]
count = 8
length = 8
[labelling]
scorer = "partial_return"
"""


def steady(*thrust, size=6):
    """A policy that always pushes the same way."""
    bias = np.arctanh(np.array(thrust, np.float32))
    return PolicyWeights("deterministic", {"w0": np.zeros((size, 2), np.float32), "b0": bias})


def write(path, policies, task=POINTMASS):
    scores = [0.0, 0.2, 0.8][: len(policies)]
    steps = [10 * i for i in range(len(policies))]
    about = {"task": list(task.simulated)} if task else {}
    write_checkpoints(path, Checkpoints(policies, steps, scores), about)


THREE = [steady(0.0, 0.0), steady(0.5, 0.0), steady(0.0, -0.5)]


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A card of one's own, its file of policies beside it."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    (tmp_path / "own.toml").write_text(CARD)
    write(tmp_path / "three.safetensors", THREE)
    return load_dataset_card(str(tmp_path / "own.toml"))


def test_episodes_are_played_by_the_policies_nearest_to_the_levels(card, pool):
    check_card(card)
    collect(card, pool)
    found = read_trajectories(card.minari_id)
    assert [level["step"] for level in found.record["levels"]] == [20, 10]
    assert {each.policy for each in found.trajectories} == {0, 1}
    for each in found.trajectories:
        thrust = ((0.0, -0.5), (0.5, 0.0))[each.policy]
        np.testing.assert_array_equal(each.actions, np.tile(thrust, (len(each.actions), 1)))
    assert is_collected(card)
    assert label(card, pool).is_file()


def test_other_policies_are_another_recipe(card, pool):
    collect(card, pool)
    write(card.path.parent / "three.safetensors", THREE[::-1])
    assert not is_collected(card)


def test_cards_without_them_are_what_they_were():
    """Their data, clones and hashes are found again."""
    card = load_dataset_card("drawer-open-small")
    assert card.fingerprint == card.published.card != ""
    assert "checkpoints" not in recipe(card)["behaviour"]
    other = replace(card, behaviour=replace(card.behaviour, checkpoints="x.safetensors"))
    assert other.fingerprint != card.fingerprint


def test_a_file_holds_what_was_written(card):
    path = card.path.parent / "three.safetensors"
    found = read_checkpoints(path, "", POINTMASS)
    assert (found.steps, found.score) == ([0, 10, 20], [0.0, 0.2, 0.8])
    for policy, wanted in zip(found.policies, THREE, strict=True):
        assert policy.kind == "deterministic" and policy.arrays.keys() == wanted.arrays.keys()
        np.testing.assert_array_equal(policy.arrays["b0"], wanted.arrays["b0"])
    assert behaviour_of(card, POINTMASS).steps == [20, 10]


ENDLESS = Checkpoints(THREE, [0, 10, 20], [0.0, "inf", 1.0])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), r"own is played by .*no such file.*train_behaviour\.py"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged"),
        (lambda path: write(path, THREE, load_task("hopper")), "Hopper-v5.*not of .*PointMass-v0"),
        (lambda path: write(path, [steady(0.1, 0.1, size=5)]), "observations of 6 .* of 5 and 2"),
        (lambda path: write(path, [steady(np.nan, 0.0)]), "no finite numbers in b0"),
        (lambda path: write_tensors(path, {}, {"steps": [], "score": []}), "no checkpoints"),
        (lambda path: write_tensors(path, {}, {}), "no checkpoints.*steps"),
        (lambda path: write_checkpoints(path, ENDLESS), "no checkpoints.*inf"),
    ],
)
def test_a_file_that_cannot_be_played_is_told(card, pool, tmp_path, spoil, said):
    spoil(tmp_path / "three.safetensors")
    with pytest.raises(UserError, match=said):
        collect(card, pool)
    assert not (tmp_path / "data").exists()


def test_regret_needs_somebody_else(card, tmp_path):
    """A hopper has states, policies of its own, and no expert."""
    text = CARD.replace("pointmass", "hopper").replace("[0.9, 0.25]", "[0.2]")
    (tmp_path / "hops.toml").write_text(text)
    hops = load_dataset_card(str(tmp_path / "hops.toml"))
    check_card(hops)
    with pytest.raises(UserError, match=r"labelled by return_regret, .*hopper has none.*partial_"):
        check_card(with_options(hops, scorer="return_regret"))


def test_what_stable_baselines_trained_is_exported_as_it_acts(tmp_path):
    pytest.importorskip("stable_baselines3", reason="the extra [behaviour] is not installed")
    script = runpy.run_path(str(SCRIPT))
    model, keep = script["trained"]("hopper", 4096, 4096, 3)
    assert keep.steps == [0, 4096]
    looks = np.random.default_rng(0).normal(size=(50, 11)).astype(np.float32)
    normalised = model.get_vec_normalize_env().normalize_obs(looks)
    wanted, _ = model.predict(normalised, deterministic=True)
    found = mlp_action(keep.policies[-1].arrays, looks)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(found - mlp_action(keep.policies[0].arrays, looks)).max() > 0.01
    path = tmp_path / "hopper.safetensors"
    about = {"task": list(load_task("hopper").simulated)}
    write_checkpoints(path, Checkpoints(keep.policies, keep.steps, [0.0, 0.1]), about)
    assert read_about(path, "")["steps"] == [0, 4096]
    assert read_checkpoints(path, "", load_task("hopper")).policies[0].sizes == (11, 3)
