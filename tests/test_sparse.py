"""RowSparse: what it takes, what it refuses and how, and its ways from and to other forms."""

import copy
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from stepspec.sparse import RowSparse

Array = NDArray[Any]
DTYPES = (np.float16, bfloat16, np.float32, np.float64)


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def same(one: RowSparse, two: RowSparse) -> bool:
    """Tell whether two gradients have the same bits."""
    return (
        (one.shape, one.dtype) == (two.shape, two.dtype)
        and one.rows.tolist() == two.rows.tolist()
        and one.values.tobytes() == two.values.tobytes()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (7, 0), (7, 3), (7, 2, 1, 3)])
@pytest.mark.parametrize("rows", [[], [0], [6], [1, 2, 5], range(7)])
def test_attributes(shape: tuple[int, ...], rows: Any, dtype: Any) -> None:
    values = np.random.default_rng(0).standard_normal((len(rows), *shape[1:])).astype(dtype)
    grad = RowSparse(values, rows, shape)
    assert grad.values is values
    assert grad.rows.dtype == np.int64
    assert grad.rows.tolist() == list(rows)
    assert (grad.shape, grad.ndim, grad.dtype) == (shape, len(shape), np.dtype(dtype))
    dense = np.zeros(shape, dtype)
    for row, value in zip(rows, values, strict=True):
        dense[row] = value
    assert grad.to_dense().tobytes() == dense.tobytes()
    assert grad.to_dense().dtype == dtype


def test_a_gradient_of_no_rows() -> None:
    grad = RowSparse(np.empty((0, 3), np.float32), np.array([], str), (0, 3))
    assert grad.to_dense().shape == (0, 3)
    assert RowSparse.from_dense(grad.to_dense()).rows.tolist() == []
    assert RowSparse.summed(grad.values, grad.rows, grad.shape).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i4", np.int64, np.uint64])
def test_row_numbers_of_any_int_dtype_are_copied(dtype: Any) -> None:
    rows = np.array([1, 3, 200], dtype)
    grad = RowSparse(ones(3, 2), rows, (300, 2))
    rows[:] = 7
    assert grad.rows.tolist() == [1, 3, 200]
    assert RowSparse(ones(2, 2), (np.int32(1), 2), [np.int64(300), 2]).shape == (300, 2)


def test_more_rows_than_memory_holds() -> None:
    height = sys.maxsize
    grad = RowSparse(ones(2, 2), [0, height - 1], (height, 2))
    assert grad.rows.tolist() == [0, height - 1]
    assert RowSparse.summed(ones(2, 2), [height - 1] * 2, grad.shape).values.tolist() == [[2, 2]]
    with pytest.raises(ValueError, match="too big"):
        grad.to_dense()


def test_values_are_kept_as_they_lie(tmp_path: Path) -> None:
    big = np.zeros((6, 4), np.float32)
    view = big[::2, 1:]
    grad = RowSparse(view, [1, 2, 5], (9, 3))
    big[2, 1] = 5
    assert grad.to_dense()[2].tolist() == [5, 0, 0]
    frozen = ones(1, 3)
    frozen.flags.writeable = False
    assert RowSparse(frozen, [0], (1, 3)).to_dense().tolist() == [[1, 1, 1]]
    mapped = np.memmap(tmp_path / "values", np.float32, "w+", shape=(2, 3))
    assert RowSparse(mapped, [0, 1], (2, 3)).values is mapped


def test_nobody_can_change_it() -> None:
    grad = RowSparse(ones(2, 3), [0, 3], (4, 3))
    for name in ("values", "rows", "shape", "dtype", "ndim", "other", "_numbers"):
        with pytest.raises(AttributeError, match=f"{name} of a RowSparse cannot be set"):
            setattr(grad, name, 1)
    with pytest.raises(AttributeError, match="values of a RowSparse cannot be deleted"):
        del grad.values
    assert not hasattr(grad, "__dict__")
    grad.__init__(ones(1, 3), [1], (4, 3))  # type: ignore[call-arg]  # the mistake
    assert grad.rows.tolist() == [0, 3]
    with pytest.raises(TypeError, match="missing"):
        RowSparse.__new__(RowSparse)  # type: ignore[call-arg]  # the mistake
    with pytest.raises(TypeError, match="cannot be subclassed"):
        type("Own", (RowSparse,), {})


def test_nobody_can_change_its_row_numbers() -> None:
    """Compiled code writes to these rows without another look at them."""
    grad = RowSparse(ones(2, 3), [0, 3], (4, 3))
    with pytest.raises(ValueError, match="WRITEABLE"):
        grad.rows.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        grad.rows[0] = 4
    mine: Any = grad.rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy intends to forbid this
        mine.shape = (1, 2)
        mine.dtype = np.int32
    assert grad.rows.tolist() == [0, 3]
    assert grad.rows.ctypes.data == mine.ctypes.data


@pytest.mark.parametrize(
    ("values", "rows", "shape", "error", "message"),
    [
        ([[1.0, 2.0]], [0], (4, 2), TypeError, r"numpy.ndarray, not list; .*np.asarray"),
        (None, [0], (4, 2), TypeError, "values must be a numpy.ndarray, not NoneType"),
        (np.ma.ones((1, 2)), [0], (4, 2), TypeError, "not numpy.ma.MaskedArray"),
        (np.ones((1, 2), int), [0], (4, 2), TypeError, r"float64, not int64; .*\.astype"),
        (np.ones((1, 2), ">f4"), [0], (4, 2), TypeError, "not float32 in foreign byte order"),
        (ones(2), [0], (4, 2), ValueError, r"must have shape \(1, 2\), .*\(4, 2\), not \(2,\)"),
        (ones(1, 2), [0, 1], (4, 2), ValueError, r"shape \(2, 2\), for 2 rows .* not \(1, 2\)"),
        (ones(4, 2), [0], (4, 2), ValueError, r"shape \(1, 2\), for 1 rows .* not \(4, 2\)"),
        (ones(1, 2), [0], (4, 3), ValueError, r"shape \(1, 3\)"),
        (ones(1), [4], (4,), ValueError, r"rows\[0\] = 4 .* rows are 0 to 3 in shape \(4,\)"),
        (ones(3), [0, -1, 9], (4,), ValueError, r"rows\[1\] = -1 is out of range"),
        (ones(1), [0], (0,), ValueError, r"rows\[0\] = 0 .* there are no rows in shape \(0,\)"),
        (ones(1), np.array([2**63], np.uint64), (4,), ValueError, r"rows\[0\] = 9223372036854775808 "),
        (ones(1), [2**80], (4,), TypeError, "rows must be ints, not of dtype object"),
        (ones(1), [1.0], (4,), TypeError, "rows must be ints, not of dtype float64"),
        (ones(1), ["1"], (4,), TypeError, "rows must be ints"),
        (ones(2), [True, False], (2,), TypeError, r"dtype bool; .*np\.flatnonzero"),
        (ones(1), [[0]], (4,), ValueError, r"one dimension, not list of shape \(1, 1\)"),
        (ones(1), 0, (4,), ValueError, r"a list or an array of one dimension, not int of shape \(\)"),
        (ones(1), {0}, (4,), ValueError, "not set of shape"),
        (ones(2), [[0], [1, 2]], (4,), ValueError, "rows must be a list or an array of ints: "),
        (ones(0), [[]], (4,), ValueError, r"not list of shape \(1, 0\)"),
        (ones(1), np.array([0], object), (4,), TypeError, "rows must be ints, not of dtype object"),
        (ones(1), np.ma.array([0], mask=[True]), (4,), TypeError, r"not be masked; .*compressed\(\)"),
        (ones(1), [0], 4, TypeError, "shape must be a tuple of ints.* not 4"),
        (ones(1), [0], (4.0,), TypeError, "shape must be a tuple of ints"),
        (ones(1), [0], (), ValueError, r"shape must have one dimension or more, .* not \(\)"),
        (ones(0), [], (-1,), ValueError, r"lengths from 0 to \d+, not \(-1,\)"),
        (ones(1), np.array([2**63], np.uint64), (2**64,), ValueError, rf"0 to {2**63 - 1}, not \({2**64},\)"),
    ],
)
def test_bad_input(values: Any, rows: Any, shape: Any, error: type[Exception], message: str) -> None:
    for make in (RowSparse, RowSparse.summed):
        with pytest.raises(error, match=message):
            make(values, rows, shape)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 4, 7, 5], r"sorted: rows\[3\] = 5 follows 7; RowSparse\.summed\(values, rows, shape\) sorts"),
        ([0, 4, 4, 5], r"unique: rows\[2\] = 4 repeats rows\[1\]; .*sums repeated ones"),
        ([3, 2, 2, 9], r"rows\[1\] = 2 follows 3"),
    ],
)
def test_order_of_rows(rows: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowSparse(ones(4, 1), rows, (10, 1))
    assert RowSparse.summed(ones(4, 1), rows, (10, 1)).rows.tolist() == sorted(set(rows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9,), (9, 33), (9, 2, 3)])
def test_repeated_rows_are_summed_in_order(shape: tuple[int, ...], dtype: Any) -> None:
    """Unlike a pairwise sum, and with one rounding."""
    random = np.random.default_rng(1)
    rows = random.choice([0, 1, 4, 8], 200)
    values = (random.standard_normal((200, *shape[1:])) * 10.0 ** random.integers(-3, 4)).astype(dtype)
    expected: dict[int, Array] = {}
    compute = np.float64 if dtype == np.float64 else np.float32
    for row, value in zip(rows.tolist(), values.astype(compute), strict=True):
        expected[row] = expected[row] + value if row in expected else value
    grad = RowSparse.summed(values, rows, shape)
    assert grad.rows.tolist() == [0, 1, 4, 8]
    assert grad.dtype == dtype
    assert grad.values.tobytes() == np.array([expected[row] for row in grad.rows]).astype(dtype).tobytes()


def test_sums_keep_what_single_rows_are() -> None:
    values = np.array([-0.0, 1.0, np.inf, 3e4, -1.0, -np.inf, 6e4, -0.0], np.float16)
    grad = RowSparse.summed(values, [6, 1, 3, 5, 1, 3, 5, 2], (9,))
    expected = np.array([0.0, -0.0, np.nan, np.inf, -0.0])
    assert grad.rows.tolist() == [1, 2, 3, 5, 6]  # the sum of row 1 is zero: it is present all the same
    np.testing.assert_array_equal(grad.values, expected)
    np.testing.assert_array_equal(np.signbit(grad.values)[[0, 1, 4]], [False, True, True])
    assert not np.shares_memory(RowSparse.summed(values, range(8), (9,)).values, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_dense(dtype: Any) -> None:
    dense = np.array([[0, 0], [0, 1], [-0.0, 0], [np.nan, 0], [0, np.inf]], dtype)
    grad = RowSparse.from_dense(dense)
    assert grad.rows.tolist() == [1, 3, 4]
    assert grad.values.tobytes() == dense[[1, 3, 4]].tobytes()
    assert not np.shares_memory(grad.values, dense)
    assert RowSparse.from_dense(dense[:, 1]).rows.tolist() == [1, 4]
    assert RowSparse.from_dense(dense.reshape(5, 1, 2)).shape == (5, 1, 2)
    assert RowSparse.from_dense(np.zeros((3, 0), dtype)).rows.tolist() == []


def test_from_dense_refuses() -> None:
    with pytest.raises(ValueError, match=r"shape \(\) has no rows; reshape it"):
        RowSparse.from_dense(np.ones(()))
    with pytest.raises(TypeError, match=r"the array must be a numpy\.ndarray, not list"):
        RowSparse.from_dense([1.0])  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match=r"the array must have one of the dtypes .* not bool"):
        RowSparse.from_dense(np.ones(3, bool))


def test_to_dense_in_another_dtype() -> None:
    grad = RowSparse(np.array([1.5, 2.5], bfloat16), [0, 2], (3,))
    dense = grad.to_dense(np.float64)
    assert dense.dtype == np.float64
    assert dense.tolist() == [1.5, 0, 2.5]
    dense[0] = 7
    assert grad.values[0] == 1.5


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_scipy(form: str, dtype: Any) -> None:
    dense = np.array([[0, 0, 3, 0], [0, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0]], dtype)
    for make in (scipy.sparse.coo_array, scipy.sparse.coo_matrix):
        grad = RowSparse.from_scipy(make(dense).asformat(form))
        assert (grad.dtype, grad.shape) == (dtype, (4, 4))
        assert grad.to_dense().tobytes() == dense.tobytes()
        if form not in ("dia", "bsr"):  # these may store zeros
            assert grad.rows.tolist() == [0, 2]


def test_from_scipy_sums_repeated_elements_and_keeps_stored_zeros() -> None:
    rows, columns, data = [2, 0, 2, 2, 3], [1, 0, 1, 0, 1], np.array([1, 2, 4, 8, 0], np.float32)
    entries = scipy.sparse.coo_array((data, (rows, columns)), shape=(5, 2))
    repeated = scipy.sparse.csr_array((data, [0, 1, 1, 0, 1], [0, 1, 1, 4, 5, 5]), shape=(5, 2))
    for matrix, values in ((entries, [[2, 0], [8, 5], [0, 0]]), (repeated, [[1, 0], [8, 6], [0, 0]])):
        grad = RowSparse.from_scipy(matrix)
        assert grad.rows.tolist() == [0, 2, 3]
        assert grad.values.tolist() == values


def test_from_scipy_refuses() -> None:
    with pytest.raises(TypeError, match=r"a matrix of scipy\.sparse, not numpy\.ndarray"):
        RowSparse.from_scipy(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"2 dimensions, not 1: shape \(3,\)"):
        RowSparse.from_scipy(scipy.sparse.coo_array(np.ones(3)))
    with pytest.raises(TypeError, match="not int64"):
        RowSparse.from_scipy(scipy.sparse.csr_array(np.ones((2, 2), int)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [0, 1, 5])
def test_to_scipy(width: int, dtype: Any) -> None:
    values = np.array([[0.0] * width, [-0.0] * width, [2.5] * width], dtype)
    grad = RowSparse(np.asfortranarray(values), [1, 2, 6], (8, width))
    matrix = grad.to_scipy()
    wide = np.float64 if dtype == np.float64 else np.float32
    assert (matrix.format, matrix.dtype, matrix.shape) == ("csr", wide, (8, width))
    matrix.check_format()
    assert matrix.toarray().tobytes() == (grad.to_dense(wide) + 0.0).tobytes()  # scipy adds: -0.0 is gone
    if width:
        back = RowSparse(values.astype(wide) + 0, grad.rows, grad.shape)
        assert same(RowSparse.from_scipy(matrix), back)
    matrix.data[:] = 7
    assert not (grad.values == 7).any()


def test_to_scipy_refuses() -> None:
    with pytest.raises(ValueError, match=r"2 dimensions, not 1: shape \(3,\)"):
        RowSparse(ones(1), [0], (3,)).to_scipy()


def test_values_reshaped_in_place_are_noticed() -> None:
    values = ones(2, 3)
    grad = RowSparse(values, [0, 3], (4, 3))
    grad.check("the gradient of 'table'", (4, 3))
    with pytest.raises(ValueError, match=r"gradient of 'table' has shape \(4, 3\), expected \(4, 4\)"):
        grad.check("the gradient of 'table'", (4, 4))
    values.resize((1, 3), refcheck=False)
    assert not grad.is_whole()
    narrow = RowSparse(values, [0], (4, 3))
    values.resize((1, 2), refcheck=False)
    assert not narrow.is_whole()
    with pytest.raises(ValueError, match=r"'table' holds 2 rows .* shape \(1, 2\); make a new"):
        grad.check("the gradient of 'table'", (4, 3))
    for convert in (grad.to_dense, grad.to_scipy):
        with pytest.raises(ValueError, match="make a new RowSparse"):
            convert()


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_and_pickles(dtype: Any) -> None:
    grad = RowSparse(np.array([[1, -2], [np.nan, 0]], dtype), [0, 3], (4, 2))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        restored = pickle.loads(pickle.dumps(grad, protocol))
        assert same(restored, grad)
        assert not restored.rows.flags.writeable
    shallow, deep = copy.copy(grad), copy.deepcopy(grad)
    assert same(shallow, grad)
    assert shallow.values is grad.values
    assert same(deep, grad)
    assert not np.shares_memory(deep.values, grad.values)


def test_equality_is_identity() -> None:
    grad = RowSparse(ones(1, 2), [0], (4, 2))
    twin = copy.copy(grad)
    assert grad == grad
    assert grad != twin
    assert len({grad, twin}) == 2


def test_repr() -> None:
    grad = RowSparse(np.ones((2, 3), bfloat16), [0, 3], (4, 3))
    assert repr(grad) == "RowSparse(2 of 4 rows, shape=(4, 3), dtype=bfloat16)"
