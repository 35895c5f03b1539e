"""Counter-based random numbers: against plain integers, against chance, and alone as in company."""

import math

import numpy as np
import pytest
import torch

from cpl_bench.learning.random_bits import bits, member_keys, random_bytes, uniform_indices

MODULUS = 2**64


def scramble(z):
    """splitmix64's output function on a plain integer."""
    z = (z ^ z // 2**30) * 0xBF58476D1CE4E5B9 % MODULUS
    z = (z ^ z // 2**27) * 0x94D049BB133111EB % MODULUS
    return z ^ z // 2**31


def splitmix64(state, count):
    """The first `count` outputs of the published generator from `state`."""
    return [scramble((state + i * 0x9E3779B97F4A7C15) % MODULUS) for i in range(1, count + 1)]


def reference_bits(seed, step, stream, count):
    (key,), (stream_key,) = splitmix64(seed, 1), splitmix64(stream, 1)
    return splitmix64(scramble((key + stream_key + step * 0xD1342543DE82EF95) % MODULUS), count)


def unsigned(values):
    return [value % MODULUS for value in values.tolist()]


def at(step):
    return torch.tensor(step)


def chi_square(counts):
    """Standard deviations by which the χ² of `counts` against equal ones exceeds its mean."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_the_reference_is_the_published_generator():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(0, 3) == published


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**63 + 1, 2**64 - 1, -1])
@pytest.mark.parametrize(("step", "stream"), [(0, 0), (1, 0), (0, 1), (499_999, 7), (2**40, -1)])
def test_bits_equal_plain_integer_arithmetic(seed, step, stream):
    (drawn,) = bits(member_keys([seed]), at(step), stream, 17)
    assert unsigned(drawn) == reference_bits(seed, step, stream, 17)


def test_the_numbers_never_change():
    (drawn,) = bits(member_keys([0]), at(1), 2, 2)
    assert unsigned(drawn) == [0x49095AEEDA8BED71, 0xFE62D6E4184A1CE8]
    assert random_bytes(member_keys([0]), at(1), 2, 3).tolist() == [[113, 237, 139]]


def test_bytes_are_the_bits_lowest_first():
    keys = member_keys([3, 4])
    drawn = random_bytes(keys, at(9), 1, 21)
    assert drawn.shape == (2, 21) and drawn.dtype == torch.uint8
    for member, seed in enumerate([3, 4]):
        whole = b"".join(z.to_bytes(8, "little") for z in reference_bits(seed, 9, 1, 3))
        assert bytes(drawn[member].tolist()) == whole[:21]


@pytest.mark.parametrize("draw", [bits, random_bytes])
def test_a_member_draws_the_same_alone_or_among_eight_and_a_prefix_of_more(draw):
    seeds = [5, 0, 7, 1, 2, 3, 4, 6]
    together = draw(member_keys(seeds), at(11), 4, 100)
    for member, seed in enumerate(seeds):
        alone = draw(member_keys([seed]), at(11), 4, 100)[0]
        assert torch.equal(together[member], alone)
        assert torch.equal(draw(member_keys([seed]), at(11), 4, 37)[0], alone[:37])


def test_bytes_are_uniform():
    drawn = random_bytes(member_keys(range(4)), at(3), 1, 250_000).numpy().ravel()
    assert abs(chi_square(np.bincount(drawn, minlength=256))) < 4
    standard_error = math.sqrt((256**2 - 1) / 12 / drawn.size)
    assert abs(drawn.mean() - 127.5) < 4 * standard_error
    assert drawn.var() == pytest.approx((256**2 - 1) / 12, rel=4 * math.sqrt(0.8 / drawn.size))


def test_each_byte_of_a_hash_is_uniform():
    drawn = random_bytes(member_keys([0]), at(0), 0, 8 * 100_000).numpy().reshape(-1, 8)
    for place in range(8):
        assert abs(chi_square(np.bincount(drawn[:, place], minlength=256))) < 4


def test_successive_bytes_are_independent():
    drawn = random_bytes(member_keys([1]), at(0), 0, 1_000_000)[0].numpy().astype(np.int64)
    for lag in (1, 2, 8, 256):
        pairs = (drawn[:-lag] >> 4) * 16 + (drawn[lag:] >> 4)
        assert abs(chi_square(np.bincount(pairs, minlength=256))) < 5  # pairs overlap


@pytest.mark.parametrize("neighbour", ["seed", "step", "stream"])
def test_neighbours_are_uncorrelated(neighbour):
    rows = []
    for i in range(32):
        seed, step, stream = (i if neighbour == name else 5 for name in ("seed", "step", "stream"))
        rows.append(random_bytes(member_keys([seed]), at(step), stream, 20_000)[0])
    matrix = torch.stack(rows).double().numpy()
    off_diagonal = np.corrcoef(matrix)[np.triu_indices(32, 1)]
    assert np.abs(off_diagonal).max() < 5 / math.sqrt(20_000)
    assert off_diagonal.std() == pytest.approx(1 / math.sqrt(20_000), rel=0.2)


@pytest.mark.parametrize("neighbour", ["seed", "step", "stream"])
def test_a_neighbours_numbers_differ_in_half_their_bits(neighbour):
    base = {"seed": 0, "step": 0, "stream": 0}
    here = reference_of(**base)
    for distance in (1, 2, 3, 64):
        there = reference_of(**{**base, neighbour: distance})
        flipped = np.unpackbits((here ^ there).view(np.uint8))
        assert flipped.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(flipped.size))


def reference_of(seed, step, stream):
    return bits(member_keys([seed]), at(step), stream, 2_000)[0].numpy()


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_indices_are_uniform_below_the_limit(limit):
    drawn = uniform_indices(member_keys(range(8)), at(0), 0, 25_000, limit).numpy()
    assert drawn.shape == (8, 25_000)
    assert drawn.min() == 0 and drawn.max() == limit - 1
    if limit > 1:
        assert abs(chi_square(np.bincount(drawn.ravel(), minlength=limit))) < 4


def test_indices_over_many_steps_are_uniform():
    keys = member_keys([0])
    drawn = torch.stack([uniform_indices(keys, at(step), 0, 4, 50) for step in range(5_000)])
    assert abs(chi_square(np.bincount(drawn.numpy().ravel(), minlength=50))) < 4


def test_nothing_waits_for_the_device():
    keys = member_keys([0, 1], "meta")
    step = torch.zeros((), dtype=torch.int64, device="meta")
    assert random_bytes(keys, step, 1, 64).shape == (2, 64)
    assert uniform_indices(keys, step, 0, 5, 10).shape == (2, 5)
