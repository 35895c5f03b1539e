"""What is said of data where a dataset card's name is expected: what they are, and what to do."""

import re
from pathlib import Path

import numpy as np
import pytest
from foreign_files import flat_arrays, pair_arrays, write_d4rl

from cpl_bench.cli.main import main
from cpl_bench.core.dataset_cards import dataset_names, load_dataset_card
from cpl_bench.core.errors import FEW, UserError, unknown_name


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that somebody may take for a dataset."""
    folder = tmp_path_factory.mktemp("shelf")
    np.savez(folder / "human2.npz", **pair_arrays())
    for name in ("x.hdf5", "hopper_medium-v2.hdf5"):
        write_d4rl(folder / name, flat_arrays())
    for name in ("label_human", "it's.pkl", "mine.toml", "data.safetensors"):
        (folder / name).write_bytes(b"")
    for name in ("human-parquet/episodes.parquet", "runs/a/run.json", "two/experiment.toml",
                 "theirs-v0/data/metadata.json", "hollow/x"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect human2.npz", "an .npz of .* cpl-bench import human2.npz --task TASK.*"
                               "then name human2.safetensors"),
        ("train --data human2.npz sft", "cpl-bench import human2.npz"),
        ("inspect human-parquet", "a folder of Parquet .* cpl-bench import human-parquet, then "
                                  "name human-parquet.safetensors"),
        ("label x.hdf5", 'an HDF5 file.* source = { format = "d4rl", id = "x.hdf5" }.*CARD.toml'),
        ("import hopper_medium-v2.hdf5", "The card hopper-medium-v2 .* cpl-bench import "
                                         "hopper-medium-v2 --source hopper_medium-v2.hdf5"),
        ("import x.hdf5 --task hopper", "an HDF5 file"),
        ("import gone/hopper_medium-v2.hdf5", "no such file.* cpl-bench import hopper-medium-v2"),
        ("import mujoco/hopper/simple-v0 --download", 'a Minari id.* source = { format = "minari", '
                                                      'id = "mujoco/hopper/simple-v0" }'),
        ("label D4RL/door/human-v2", "a Minari id.* cpl-bench import d4rl-door-human-v2"),
        ("collect theirs-v0", "a Minari dataset's folder.* --source FOLDER"),
        ("label data.safetensors", "a preference file.* train, inspect and export take it"),
        ("import label_human --label-one-means second", "a file, and no dataset card.* --rows"),
        ("import gone.npz.pkl", "gone.npz.pkl: there is no such file, nor a dataset card"),
        ("train --data gone.npz sft", "gone.npz: there is no such file, nor a dataset card"),
        ("train --data it's.pkl sft", "cpl-bench import 'it'\"'\"'s.pkl' --rows"),
        ("label runs/a", "a run: cpl-bench evaluate runs/a"),
        ("label two", "an experiment: cpl-bench sweep two"),
        ("import hollow", "a folder, and no dataset card: a name of cpl-bench list datasets"),
        ("label mine", "No dataset is called 'mine'.* A card of yours goes by its path: mine.toml"),
        ("label datasets/hopper-medium-v2", "Did you mean 'hopper-medium-v2'"),
    ],
)  # fmt: skip
def test_data_are_told_from_a_misspelt_name(
    shelf: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(shelf)
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line
    assert len(line) < 600, "no list of all there are"


def test_of_many_datasets_the_nearest_are_named() -> None:
    with pytest.raises(UserError) as caught:
        load_dataset_card("drawer-opn-small")
    said = str(caught.value)
    assert "Did you mean 'drawer-open-small'?" in said and "All: cpl-bench list datasets." in said
    assert len([name for name in dataset_names() if name in said]) <= 2 * FEW
    with pytest.raises(UserError, match=r"called 'zzz'\. All: cpl-bench list datasets\. A dataset"):
        load_dataset_card("zzz")


def test_few_names_are_all_listed() -> None:
    assert "Known: a, b." in str(unknown_name("kind", "x", ["b", "a"], lists="cpl-bench list"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "\0", "a\0.npz", "x" * 5000, "\ud800.npz", "/", "~"]
)
def test_odd_words_are_refused_in_a_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset_card(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700
