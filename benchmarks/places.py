"""Where the arrays of a contender lie: in the host's memory, or in a GPU's as the arrays of some library."""

from typing import Any, Protocol

import stepspec
from cases import Array, Gradient


class Place(Protocol):
    """Arrays somewhere; whatever they are, stepspec takes them as weights, gradients and states."""

    name: str

    def own(self, values: Array) -> Any:
        """Return a copy there, for a weight."""

    def lent(self, grad: Gradient) -> Any:
        """Return a gradient there, which nobody writes."""

    def renewed(self, grad: Any) -> Any:
        """Return another object for the same gradient there."""

    def back(self, array: Any) -> Array:
        """Return an array of NumPy with what an array there holds."""


class Host:
    """Arrays of NumPy."""

    name = "host"

    def own(self, values: Array) -> Array:
        return values.copy()

    def lent(self, grad: Gradient) -> Gradient:
        return grad

    def renewed(self, grad: Gradient) -> Gradient:
        if isinstance(grad, stepspec.RowSparse):
            return stepspec.RowSparse(grad.values.view(), grad.rows, grad.shape)
        return grad.view()

    def back(self, array: Array) -> Array:
        return array


HOST = Host()
