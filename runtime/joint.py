"""One step of several optimizers: checks of all before the first write, and one factor for all gradients."""

from __future__ import annotations

import functools
import logging
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from stepspec import arguments
from stepspec.groups import Group
from stepspec.hyperparameters import Flag, Hyperparameter
from stepspec.norms import Norm, measure
from stepspec.optimizer import Optimizer
from stepspec.overlaps import check_overlaps
from stepspec.places import on_device, shadow
from stepspec.sparse import RowSparse
from stepspec.states import Array
from stepspec.updater import States

if TYPE_CHECKING:
    from stepspec.arrays import Gradients, Snapshot
    from stepspec.cuda.apart import KnownApart

_log = logging.getLogger("stepspec")


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

    def operands(self) -> tuple[list[str], list[str]]:
        """Return what messages call the arrays that the update writes, and its gradients."""
        labels = [self.group.optimizer._label(index) for index in self.indices]
        pairs = zip(labels, self.states, strict=True)
        states = [f"state {name!r} of {label}" for label, state in pairs for name in state]
        weights = [f"the weight of {label}" for label in labels]
        return [*weights, *states], [f"the gradient of {label}" for label in labels]

    def verify(self, overrides: Overrides) -> None:
        """Raise what `run` would raise, and change nothing.

        Until the overrides end, the schedule gives `run` the rates that it gave here: it may be a callable
        that would give others, or none, the second time.
        """
        optimizer = self.group.optimizer
        if optimizer.lr_scheduler is not None:
            overrides.set(optimizer, "lr_scheduler", functools.cache(optimizer.lr_scheduler))
        optimizer._verify(self.indices, self.weights, self.grads, self.states)

    def run(self) -> None:
        """Update the group's tensors."""
        self.group.optimizer.update_multi_precision(self.indices, self.weights, self.grads, self.states)


def group_calls(groups: Sequence[Group], grads: Mapping[int, Any], stack: ExitStack) -> list[GroupCall]:
    """Return what each group does that has any gradient; `stack` ends the use of states made for it."""
    calls = []
    for group in groups:
        indices = [index for index in group.weights if index in grads]
        if indices:
            states = stack.enter_context(group.states_of(indices))
            weights = [group.weights[index] for index in indices]
            calls.append(GroupCall(group, indices, weights, [grads[index] for index in indices], states))
    return calls


def rescale(calls: Sequence[GroupCall], overrides: Overrides, change: Callable[[float], float]) -> None:
    """Change `rescale_grad` of all optimizers of a step."""
    for call in calls:
        optimizer = call.group.optimizer
        overrides.set(optimizer, "rescale_grad", change(optimizer.rescale_grad))


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


def _operands(calls: Sequence[GroupCall]) -> list[str]:
    """Return what messages call the arrays of a step: written ones, then gradients."""
    written, gradients = zip(*(call.operands() for call in calls), strict=True)
    return [*chain.from_iterable(written), *chain.from_iterable(gradients)]


class Overrides:
    """Changes attributes of optimizers for the time of a step.

    Ctrl-C may come while values are put back: who starts the next step calls `restore` first.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Optimizer, str, Any]] = []

    def set(self, optimizer: Optimizer, name: str, value: Any) -> None:
        """Change an attribute of one optimizer."""
        before = getattr(optimizer, name)
        if value != before:
            self._before.append((optimizer, name, before))
            setattr(optimizer, name, value)

    def restore(self) -> None:
        """Put all values back."""
        while self._before:
            setattr(*self._before[-1])
            self._before.pop()


class Limits:
    """What a step does about large and broken gradients; `Trainer` says what the attributes mean."""

    clip_global_norm = Hyperparameter("(0, inf)", default=math.inf)
    skip_nonfinite = Flag()
    skipped = 0
    global_norm: float | None = None

    def _change(self, name: str, value: float | bool) -> None:
        """Set an attribute that has been checked."""
        self.__dict__[name] = value

    def _judge(self, calls: Sequence[GroupCall], overrides: Overrides) -> bool:
        """Measure the gradients of a step, and clip them; False if the step is to be left out."""
        norm, broken = survey(calls)
        if self.clip_global_norm < math.inf:
            self.global_norm = float(norm)
            factor = norm.factor_to(self.clip_global_norm)
            rescale(calls, overrides, lambda rescale_grad: rescale_grad * factor)
        if broken is None:
            return True
        if not self.skip_nonfinite:
            _log.warning("the gradient of %s holds inf or NaN: no gradient of this step is clipped", broken)
            return True
        self.skipped += 1
        _log.warning("step left out, the gradient of %s holds inf or NaN; %d so far", broken, self.skipped)
        return False

    def _numbers(self) -> dict[str, float | bool | None]:
        """Return what a checkpoint keeps; JSON knows no infinity."""
        clip = self.clip_global_norm if self.clip_global_norm < math.inf else None
        return {"clip_global_norm": clip, "skip_nonfinite": self.skip_nonfinite, "skipped": self.skipped}

    def _accept(self, saved: Mapping[str, Any]) -> list[Callable[[], object]]:
        """Return what sets the numbers of a checkpoint, if it holds any; ValueError if they are wrong."""
        if not saved:
            return []
        owner = type(self).__name__
        try:
            values = {
                "clip_global_norm": Limits.clip_global_norm.check(owner, saved["clip_global_norm"]),
                "skip_nonfinite": Limits.skip_nonfinite.check(owner, saved["skip_nonfinite"]),
                "skipped": arguments.count(f"{owner}: skipped", saved["skipped"]),
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"what the checkpoint says of a {owner} cannot be read: {error}") from error
        return [functools.partial(self.__dict__.update, values)]


class Apart:
    """Refuses gradients that overlap what another group writes; within a group its optimizer does."""

    def __init__(self) -> None:
        self._written: Snapshot | None = None
        self._known: Gradients | None = None
        self._away: KnownApart | None = None

    def __reduce__(self) -> tuple[type[Apart], tuple[()]]:
        """Copy nothing: what it knows are addresses in this process."""
        return Apart, ()

    def check(self, calls: Sequence[GroupCall]) -> None:
        """Raise ValueError, naming both tensors, if arrays of the groups' (verified) calls overlap."""
        if len(calls) < 2:
            return
        written = [array for call in calls for array in call.written]
        grads = tuple(grad for call in calls for grad in call.grads)
        if self._lie_apart(written, grads):
            return
        values = [_values(grad) for grad in grads]
        seen, read = [shadow(array) for array in written], [shadow(array) for array in values]
        check_overlaps(seen, read, lambda k: _operands(calls)[k])
        self._known = self._away = None
        if all(map(on_device, (*written, *values))):
            from stepspec.cuda.apart import KnownApart

            self._away = KnownApart(written, values, seen, read)
        elif not any(map(on_device, (*written, *values))):
            self._learn(written, grads)

    def _lie_apart(self, written: list[Array], grads: tuple[Any, ...]) -> bool:
        """Tell, in a short time, that gradients like the last ones do not meet known arrays."""
        if self._away is not None:
            return self._away.lie_apart(written, [_values(grad) for grad in grads])
        if self._known is None or self._written is None or len(grads) != len(self._known.shapes):
            return False
        return self._written.unchanged(written) and not self._known.accept(grads)

    def _learn(self, written: list[Array], grads: tuple[Any, ...]) -> None:
        from stepspec.arrays import Gradients, Snapshot

        self._written = Snapshot(written)
        sparse = [i for i, grad in enumerate(grads) if isinstance(grad, RowSparse)]
        shapes, dtypes = [grad.shape for grad in grads], [grad.dtype for grad in grads]
        self._known = Gradients(shapes, dtypes, sparse, self._written)
