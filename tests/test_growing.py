"""The checklists of CONTRIBUTING: what is new comes from outside, and touches what they name."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import cpl_bench
from cpl_bench.core.dataset_cards import load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.experiments.card import load_experiment
from cpl_bench.experiments.sweep import run_experiment
from cpl_bench.learning import methods
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import configured, find_method, summaries
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import with_options
from cpl_bench.runs.feeds import Source, stretches
from cpl_bench.tasks.pool import RolloutPool
from cpl_bench.tasks.registry import find_task
from cpl_bench.tasks.worker import expert_returns, expert_steps_to_success

CPL = Path(methods.__file__).parent / "algos" / "cpl.py"
CPU = torch.device("cpu")


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path, for modules of somebody else's."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(path, text):
    path.write_text(textwrap.dedent(text))


def trained(name, preset, settings, preferences):
    """The losses of some steps of a method on preferences."""
    config = configured(name, preset, settings)
    sizes = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = find_method(name).build(config, *sizes, [0, 1], CPU)
    source = Source(preferences, None, None, (0, 1), (0, 1), CPU)
    pauses = list(fit(stretches(source, learner.phases(), learner), [], CPU))
    return [pause.metrics for pause in pauses]


CLONING = """
    from dataclasses import dataclass
    from cpl_bench.learning.config import Optimiser, PolicyConfig
    from cpl_bench.learning.interface import Entry, Phase, Segments
    from cpl_bench.learning.networks import Policy

    @dataclass(frozen=True)
    class Config:
        policy: PolicyConfig = PolicyConfig((16,))
        steps: int = 5

    class Cloning:
        def __init__(self, config, observation_size, action_size, seeds, device):
            self.config = config
            self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
            self.policy.add_optimiser("clone", Optimiser(1e-3))
            self.act, self.weights = self.policy.act, self.policy.weights
            self.state, self.load_state = self.policy.state, self.policy.load_state

        def phases(self):
            return [Phase("clone", self.config.steps, self.policy.clone, Segments(8))]

    ENTRY = Entry(Cloning, {"laptop": Config()}, title=lambda config: "cloning")
"""


def test_a_method_is_a_file_and_a_line(outside, dots):
    write(outside / "cloning.py", CLONING)
    preferences = load_preferences(dots[2])
    (metrics,) = trained("cloning:ENTRY", "laptop", {"steps": 7}, preferences)
    assert metrics["clone_loss"].shape == (2,)


def test_an_installed_package_names_its_method(outside, dots):
    write(outside / "cloning.py", CLONING)
    about = outside / "cloning-1.0.dist-info"
    about.mkdir()
    write(about / "METADATA", "Metadata-Version: 2.1\nName: cloning\nVersion: 1.0\n")
    write(about / "entry_points.txt", "[cpl_bench.algorithms]\nplain-cloning = cloning:ENTRY\n")
    assert "plain-cloning" in summaries()
    assert trained("plain-cloning", "laptop", {}, load_preferences(dots[2]))


def test_a_loss_variant_of_cpl_is_a_function_and_three_lines(outside, dots):
    """The hinge of SLiC, as CONTRIBUTING's checklist would have it written into cpl.py."""
    text = CPL.read_text()
    changes = {
        "    alpha: float = 0.1\n": "    lead: float = 0.0\n    alpha: float = 0.1\n",
        'refuse(self, {"lam": within,': 'refuse(self, {"lead": NOT_NEGATIVE, "lam": within,',
        "        loss = contrast\n": "        "
        "ends = of_comparisons(scores, batch.first, batch.second)\n        "
        "loss = contrast = contrast if not config.lead else "
        "averaged(hinge(*ends, batch.prefers_second, config.lead), batch.weight)\n",
        "\n\nclass CPL:": "\n\ndef hinge(first, second, answers, lead):\n"
        "    return (lead - (second - first) * (2 * answers - 1)).clamp_min(0)\n\n\nclass CPL:",
    }
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (outside / "hinged.py").write_text(text)
    small = {"steps": 6, "clone": {"steps": 2}, "policy": {"hidden": [16]}, "segments": 8}
    preferences = load_preferences(dots[2])
    plain = trained("hinged:ENTRY", "laptop", small, preferences)
    ours = trained("cpl", "laptop", small, preferences)
    hinged = trained("hinged:ENTRY", "laptop", {**small, "lead": 0.5}, preferences)
    assert torch.equal(plain[1]["contrast_loss"], ours[1]["contrast_loss"])
    assert not torch.equal(hinged[1]["contrast_loss"], ours[1]["contrast_loss"])
    assert torch.equal(hinged[0]["clone_loss"], ours[0]["clone_loss"])


def test_a_scorer_and_an_annotator_are_a_function_and_a_name(outside, dots, pool, monkeypatch):
    write(
        outside / "opinions.py",
        """
        import numpy as np

        def early(segments, task, labelling, pool):
            return -segments.offsets.astype(float)

        def shy(score_first, score_second, keys, settings):
            gap = score_second - score_first
            return 1.0 * (gap > 0), 1.0 * (abs(gap) > settings.get("least", 0.0))
        """,
    )
    card, root, _ = dots
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    settings = {"least": 3.0}
    how = with_options(
        card, "opinions:early", "opinions:shy", pairs="sparse", annotator_settings=settings
    )
    found = load_preferences(label(how, pool))
    gap = found.scores[found.second] - found.scores[found.first]
    np.testing.assert_array_equal(found.prefers_second, gap > 0)
    np.testing.assert_array_equal(found.weight, abs(gap) > 3)
    assert found.info.scorer == "opinions:early"


CLIFF = """
    import gymnasium
    import numpy as np

    class Cliff(gymnasium.Env):
        '''Walk right to 5; below -1 lies the cliff, where everything ends.'''

        observation_space = gymnasium.spaces.Box(-20.0, 20.0, (2,))
        action_space = gymnasium.spaces.Box(-0.5, 0.5, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = np.array([0.0, self.np_random.uniform(-1, 1)])
            return self.place.copy(), {}

        def step(self, action):
            self.place[0] += float(action[0])
            home = bool(self.place[0] >= 5)
            return self.place.copy(), 1.0, bool(self.place[0] < -1), False, {"success": home}

        def get_state(self):
            return self.place.copy()

        def set_state(self, state):
            self.place = np.array(state)
            return self.place.copy()

        def expert_action(self):
            return np.array([0.5])
"""


@pytest.fixture
def cliff(outside, monkeypatch):
    """A task of somebody else's that terminates, forks and has an expert; a dataset card on it."""
    write(outside / "cliff.py", CLIFF)
    write(
        outside / "cliff.toml",
        """
        suite = "gymnasium"
        source_id = "cliff:Cliff"
        horizon_steps = 30
        """,
    )
    write(
        outside / "cliffs.toml",
        """
        task = "cliff.toml"
        episodes = 30
        minimum_steps = 5
        stop_steps_after_success = 2

        [behaviour]
        levels = [0.5]
        score_band = [0.0, 1.0]
        action_noise = 3.0
        demonstrations = 2
        clone_steps = 20
        probe_episodes = 8

        [segments]
        count = 200
        length = 4

        [labelling]
        cap_steps = 40
        """,
    )
    monkeypatch.chdir(outside)  # where workers look for modules, too
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(outside / "data"))
    return outside


def test_a_task_of_ones_own_goes_all_the_way(cliff):
    """Collected, labelled by regret on forks, learned from by critics, rolled out: by its cards."""
    path = cpl_bench.label("cliffs.toml", workers=2)
    found = cpl_bench.load_preferences(path)
    assert found.terminations is not None and 0 < found.terminations.sum() < 30
    assert (found.scores <= 0).all()
    last = found.segment_starts + 3
    fell = found.terminations[last] == 1
    assert fell.any() and found.scores[fell].max() < np.median(found.scores[~fell])
    small = {"policy.hidden": [16], "value.hidden": [16], "reward.hidden": [16], "reward.steps": 5}
    settings = {**small, "steps": 20, "transitions": 32}
    run = cpl_bench.train("cliffs.toml", "piql", settings=settings, seeds=1, episodes=2, workers=2)
    assert np.isfinite(run.scores()).all()


def test_an_expert_goes_nowhere_after_the_end(cliff, pool):
    """States right of the cliff, on its edge, and one in which the task has ended."""
    task = find_task("cliff.toml")
    states = np.array([[4.8, 0.0, 0.0], [0.0, 0.0, 0.0]])
    steps = expert_steps_to_success(task, states, 40)
    assert steps.tolist() == [1, 10]
    assert expert_returns(task, states, np.array([7, 7])).tolist() == [7, 7]


def test_an_experiment_is_checked_whole_before_anything_is_made(cliff):
    (cliff / "flat.py").write_text((cliff / "cliff.py").read_text().replace("expert_action", "no"))
    write(
        cliff / "flat.toml",
        """
        suite = "gymnasium"
        source_id = "flat:Cliff"
        horizon_steps = 30
        """,
    )
    text = (cliff / "cliffs.toml").read_text()
    (cliff / "flats.toml").write_text(text.replace("cliff.toml", "flat.toml"))
    (cliff / "both").mkdir()
    write(
        cliff / "both" / "experiment.toml",
        """
        datasets = ["../cliffs.toml", "../flats.toml"]
        seeds = 1
        final_episodes = 1

        [[methods]]
        name = "SFT"
        algorithm = "sft"
        """,
    )
    with RolloutPool(1) as pool, pytest.raises(UserError, match="flats clones an expert"):
        run_experiment(load_experiment("both"), cliff / "runs", pool)
    assert not (cliff / "data").exists() and not (cliff / "runs").exists()


def test_a_task_and_a_dataset_are_cards(tmp_path):
    write(
        tmp_path / "hill.toml",
        """
        suite = "gymnasium"
        source_id = "MountainCarContinuous-v0"
        horizon_steps = 300
        score = "return"
        """,
    )
    write(
        tmp_path / "hills.toml",
        """
        task = "hill.toml"
        episodes = 10

        [behaviour]
        levels = [0.5]
        score_band = [0.0, 1.0]

        [segments]
        count = 20
        length = 50
        """,
    )
    task = find_task(str(tmp_path / "hill.toml"))
    assert (task.name, task.scoring.name) == ("hill", "return")
    card = load_dataset_card(str(tmp_path / "hills.toml"))
    assert find_task(card.task) == task
