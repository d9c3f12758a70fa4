"""What a team of threads does along a row: every thread with several elements at a time.

Note [Walks]
Memory is far away, see Note [Flat entries]: a thread asks for several elements, a step apart, before it uses
the first. Of those beyond the row's end it asks for the first one again, which lies near by then and which no
other thread writes, and drops what comes of it. So the same code does whole and partial rounds. What is only
written, and not reduced, has no order, so that there packets of consecutive elements go in one access each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from numba.cuda import types

from stepspec.cuda.access import INT, PACKET, alignment
from stepspec.cuda.device_code import intrinsic
from stepspec.cuda.row_access import Access
from stepspec.storage import width

Function = Callable[..., Any]

# the positions that a walk takes: where the row and its gradient (0: none) begin, and the number of columns
PLACE = types.UniTuple(types.int64, 3)
# bytes of arrays that a thread asks for before it waits, and how many packets at most: each has its address
IN_FLIGHT = 64
MOST_AHEAD = 4


@dataclass(frozen=True, eq=False)
class Walk:
    """How several elements of a row are loaded, and what a function returns for them.

    Parameters
    ----------
    access
        Of the pass.
    function
        A generated function of an element.
    names
        The names of the numbers of the row.
    returns
        How many numbers the function returns.

    """

    access: Access
    function: Function
    names: Sequence[str]
    returns: int

    @property
    def arrays(self) -> list[str]:
        """Return the arrays with a number for each element or column that the function takes."""
        taken = inspect.signature(self.function).parameters
        return [name for name in taken if name not in self.names and self.access.has(name)]

    @property
    def packet(self) -> int:
        """Return how many neighbouring elements make a packet; noise takes the registers of many."""
        return 1 if self.access.layout.noise else PACKET * 4 // self.access.layout.size

    def ahead(self, packet: int) -> int:
        """Return how many packets of all arrays to ask for at once."""
        if self.access.layout.formats.stochastic or self.access.layout.noise:
            return 1
        whole = max(1, len(self.arrays)) * packet * self.access.layout.size
        return max(1, min(MOST_AHEAD, IN_FLIGHT // whole))

    def terms(self, ahead: int) -> Any:
        """Return `terms(opened, numbers, place, column, step)`: what is returned for `ahead` elements.

        It is a tuple of tuples. `column` lies within the row; what those beyond its end give means nothing.
        """
        each = types.UniTuple(self.access.number, self.returns)
        whole = types.UniTuple(each, ahead)

        @intrinsic
        def terms(typing: Any, opened: Any, numbers: Any, place: Any, column: Any, step: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                loaded = self._loaded(context, builder, given, ahead, 1)
                found = [self._called(context, builder, arguments) for _, _, (arguments,) in loaded]
                return context.make_tuple(
                    builder, whole, [context.make_tuple(builder, each, values) for values in found]
                )

            return whole(opened, numbers, PLACE, types.int64, types.int64), generate

        return terms

    def writer(self, writes: Sequence[str], packet: int) -> Any:
        """Return `write(opened, numbers, place, column, step)`: arrays get what the function returns.

        That is for as many packets as it asks for at once, a step apart, from one within the row on.
        """

        @intrinsic
        def write(typing: Any, opened: Any, numbers: Any, place: Any, column: Any, step: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                loaded = self._loaded(context, builder, given, self.ahead(packet), packet)
                for k, (inside, element, packets) in enumerate(loaded):
                    with builder.if_then(inside) if k else nullcontext():
                        values = [self._called(context, builder, arguments) for arguments in packets]
                        for name, several in zip(writes, zip(*values, strict=True), strict=True):
                            self.access.store(context, builder, name, given[0], element, several)
                return context.get_dummy_value()

            return types.void(opened, numbers, PLACE, types.int64, types.int64), generate

        return write

    def aligned(self, writes: Iterable[str]) -> Any:
        """Return `aligned(opened)`: whether packets can go in one access where rows are whole packets."""
        copy = ["copy"] if self.access.layout.formats.copy and "weight" in writes else []
        return alignment([self.access.slot(name) for name in dict.fromkeys([*self.arrays, *writes, *copy])])

    def _called(self, context: Any, builder: Any, arguments: Sequence[Any]) -> list[Any]:
        return self.access.results(context, builder, self.function, arguments, self.returns)

    def _loaded(
        self, context: Any, builder: Any, given: Sequence[Any], ahead: int, packet: int
    ) -> list[tuple[Any, Any, list[list[Any]]]]:
        """Return of each packet whether it lies within the row, its element, and its elements' arguments."""
        opened, numbers, place, column, step = given
        start, gradient, end = (builder.extract_value(place, k) for k in range(3))
        load, found = self.access.arguments(self.function, self.names, packet), []
        size = INT(width(self.access.layout.formats.grad))
        absent = builder.icmp_signed("==", gradient, INT(0))
        for k in range(ahead):
            further = builder.add(column, builder.mul(step, INT(k)))
            inside = builder.icmp_signed("<", further, end)
            near = builder.select(inside, further, column)
            element = builder.add(start, near)
            beside = builder.select(absent, gradient, builder.add(gradient, builder.mul(near, size)))
            loaded = load(context, builder, (opened, numbers, element, near, beside))
            found.append((inside, element, loaded))
        return found
