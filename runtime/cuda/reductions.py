"""The passes of kernels that reduce: see Note [Canonical order] and Note [Folds by threads]."""

from __future__ import annotations

from collections.abc import Callable

from stepspec.canonical import ROW_BLOCK
from stepspec.cuda import column_reductions, tensor_reductions
from stepspec.cuda.items import THREADS
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import ROWS, Pass, pass_name
from stepspec.cuda.tensor_reductions import blocks_of, operands
from stepspec.layout import TAIL, Layout, Parameter
from stepspec.reductions import Reduction

Parts = Callable[[int, int], int]


def passes_of(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    """Return the passes of a kernel that reduces what its function returns; it has no `before`."""
    collecting = []
    for over in dict.fromkeys(over for over, _, _ in operands(kernel, "tensor")):
        name, recipe = pass_name(kernel, layout, f"{over}s"), tensor_reductions.collect_entry
        collecting.append(Pass.of(name, _slots(layout), _PARTS[over], recipe, kernel, layout, over))
    if operands(kernel, "column"):
        name, make = pass_name(kernel, layout, "columns"), column_reductions.collect_entry
        collecting.append(Pass.of(name, _slots(layout), column_blocks, make, kernel, layout))
    return (*collecting, *_finishing(kernel, layout))


def _slots(layout: Layout) -> tuple[Parameter, ...]:
    return (*layout.parameters, *TAIL, ROWS)


def _finishing(kernel: Kernel, layout: Layout) -> list[Pass]:
    """Return the passes that make results of partial results."""
    found, dtype = [], layout.formats.compute
    buffers = _buffers(kernel, "tensor")
    if buffers:
        found.append(_finish(buffers, _as_many(len(buffers)), tensor_reductions.finish_entry))
    buffers = _buffers(kernel, "column")
    if buffers:
        found.append(_finish(buffers, strips, column_reductions.finish_entry, dtype))
    return found


def _buffers(kernel: Kernel, per: str) -> list[tuple[Parameter, Reduction]]:
    named = ((slot, slot.reduction) for slot in kernel.reductions)
    return [(slot, reduction) for slot, reduction in named if reduction and reduction.per == per]


def _finish(
    buffers: list[tuple[Parameter, Reduction]],
    parts: Parts,
    recipe: Callable[..., Callable[..., None]],
    *dtype: str,
) -> Pass:
    results = [Parameter(slot.name, "result", reduction) for slot, reduction in buffers]
    slots = (*(slot for slot, _ in buffers), *results, TAIL[0], ROWS)
    reductions = tuple(reduction for _, reduction in buffers)
    words = [f"{each.kind}_{each.over}_{each.per}" for each in reductions]
    return Pass.of("-".join(("finish", *words, *dtype)), slots, parts, recipe, reductions, *dtype)


def _as_many(count: int) -> Parts:
    return lambda rows, columns: count


def strips(rows: int, columns: int) -> int:
    """Return how many times a block has a thread for each column."""
    return -(-columns // THREADS)


def column_blocks(rows: int, columns: int) -> int:
    """Return how many strips of columns all blocks of rows have."""
    return -(-rows // ROW_BLOCK) * strips(rows, columns)


_PARTS: dict[str, Parts] = {
    "element": lambda rows, columns: blocks_of(rows * columns),
    "row": lambda rows, columns: blocks_of(rows),
    "column": lambda rows, columns: blocks_of(columns),
}
