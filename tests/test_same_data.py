"""The same bytes on every kind of processor, and cards that say which bytes those are."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest

from cpl_bench.cli.main import main
from cpl_bench.core import published
from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.published import Published, short
from cpl_bench.core.seeds import generator
from cpl_bench.core.toml import build
from cpl_bench.core.versions import processor
from cpl_bench.experiments.sample import remade_sample
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.format import preferences_hash
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import preference_path, with_options
from cpl_bench.preferences.published import (
    measured,
    preferences_verdict,
    sample_hashes,
    sample_of,
    trajectories_verdict,
)
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.tasks.alike import executed, paid, seen
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.trajectories.cloning import cloned, exact_product, significant, tanh
from cpl_bench.trajectories.collect import collect
from cpl_bench.trajectories.dataset import content_hash, hashes_of_tenths
from cpl_bench.trajectories.formats.minari import minari_folder, read_trajectories

HERE = Path(__file__).parent
ALIKE = HERE / "alike.toml"
COLLECTED = [name for name in dataset_names() if load_dataset_card(name).source is None]
PLAIN_GLIBC = "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"


def all_features_off():
    """The plainest kernels that NumPy, OpenBLAS and glibc have."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    features = ",".join(__cpu_dispatch__)
    return {
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": features,
        "GLIBC_TUNABLES": PLAIN_GLIBC,
    }


SETTINGS = {
    "as it is": {},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "plain": all_features_off(),
}


# --- Arithmetic ---


@pytest.mark.parametrize("shape", [(3, 512, 4), (1, 7, 5), (20, 256, 30)])
def test_products_are_exact_whatever_the_order(shape):
    n, k, m = shape
    rng = np.random.default_rng(k)
    a = rng.normal(size=(n, k)) * np.exp(rng.normal(size=(n, 1)) * 3)
    b = rng.normal(size=(k, m)) * 1e-5
    found = exact_product(a, b)
    np.testing.assert_allclose(found, a @ b, rtol=0, atol=1e-4 * np.abs(a @ b).max())
    for order in (rng.permutation(k), rng.permutation(k)):
        np.testing.assert_array_equal(exact_product(a[:, order], b[order]), found)
    # in the largest entries and in the others: the sum of the rounded factors, in fractions
    bits = (53 - k.bit_length()) // 2
    for x, scale in ((a, np.abs(a).max()), (b, np.abs(b).max())):
        unit = 2.0 ** (int(np.frexp(scale)[1]) - bits)
        np.copyto(x, np.rint(x / unit) * unit)
    for i, j in [(0, 0), (n - 1, m - 1)]:
        wanted = sum(Fraction(x) * Fraction(y) for x, y in zip(a[i], b[:, j], strict=True))
        assert Fraction(found[i, j]) == wanted


def test_a_product_of_nothing_but_zeros_is_zero():
    assert not exact_product(np.zeros((2, 3)), np.ones((3, 2))).any()


def test_tanh_is_tanh():
    x = np.concatenate([np.linspace(-20, 20, 4001), [0.0, 1e-300, -1e-9]])
    np.testing.assert_allclose(tanh(x), np.tanh(x), rtol=1e-12)


def test_significant_bits():
    x = np.array([1.0, -3.0, 1 / 3, 2.0**-40 / 3, 0.0])
    kept = significant(x, 16)
    np.testing.assert_allclose(kept, x, rtol=2.0**-16)
    np.testing.assert_array_equal(kept, kept.astype(np.float32))
    mantissa, _ = np.frexp(kept)
    np.testing.assert_array_equal(mantissa * 2**16 % 1, 0)
    assert len(np.unique(significant(1 + np.arange(100) * 2.0**-20, 16))) == 4


@pytest.mark.parametrize(("grid", "bits"), [(executed, 14), (seen, 24), (paid, 20)])
def test_grids(grid, bits):
    for x in np.random.default_rng(0).normal(size=200):
        on = float(np.asarray(grid(np.float64(x))))
        assert abs(on - x) <= 2.0 ** -(bits + 1) + 1e-7 * (grid is seen)
        if grid is not seen or abs(x) < 1:
            assert on * 2**bits % 1 == 0
        assert float(np.asarray(grid(np.float64(x) * (1 + 1e-15)))) == on
    for nothing in (0.0, -0.0, 1e-18, -1e-18):  # which side of zero a last bit falls on is chance
        on = np.asarray(grid(np.float64(nothing)))
        assert on == 0 and not np.signbit(on)


def test_the_mathematics_has_a_name(pool):
    """That of workers, whatever this process computes with."""
    assert pool.mathematics() == pool.mathematics() != ""
    with RolloutPool(1, {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX"}) as other:
        assert other.mathematics() == pool.mathematics()


def test_a_clone_learns_and_is_kept_at_its_stops():
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(3000, 6)).astype(np.float32)
    actions = np.tanh(observations[:, :2] - observations[:, 2:4])
    stops = dict(cloned(observations, actions, generator("clone", 0), [10, 100, 300]))
    assert list(stops) == [10, 100, 300]
    from cpl_bench.tasks.policies import mlp_action

    errors = [
        ((mlp_action(policy.arrays, observations) - actions) ** 2).mean()
        for policy in stops.values()
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01
    assert stops[10].sizes == (6, 2)


def test_its_gradient_is_that_of_the_squared_error():
    import torch

    from cpl_bench.trajectories.cloning import _Network

    rng = np.random.default_rng(1)
    network = _Network([5, 16, 8, 2], rng)
    x, y = rng.normal(size=(32, 5)), rng.uniform(-1, 1, (32, 2))
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in network.values.items()}
    hidden = torch.tensor(x)
    for i in range(3):
        hidden = hidden @ leaves[f"w{i}"] + leaves[f"b{i}"]
        hidden = hidden.relu() if i < 2 else hidden.tanh()
    ((hidden - torch.tensor(y)) ** 2).sum(1).mean().backward()
    for name, gradient in network._gradients(x, y).items():
        np.testing.assert_allclose(gradient, leaves[name].grad.numpy(), atol=1e-5)


# --- The same on every machine ---


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_sample_comes_out_as_its_card_says(setting):
    """From the demonstrations on, in processes that compute with other kernels than this one."""
    forced = {**os.environ, **SETTINGS[setting], "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, "-m", "cpl_bench.cli.main", "collect", str(ALIKE), "--sample"]
    done = subprocess.run(words, capture_output=True, text=True, env=forced)
    assert done.returncode == 0, done.stdout + done.stderr
    named = load_dataset_card(str(ALIKE)).published
    both = f"{short(named.sample_trajectories)} and {short(named.sample_preferences)}"
    assert f"the published bytes, sha256 {both}" in done.stdout


def test_the_kernels_that_are_forced_compute_differently():
    """Else the test above would prove nothing, wherever there is more than one kind."""
    code = "import hashlib, numpy as np; x = np.random.default_rng(0).normal(size=(300, 300));"
    code += "print(hashlib.sha256((x @ x).tobytes() + np.tanh(x).tobytes()).hexdigest())"
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, **forced},
            check=True,
        ).stdout
        for forced in SETTINGS.values()
    }
    from numpy._core._multiarray_umath import __cpu_features__

    if not __cpu_features__.get("AVX2", __cpu_features__.get("X86_V3")):
        pytest.skip("the plain kernels are all that this processor has")
    assert len(found) > 1


def test_physics_is_that_of_workers_whatever_mathematics_is_chosen_outside(monkeypatch):
    """Unpinned, the third of these episodes went another way from a sine's last bit."""
    card, found = load_task("bin-picking"), []
    for tunables in (None, PLAIN_GLIBC, "glibc.cpu.hwcaps=-AVX2"):
        if tunables:
            monkeypatch.setenv("GLIBC_TUNABLES", tunables)
        with RolloutPool(1) as pool:
            rules = EpisodeRules(action_noise=0.3)
            found.append(content_hash(pool.episodes(card, range(5), [EXPERT] * 5, [], rules)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_checkpoint_is_evaluated_to_the_same_bytes_everywhere(setting, tmp_path):
    """The run was trained for this; its final.csv was written once and for all machines."""
    shutil.copytree(HERE / "golden" / "drawer-open", tmp_path, dirs_exist_ok=True)
    wanted = (tmp_path / "final.csv").read_bytes()
    (tmp_path / "final.csv").unlink()
    with RolloutPool(2, SETTINGS[setting] | {"PYTHONWARNINGS": "ignore"}) as pool:
        found = evaluate(tmp_path, pool, episodes=10)
    assert (tmp_path / "final.csv").read_bytes() == wanted
    assert found.score > 0.5, "an episode of a policy that does nothing proves little"


def test_the_first_episodes_do_not_depend_on_how_many_follow(tmp_path, monkeypatch, pool):
    """So a sample is part of the whole."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    card = replace(load_dataset_card(str(HERE / "dots.toml")), episodes=60)
    assert sample_of(card).episodes == 40
    collect(card, pool)
    source = read_trajectories(card.minari_id)
    steps = tuple(level["step"] for level in source.record["levels"])
    assert (steps, *sample_hashes(card, source, pool)) == remade_sample(card, pool)
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path)


# --- What a card names ---


@pytest.fixture
def own(tmp_path, monkeypatch, pool):
    """A card of one's own, collected and labelled: its path."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    path = tmp_path / "mine.toml"
    text = (HERE / "dots.toml").read_text().replace("episodes = 150", "episodes = 20")
    path.write_text(text.replace("count = 600", "count = 30"))
    card = load_dataset_card(str(path))
    collect(card, pool)
    label(card, pool)
    return path


def test_recording_and_comparing(own, pool, capsys):
    before = own.read_text()
    assert main(["collect", str(own), "--workers", "1"]) == 0
    assert "the card names none to compare with" in capsys.readouterr().out
    assert main(["inspect", str(own), "--record", "--workers", "1"]) == 0
    assert "recorded" in capsys.readouterr().out
    card, text = load_dataset_card(str(own)), own.read_text()
    assert text.startswith(before.rstrip("\n"))
    assert card.published == measured(card, pool)
    assert card.published.processor == processor()
    assert card.published.mathematics == pool.mathematics()
    assert card.published.card == card.fingerprint
    assert (
        card.published.preferences == load_preferences(preference_path(card)).info.preferences_hash
    )
    assert main(["label", str(own), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("the published bytes") == 2, "trajectories and preferences, though both there"
    assert main(["inspect", str(own), "--record", "--workers", "1"]) == 0
    assert own.read_text() == text, "once"
    assert main(["collect", str(own), "--sample", "--workers", "1"]) == 0
    sample = short(card.published.sample_trajectories)
    assert f"the published bytes, sha256 {sample} and" in capsys.readouterr().out


def test_what_differs_is_said(own, pool, capsys):
    main(["inspect", str(own), "--record", "--workers", "1"])
    card = load_dataset_card(str(own))
    tenths = list(card.published.tenths)
    tenths[3] = "0" * 12
    other = replace(
        card.published,
        trajectories="f" * 64,
        tenths=tuple(tenths),
        clone_steps=(1, 2),
        preferences="e" * 64,
        arrays={**card.published.arrays, "scores": "d" * 12, "weight": "c" * 12},
        sample_preferences="b" * 64,
        mathematics="abacus",
        processor="another chip",
    )
    published.record(own, other)
    changed = load_dataset_card(str(own))
    assert changed.published == other
    said = trajectories_verdict(changed)
    ours = short(card.published.trajectories)
    assert f"NOT the published bytes: sha256 {ours}, the card names ffffffffffff" in said
    assert "not (1, 2)" in said and "of its 20 episodes, 6 to 7 are the first that differ" in said
    assert f"made on {processor()} with another C library's mathematics; the card's on" in said
    said = preferences_verdict(changed)
    assert "NOT the published bytes" in said
    assert "the arrays that differ: scores, weight" in said
    capsys.readouterr()
    assert main(["collect", str(own), "--sample", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert "preferences are" in said and "not bbbbbbbbbbbb" in said
    assert "the clone stops at steps" in said and "not (1, 2)" in said
    assert "mathematics is" in said and "trajectories are" not in said


def test_a_changed_card_compares_with_nothing(own, pool, capsys):
    main(["inspect", str(own), "--record", "--workers", "1"])
    own.write_text(own.read_text().replace("levels = [0.3, 0.7]", "levels = [0.4, 0.7]"))
    card = load_dataset_card(str(own))
    assert card.published.card != card.fingerprint
    for said in (trajectories_verdict(card), preferences_verdict(card)):
        assert "the card was changed since it was recorded" in said and "NOT" not in said
    assert main(["collect", str(own), "--sample", "--workers", "1"]) == 2
    assert "was changed since its hashes were recorded" in capsys.readouterr().err
    same = replace(card, description="other words", name="other")
    assert same.fingerprint == card.fingerprint


def test_altered_data_are_found_out(own, pool):
    """By their content: what a file says of itself is no proof."""
    card = load_dataset_card(str(own))
    path = preference_path(card)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a bit of the last array
    path.write_bytes(content)
    with pytest.raises(UserError, match="altered after it was written"):
        load_preferences(path)
    hdf5 = minari_folder(card.minari_id) / "data" / "main_data.hdf5"
    with h5py.File(hdf5, "r+") as file:
        rewards = file["episode_0"]["rewards"]
        rewards[...] = rewards[...] + 1
    assert "ALTERED after they were collected" in trajectories_verdict(card)
    with pytest.raises(UserError, match="were altered after they were collected"):
        label(card, pool)


def test_other_labels_than_the_card_asks_for_have_nothing_to_compare_with(own):
    main(["inspect", str(own), "--record", "--workers", "1"])
    card = load_dataset_card(str(own))
    assert with_options(card, segments=card.segments.count).published == card.published
    other = with_options(card, segments=12).published
    assert other.trajectories == card.published.trajectories
    assert other.preferences == "" and other.arrays == {}


def test_a_sample_that_no_card_names_is_an_error(capsys):
    assert main(["collect", str(HERE / "dots.toml"), "--sample"]) == 2
    assert "names no sample" in capsys.readouterr().err


def test_tenths_are_those_of_the_whole(own):
    trajectories = read_trajectories(load_dataset_card(str(own)).minari_id).trajectories
    tenths = hashes_of_tenths(trajectories)
    assert len(tenths) == 10
    assert tenths[0] == content_hash(trajectories[:2])
    changed = [*trajectories[:-1], replace(trajectories[-1], rewards=trajectories[-1].rewards + 1)]
    assert hashes_of_tenths(changed)[:9] == tenths[:9] != hashes_of_tenths(changed)[9:]


def test_a_table_that_was_recorded_is_read_back(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text('# mine\ntask = "pointmass"\n')
    given = Published("a", "b", ("c", "d"), (5, 7), "e", {"x": "f"}, "g", "h", "i", 'a "chip" \\')
    published.record(path, given)
    published.record(path, given)
    import tomllib

    table = tomllib.loads(path.read_text())
    assert table["task"] == "pointmass" and path.read_text().count("[published]") == 1
    assert build(Published, table["published"], path) == given


def test_recording_leaves_the_rest_of_a_card_alone(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text('[published]\ntrajectories = "x"\n\n[labelling]  # mine\ncap_steps = 50\n')
    published.record(path, Published(trajectories="y"))
    text = path.read_text()
    assert "[labelling]  # mine\ncap_steps = 50" in text and text.count("[published]") == 1
    assert 'trajectories = "y"' in text and '"x"' not in text


@pytest.mark.parametrize("name", COLLECTED)
def test_every_official_card_names_its_data(name):
    card = load_dataset_card(name)
    assert card.published.card == card.fingerprint, "record the hashes of the changed card's data"
    named = card.published
    samples = (named.sample_trajectories, named.sample_preferences)
    for digest in (named.trajectories, named.preferences, *samples):
        assert len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    assert len(card.published.clone_steps) == len(card.behaviour.levels)
    assert set(card.published.arrays) >= {"observations", "scores", "segment_starts"}


def test_equal_preferences_have_one_hash_and_others_another(own):
    preferences = load_preferences(preference_path(load_dataset_card(str(own))))
    assert preferences_hash(preferences) == preferences_hash(replace(preferences))
    scores = preferences.scores.copy()
    scores[3] += 1
    assert preferences_hash(replace(preferences, scores=scores)) != preferences_hash(preferences)
    for changed in ({"annotator": "noisy"}, {"annotator_settings": {"error_rate": 0.4}}):
        other = replace(preferences, info=replace(preferences.info, **changed))
        assert preferences_hash(other) != preferences_hash(preferences), "other answers"
    said = replace(preferences.info, command="another", versions={})
    assert preferences_hash(replace(preferences, info=said)) == preferences_hash(preferences)
