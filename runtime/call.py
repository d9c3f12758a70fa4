"""One fused call: from checked arguments to kernels, then counts."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Sequence
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from stepspec.batches import Stage
from stepspec.checks import check_lists
from stepspec.host_plan import HostPlan
from stepspec.in_memory import Origin
from stepspec.overview import Overview, describe
from stepspec.places import on_device
from stepspec.plan import Given, Order, Plan

if TYPE_CHECKING:
    from stepspec.optimizer import Optimizer
    from stepspec.steps import Steps


class Call:
    """What a generated `fused_step` asks for; nothing runs before its `with` block has ended."""

    def __init__(self, optimizer: Steps, arguments: tuple[Any, Any, Any, Any]) -> None:
        self._optimizer = optimizer
        self._arguments = arguments
        self._stages: list[Stage] = []
        self._stores: dict[str, str] = {}

    def kernels(self, name: str) -> ModuleType:
        """Return the module with the kernels of a spec for the call's arrays: it stands beside the class."""
        modules = self._plan.modules
        if name not in modules:
            modules[name] = _kernels(type(self._optimizer), name, self._plan.target)
        return modules[name]

    def launch(self, stage: Stage) -> None:
        """Add a stage: variant to kernel. Tensors of other variants take no part in it."""
        self._stages.append(stage)

    def store(self, **states: str) -> None:
        """Make results of the launches (names of scalars) the new values of states kept per tensor."""
        self._stores.update(states)

    def __enter__(self) -> Call:
        """Take the turn, make all checks, find or make the plan, and look up the rates."""
        optimizer = self._optimizer
        self._turn = optimizer._exclusive.take(type(optimizer).__name__)
        try:
            self._plan, self._held = _plan(optimizer, *self._arguments)
            self._rates = self._plan.rates(optimizer)
        except BaseException:
            optimizer._exclusive.give_back(self._turn)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Run the launches and count, unless the block failed."""
        try:
            if kind is None:
                self._run()
        finally:
            self._optimizer._exclusive.give_back(self._turn)

    def _order(self) -> Order:
        plan, rates, optimizer = self._plan, self._rates, self._optimizer
        together = max(1, len(plan.indices))
        if optimizer._aggregate_num is not None:
            together = int(min(optimizer._aggregate_num, together))
        frozen, lazy = plan.selections.frozen(optimizer, rates), plan.selections.lazy(optimizer, rates)
        return Order(tuple(self._stages), self._stores, frozen, lazy, together)

    def _run(self) -> None:
        self._plan.run(self._optimizer, self._rates, self._order())


class _Verification(Call):
    """A call that is only checked."""

    def _run(self) -> None:
        self._optimizer._check_host(self._rates, self._plan.indices)


def verify(optimizer: Steps, arguments: tuple[Any, Any, Any, Any]) -> None:
    """Raise what a fused call would raise; the plan of its tensors is kept, and makes the call quick."""
    with _Verification(optimizer, arguments):
        pass  # all checks are made on entering


class _Rehearsal(Call):
    """A call that is checked and planned, but not run."""

    overview: Overview

    def _run(self) -> None:
        self.overview = describe(type(self._optimizer).__name__, self._plan, self._order())


def rehearse(optimizer: Optimizer, arguments: tuple[Any, Any, Any, Any]) -> Overview:
    """Return what a fused call would do: a copy of the optimizer rehearses it."""
    actor, rehearsals = copy.copy(optimizer), []

    def call(*given: Any) -> Call:
        rehearsals.append(_Rehearsal(actor, given))
        return rehearsals[-1]

    actor.__dict__["_call"] = call
    actor.fused_step(*arguments)
    overview: Overview = rehearsals[-1].overview
    return overview


def _kernels(cls: type, name: str, target: str) -> ModuleType:
    # from the base on: a user's subclass may stand in a module of the same name
    for base in reversed(cls.__mro__):
        origin = Origin.of(base)
        found = None if origin is None else origin.kernels(f"{name}_{target}")
        if found is not None:
            return found
        if base.__module__.rpartition(".")[2] == name:
            return importlib.import_module(f"{base.__module__}_{target}")
    raise LookupError(f"there are no kernels {name!r} beside {cls.__name__}")


def _plan(optimizer: Steps, *arguments: Any) -> tuple[Plan[Any], Sequence[Any]]:
    """Return the plan of a call, and what to keep alive of its gradients; make a new plan if none fits."""
    indices, weights, grads, states = arguments
    plan = optimizer._plans.latest
    # most calls are like the last one; a tuple keeps the gradients alive, whatever another thread does
    if plan is not None and type(grads) in (list, tuple):
        given = tuple(grads)
        plan.rouse()
        if plan.known.recognise(indices, weights, states, optimizer._begin) and plan.still_right(optimizer):
            held = plan.take_gradients(given)
            if held is not None:
                return plan, held
    check_lists(*arguments)
    return _other_plan(optimizer, Given(*map(tuple, arguments)))


def _kind(weights: tuple[Any, ...]) -> type[Plan[Any]]:
    """Return the plans for the place where the first weight lies."""
    if weights and on_device(weights[0]):
        from stepspec.cuda.plan import DevicePlan

        return DevicePlan
    return HostPlan


def _other_plan(optimizer: Steps, given: Given) -> tuple[Plan[Any], Sequence[Any]]:
    """Return the plan of a call that is not like the last one."""
    plans, known = optimizer._plans, []
    for plan in plans.of(given.indices):
        if not plan.known.matches(given.indices, given.weights, given.states, optimizer._begin):
            continue
        if not plan.still_right(optimizer):
            plans.remove(plan)
            continue
        held = plan.take_gradients(given.grads)
        if held is not None:
            plans.use(plan)
            return plan, held
        known.append(plan)
    kind = _kind(given.weights)
    entries = kind.check(optimizer, given)
    fitting = next((plan for plan in known if plan.gradients.fit(entries)), None)
    if fitting is None:
        fitting = kind(optimizer, entries, given)
        fitting.known.tally.read(optimizer._begin)
    plans.use(fitting)
    return fitting, fitting.take_checked(entries, given.grads)
