"""Arrays come back as they were written, or are refused: never other ones."""

import itertools

import numpy as np
import pytest
import safetensors.numpy

from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.tensors import read_about, read_tensors, write_tensors

ARRAYS = {
    "w0": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "taken": np.array(7.0, np.float32),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 4), np.int64),
    "turned": np.arange(6.0).reshape(2, 3).T,
}
ABOUT = {"step": 20, "kind": "deterministic", "λ": [0.5, None]}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "deep" / "some.safetensors", ARRAYS, ABOUT)
    return tmp_path / "deep" / "some.safetensors"


def same(found, expected=ARRAYS):
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype
        and found[name].shape == value.shape
        and np.array_equal(found[name], value)
        for name, value in expected.items()
    )


def test_arrays_come_back(path):
    about, arrays = read_tensors(path, "")
    assert about == read_about(path, "") == ABOUT
    assert same(arrays)
    before = path.read_bytes()
    write_tensors(path, dict(reversed(ARRAYS.items())), ABOUT)
    assert path.read_bytes() == before


def test_no_byte_can_be_altered_unseen(path):
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        for bit in (1, 128):
            changed = bytearray(whole)
            changed[place] ^= bit
            path.write_bytes(changed)
            try:
                about, arrays = read_tensors(path, "Train again.")
            except UserError as problem:
                assert str(problem).endswith("Train again.")
                refused += 1
            else:
                assert about == ABOUT
                assert same(arrays)
    assert refused > 1.9 * len(whole) - 200  # the rest is space in the header


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 50, 300, -1])
def test_what_is_cut_off_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    for read in (read_tensors, read_about):
        with pytest.raises(UserError, match=r"some\.safetensors is damaged.*Again\."):
            read(path, "Again.")


def test_other_programs_files_are_refused(path):
    for metadata in (None, {"cpl_bench": "[]"}, {"cpl_bench": "{}"}, {"cpl_bench": "[" * 5000}):
        safetensors.numpy.save_file({"w0": ARRAYS["w0"]}, path, metadata)
        with pytest.raises(UserError, match="or no file of this version of cpl_bench"):
            read_tensors(path, "")


# --- Is it a policy? ---


def layers(*sizes, members=2):
    """The arrays of a perceptron with its members on the leading axis."""
    arrays = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        arrays[f"w{i}"] = np.ones((members, inputs, outputs), np.float32)
        arrays[f"b{i}"] = np.zeros((members, outputs), np.float32)
    return arrays


def test_perceptrons_are_policies():
    PolicyWeights("deterministic", layers(4, 8, 2)).check_members()
    std = {"std": np.ones((2, 2), np.float32)}
    PolicyWeights("gaussian", layers(4, 2) | std).check_members()


def test_deviations_and_chunks_must_fit_the_outputs():
    arrays = layers(4, 6)
    fitting = PolicyWeights("gaussian", arrays | {"std": np.ones((2, 6), np.float32)}, 3, 1)
    fitting.check_members()
    assert (fitting.sizes, fitting.executed_steps) == ((4, 2), 1)
    for std in (np.ones((2, 2)), np.ones(6), -np.ones((2, 6))):
        with pytest.raises(UserError, match="its std must be 6 deviations for each of 2 members"):
            PolicyWeights("gaussian", arrays | {"std": std}, 3).check_members()
    with pytest.raises(UserError, match="its 6 outputs are no 4 actions"):
        PolicyWeights("deterministic", arrays, 4).check_members()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "has nothing"),
        ({"b0": np.zeros((2, 2))}, "needs w0, b0"),
        (layers(4, 8, 2) | {"extra": np.zeros(1)}, "extra"),
        ({k: v for k, v in layers(4, 8, 2).items() if k != "b1"}, "needs w0, b0"),
        (layers(4, 8, 2) | {"w1": np.ones((2, 7, 2))}, "layer 1 has shapes"),
        (layers(4, 8, 2) | {"b0": np.ones((3, 8))}, "layer 0 has shapes"),
        (layers(4, 8, 2) | {"w0": np.ones((4, 8))}, "layer 0 has shapes"),
        (layers(4, 8, 2) | {"b1": np.full((2, 2), np.nan, np.float32)}, "no finite numbers in b1"),
        (layers(4, 8, 2) | {"b1": np.ones((2, 2))}, "not float32"),
        (layers(4, 8, 2, members=0), "no members"),
        (layers(4, 0), "no members"),
    ],
)
def test_what_is_no_policy_is_explained(arrays, said):
    with pytest.raises(UserError, match=said):
        PolicyWeights("deterministic", arrays).check_members()
