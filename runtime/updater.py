"""An updater: an optimizer that keeps the states of the tensors it is called with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stepspec import checkpoint
from stepspec.checks import check_index
from stepspec.optimizer import Optimizer
from stepspec.places import beside
from stepspec.sparse import RowSparse
from stepspec.states import Array

States = dict[str, Array]


class Updater:
    """Calls an optimizer, and keeps the states of its tensors by index.

    Parameters
    ----------
    optimizer : Optimizer
        Which rule, with which hyperparameters.

    Attributes
    ----------
    optimizer : Optimizer
        The same.
    states : dict of int to dict
        The states of each tensor since its first update, as `create_state_multi_precision` made them.

    Raises
    ------
    TypeError
        If `optimizer` is no `stepspec.Optimizer`.

    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"an Updater takes an optimizer, such as stepspec.SGD(), not {optimizer!r}")
        self.optimizer = optimizer
        self.states: dict[int, States] = {}
        # tensors whose states came from a checkpoint, perhaps to a place where their weight is not
        self._loaded: set[int] = set()

    def __call__(
        self,
        index: int | Sequence[int],
        grad: Array | RowSparse | Sequence[Array | RowSparse],
        weight: Array | Sequence[Array],
    ) -> None:
        """Update one tensor or, given lists, several in one call; states are created at first sight.

        Parameters
        ----------
        index : int or list of int
            The tensors' numbers.
        grad : numpy.ndarray, array on a GPU, RowSparse, or list of these
            Their gradients; note that they come before the weights.
        weight : numpy.ndarray, array on a GPU, or list of these
            The weights, changed in place.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `Optimizer.update`; a refused call changes neither arrays nor counts nor `states`.

        """
        indices, grads, weights = _lists(index, grad, weight)
        with self._states_of(indices, weights) as states:
            self.optimizer.update_multi_precision(indices, weights, grads, states)

    def get_states(self, dump_optimizer: bool = True) -> bytes:
        """Return a checkpoint of states, update counts, hyperparameters and schedule.

        Parameters
        ----------
        dump_optimizer : bool
            Without effect, for programs written for MXNet: what the optimizer holds is always in it.

        """
        return checkpoint.dumps({"": self._part()})

    def set_states(self, states: bytes) -> None:
        """Go on from what `get_states` returned, possibly in another process.

        Raises
        ------
        TypeError
            If `states` is not of bytes.
        ValueError
            If it is damaged, or of another optimizer, rule, or of other tensors; nothing is changed then.

        """
        if not isinstance(states, (bytes, bytearray, memoryview)):
            kind = type(states).__name__
            raise TypeError(f"set_states takes the bytes that get_states returned, not {kind}")
        checkpoint.loads(bytes(states), {"": self._part()})
        self._loaded = set(self.states)

    def _part(self) -> checkpoint.Part:
        return checkpoint.Part(self.optimizer, self.optimizer.param_idx2name, {}, self.states, open=True)

    @contextmanager
    def _states_of(self, indices: Sequence[int], weights: Sequence[Array]) -> Iterator[list[States]]:
        """Give the states of some tensors; those made for an update that did not happen are forgotten."""
        optimizer = self.optimizer
        counts: dict[int, int] = {}
        traces: dict[str, object] = {}
        try:
            if not all(type(index) is int and index in self.states for index in indices):
                # what making states leaves behind must not outlive them
                traces = {"_created": dict(optimizer._created), "_warned": optimizer._warned}
                for index, weight in zip(map(check_index, indices), weights, strict=True):
                    if index not in self.states:
                        counts[index] = optimizer.update_count(index)
                        self.states[index] = optimizer.create_state_multi_precision(index, weight)
            if self._loaded:
                self._place(indices, weights)
            yield [self.states[index] for index in indices]
        finally:
            unused = [index for index, count in counts.items() if optimizer.update_count(index) == count]
            for index in unused:
                self.states.pop(index, None)
            if unused and len(unused) == len(counts):
                vars(optimizer).update(traces)

    def _place(self, indices: Sequence[int], weights: Sequence[Array]) -> None:
        """Move states that were loaded to where the weights are."""
        for index, weight in zip(indices, weights, strict=True):
            if index in self._loaded:
                self.states[index].update(beside(weight, self.states[index]))
                self._loaded.discard(index)


def _lists(index: Any, grad: Any, weight: Any) -> tuple[Sequence[int], Sequence[Any], Sequence[Any]]:
    """Return indices, gradients and weights of a call as lists of one length, or raise."""
    if not isinstance(index, (list, tuple, range)):
        return [index], [grad], [weight]
    for name, value in (("grad", grad), ("weight", weight)):
        if not isinstance(value, (list, tuple)):
            kind = type(value).__name__
            raise TypeError(f"{name} must be a list, as index is one, not {kind}: updater(0, grad, weight)")
    if not len(index) == len(grad) == len(weight):
        lengths = f"{len(index)} indices, {len(grad)} gradients, {len(weight)} weights"
        raise ValueError(f"index, grad and weight must be of one length: there are {lengths}")
    return index, grad, weight
