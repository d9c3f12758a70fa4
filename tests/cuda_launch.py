"""Launches of single passes on the PTX machine, over tables that are made by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ptx_machine import Machine, Memory

from stepspec.cuda.items import PART
from stepspec.cuda.recipes import Pass

SM_90 = (9, 0)


def launch(
    memory: Memory,
    this: Pass,
    shapes: Sequence[tuple[int, int]],
    rows: Mapping[str, Sequence[float]],
    grid: int = 3,
    first: int = 0,
) -> None:
    """Run a pass over tensors of `shapes` (rows, columns).

    `rows` holds the rows of its table by the names of the slots: addresses of arrays, scalars, counts. Those
    of the shapes are known; what the pass does not need may be absent. Parts before the `first` are left out.
    """
    known = {"rows": [r for r, _ in shapes], "columns": [c for _, c in shapes], **rows}
    addresses = []
    for slot in this.slots:
        dtype = np.float64 if slot.role in ("scalar", "result") else np.int64
        addresses.append(memory.put(np.array(known.get(slot.name, [0] * len(shapes)), dtype)))
    items = [
        tensor | part << PART
        for tensor, shape in enumerate(shapes)
        for part in range(first, this.parts(*shape))
    ]
    table, found = memory.put(np.array(addresses, np.int64)), memory.put(np.array(items, np.int64))
    Machine(this.code(SM_90).ptx).launch(memory, grid, (table, found, len(items)))


def same_bits(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> bool:
    """Tell whether bits are equal; every NaN equals every NaN."""
    whole = np.dtype(f"u{got.itemsize}")
    with np.errstate(all="ignore"):
        both_nan = np.isnan(got.astype(np.float64)) & np.isnan(want.astype(np.float64))
    equal = (got.view(whole) == want.view(whole)) | both_nan
    return got.dtype == want.dtype and got.shape == want.shape and bool(equal.all())
