"""The entry of a flat kernel: arrays of any shape as one row of numbers.

Note [Flat entries]
A work item is a chunk of CHUNK elements. Where all its arrays begin at multiples of 16 bytes, a thread takes
packets of four consecutive elements, and those of a warp lie side by side. Memory is far away: in a whole
chunk each thread asks for several packets of all arrays before it uses the first, as many as leave enough
registers for the other warps. What is left of a tensor goes in single packets and elements, with the same
instructions for each element, so that it makes no difference to the bits. Where noise is drawn, which takes
long, a packet is one element.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numba import cuda
from numba.cuda import types

from stepspec.cuda.access import (
    INT,
    PACKET,
    alignment,
    element_address,
    load,
    number_type,
    opener,
    store,
    word,
)
from stepspec.cuda.device_code import call, intrinsic
from stepspec.cuda.items import CHUNK, PART, TENSOR, THREADS, chunks
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.noise_words import normal_of, word_of, words_of_four
from stepspec.cuda.recipes import ROWS, Pass, pass_name
from stepspec.layout import ARRAYS, TAIL, Layout, Parameter

# size of a number -> bytes of them that a thread asks for before it waits, so that all fit into its registers
# with what the function itself needs: division and roots of float64 need most
IN_FLIGHT = {4: 160, 8: 128}


def passes_of(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    """Return the passes of an elements kernel that writes arrays, with a dense gradient."""
    slots = (*layout.parameters, *TAIL, ROWS)
    return (Pass.of(pass_name(kernel, layout), slots, chunks, flat_entry, kernel, layout),)


def flat_entry(kernel: Kernel, layout: Layout) -> Callable[..., None]:
    """Return the entry of an elements kernel, see Note [Flat entries]."""
    step = Step(kernel, layout, (*layout.parameters, *TAIL, ROWS))
    opened, aligned = opener(step.slots, step.number), step.aligned()
    several, packet, element = step.of(step.packet, step.packets), step.of(step.packet), step.of(1)
    rows, columns = step.slot("rows"), step.slot("columns")
    size, stride = step.packet, step.packet * THREADS
    span = stride * step.packets

    def entry(table: int, items: int, count: int) -> None:
        thread = cuda.threadIdx.x
        for k in range(cuda.blockIdx.x, count, cuda.gridDim.x):
            item = word(items, k)
            words = opened(table, item & TENSOR)
            first = (item >> PART) * CHUNK
            end = min(first + CHUNK, words[rows] * words[columns])
            done = first
            if aligned(words):
                done = first + ((end - first) & -size)
                if end - first == CHUNK:
                    for position in range(first + size * thread, end, span):
                        several(words, position)
                else:
                    for position in range(first + size * thread, done, stride):
                        packet(words, position)
            for position in range(done + thread, end, THREADS):
                element(words, position)

    return entry


@dataclass(frozen=True, eq=False)
class Step:
    """What a thread does with some elements of a tensor: load, call, store.

    Parameters
    ----------
    kernel, layout
        Of the pass.
    slots
        Of its table.

    """

    kernel: Kernel
    layout: Layout
    slots: tuple[Parameter, ...]

    @cached_property
    def number(self) -> Any:
        """Return the type of all arithmetic."""
        return number_type(self.layout.formats.compute)

    @cached_property
    def function(self) -> Callable[..., object]:
        """Return what is called for each element."""
        (function,) = self.kernel.functions
        return function

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Return the names of what the function takes."""
        return tuple(inspect.signature(self.function).parameters)

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """Return the arrays that are read or written in memory."""
        return tuple(parameter.name for parameter in self.kernel.arrays if parameter.role in ARRAYS)

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Return those that the function takes."""
        return tuple(name for name in self.arguments if name in self.arrays)

    @cached_property
    def noise(self) -> dict[str, int]:
        """Return what the function takes that is drawn, and the stream of each."""
        return {self.slots[slot].name: stream for slot, stream in self.layout.noise}

    @property
    def packet(self) -> int:
        """Return how many consecutive elements a thread takes at once; noise takes the registers of many."""
        return 1 if self.noise else PACKET * 4 // self.layout.size

    @property
    def packets(self) -> int:
        """Return how many packets of all arrays a thread asks for before it waits: a power of two."""
        if self.layout.formats.stochastic or self.noise:
            return 1
        size = self.layout.size
        whole = self.packet * len(self.reads) * size
        return next((packets for packets in (4, 2) if packets * whole <= IN_FLIGHT[size]), 1)

    def slot(self, name: str) -> int:
        """Return the position of a slot."""
        return [slot.name for slot in self.slots].index(name)

    def of(self, size: int, packets: int = 1) -> Any:
        """Return `step(words, position)`: `packets` times `size` elements, those of other threads between."""

        @intrinsic
        def step(typing: Any, words: Any, position: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                emit = _Emit(self, context, builder, given[0], size)
                positions = [builder.add(given[1], INT(THREADS * size * k)) for k in range(packets)]
                loaded = [emit.loaded(place) for place in positions]
                for place, arrays in zip(positions, loaded, strict=True):
                    emit.stored(place, emit.called(place, arrays))
                return context.get_dummy_value()

            return types.void(words, types.int64), generate

        return step

    def aligned(self) -> Any:
        """Return `aligned(words)`: whether packets of all arrays can go in one access."""
        names = (*self.arrays, "copy") if self.layout.formats.copy else self.arrays
        return alignment([self.slot(name) for name in names])


@dataclass(frozen=True)
class _Emit:
    """LLVM for `size` consecutive elements from a position on."""

    step: Step
    context: Any
    builder: Any
    words: Any
    size: int

    def loaded(self, position: Any) -> dict[str, list[Any]]:
        """Return the numbers of the arrays that the function reads."""
        return {name: self._load(name, position) for name in self.step.reads}

    def called(self, position: Any, arrays: dict[str, list[Any]]) -> list[list[Any]]:
        """Return what the function returns, by element."""
        drawn = {name: self._draw(name, stream, position) for name, stream in self.step.noise.items()}
        return [self._call({**arrays, **drawn}, k) for k in range(self.size)]

    def stored(self, position: Any, values: list[list[Any]]) -> None:
        """Write what the function returned; a weight as its copy, too."""
        layout = self.step.layout
        for k, name in enumerate(self.step.kernel.writes):
            column = [each[k] for each in values]
            noisy = name == "weight" and layout.formats.stochastic
            noise = self._noise(position) if noisy else None
            store(self.builder, layout.storage(name), self._address(name, position), column, noise)
            if name == "weight" and layout.formats.copy:
                store(self.builder, layout.formats.copy, self._address("copy", position), column)

    def _load(self, name: str, position: Any) -> list[Any]:
        address, storage = self._address(name, position), self.step.layout.storage(name)
        return load(self.context, self.builder, storage, address, self.step.number, self.size)

    def _address(self, name: str, position: Any) -> Any:
        layout = self.step.layout
        storage = layout.formats.copy if name == "copy" else layout.storage(name)
        return element_address(self.builder, self._word(name), position, storage)

    def _word(self, name: str) -> Any:
        return self.builder.extract_value(self.words, self.step.slot(name))

    def _call(self, arrays: dict[str, list[Any]], k: int) -> list[Any]:
        step, number, function = self.step, self.step.number, self.step.function
        values = [arrays[name][k] if name in arrays else self._word(name) for name in step.arguments]
        many = len(step.kernel.writes) + len(step.kernel.reduces)
        result = number if many == 1 else types.UniTuple(number, many)
        found = call(self.context, self.builder, function, result, [number] * len(values), values)
        return [found] if many == 1 else [self.builder.extract_value(found, k) for k in range(many)]

    def _draw(self, name: str, stream: int, position: Any) -> list[Any]:
        """Return the numbers of a stream."""
        key, count, number = self._word(name), self._word("noise_count"), self.step.number
        places = [self.builder.add(position, INT(k)) for k in range(self.size)]
        return [normal_of(self.context, self.builder, key, count, place, stream, number) for place in places]

    def _noise(self, position: Any) -> list[Any]:
        """Return a random word for each element."""
        key, count = self._word("noise_key"), self._word("noise_count")
        if self.size == 1:
            return [word_of(self.context, self.builder, key, count, position)]
        return words_of_four(self.context, self.builder, key, count, position)
