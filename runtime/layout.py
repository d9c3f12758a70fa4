"""What the slots of a kernel's table hold, and how the arrays behind them are stored."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numba

from stepspec.formats import HALF, SUPPORTED, Formats
from stepspec.noise import STREAMS
from stepspec.reductions import Reduction
from stepspec.storage import array_type, width

ARRAYS = ("element", "row", "column")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel, or another slot of its table.

    role: "element", "row", "column" (arrays), "noise" (an array of elements that no memory holds, drawn piece
    by piece; its slot has the key), "scalar", "buffer" (with its `reduction`), "result" (of a scalars
    kernel), or, in the tail, its name.
    """

    name: str
    role: str
    reduction: Reduction | None = None

    @classmethod
    def array(cls, name: str, role: str) -> Parameter:
        """Return the parameter of an array; `normal`, `normal_2`, ... are noise."""
        return cls(name, "noise" if name in STREAMS else role)

    @property
    def shape(self) -> str:
        """Return what there is one number for: "element", "row" or "column"; of others, the role."""
        if self.reduction:
            return self.reduction.over
        return "element" if self.role == "noise" else self.role


# the slots behind the parameters of every kernel over arrays, see Note [Entries]
TAIL = tuple(
    Parameter(name, name)
    for name in ("columns", "present_rows", "present", "copy", "noise_key", "noise_count")
)


@dataclass(frozen=True)
class Layout:
    """The parameters of a kernel and how the arrays behind them are stored.

    Parameters
    ----------
    parameters
        In the order of the function.
    formats
        The storage of weight, gradient and states.
    results
        Arrays that hold reduction results: they are in the compute dtype.
    flat
        Whether elements are one row of numbers, not rows of columns.

    """

    parameters: tuple[Parameter, ...]
    formats: Formats
    results: frozenset[str] = frozenset()
    flat: bool = True

    @classmethod
    def used(
        cls, parameters: tuple[Parameter, ...], formats: Formats, results: frozenset[str], *, flat: bool
    ) -> Layout:
        """Return the layout without what makes no difference to a kernel with these parameters."""
        arrays = {parameter.name for parameter in parameters if parameter.role in ARRAYS}
        if "weight" not in arrays or any(parameter.reduction for parameter in parameters):
            formats = replace(formats, copy="", stochastic=False)  # it writes no weight
        if "weight" not in arrays:
            formats = replace(formats, weight=formats.compute)
        if "grad" not in arrays:
            gradient = "dense" if formats.gradient == "scattered" else formats.gradient
            formats = replace(formats, grad=formats.compute, gradient=gradient)
        if not arrays - results - {"weight", "grad"}:
            formats = replace(formats, state=formats.compute)
        formats = replace(formats, stochastic=formats.stochastic and formats.weight in HALF)
        return cls(parameters, formats, results & arrays, flat)

    @functools.cached_property
    def label(self) -> str:
        """Return a name that no other storage has."""
        formats = self.formats
        dtypes = [formats.weight, formats.grad, formats.state]
        words = dtypes[:1] if len(set(dtypes)) == 1 else dtypes
        words += [f"copy.{formats.copy}"] if formats.copy else []
        words += ["stochastic"] if formats.stochastic else []
        words += [formats.gradient] if formats.gradient != "dense" else []
        return "-".join([*words, *(f"+{name}" for name in sorted(self.results))])

    @functools.cached_property
    def number(self) -> Any:
        """Return the type of all arithmetic."""
        return getattr(numba, self.formats.compute)

    @functools.cached_property
    def size(self) -> int:
        """Return how many bytes a number takes where it is computed."""
        return width(self.formats.compute)

    @property
    def scattered(self) -> bool:
        return self.formats.gradient == "scattered"

    @functools.cached_property
    def buffers(self) -> list[tuple[int, Reduction]]:
        """Return the slot and the reduction of every buffer."""
        return [(slot, p.reduction) for slot, p in enumerate(self.parameters) if p.reduction]

    @functools.cached_property
    def noise(self) -> list[tuple[int, int]]:
        """Return the slot and the stream of every array of noise."""
        return [(slot, STREAMS[p.name]) for slot, p in enumerate(self.parameters) if p.role == "noise"]

    @functools.cached_property
    def places(self) -> dict[int, int]:
        """Return the slots of what a piece has in scratch, in order: buffers first, then noise."""
        slots = [slot for slot, _ in (*self.buffers, *self.noise)]
        return {slot: place for place, slot in enumerate(slots)}

    def tail(self, name: str) -> int:
        """Return a slot behind the parameters."""
        return len(self.parameters) + [parameter.name for parameter in TAIL].index(name)

    @functools.cached_property
    def gradient(self) -> int:
        """Return the slot of the gradient; any if the kernel reads none."""
        return next((slot for slot, p in enumerate(self.parameters) if p.name == "grad"), 0)

    def storage(self, name: str) -> str:
        """Return the dtype that an array is stored in."""
        if name in self.results:
            return self.formats.compute
        kinds = {"weight": self.formats.weight, "grad": self.formats.grad}
        return kinds.get(name, self.formats.state)

    def kind(self, parameter: Parameter) -> Any:
        """Return the type of an argument."""
        if parameter.role == "scalar":
            return self.number
        ndim = 2 if parameter.shape == "element" and not self.flat else 1
        in_scratch = parameter.reduction or parameter.role == "noise"
        if in_scratch or (parameter.name == "grad" and self.scattered):
            return array_type(self.number, ndim, self.formats.compute)
        if parameter.name == "weight":
            formats = self.formats
            return array_type(self.number, ndim, formats.weight, formats.copy, formats.stochastic)
        return array_type(self.number, ndim, self.storage(parameter.name))


def check(formats: Formats) -> None:
    """Refuse formats that no kernel can have."""
    dtypes = {formats.weight, formats.grad, formats.state}
    if not dtypes <= set(SUPPORTED):
        raise TypeError(f"kernels read and write {', '.join(SUPPORTED)}, not {', '.join(sorted(dtypes))}")
    if formats.copy and (formats.copy not in HALF or formats.weight != "float32"):
        raise TypeError(f"no master of {formats.weight} has a copy of {formats.copy}")
    if (formats.state == "float64") != (formats.compute == "float64") or (
        formats.grad == "float64" and formats.compute != "float64"
    ):
        raise TypeError(
            f"no kernels for {formats.weight} weights, {formats.grad} gradients and {formats.state} states"
        )
