"""Random words against the published ones, and what they become against exact arithmetic."""

from __future__ import annotations

import hashlib
import math
import platform
import re
from fractions import Fraction
from math import floor
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from assembly import CONTRACTED, full_assembly
from launch import DTYPES, Launch, bits

import stepspec
from stepspec import cpu, noise, transcendental
from stepspec.formats import Formats

HALVES = [DTYPES["float16"], DTYPES["bfloat16"]]
# the step between neighbours: digits of the mantissa, exponent of the smallest normal number
PRECISION = {"float16": (10, -14), "bfloat16": (7, -126)}


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_words_of_its_authors(counter: str, key: str, expected: str) -> None:
    given = [np.array([int(word, 16)], np.uint64) for word in f"{counter} {key}".split()]
    assert " ".join(f"{int(word[0]):08x}" for word in noise.philox(*given)) == expected


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Return the words of one block, in plain integers."""
    (a, b, c, d), (k, m) = counter, key
    for n in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        k_n, m_n = (k + n * 0x9E3779B9) % 2**32, (m + n * 0xBB67AE85) % 2**32
        a, b, c, d = (q >> 32) ^ b ^ k_n, q % 2**32, (p >> 32) ^ d ^ m_n, p % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(("seed", "name"), [(0, "dense.weight"), (2**64 - 1, "größe"), (7, "12")])
def test_words_depend_on_seed_name_count_and_position(seed: int, name: str) -> None:
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    halves = [int.from_bytes(part, "little") for part in (digest[:4], digest[4:])]
    key = noise.tensor_key(seed, name)
    assert -(2**63) <= key < 2**63
    found = noise.words(key, 2**32 - 3, (3, 2, 7))
    assert found.shape == (3, 2, 7)
    assert found.dtype == np.uint32
    for element, word in enumerate(found.reshape(-1).tolist()):
        assert word == philox([element // 4, 0, 2**32 - 3, 0], halves)[element % 4]
    assert noise.words(key, 1, ()).shape == ()
    assert noise.words(key, 1, (0, 4)).shape == (0, 4)


def test_a_seed_has_64_bits() -> None:
    for seed in (-1, 2**64):
        with pytest.raises(OverflowError):
            noise.tensor_key(seed, "weight")


def by_hand(value: float, dtype: np.dtype[Any], word: int) -> float:
    """Return a finite number rounded with one word, in exact arithmetic."""
    digits, smallest = PRECISION[dtype.name]
    x = abs(Fraction(value))
    exponent = smallest
    while x >= Fraction(2) ** (exponent + 1):
        exponent += 1
    step = Fraction(2) ** (exponent - digits)
    below = floor(x / step)
    fraction = x / step - below
    if dtype == np.float16 and x < Fraction(2) ** smallest:
        up = word < floor(fraction * 2**32)
    else:  # the part of the mantissa that is cut off, plus as many random bits, carries
        width = 23 - digits
        up = fraction * 2**width + word % 2**width >= 2**width
    found = (below + up) * step
    largest = float(np.array(0x7BFF if dtype == np.float16 else 0x7F7F, np.uint16).view(dtype))
    return float(np.copysign(float(found) if found <= largest else np.inf, value))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rounding_is_exact_arithmetic(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 2**32, 3000, np.uint32)
    # exponents of float16, subnormal ones too, are rare among all
    small = (patterns & np.uint32(0x807FFFFF)) | (rng.integers(95, 145, 3000, np.uint32) << np.uint32(23))
    values = np.concatenate([patterns, small]).view(np.float32)
    edges = np.array([0.0, -0.0, 65504, 65519, 65520, -65535])
    values = np.concatenate([values[np.isfinite(values)], edges.astype(np.float32)])
    words = rng.integers(0, 2**32, values.size, np.uint32)
    words[:50], words[50:100] = 0, 2**32 - 1
    found = noise.round_stochastically(values, dtype, words)
    expected = [by_hand(float(v), dtype, int(w)) for v, w in zip(values, words, strict=True)]
    assert found.dtype == dtype
    assert bits(found.astype(np.float64)) == bits(np.array(expected))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_fits_stays(dtype: np.dtype[Any]) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(dtype)
    for word in (0, 0x12345678, 2**32 - 1):
        found = noise.round_stochastically(halves.astype(np.float32), dtype, np.full(2**16, word, np.uint32))
        number = ~np.isnan(halves.astype(np.float32))
        assert bits(found[number]) == bits(halves[number])
        assert np.isnan(found[~number].astype(np.float32)).all()
    # NaN whose payload is cut off stays NaN
    hidden = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    assert np.isnan(
        noise.round_stochastically(hidden, dtype, np.zeros(2, np.uint32)).astype(np.float32)
    ).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("value", [1.0001, -0.3, 3e-6, 70.01])
def test_the_mean_stays(value: float, dtype: np.dtype[Any]) -> None:
    """Rounding to the nearest would be off by up to half a step, which is 250 standard errors."""
    count = 250_000
    x = np.full(count, value, np.float32)
    found = noise.round_stochastically(x, dtype, noise.words(noise.tensor_key(1, "w"), 3, x.shape))
    sides = np.unique(found.astype(np.float64))
    assert sides.size == 2
    step = sides[1] - sides[0]
    assert abs(found.astype(np.float64).mean() - float(x[0])) < 5 * 0.5 * step / count**0.5


# ---- normal numbers


def exact_cosine(u: float) -> Fraction:
    """Return cos(2 * pi * u) to 180 bits."""
    half_pi = Fraction(15707963267948966192313216916397514420985846996875529104874722961, 10**64)
    quarter = round(4 * Fraction(u))
    angle, unit = (4 * Fraction(u) - quarter) * half_pi, 2**180
    terms = [Fraction(1)]
    for n in range(1, 32):
        terms.append(Fraction(round(terms[-1] * angle / n * unit), unit))
    signed = [(-1) ** (n // 2) * term for n, term in enumerate(terms)]
    cosine, sine = sum(signed[0::2], Fraction(0)), sum(signed[1::2], Fraction(0))
    return (cosine, -sine, -cosine, sine)[quarter % 4]


def test_cosine_is_accurate() -> None:
    rng = np.random.default_rng(3)
    grid = np.arange(65) / 64
    near = np.concatenate([grid - 2.0**-52, grid, grid + 2.0**-52, grid[1:] + rng.random(64) * 1e-9])
    u = np.concatenate([near[(near >= 0) & (near < 1)], rng.integers(0, 2**52, 1500) * 2.0**-52])
    for x, y in zip(u.tolist(), transcendental.cos_of_turns(u).tolist(), strict=True):
        true = exact_cosine(x)
        assert abs(Fraction(y) - true) < 1.5 * Fraction(math.ulp(float(true))), x


def test_words_become_numbers_exactly() -> None:
    """The ends of both intervals: u lies within (0, 1), v in [0, 1), as Note [Noise] says."""
    largest = noise.WORD_MASK
    words = np.array([[0, 0], [0, 1 << 12], [largest, largest]], np.uint64).T
    found = transcendental.uniform(*words)
    assert [float(x - (1.0 - 2.0**-53)) for x in found] == [2.0**-53, 3 * 2.0**-53, 1 - 2.0**-53]
    assert [float(x - 1.0) for x in found] == [0.0, 2.0**-52, 1 - 2.0**-52]
    none, every = np.zeros(1, np.uint64), np.full(1, largest, np.uint64)
    assert 8.5 < float(transcendental.normal(none, none, none, none)[0]) < 8.6
    assert 0 < float(transcendental.normal(every, every, none, none)[0]) < 2e-8


def test_draws_are_pinned() -> None:
    key = noise.tensor_key(0, "weight")
    found = noise.normals(key, 1, 1, np.arange(4), np.float64)
    assert [float(x).hex() for x in found] == [
        "-0x1.15590cf6d3728p+0",
        "-0x1.92abe1c558691p-5",
        "-0x1.4145442f8dd5cp-1",
        "0x1.fd6da3718af49p-2",
    ]
    # computed once more, by the math library
    words = philox([2**32 - 1, 7, 1, 2], [key & noise.WORD_MASK, key >> 32 & noise.WORD_MASK])
    k, m = (high << 20 | low >> 12 for high, low in (words[:2], words[2:]))
    expected = math.sqrt(-2 * math.log((2 * k + 1) / 2**53)) * math.cos(2 * math.pi * m / 2**52)
    element = np.array([[7 * 2**32 + 2**32 - 1]])
    assert noise.normals(key, 2**32 + 1, 2, element, np.float64)[0, 0] == pytest.approx(expected, rel=1e-13)
    assert noise.normals(key, 1, 1, np.empty((0, 3), np.int64), np.float32).shape == (0, 3)


def test_a_million_draws_are_normal() -> None:
    count = 1_000_000
    x = noise.normals(noise.tensor_key(11, "w"), 5, 1, np.arange(count), np.float64)
    # of a standard normal number: powers, their means and variances
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - mean) < 4 * math.sqrt(variance / count), power
    bounds = np.linspace(-4.5, 4.5, 901)
    expected = np.array([NormalDist().cdf(b) for b in bounds])
    distance = np.abs(np.searchsorted(np.sort(x), bounds) / count - expected).max()
    assert distance < 1.6 / math.sqrt(count)  # Kolmogorov and Smirnov's, exceeded once in 80 times
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 4 / math.sqrt(count)


def test_draws_are_independent_of_each_other() -> None:
    elements, keys = np.arange(100_000), [noise.tensor_key(seed, name) for seed in (0, 1) for name in "ab"]
    draws = [
        noise.normals(key, count, stream, elements, np.float64)
        for key in keys
        for count in (1, 2)
        for stream in (1, 2)
    ]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / math.sqrt(elements.size)


@cpu.elements("weight", "normal", "normal_3")
def assign(weight: Any, normal: Any, normal_3: Any) -> None:
    for i in range(weight.size):
        weight[i] = normal[i] - normal_3[i]


@cpu.rows(element=("weight", "normal", "normal_3"))
def assign_rows(weight: Any, normal: Any, normal_3: Any) -> None:
    for r in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            weight[r, i] = normal[r, i] - normal_3[r, i]


@pytest.mark.parametrize("kernel", [assign, assign_rows], ids=["flat", "rows"])
@pytest.mark.parametrize(
    ("dtype", "stochastic"), [*((name, False) for name in DTYPES), ("float16", True), ("bfloat16", True)]
)
def test_kernels_draw_the_same_numbers(dtype: str, stochastic: bool, kernel: cpu.Kernel) -> None:
    formats = Formats(dtype, dtype, dtype, stochastic=stochastic)
    shapes = [(9001, 1), (33, 40), (3, 5000), (5, 0), (0, 3)]
    keys = [noise.tensor_key(3, str(tensor)) for tensor in range(len(shapes))]
    for threads, chunks in ((1, 1), (2, 3)):
        weights = [np.full(shape, 7, DTYPES[dtype]) for shape in shapes]
        launch = Launch(formats, shapes, weight=weights, noise_key=keys, noise_count=[9] * len(shapes))
        launch.run(kernel, threads, chunks)
        for key, weight in zip(keys, weights, strict=True):
            elements = np.arange(weight.size).reshape(weight.shape)
            one, other = (noise.normals(key, 9, s, elements, formats.compute) for s in (1, 3))
            wanted = one - other
            if stochastic:
                wanted = noise.round_stochastically(wanted, weight.dtype, noise.words(key, 9, weight.shape))
            assert bits(weight) == bits(wanted.astype(weight.dtype))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86 assembly")
def test_draws_are_vectorized(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assembly = full_assembly(assign, "float32", monkeypatch, tmp_path)
    for instruction in ("vpmuludq", "vdivpd", "vsqrtpd"):
        assert re.search(rf"{instruction}\s.*%[yz]mm", assembly), instruction
    assert not re.search(CONTRACTED, assembly)


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore:.*updates smaller")
def test_steps_draw_by_seed_name_count_and_element(dtype: str, fused: bool) -> None:
    """From weights of 0, without gradients and at a rate of 1, SGLD goes to the draws themselves."""
    optimizer = stepspec.SGLD(
        learning_rate=1.0, seed=5, param_idx2name={1: "bias"}, begin_num_update=8, use_fused_step=fused
    )
    shapes = [(), (7,), (3, 1500), (41, 130)]
    weights = [np.zeros(shape, DTYPES[dtype]) for shape in shapes[:3]]
    weights.append(np.zeros(shapes[3][::-1], DTYPES[dtype]).T)
    grads = [np.zeros(shape, DTYPES[dtype]) for shape in shapes]
    optimizer.update([4, 1, 2, 0], weights, grads, [{} for _ in shapes])
    for name, weight in zip(("4", "bias", "2", "0"), weights, strict=True):
        elements = np.arange(weight.size).reshape(weight.shape)
        drawn = noise.normals(noise.tensor_key(5, name), 9, 1, elements, np.float64)
        expected = drawn.astype(Formats.plain(dtype).compute).astype(weight.dtype)
        assert bits(weight) == bits(expected)
