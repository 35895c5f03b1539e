"""The cards in the repository, and every way to write a card wrongly."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from cpl_bench.core import folders
from cpl_bench.core.cards import load_task, task_cards
from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import data_root
from cpl_bench.core.published import Published
from cpl_bench.core.score import Score
from cpl_bench.experiments.card import load_experiment
from cpl_bench.preferences.annotators import ANNOTATORS
from cpl_bench.preferences.scorers import FORKING, SCORERS
from cpl_bench.tasks.registry import make_task

ROOT = Path(__file__).resolve().parent.parent
PAPER = ("bin-picking", "button-press", "door-open", "drawer-open", "plate-slide", "sweep-into")

TASK = """\
suite = "pointmass"
source_id = "PointMass-v0"
horizon_steps = 50
"""

DATASET = """\
task = "pointmass"
episodes = 10
minimum_steps = 16

[behaviour]
levels = [0.3, 0.6]
score_band = [0.2, 0.7]

[segments]
count = 20
length = 16
"""

EXPERIMENT = """\
datasets = ["drawer-open-small"]
seeds = 2
final_episodes = 10

[[methods]]
name = "CPL"
algorithm = "cpl"
settings = { lam = 1.0, policy.hidden = [64, 64] }
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An otherwise empty checkout with one good card of each kind."""
    for path, text in {
        "pyproject.toml": "",
        "envs/pointmass.toml": TASK,
        "datasets/tiny.toml": DATASET,
        "results/first/experiment.toml": EXPERIMENT,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(folders, "CHECKOUT", tmp_path)
    return tmp_path


def write_card(path: Path, text: str, old: str, new: str) -> None:
    """Write a card with one thing changed."""
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


# --- The cards of the repository ---


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_task_card_loads(path: Path) -> None:
    known = task_cards()
    table = tomllib.loads(path.read_text())
    for name in table.get("members", [path.stem]):
        assert name in known
        card = load_task(name)
        assert card.name == name
        assert card.env_id == f"cpl_bench/{name}-v0"
        assert card.horizon_steps > 0
        assert card.description
        assert "{" not in card.source_id
        assert card == known[name]
        assert card.scoring.is_share


@pytest.mark.parametrize("name", dataset_names())
def test_every_dataset_card_loads(name: str) -> None:
    card = load_dataset_card(name)
    assert card.name == name
    assert card.task in task_cards()
    assert card.labelling.scorer in SCORERS
    assert card.labelling.annotator in ANNOTATORS
    assert card.file == ""
    assert card.description
    assert card.path.is_file()
    assert (card.behaviour is None) == (card.source is not None)
    if card.source is None:
        assert card.minimum_steps >= card.segments.length
    elif not card.source.answered:
        assert card.labelling.scorer not in FORKING, "imports hold no simulator states"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").glob("*/experiment.toml")), ids=lambda path: path.parent.name
)
def test_every_experiment_loads(path: Path) -> None:
    experiment = load_experiment(path.parent.name)
    assert experiment.name == path.parent.name
    assert experiment == load_experiment(str(path.parent))
    for dataset in experiment.datasets:
        card = load_dataset_card(dataset)
        assert card.name in dataset_names() or card.extends in dataset_names()


def test_every_metaworld_task_is_known() -> None:
    assert len(ALL_V3_ENVIRONMENTS) == 50
    for source_id in ALL_V3_ENVIRONMENTS:
        card = load_task(source_id.removesuffix("-v3"))
        assert (card.suite, card.source_id) == ("metaworld", source_id)


@pytest.mark.parametrize("name", PAPER)
def test_small_twins_differ_in_size_only(name: str) -> None:
    paper, small = load_dataset_card(name), load_dataset_card(f"{name}-small")
    assert small.episodes < paper.episodes
    sized = replace(small, name=paper.name, description=paper.description, episodes=paper.episodes)
    assert replace(paper, published=Published()) == replace(sized, published=Published())


@pytest.mark.parametrize("name", PAPER)
def test_paper_cards_aim_at_the_papers_behaviour(name: str) -> None:
    low, high = load_dataset_card(name).behaviour.score_band
    assert low < load_task(name).reference["paper_behaviour_success"] < high


# --- Names that nobody has ---


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"(?s)No task.*'drawer-opn'.*mean 'drawer-open'.*pointmass"
    ):
        load_task("drawer-opn")


def test_unknown_member_of_a_family_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="mean 'pick-place-wall'"):
        load_task("pick-place-wal")


def test_unknown_dataset_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"No dataset.*mean 'drawer-open-small'.*sweep-into"):
        load_dataset_card("drawer-open-smal")


def test_unknown_experiment_suggests_the_nearest(house: Path) -> None:
    with pytest.raises(UserError, match=r"No experiment.*mean 'first'.*experiment\.toml"):
        load_experiment("frist")


def test_a_name_like_no_other_lists_what_there_is(house: Path) -> None:
    with pytest.raises(UserError, match="Known: tiny") as caught:
        load_dataset_card("zzz")
    assert "Did you mean" not in str(caught.value)


def test_a_path_that_is_not_there_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such dataset card"):
        load_dataset_card(str(tmp_path / "missing.toml"))


# --- Cards that are wrong ---


def test_a_card_at_a_path_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(DATASET)
    card = load_dataset_card(str(path))
    assert card.name == "mine"
    assert card.minari_id == "cpl_bench/mine-v0"
    assert card.behaviour.levels == (0.3, 0.6)
    assert card.labelling.scorer == "regret"
    assert card.file == str(path)


def test_a_path_with_the_name_of_an_official_card_is_refused(tmp_path: Path, house: Path) -> None:
    """Both would write datasets/cpl_bench/NAME-v0."""
    path = tmp_path / "elsewhere" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(DATASET)
    with pytest.raises(UserError) as caught:
        load_dataset_card(str(path))
    for said in (str(path), "name of an official dataset, 'tiny'", "overwrite", "another name"):
        assert said in str(caught.value)
    official = load_dataset_card("tiny")
    assert load_dataset_card(str(house / "datasets" / "tiny.toml")) == official
    assert official.file == ""
    path.rename(path.with_name("tiny-2.toml"))
    assert load_dataset_card(str(path.with_name("tiny-2.toml"))).name == "tiny-2"


def test_a_card_knows_its_file_wherever_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(DATASET)
    whole = load_dataset_card(str(tmp_path / "mine.toml"))
    monkeypatch.chdir(tmp_path)
    assert load_dataset_card("mine.toml") == load_dataset_card("./mine.toml") == whole


def test_a_card_may_stand_beside_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "flat.toml").write_text(TASK.replace("50", "40"))
    path = tmp_path / "mine.toml"
    write_card(path, DATASET, '"pointmass"', '"tasks/flat.toml"')
    monkeypatch.chdir("/")
    task = load_task(load_dataset_card(str(path)).task)
    assert (task.name, task.suite, task.horizon_steps) == ("flat", "pointmass", 40)
    with pytest.raises(UserError, match=r"nowhere\.toml: there is no such task card"):
        load_task(str(tmp_path / "nowhere.toml"))


def test_a_card_may_ask_a_fallible_annotator(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    labelling = '[labelling]\nannotator = "noisy"\nannotator_settings = { error_rate = 0.1 }\n'
    path.write_text(f"{DATASET}\n{labelling}cap_steps = 30\n")
    how = load_dataset_card(str(path)).labelling
    assert (how.scorer, how.annotator, how.cap_steps) == ("regret", "noisy", 30)
    assert how.annotator_settings == {"error_rate": 0.1}


def test_returns_are_scored_between_their_references(tmp_path: Path) -> None:
    path = tmp_path / "flat.toml"
    ends = "{ random_return = -30, expert_return = -5.5, paper_cpl_success = 0.836 }"
    path.write_text(f'{TASK}score = "return"\nreference = {ends}\n')
    card = load_task(str(path))
    assert card.scoring == Score("normalised return", -30, -5.5)
    assert card.scoring.of([1, 0], [-30, -5.5]).tolist() == [0, 1]
    assert card.references == "random return -30, expert return -5.5, paper CPL 83.6 %"
    path.write_text(f'{TASK}score = "return"\n')
    assert load_task(str(path)).scoring == Score("return")
    path.write_text(f"{TASK}reference = {ends}\n")
    assert load_task(str(path)).scoring == Score("success")


def test_a_card_may_ask_for_rankings(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    write_card(path, DATASET, "length = 16", 'length = 16\npairs = "ranked"\nranked_size = 20')
    assert load_dataset_card(str(path)).segments.ranked_size == 20


IMPORT = """\
task = "pointmass"

[segments]
count = 20
length = 16

[source]
format = "minari"
id = "dots/medium-v0"
"""


def test_a_card_may_name_an_import_in_place_of_a_behaviour(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(IMPORT)
    card = load_dataset_card(str(path))
    assert card.behaviour is None and card.source is not None
    assert str(card.source) == "minari:dots/medium-v0"
    path.write_text(IMPORT.replace("medium", "expert"))
    assert load_dataset_card(str(path)).fingerprint != card.fingerprint


IMPORT_MISTAKES = {
    "both": ("[source]", "[behaviour]\nlevels = [0.5]\nscore_band = [0, 1]\n[source]", "no [beh"),
    "episodes": ("task =", "episodes = 3\ntask =", "no episodes of ours"),
    "unknown format": ('"minari"', '"minary"', "'minari'"),
    "no id": ('id = "dots/medium-v0"', "", "'source.id' is missing"),
    "a label's meaning": ('id = "d', 'label_one_means = "second"\nid = "d', "for npz files only"),
    "npz that says nothing": ('"minari"', '"npz"', "label_one_means"),
}


@pytest.mark.parametrize("mistake", IMPORT_MISTAKES)
def test_a_wrong_import_is_explained(tmp_path: Path, mistake: str) -> None:
    old, new, said = IMPORT_MISTAKES[mistake]
    write_card(tmp_path / "mine.toml", IMPORT, old, new)
    with pytest.raises(UserError, match=re.escape(said)):
        load_dataset_card(str(tmp_path / "mine.toml"))


FAMILY = """\
task = "pointmass"
segments = { count = 20, length = 16 }
source = { format = "d4rl", id = "dots" }
[members]
dots-medium = { source = { id = "dots-medium-v2" } }
dots-expert = { source = { id = "dots-expert-v2" }, segments = { length = 8 } }
"""


def test_a_family_of_cards_is_its_members(house: Path) -> None:
    (house / "datasets" / "dots.toml").write_text(FAMILY)
    assert dataset_names() == ["dots-expert", "dots-medium", "tiny"]
    medium, expert = load_dataset_card("dots-medium"), load_dataset_card("dots-expert")
    assert medium.path == expert.path == house / "datasets" / "dots.toml"
    assert (medium.minari_id, str(medium.source)) == (
        "cpl_bench/dots-medium-v0",
        "d4rl:dots-medium-v2",
    )
    assert (medium.segments.length, expert.segments.length) == (16, 8)
    for members in ("members = 3", "members = { dots-a = 3 }"):
        (house / "datasets" / "more.toml").write_text(f"{members}\n{IMPORT}")
        with pytest.raises(UserError, match=r"members.* must be a table"):
            load_dataset_card("dots-a" if "dots-a" in members else "more")
    with pytest.raises(UserError, match=r"family of datasets.*dots-medium, dots-expert"):
        load_dataset_card("dots")
    with pytest.raises(UserError, match="mean 'dots-medium'"):
        load_dataset_card("dots-medum")


DATASET_MISTAKES = {
    "unknown key": ("episodes = 10", "episodes = 10\nepisode = 3", "'episode'", "mean 'episodes'"),
    "unknown inner key": (
        "count = 20",
        "count = 20\nlenght = 3",
        "'segments.lenght'",
        "'segments.length'",
    ),
    "missing key": ("episodes = 10", "", "'episodes'", "missing"),
    "missing inner key": ("count = 20", "", "'segments.count'", "missing"),
    "text for a number": ("episodes = 10", 'episodes = "10"', "'episodes'", "int"),
    "fraction for a count": ("episodes = 10", "episodes = 10.0", "'episodes'", "int"),
    "truth for a count": ("episodes = 10", "episodes = true", "'episodes'", "int"),
    "number for a name": ('task = "pointmass"', "task = 3", "'task'", "str"),
    "text in a list": ("[0.3, 0.6]", '[0.3, "0.6"]', "'behaviour.levels[1]'", "float"),
    "number for a list": ("levels = [0.3, 0.6]", "levels = 0.3", "'behaviour.levels'", "0.3"),
    "list of the wrong length": ("[0.2, 0.7]", "[0.2]", "'behaviour.score_band'", "0.2"),
    "unknown choice": ("length = 16", 'length = 16\npairs = "all"', "'segments.pairs'", "'sparse'"),
    "ranked without a size": (
        "length = 16",
        'length = 16\npairs = "ranked"',
        "segments.ranked_size must lie between 2 and the number of segments, 20",
        "got 0",
    ),
    "ranked by more than there are": (
        "length = 16",
        'length = 16\npairs = "ranked"\nranked_size = 21',
        "segments.ranked_size must lie between 2 and",
        "got 21",
    ),
    "a size without ranking": (
        "length = 16",
        "length = 16\nranked_size = 4",
        "segments.ranked_size is for ranked pairs only",
        "dense",
    ),
    "number for a table": (
        "[segments]\ncount = 20\nlength = 16",
        "[labelling]\nscorer = 3",
        "'segments'",
        "missing",
    ),
    "no episodes": ("episodes = 10", "episodes = 0", "episodes", "from 1 to 1,000,000"),
    "no levels": ("[0.3, 0.6]", "[]", "behaviour.levels", "1 to 100 scores"),
    "level above one": ("[0.3, 0.6]", "[0.3, 60]", "behaviour.levels", "[0, 1]"),
    "level that is no number": ("[0.3, 0.6]", "[nan]", "not readable as TOML", "not finite"),
    "band upside down": ("[0.2, 0.7]", "[0.7, 0.2]", "behaviour.score_band", "[low, high]"),
    "negative noise": ("levels", "action_noise = -0.1\nlevels", "noise", "[0, 10]"),
    "old table of labels": (
        "[segments]",
        '[label]\nscorer = "regret"\n[segments]',
        "'label'",
        "mean 'labelling'",
    ),
    "unknown labelling": (
        "[segments]",
        "[labelling]\ncap = 3\n[segments]",
        "'labelling.cap'",
        "'labelling.cap_steps'",
    ),
    "annotator's setting that is no number": (
        "[segments]",
        '[labelling]\nannotator_settings = { error_rate = "low" }\n[segments]',
        "'labelling.annotator_settings.error_rate'",
        "float",
    ),
    "no cap": ("[segments]", "[labelling]\ncap_steps = 0\n[segments]", "cap_steps", "from 1 to"),
    "its own file": ("episodes", 'file = "x"\nepisodes', "remove the key 'file'", "'mine'"),
    "one segment": ("count = 20", "count = 1", "segments.count", "from 2 to"),
    "empty segments": ("length = 16", "length = 0", "segments.length", "from 1 to"),
    "segment longer than the horizon": (
        "length = 16",
        "length = 51",
        "segments.length",
        "50 steps",
    ),
    "episode without a segment": (
        "minimum_steps = 16",
        "minimum_steps = 15",
        "minimum_steps",
        "15",
    ),
    "unknown task": ('"pointmass"', '"pointmas"', "'pointmas'", "mean 'pointmass'"),
}


@pytest.mark.parametrize("mistake", DATASET_MISTAKES)
def test_a_wrong_dataset_card_is_one_error(tmp_path: Path, mistake: str) -> None:
    old, new, *said = DATASET_MISTAKES[mistake]
    path = tmp_path / "mine.toml"
    write_card(path, DATASET, old, new)
    with pytest.raises(UserError) as caught:
        load_dataset_card(str(path))
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert "\n" not in message
    if mistake != "unknown task":
        assert str(path) in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("horizon_steps", "horizon", "'horizon'"),
        ("horizon_steps = 50", "", "'horizon_steps' is missing"),
        ("50", "'50'", "'horizon_steps' must be int, not '50'"),
        ('"pointmass"', "3", "'suite' must be str, not 3"),
        ("50", "0", "horizon_steps must be a whole number from 1 to 1,000,000, not 0"),
        ("50", '50\nscore = "reward"', "'score' must be 'success' or 'return', not 'reward'"),
        ("50", '50\nname = "other"', "remove the key 'name'; the file's name is the card's"),
        (
            "50",
            '50\nscore = "return"\nreference = { expert_return = -5 }',
            "between two references, random_return below expert_return; got {'expert_return': -5",
        ),
        (
            "50",
            '50\nscore = "return"\nreference = { random_return = 9, expert_return = -5 }',
            "random_return below expert_return",
        ),
        (
            "50",
            '50\nreference = { random_return = "low" }',
            "'reference.random_return' must be float",
        ),
        ("50", "50\nsimulators = { mujoco = 3.3 }", "'simulators.mujoco' must be str"),
    ],
)
def test_a_wrong_task_card_is_one_error(house: Path, old: str, new: str, said: str) -> None:
    path = house / "envs" / "pointmass.toml"
    write_card(path, TASK, old, new)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: .*{re.escape(said)}"):
        load_task("pointmass")


def test_a_wrong_suite_suggests_the_nearest(house: Path) -> None:
    write_card(house / "envs" / "pointmass.toml", TASK, '"pointmass"', '"metawrld"')
    with pytest.raises(UserError, match=r"No task suite .*'metawrld'.*mean 'metaworld'.*module:C"):
        make_task(load_task("pointmass"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds", "seed", "'seed'"),
        ("seeds = 2", "", "'seeds' is missing"),
        ('["drawer-open-small"]', '"drawer-open-small"', "'datasets' must be"),
        ("final_episodes = 10", "final_episodes = 10\npreset = 'big'", "'laptop' or 'paper'"),
        ('name = "CPL"', "", "'methods[0].name' is missing"),
        ('name = "CPL"', 'label = "CPL"', "'methods[0].label'. Did you mean 'methods[0].name'"),
    ],
)
def test_a_wrong_experiment_is_one_error(house: Path, old: str, new: str, said: str) -> None:
    path = house / "results" / "first" / "experiment.toml"
    write_card(path, EXPERIMENT, old, new)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: .*{re.escape(said)}"):
        load_experiment("first")


@pytest.mark.parametrize("content", [b"task = ", b"[behaviour", b"task = '\xff'", b"a = 1\na = 2"])
def test_broken_toml_names_the_file(house: Path, content: bytes) -> None:
    for path, load in {
        house / "envs" / "pointmass.toml": lambda: load_task("pointmass"),
        house / "datasets" / "tiny.toml": lambda: load_dataset_card("tiny"),
        house / "results" / "first" / "experiment.toml": lambda: load_experiment("first"),
    }.items():
        intact = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(path))):
            load()
        path.write_bytes(intact)


def test_an_experiment_keeps_its_methods_settings(house: Path) -> None:
    (method,) = load_experiment("first").methods
    settings = {"lam": 1.0, "policy": {"hidden": [64, 64]}}
    assert (method.name, method.algorithm, method.settings) == ("CPL", "cpl", settings)


# --- Where cards and data lie ---


def test_cards_of_a_wheel_lie_in_the_package(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CHECKOUT", house / "nowhere")
    monkeypatch.setattr(folders, "WHEEL_CARDS", house)
    assert list(task_cards()) == ["pointmass"]
    assert load_dataset_card("tiny").task == "pointmass"
    assert load_experiment("first").seeds == 2


def test_data_lie_in_the_checkout(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    assert data_root() == house / "datasets"


def test_data_of_a_wheel_lie_where_one_works(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    monkeypatch.setattr(folders, "CHECKOUT", house / "nowhere")
    monkeypatch.chdir(house / "envs")
    assert data_root() == house / "envs" / "datasets"


def test_data_lie_where_minari_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    assert data_root() == tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "~/mine")
    assert data_root() == tmp_path / "mine"


def test_a_card_whose_name_is_no_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my data.toml"
    path.write_text(DATASET)
    with pytest.raises(UserError, match="letters, digits, - and _"):
        load_dataset_card(str(path))
