"""Row-sparse gradients: some rows of an array, all others zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, SupportsIndex, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stepspec.formats import compute_dtype, is_half
from stepspec.places import ARRAY_TYPES, shadow
from stepspec.sparse_checks import (
    check_array,
    check_on_host,
    check_values,
    checked_rows,
    checked_shape,
    type_name,
)
from stepspec.states import Array

_SUM = "sum rows that repeat with the library of the values, in PyTorch by grad.coalesce()"
_COPY = "make a RowSparse of a copy of its values on the host"

RowNumbers = Sequence[SupportsIndex] | NDArray[np.integer[Any]]


@final
class RowSparse:
    """A gradient of which only some rows are given; all others are zero.

    Rows are positions on the first axis: for an embedding of shape (words, columns), the words of a batch.

    Parameters
    ----------
    values : numpy.ndarray, or array on a GPU, of shape (k, ...)
        The present rows, float16, bfloat16, float32 or float64, of any strides. Kept without a copy, never
        written.
    rows : int array or list of length k
        Which rows they are: sorted, each once, in ``0 .. n - 1``. Copied; from a GPU, which waits for it.
    shape : tuple of int
        The shape of the whole gradient, ``(n, ...)``: at least one dimension.

    Raises
    ------
    TypeError
        If `values` is no such array or of another dtype, or `rows` or `shape` hold anything but ints.
    ValueError
        If the shapes do not fit, or rows are out of range, not sorted or repeated.

    See Also
    --------
    RowSparse.summed : rows in any order, repeated ones too.

    """

    __slots__ = ("_numbers", "_shape", "_values")

    _values: Array
    _numbers: bytes
    _shape: tuple[int, ...]

    # not in __init__, which could be called again
    def __new__(cls, values: Array, rows: RowNumbers, shape: Sequence[SupportsIndex]) -> RowSparse:
        lengths = checked_shape(shape)
        numbers = checked_rows(rows, lengths)
        check_values("values", values, numbers, lengths)
        for k in np.flatnonzero(numbers[1:] <= numbers[:-1])[:1] + 1:
            kind, what = "sorted", f"{numbers[k]} follows {numbers[k - 1]}"
            if numbers[k] == numbers[k - 1]:
                kind, what = "unique", f"{numbers[k]} repeats rows[{k - 1}]"
            raise ValueError(
                f"rows must be {kind}: rows[{k}] = {what}; RowSparse.summed(values, rows, shape) sorts rows "
                "and sums repeated ones"
            )
        made = super().__new__(cls)
        # compiled code trusts the row numbers: bytes can never be changed
        for name, value in (("_values", values), ("_numbers", numbers.tobytes()), ("_shape", lengths)):
            object.__setattr__(made, name, value)
        return made

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("RowSparse cannot be subclassed: compiled code trusts its rows")

    @classmethod
    def summed(cls, values: Array, rows: RowNumbers, shape: Sequence[SupportsIndex]) -> RowSparse:
        """Return the gradient of rows in any order, such as indices with values; repeated ones are summed.

        Sums are taken in order of appearance, in float32 (float64 for float64), and rounded once. `values` is
        copied.

        Parameters
        ----------
        values, rows, shape
            As of the class, but for the order of rows.

        """
        check_on_host("RowSparse.summed", values, _SUM)
        lengths = checked_shape(shape)
        numbers = checked_rows(rows, lengths)
        check_values("values", values, numbers, lengths)
        unique, first, place = np.unique(numbers, return_index=True, return_inverse=True)
        # a row starts as its first value, not at zero: -0.0 stays what it is
        sums = values[first].astype(compute_dtype(values.dtype), copy=False)
        later = np.ones(numbers.size, bool)
        later[first] = False
        with np.errstate(all="ignore"):
            np.add.at(sums, place[later], values[later].astype(sums.dtype, copy=False))
            return cls(sums.astype(values.dtype, copy=False), unique, lengths)

    @classmethod
    def from_dense(cls, array: Array) -> RowSparse:
        """Return a copy of the rows of an array that hold anything but zeros. NaN is no zero, -0.0 is one."""
        check_on_host("RowSparse.from_dense", array, "pass the array itself as the gradient")
        check_array("the array", array)
        if array.ndim == 0:
            raise ValueError("an array of shape () has no rows; reshape it to (1,)")
        rows = np.flatnonzero((array != 0).any(axis=tuple(range(1, array.ndim))))
        return cls(array[rows], rows, array.shape)

    @classmethod
    def from_scipy(cls, matrix: Any) -> RowSparse:
        """Return the rows in which a `scipy.sparse` matrix or 2-D array stores anything, zeros included.

        Elements stored more than once are summed by scipy. Present rows become dense.
        """
        from scipy.sparse import issparse

        if not issparse(matrix):
            raise TypeError(f"from_scipy takes a matrix of scipy.sparse, not {type_name(matrix)}")
        if matrix.ndim != 2:
            raise ValueError(f"from_scipy takes 2 dimensions, not {matrix.ndim}: shape {matrix.shape}")
        compressed = matrix.tocsr()
        rows = np.flatnonzero(np.diff(compressed.indptr))
        return cls(compressed[rows].toarray(), rows, compressed.shape)

    def to_dense(self, dtype: DTypeLike | None = None) -> Array:
        """Return the whole gradient as a new array, of the values' dtype unless another one is given."""
        check_on_host("to_dense", self._values, _COPY)
        self.check("the gradient", self._shape)
        dense = np.zeros(self._shape, self.dtype if dtype is None else dtype)
        dense[self.rows] = self._values
        return dense

    def to_scipy(self) -> Any:
        """Return a 2-D gradient as a new `scipy.sparse.csr_array` that stores every element of present rows.

        Half precision, which scipy does not know, becomes float32.
        """
        from scipy.sparse import csr_array

        if self.ndim != 2:
            raise ValueError(f"to_scipy takes 2 dimensions, not {self.ndim}: shape {self._shape}")
        check_on_host("to_scipy", self._values, _COPY)
        self.check("the gradient", self._shape)
        height, width = self._shape
        values = self._values.astype(np.float32 if is_half(self.dtype) else self.dtype)
        stored = np.zeros(height + 1, np.int64)
        stored[self.rows + 1] = width
        columns = np.tile(np.arange(width), len(values))
        return csr_array((values.ravel(), columns, np.cumsum(stored)), shape=self._shape)

    @property
    def values(self) -> Array:
        """The present rows, shape (k, ...): the array that was given."""
        return self._values

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which rows are present: sorted, unique, int64 of shape (k,), immutable."""
        # a new array each time: the shape and dtype of one that is kept could be changed in place
        return np.frombuffer(self._numbers, np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole gradient."""
        return self._shape

    @property
    def ndim(self) -> int:
        """Number of dimensions of the whole gradient."""
        return len(self._shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values, NumPy's."""
        values = self._values
        return values.dtype if type(values) in ARRAY_TYPES else shadow(values).dtype

    def over(self, values: Array) -> RowSparse:
        """Return the same rows of other values, of the same shape: those of a shadow, see Note [Shadows]."""
        made = object.__new__(RowSparse)
        for name, value in (("_values", values), ("_numbers", self._numbers), ("_shape", self._shape)):
            object.__setattr__(made, name, value)
        return made

    def check(self, what: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError, naming `what`, unless it has this shape and its values still fit it."""
        if self._shape != shape:
            raise ValueError(f"{what} has shape {self._shape}, expected {shape}")
        if not self.is_whole():
            raise ValueError(
                f"{what} holds {len(self.rows)} rows of shape {self._shape[1:]}, but since then its values "
                f"were given shape {tuple(self._values.shape)}; make a new RowSparse"
            )

    def is_whole(self) -> bool:
        """Tell whether the values, whose shape can be changed in place, are still one per row."""
        return tuple(self._values.shape) == (len(self.rows), *self._shape[1:])

    def __repr__(self) -> str:
        return (
            f"RowSparse({len(self.rows)} of {self._shape[0]} rows, shape={self._shape}, dtype={self.dtype})"
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"{name} of a RowSparse cannot be set; make a new RowSparse(values, rows, shape)"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name} of a RowSparse cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return RowSparse, (self._values, self.rows, self._shape)
