"""What a thread does for a row: reduce along it, compute the row's numbers, write its elements.

Every step takes the opened tensor, the numbers of the row that are known by then, the thread's place and
shared memory. The place is the row, the address of its gradient if that is row-sparse, the number of its
elements (-1 if there is no row for the thread's team), and the thread's lane and the size of its team, see
Note [Teams] and Note [Walks].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba import cuda
from numba.cuda import types

from stepspec.cuda.device_code import part
from stepspec.cuda.folds import WARP
from stepspec.cuda.kernels import Kernel, RowValues, Terms
from stepspec.cuda.row_access import Access
from stepspec.cuda.row_folds import AHEAD, row_fold
from stepspec.cuda.row_walks import Walk

Function = Callable[..., Any]


def row_step(kernel: Kernel, access: Access) -> Function:
    """Return `step(tensor, numbers, place, shared)`: all that a kernel over rows does in a row.

    The first numbers are those of the arrays with one for each row, which nobody writes before all threads
    have read them.
    """
    names, steps, turn = list(access.per_row), [], 0
    for step in kernel.before:
        if isinstance(step, Terms):
            steps.append(_reduced(step, access, tuple(names), turn))
            turn = 1 - turn
        else:
            steps.append(_computed(step, access, tuple(names)))
        names += step.gives
    return _in_order(steps, _written(kernel, access, names))


def _in_order(steps: Sequence[Function], last: Function) -> Function:
    """Return a step that takes all steps, each with the numbers that those before it made known."""
    if not steps:
        return last
    step, others = steps[0], _in_order(steps[1:], last)

    @part(types.none)
    def in_order(tensor: Any, numbers: Any, place: Any, shared: Any) -> None:
        more = step(tensor, numbers, place, shared)
        others(tensor, numbers + more, place, shared)

    return in_order


def _computed(step: RowValues, access: Access, names: Sequence[str]) -> Function:
    """Return the step that calls a function of the row's numbers."""
    call = access.caller(step.function, names, len(step.gives))

    def computed(tensor: Any, numbers: Any, place: Any, shared: Any) -> Any:
        return call(tensor, numbers, 0, 0, 0)

    return computed


def _reduced(step: Terms, access: Access, names: Sequence[str], turn: int) -> Function:
    """Return the step that reduces what a function of an element returns."""
    kinds, columns_slot = tuple(step.reduces.values()), access.slot("columns")
    walk = Walk(access, step.function, tuple(names), len(kinds))
    call = walk.terms(AHEAD)

    @part(types.UniTuple(types.UniTuple(access.number, len(kinds)), AHEAD))
    def terms(given: Any, column: int, apart: int) -> Any:
        tensor, numbers, place = given
        return call(tensor, numbers, place, column, apart)

    fold = row_fold(kinds, access.layout.formats.compute, terms, turn)

    def reduced(tensor: Any, numbers: Any, place: Any, shared: Any) -> Any:
        row, gradient, count, lane, team = place
        columns = tensor[columns_slot]
        return fold((tensor, numbers, (row * columns, gradient, count)), count, columns, lane, team, shared)

    return reduced


def _written(kernel: Kernel, access: Access, names: Sequence[str]) -> Function:
    """Return the last step: what is written of each element, then of the row."""
    elements = _nothing if kernel.function is None else _elements_written(kernel, access, names)
    store = access.storer({name: list(names).index(number) for name, number in kernel.row_writes.items()})

    @part(types.none)
    def written(tensor: Any, numbers: Any, place: Any, shared: Any) -> None:
        row, _, count, lane, team = place
        # who comes here has read what is reduced, the numbers of the row, and what lies in shared memory
        if team > WARP:
            cuda.syncthreads()
        else:
            cuda.syncwarp()
        elements(tensor, numbers, place)
        if lane == 0 and count >= 0:
            store(tensor, row, numbers)

    return written


def _elements_written(kernel: Kernel, access: Access, names: Sequence[str]) -> Function:
    assert kernel.function is not None, "only a function of elements returns what is written"
    walk, writes = Walk(access, kernel.function, tuple(names), len(kernel.writes)), kernel.writes
    packet, columns_slot, aligned = walk.packet, access.slot("columns"), walk.aligned(writes)
    single, single_ahead = walk.writer(writes, 1), walk.ahead(1)
    several, several_ahead = walk.writer(writes, packet), walk.ahead(packet)

    @part(types.none)
    def elements(tensor: Any, numbers: Any, place: Any) -> None:
        row, gradient, count, lane, team = place
        start = row * tensor[columns_slot]
        if aligned(tensor) and count & (packet - 1) == 0:
            column = lane * packet
            while column < count:
                several(tensor, numbers, (start, gradient, count), column, team * packet)
                column += team * packet * several_ahead
        else:
            column = lane
            while column < count:
                single(tensor, numbers, (start, gradient, count), column, team)
                column += team * single_ahead

    return elements


def _nothing(tensor: Any, numbers: Any, place: Any) -> None:
    """Do nothing: a kernel without a function of elements."""
