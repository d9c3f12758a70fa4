"""One step of several optimizers: checks of all before the first write, and one factor for all gradients."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepspec.groups import Group
from stepspec.norms import Norm, measure
from stepspec.optimizer import Optimizer
from stepspec.overlaps import Operand, check_overlaps
from stepspec.sparse import RowSparse
from stepspec.states import Array
from stepspec.updater import States

if TYPE_CHECKING:
    from stepspec.arrays import Gradients


@dataclass(frozen=True, slots=True)
class GroupCall:
    """What one group does in a step: the arguments of its optimizer's update."""

    group: Group
    indices: Sequence[int]
    weights: Sequence[Array]
    grads: Sequence[Array | RowSparse]
    states: Sequence[States]

    @property
    def written(self) -> list[Array]:
        """The arrays that the update writes."""
        states = (array for state in self.states for array in state.values())
        return [*self.weights, *states]

    def operands(self) -> tuple[list[Operand], list[Operand]]:
        """Return what the update writes, and its gradients, with what messages call them."""
        labels = [self.group.optimizer._label(index) for index in self.indices]
        states = [
            Operand(f"state {name!r} of {label}", array)
            for label, state in zip(labels, self.states, strict=True)
            for name, array in state.items()
        ]
        weights = [Operand(f"the weight of {o}", w) for o, w in zip(labels, self.weights, strict=True)]
        grads = [Operand(f"the gradient of {o}", _values(g)) for o, g in zip(labels, self.grads, strict=True)]
        return [*weights, *states], grads

    def verify(self) -> None:
        """Raise what `run` would raise, and change nothing."""
        self.group.optimizer._verify(self.indices, self.weights, self.grads, self.states)

    def run(self) -> None:
        """Update the group's tensors."""
        self.group.optimizer.update_multi_precision(self.indices, self.weights, self.grads, self.states)


def survey(calls: Sequence[GroupCall]) -> tuple[Norm, str | None]:
    """Return the norm of all rescaled gradients of a step, and what to call the first one not finite."""
    # by index: groups make no difference to the order, and so to the bits of the norm
    gradients = sorted(
        (
            (index, _values(grad), call.group.optimizer)
            for call in calls
            for index, grad in zip(call.indices, call.grads, strict=True)
        ),
        key=operator.itemgetter(0),
    )
    fused = all(call.group.optimizer.use_fused_step for call in calls)
    norms = measure([values for _, values, _ in gradients], fused)
    norm = norms.combined([optimizer.rescale_grad for _, _, optimizer in gradients])
    broken = norms.first_not_finite()
    if broken is None:
        return norm, None
    index, _, optimizer = gradients[broken]
    return norm, optimizer._label(index)


def _values(grad: Array | RowSparse) -> Array:
    return grad.values if isinstance(grad, RowSparse) else grad


class Rescaling:
    """Changes `rescale_grad` of optimizers for the time of a step.

    Ctrl-C may come while values are put back: who starts the next step calls `restore` first.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Optimizer, float]] = []

    def set(self, optimizer: Optimizer, value: float) -> None:
        """Change one optimizer's."""
        if value != optimizer.rescale_grad:
            self._before.append((optimizer, optimizer.rescale_grad))
            optimizer.rescale_grad = value

    def restore(self) -> None:
        """Put all values back."""
        while self._before:
            optimizer, value = self._before[-1]
            optimizer.rescale_grad = value
            self._before.pop()


class Apart:
    """Refuses gradients that overlap what another group writes; within a group its optimizer does."""

    def __init__(self) -> None:
        self._written: list[Array] = []
        self._known: Gradients | None = None

    def __reduce__(self) -> tuple[type[Apart], tuple[()]]:
        """Copy nothing: what it knows are addresses in this process."""
        return Apart, ()

    def check(self, calls: Sequence[GroupCall]) -> None:
        """Raise ValueError, naming both tensors, if arrays of the groups' (verified) calls overlap."""
        if len(calls) < 2:
            return
        written = [array for call in calls for array in call.written]
        grads = [grad for call in calls for grad in call.grads]
        dense = tuple(grad for grad in grads if not isinstance(grad, RowSparse))
        sparse = [grad.values for grad in grads if isinstance(grad, RowSparse)]
        if not self._lie_apart(written, dense, sparse):
            operands = [call.operands() for call in calls]
            check_overlaps(*([o for pair in operands for o in pair[k]] for k in range(2)))
            self._learn(written, dense)

    def _lie_apart(self, written: list[Array], dense: tuple[Array, ...], sparse: list[Array]) -> bool:
        """Tell, in a short time, that gradients of known shapes do not meet known arrays."""
        if self._known is None or len(written) != len(self._written):
            return False
        same = all(map(operator.is_, written, self._written)) and self._known.accept(dense)
        return same and not any(not v.flags.c_contiguous or self._known.meets_written(v) for v in sparse)

    def _learn(self, written: list[Array], dense: tuple[Array, ...]) -> None:
        from stepspec.arrays import Gradients, is_plain

        self._written = written
        self._known = Gradients(dense, written) if all(map(is_plain, written)) else None
