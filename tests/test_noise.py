"""Random words against the published ones, and stochastic rounding against exact arithmetic."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from launch import DTYPES, bits

from stepspec import noise

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
