"""Norms over many gradients: the bits of both paths, what is finite, and the factor that clips."""

import math
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from training import SHAPES, Array, random_tensors

import stepspec
from stepspec import reference
from stepspec.norms import Norm, Norms, measure

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
PATHS = pytest.mark.parametrize("fused", [False, True], ids=["numpy", "fused"])
HUGE = 1.5e300
TINY = 1e-200


def odd_layouts(dtype: Any) -> list[Array]:
    """Return arrays that are not C-contiguous, or not aligned."""
    square = random_tensors([(66, 77)], dtype, seed=5)[0]
    shifted = np.zeros(square.nbytes + 1, np.uint8)[1:].view(dtype).reshape(square.shape)
    shifted[...] = square
    return [np.asfortranarray(square), square[::2, ::-3], square.T[:, 5], shifted]


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_paths_give_the_canonical_norms(dtype: Any) -> None:
    grads = [*random_tensors([*SHAPES, (4096,), (16385,)], dtype), *odd_layouts(dtype)]
    expected = np.array([reference.norm(np.ascontiguousarray(grad)) for grad in grads])
    before = stepspec.get_num_threads()
    try:
        for threads in (1, 2):
            stepspec.set_num_threads(threads)
            found = measure(grads, fused=True)
            assert found.values.tobytes() == expected.tobytes()
            assert not found.exponents[found.values > 0].any()
    finally:
        stepspec.set_num_threads(before)
    assert measure(grads, fused=False).values.tobytes() == expected.tobytes()
    wide = [grad.astype(np.float64) for grad in grads]
    assert found.values == pytest.approx([math.sqrt((grad * grad).sum()) for grad in wide], rel=1e-12)


@PATHS
def test_dtypes_mix(fused: bool) -> None:
    grads = [np.full(3, 2, dtype) for dtype in DTYPES]
    assert measure(grads, fused).values.tolist() == [math.sqrt(12)] * len(DTYPES)


@PATHS
@pytest.mark.parametrize(
    ("grad", "expected"),
    [
        (np.full(4, HUGE), 2 * HUGE),
        (np.full(40_000, -HUGE), 200 * HUGE),
        (np.array([HUGE, TINY]), HUGE),
        (np.array([3 * TINY, 4 * TINY]), 5 * TINY),
        (np.array([1.0, TINY]), 1.0),
        (np.array([5e-324]), 5e-324),
        (np.zeros(5), 0.0),
        (np.zeros((0, 3)), 0.0),
        (np.full(9, np.finfo(np.float32).max), 3 * float(np.finfo(np.float32).max)),
        (np.full(9, np.finfo(np.float32).max, np.float32), 3 * float(np.finfo(np.float32).max)),
    ],
)
def test_squares_that_leave_float64(fused: bool, grad: Array, expected: float) -> None:
    norms = measure([np.ones(1), grad], fused)
    assert norms.first_not_finite() is None
    assert math.ldexp(norms.values[1], int(norms.exponents[1])) == pytest.approx(expected, rel=1e-15, abs=0)


@PATHS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 4099, -1])
def test_every_element_is_looked_at(fused: bool, dtype: Any, value: float, place: int) -> None:
    broken = np.ones(20_000, dtype)
    broken[place] = value
    assert measure([np.ones(3, dtype), broken, broken], fused).first_not_finite() == 1


@PATHS
def test_the_largest_finite_numbers_are_finite(fused: bool) -> None:
    grads = [np.full(20_000, np.nextafter(dtype(math.inf), dtype(0))) for dtype in DTYPES]
    assert measure(grads, fused).first_not_finite() is None


@PATHS
def test_gradients_are_not_written(fused: bool) -> None:
    grads = [*random_tensors([(300,), (70, 90)], np.float64), np.full(4, HUGE), np.full(4, TINY)]
    before = [grad.tobytes() for grad in grads]
    for grad in grads:
        grad.flags.writeable = False
    measure(grads, fused)
    assert [grad.tobytes() for grad in grads] == before


def test_the_norm_of_all_tensors() -> None:
    norms = measure([np.array([3.0]), np.array([2.0, 0.0])], fused=False)
    assert float(norms.combined([1.0, 2.0])) == 5.0
    assert float(norms.combined([-0.1, 0.2])) == pytest.approx(0.5)
    assert float(norms.combined([0.0, 0.0])) == 0.0
    assert float(Norms(np.zeros(0), np.zeros(0, np.int64)).combined([])) == 0.0


def test_the_norm_of_all_tensors_is_canonical() -> None:
    values = np.abs(np.random.default_rng(1).standard_normal(5000))
    norms = Norms(values, np.zeros(5000, np.int64))
    assert float(norms.combined([1.0] * 5000)) == reference.norm(values)


def test_what_underflows_is_no_error() -> None:
    norms = Norms(np.array([3.0, 1e-300]), np.array([0, -600]))
    with np.errstate(all="raise"):
        assert float(norms.combined([1.0, 1e-300])) == 3.0
        assert math.isnan(float(Norms(np.array([math.inf, math.nan]), np.zeros(2, int)).combined([1, 1])))


@pytest.mark.parametrize("power", [-900, -500, 0, 400, 900])
def test_the_norm_of_all_tensors_beyond_float64(power: int) -> None:
    # as in test_the_norm_of_all_tensors, both far away
    norms = Norms(np.array([3.0, 4.0]), np.array([power, power]))
    norm = norms.combined([2.0**200, 2.0**200])
    assert (norm.value * 2.0 ** (norm.exponent - power - 200)) == 5.0
    assert float(norm) == (5 * 2.0 ** (power + 200) if power < 800 else math.inf)
    assert norm.factor_to(1e-300) == pytest.approx(min(1.0, 1e-300 / 5 * 2.0 ** -(power + 200)), abs=0)


@pytest.mark.parametrize(
    ("norm", "factor"),
    [
        (Norm(4.0, 0), 0.5),
        (Norm(2.0, 0), 1.0),
        (Norm(1.0, 0), 1.0),
        (Norm(0.0, 0), 1.0),
        (Norm(1.0, -3000), 1.0),
        (Norm(1.0, 1000), 2.0**-999),
        (Norm(math.inf, 0), 1.0),
        (Norm(math.nan, 0), 1.0),
    ],
)
def test_the_factor_that_clips_to_two(norm: Norm, factor: float) -> None:
    assert norm.factor_to(2.0) == factor


def test_what_is_not_finite_is_so_in_the_norm_of_all() -> None:
    assert math.isinf(float(measure([np.array([np.inf]), np.ones(2)], fused=False).combined([1.0, 1.0])))
    assert math.isnan(float(measure([np.ones(2), np.array([np.nan])], fused=False).combined([1.0, 1.0])))


def test_numpy_needs_no_numba() -> None:
    script = (
        "import sys, numpy; from stepspec.norms import measure; "
        "measure([numpy.ones(3)], False); print('numba' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60).strip() == "False"
