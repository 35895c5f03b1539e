"""Whatever stands in a file or on the command line, it is read or refused: no traceback comes.

`scripts/fuzz.py` does so for as long as one likes, to every reader, with its own ways of damage.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpl_bench.cli.main import VERBS
from cpl_bench.core import folders
from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import HIDDEN, UserError, shortened, shown, visible
from cpl_bench.core.names import check_folder, file_part, slug
from cpl_bench.core.toml import build
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.evaluations import drop_after, read_evaluations
from cpl_bench.runs.metrics import drop_metrics_after, read_metrics
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.record import RunRecord, read_record
from cpl_bench.runs.train import train

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz_script", SCRIPT)
assert spec is not None and spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([each for each in fuzz.ODD if not isinstance(each, list | dict)])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=6,
)
flips = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 9)), max_size=3)


@pytest.fixture(scope="module")
def workshop(dots, pool, tmp_path_factory):
    """A small run, a preference file, and cards."""
    _, _, data = dots
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copy(data, folder / "data.safetensors")
    (folder / "tiny.toml").write_text(fuzz.CARD)
    (folder / "two").mkdir()
    (folder / "two" / "experiment.toml").write_text(fuzz.EXPERIMENT)
    shutil.copy(SCRIPT.parent.parent / "envs" / "pointmass.toml", folder / "mass.toml")
    config = configured("sft", "laptop", fuzz.SMALL["sft"])
    options = TrainOptions((0, 1), "cpu", evaluate_every=4, episodes=2, runs=folder)
    task = load_task("pointmass")
    train(load_preferences(data), "tiny", "sft", config, options, pool, task)
    return folder


def read_or_refused(read, *arguments):
    """Anything but our own refusal fails the test."""
    try:
        read(*arguments)
    except UserError as problem:
        assert str(problem)


def damaged(content, changes):
    """Bytes put in the place of others."""
    data = bytearray(content)
    for place, new, lost in changes:
        here = int(place * len(data))
        data[here : here + lost] = new
    return bytes(data)


READERS = {
    "mass.toml": fuzz.read_card,
    "tiny.toml": fuzz.read_dataset_card,
    "two/experiment.toml": lambda path, _: fuzz.load_experiment(str(path.parent)),
    "tiny/sft/run.json": lambda path, _: read_record(path.parent),
    "tiny/sft/evaluations.csv": fuzz.read_episodes,
    "tiny/sft/metrics.csv": fuzz.read_notes,
    "tiny/sft/checkpoints/8.safetensors": fuzz.read_checkpoint,
    "data.safetensors": lambda path, _: load_preferences(path),
}


@pytest.mark.parametrize("name", READERS)
def test_bytes_that_are_other_are_read_or_refused(workshop, name):
    path = workshop / name
    whole = path.read_bytes()

    @quick
    @given(flips)
    def check(changes):
        path.write_bytes(damaged(whole, changes))
        read_or_refused(READERS[name], path, workshop)

    try:
        check()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["mass.toml", "tiny.toml", "two/experiment.toml"])
def test_cards_may_say_anything(workshop, name):
    path = workshop / name
    whole = path.read_text()
    keys = [number for number, line in enumerate(whole.split("\n")) if "=" in line]

    @quick
    @given(st.sampled_from(keys), values.filter(lambda value: value is not None))
    def check(place, value):
        lines = whole.split("\n")
        lines[place] = f"{lines[place].partition('=')[0]}= {fuzz._toml(value)}"
        path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
        read_or_refused(READERS[name], path, workshop)

    try:
        check()
    finally:
        path.write_text(whole)


def replaced(table, draw):
    """A table with one place in it, at any depth, drawn anew."""
    key = draw(st.sampled_from(sorted(table)))
    if isinstance(table[key], dict) and table[key] and draw(st.booleans()):
        return {**table, key: replaced(table[key], draw)}
    return {**table, key: draw(values)}


@quick
@given(st.data())
def test_records_may_say_anything(workshop, data):
    table = json.loads((workshop / "tiny" / "sft" / "run.json").read_text())
    folder = workshop / "made"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(replaced(table, data.draw)))
    try:
        record = read_record(folder)
    except UserError:
        return
    check_folder("a dataset", record.dataset)  # what is written goes by these
    assert record.method.isprintable() and isinstance(record, RunRecord)
    assert build(RunRecord, json.loads((folder / "run.json").read_text()), "x") == record


@quick
@given(st.data())
def test_preference_files_may_say_anything(workshop, data):
    """Their header, under a hash that is right wherever there can be one."""
    content = (workshop / "data.safetensors").read_bytes()
    arrays, info = fuzz.load(content), json.loads(fuzz._metadata(content)["cpl_bench"])
    info = replaced(info, data.draw)
    try:
        own = {name: value for name, value in info.items() if name != "format_version"}
        made = fuzz.Preferences(**arrays, info=fuzz.PreferenceInfo(**own))
        info["preferences_hash"] = fuzz.hash_of(made)
    except Exception:  # it can have none
        pass
    path = workshop / "odd.safetensors"
    path.write_bytes(fuzz.save(arrays, {"cpl_bench": json.dumps(info)}))
    try:
        found = load_preferences(path).info
    except UserError:
        return
    assert found.card == "" or check_folder("the data", found.card) is None


cells = st.text("0123456789,.-einfax λ\x1b\x00\n", max_size=40) | st.sampled_from(
    ["4,0,0,1,1.5,8", "4,1,0,0,-1,8", "8,clone,0,clone_loss,0.5", "9" * 5000, "1_0", "1e999,,,,,"]
)


@quick
@given(st.lists(cells, max_size=6), st.booleans())
def test_tables_may_say_anything(workshop, lines, ended):
    text = "\n".join(lines) + "\n" * ended
    path = workshop / "odd.csv"
    for header in (fuzz.read_evaluations.__globals__["HEADER"], "step,phase,seed,metric,value"):
        path.write_text(f"{header}\n{text}")
        for read in (read_evaluations, lambda path: read_metrics(path, "clone", ["clone_loss"])):
            read_or_refused(read, path)
        for drop in (drop_after, drop_metrics_after):
            path.write_text(f"{header}\n{text}")
            read_or_refused(drop, path, 4)


@pytest.fixture
def nowhere(workshop, tmp_path, monkeypatch):
    """An empty place to call verbs in: what is not there cannot be made for hours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    (tmp_path / "house").mkdir()
    monkeypatch.setattr(folders, "CHECKOUT", tmp_path / "house")
    monkeypatch.setattr(folders, "WHEEL_CARDS", tmp_path / "house")
    return tmp_path


words = st.sampled_from(fuzz.WORDS) | st.text(max_size=12) | st.sampled_from(
    ["--data", "--workers", "--seeds", "cpl", "sft", "--steps", "--lam", "--runs", "--episodes",
     "--policy.hidden", "--segments", "--scorer", "list", "runs", "--out=x", "--note", "--device"]
)  # fmt: skip


def test_verbs_may_be_told_anything(nowhere):
    verbs = [verb for verb in VERBS if verb != "quickstart"]

    @settings(quick, max_examples=120)
    @given(st.sampled_from(verbs), st.lists(words, max_size=6))
    def check(verb, line):
        fuzz.call([verb, *line])

    check()


@quick
@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_what_is_shown_steers_no_terminal(text):
    import unicodedata

    seen = visible(text).replace("\n", "").replace("\t", "")
    assert all(unicodedata.category(each) not in HIDDEN for each in seen)
    assert "\n" not in shortened(text) and len(shortened(text)) <= 101
    assert visible(visible(text)) == visible(text)


@quick
@given(values | st.integers(2, 6000).map(lambda digits: 10**digits))
def test_any_value_can_be_shown(value):
    assert shown(value).isprintable() or unseen_only_as_letters(shown(value))


def unseen_only_as_letters(text):
    """Unassigned letters and wide spaces are not printable to Python, and steer nothing."""
    return visible(text) == text


@quick
@given(st.text(min_size=1))
def test_any_text_gives_a_name_that_stays_where_it_is_put(tmp_path_factory, text):
    root = Path("/somewhere/below").resolve()
    for name in (file_part(text), slug(text)):
        assert (root / name).resolve().parent == root or name == ""
    try:
        check_folder("a name", text)
    except UserError:
        return
    assert (root / text).resolve() == root / text and not text.startswith(".")
    assert np.all([each.isprintable() for each in text])
