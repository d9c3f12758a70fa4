"""What a kernel's functions take and what becomes of their results, for one element at a time, by index.

Note [Opened tensors]
An entry reads a tensor's words of all slots once: addresses and counts (int64) and scalars, rounded to the
compute dtype. This tuple is the opened tensor. Functions get their arguments from it, from the numbers of the
row (a tuple: the row arrays first, then what earlier functions made known), and from three positions: the
element, its column, and the address of its gradient, which is 0 where a row-sparse gradient has no such row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numba.cuda import types

from stepspec.cuda import access
from stepspec.cuda.access import INT, element_address
from stepspec.cuda.device_code import call, intrinsic
from stepspec.cuda.noise_words import normal_of, word_of, words_of_four
from stepspec.cuda.recipes import ROWS
from stepspec.layout import ARRAYS, TAIL, Layout, Parameter

Function = Callable[..., Any]

# arrays with a number for each row
PER_ROW = ("row", "values")


@dataclass(frozen=True, eq=False)
class Access:
    """How the functions of one pass find their arguments.

    Parameters
    ----------
    layout
        The pass's own parameters, and how arrays are stored; "values" hold numbers of the compute dtype.
    slots
        What the pass finds in its table: the parameters, TAIL, and the counts of rows.
    unread
        The "values" that it writes for passes behind it.

    """

    layout: Layout
    slots: tuple[Parameter, ...]
    unread: frozenset[str] = frozenset()

    @classmethod
    def of(cls, layout: Layout, unread: Iterable[str] = ()) -> Access:
        """Return the access of a pass whose table begins with the layout's parameters."""
        return cls(layout, (*layout.parameters, *TAIL, ROWS), frozenset(unread))

    @property
    def number(self) -> Any:
        """Return the type of all arithmetic."""
        return access.number_type(self.layout.formats.compute)

    @property
    def per_row(self) -> tuple[str, ...]:
        """Return the names of the arrays whose numbers come first among those of a row."""
        names = (slot.name for slot in self.layout.parameters if slot.role in PER_ROW)
        return tuple(name for name in names if name not in self.unread)

    @property
    def lazy(self) -> bool:
        return self.layout.formats.gradient == "lazy"

    @property
    def limit_slot(self) -> int:
        """Return the slot of the number of rows that a pass goes over."""
        return self.slot("present" if self.lazy else "rows")

    def has(self, name: str) -> bool:
        """Tell whether there is such an array."""
        return any(p.name == name and p.role in ARRAYS for p in self.layout.parameters)

    def slot(self, name: str) -> int:
        """Return the slot of a parameter, or of what stands behind them."""
        return [parameter.name for parameter in self.slots].index(name)

    def storage(self, slot: int) -> str:
        """Return the dtype that an array is stored in."""
        found, layout = self.slots[slot], self.layout
        return layout.formats.compute if found.role == "values" else layout.storage(found.name)

    def opener(self) -> Any:
        """Return `opened(table, tensor)`: see Note [Opened tensors]."""
        return access.opener(self.slots, self.number)

    def row_numbers(self) -> Any:
        """Return `numbers(opened, row)`: what the arrays with a number for each row hold."""
        slots = [self.slot(name) for name in self.per_row]
        kind = types.UniTuple(self.number, len(slots))

        @intrinsic
        def numbers(typing: Any, opened: Any, row: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                found = [self._load(context, builder, slot, given[0], given[1])[0] for slot in slots]
                return context.make_tuple(builder, signature.return_type, found)

            return kind(opened, types.int64), generate

        return numbers

    def caller(self, function: Function, numbers: Sequence[str], returns: int) -> Any:
        """Return `call(opened, numbers, element, column, gradient)`: a tuple of what the function returns.

        Parameters
        ----------
        function
            A generated function.
        numbers
            The names of the numbers of the row.
        returns
            How many numbers it returns.

        """
        arguments, each = self.arguments(function, numbers), types.UniTuple(self.number, returns)

        @intrinsic
        def called(typing: Any, opened: Any, numbers: Any, element: Any, column: Any, gradient: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                (found,) = arguments(context, builder, given)
                values = self.results(context, builder, function, found, returns)
                return context.make_tuple(builder, each, values)

            return each(opened, numbers, types.int64, types.int64, types.int64), generate

        return called

    def results(
        self, context: Any, builder: Any, function: Function, arguments: Sequence[Any], returns: int
    ) -> list[Any]:
        """Return (in LLVM) the numbers that a function returns."""
        result = self.number if returns == 1 else types.UniTuple(self.number, returns)
        found = call(context, builder, function, result, [self.number] * len(arguments), arguments)
        return [found] if returns == 1 else [builder.extract_value(found, k) for k in range(returns)]

    def arguments(self, function: Function, numbers: Sequence[str], size: int = 1) -> Function:
        """Return what gives (in LLVM) the arguments of `size` neighbouring elements, a list for each.

        It takes what `call` does, of the first of them.
        """
        sources = [self._source(name, numbers, size) for name in inspect.signature(function).parameters]

        def found(context: Any, builder: Any, given: Any) -> list[list[Any]]:
            values = [source(context, builder, given) for source in sources]
            return [[each[k] for each in values] for k in range(size)]

        return found

    def _source(self, name: str, numbers: Sequence[str], size: int) -> Function:
        """Return what gives (in LLVM) an argument of each element."""
        if name in numbers:
            index = list(numbers).index(name)
            return lambda context, builder, given: [builder.extract_value(given[1], index)] * size
        slot = self.slot(name)
        match self.slots[slot].role:
            case "scalar":
                return lambda context, builder, given: [builder.extract_value(given[0], slot)] * size
            case "column":
                return lambda context, builder, given: self._load(
                    context, builder, slot, given[0], given[3], size
                )
            case "noise":
                return lambda context, builder, given: self._noise(context, builder, slot, given, size)
            case "element" if name == "grad" and self.layout.formats.gradient != "dense":
                return lambda context, builder, given: self._gradient(context, builder, given[4], size)
            case "element":
                return lambda context, builder, given: self._load(
                    context, builder, slot, given[0], given[2], size
                )
        raise AssertionError(f"{name} has no role of an argument")

    def _load(
        self, context: Any, builder: Any, slot: int, opened: Any, index: Any, size: int = 1
    ) -> list[Any]:
        storage, base = self.storage(slot), builder.extract_value(opened, slot)
        address = element_address(builder, base, index, storage)
        return access.load(context, builder, storage, address, self.number, size)

    def _noise(self, context: Any, builder: Any, slot: int, given: Sequence[Any], size: int) -> list[Any]:
        """Return (in LLVM) the numbers of a stream."""
        slots, stream = (slot, self.slot("noise_count")), dict(self.layout.noise)[slot]
        key, count = (builder.extract_value(given[0], each) for each in slots)
        places = [builder.add(given[2], INT(k)) for k in range(size)]
        return [normal_of(context, builder, key, count, place, stream, self.number) for place in places]

    def _gradient(self, context: Any, builder: Any, address: Any, size: int) -> list[Any]:
        """Return (in LLVM) the gradient at an address, zeros if that is 0; in lazy passes it never is."""

        def load() -> list[Any]:
            return access.load(context, builder, self.layout.formats.grad, address, self.number, size)

        if self.lazy:
            return load()
        number, before = context.get_value_type(self.number), builder.block
        with builder.if_then(builder.icmp_unsigned("!=", address, INT(0))):
            found = load()
            present = builder.block
        values = [builder.phi(number) for _ in found]
        for value, loaded in zip(values, found, strict=True):
            value.add_incoming(number(0.0), before)
            value.add_incoming(loaded, present)
        return values

    def storer(self, targets: Mapping[str, int]) -> Any:
        """Return `store(opened, index, values)`: arrays get numbers of a tuple, rounded as they are stored.

        Parameters
        ----------
        targets
            Array -> the position of its value in the tuple.

        """

        @intrinsic
        def stored(typing: Any, opened: Any, index: Any, values: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                for name, position in targets.items():
                    value = builder.extract_value(given[2], position)
                    self.store(context, builder, name, given[0], given[1], [value])
                return context.get_dummy_value()

            return types.void(opened, types.int64, values), generate

        return stored

    def store(
        self, context: Any, builder: Any, name: str, opened: Any, index: Any, values: Sequence[Any]
    ) -> None:
        """Write neighbouring numbers; a weight by random words if it has them, and as its copy, too."""
        formats, slot, noise = self.layout.formats, self.slot(name), None

        def write(slot: int, storage: str, noise: list[Any] | None) -> None:
            address = element_address(builder, builder.extract_value(opened, slot), index, storage)
            access.store(builder, storage, address, values, noise)

        if name == "weight":
            if formats.copy:
                write(self.slot("copy"), formats.copy, None)
            if formats.stochastic:
                slots = map(self.slot, ("noise_key", "noise_count"))
                key, count = (builder.extract_value(opened, slot) for slot in slots)
                one = len(values) == 1
                noise = (
                    [word_of(context, builder, key, count, index)]
                    if one
                    else words_of_four(context, builder, key, count, index)
                )
        write(slot, self.storage(slot), noise)
