"""The plans that an optimizer keeps from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepspec.plan import Plan

# a training loop needs one plan of its tensors; alternating arrays or kinds of gradients need a few
EACH = 4


class KeptPlans:
    """Plans by the indices of their tensors; what was not used for longest goes first.

    Of the same tensors `EACH` plans are kept, and of all together `EACH` for every tensor: so one call for
    all and a call for each are served alike, and calls for ever new subsets do not pile up.
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[int, ...], list[Plan[Any]]] = {}
        self.latest: Plan[Any] | None = None

    def __iter__(self) -> Iterator[Plan[Any]]:
        """Yield all plans; those of the same tensors follow each other, the latest first."""
        return chain.from_iterable(self._plans.values())

    def of(self, indices: tuple[Any, ...]) -> tuple[Plan[Any], ...]:
        """Return the plans of some tensors, the latest first; of what cannot be indices, none."""
        try:
            return tuple(self._plans.get(indices, ()))
        except TypeError:  # not hashable, so no numbers: the checks of the call will say so
            return ()

    def use(self, plan: Plan[Any]) -> None:
        """Keep a plan, as the latest."""
        if plan is self.latest:
            return
        plans = self._plans.pop(plan.indices, [])
        others = [other for other in plans if other is not plan]
        self._plans[plan.indices] = [plan, *others][:EACH]
        self.latest = plan
        if len(others) == len(plans):
            self._drop_old()

    def remove(self, plan: Plan[Any]) -> None:
        """Forget a plan."""
        self._plans[plan.indices].remove(plan)
        self.latest = None

    def clear(self) -> None:
        """Forget all plans."""
        self._plans.clear()
        self.latest = None

    def _drop_old(self) -> None:
        room = EACH * len(set().union(*self._plans))
        held = sum(len(indices) * len(plans) for indices, plans in self._plans.items())
        while held > room:
            oldest = next(iter(self._plans))
            held -= len(oldest) * len(self._plans.pop(oldest))
