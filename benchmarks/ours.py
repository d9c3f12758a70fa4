"""Stepspec's two paths as contenders."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import stepspec
from cases import Array, Case, Gradient
from places import HOST, Place
from stepspec.overview import Overview

PATHS = ("fused_step", "step")


def both(case: Case) -> list["Stepspec"]:
    """Return a contender for each path that does the case: `step` has no lazy form."""
    return [Stepspec(case, path) for path in PATHS if path == "fused_step" or not case.is_lazy]


class Stepspec:
    """One optimizer of stepspec on its own copy of a model, through `step` or `fused_step`."""

    def __init__(self, case: Case, path: str, label: str = "", place: Place = HOST) -> None:
        self.label = label or path
        self.place = place
        names = dict(enumerate(case.model.shapes))
        self.optimizer = stepspec.create(case.optimizer, param_idx2name=names, **case.settings)
        self.arrays = [place.own(weight) for weight in case.model.weights]
        create = self.optimizer.create_state_multi_precision
        with warnings.catch_warnings(action="ignore"):  # of half precision without a master
            self.states = [create(i, weight) for i, weight in enumerate(self.arrays)]
        self.indices = list(names)
        self.update: Callable[..., None] = getattr(self.optimizer, path)
        self.turns = itertools.cycle([[place.lent(grad) for grad in grads] for grads in case.model.grads])
        self.grads: list[Gradient] = []

    def prepare(self) -> None:
        # Autograd hands over new arrays at every step: new objects, at other addresses than before.
        self.grads = [self.place.renewed(grad) for grad in next(self.turns)]

    def step(self) -> None:
        self.update(self.indices, self.arrays, self.grads, self.states)

    def weights(self) -> list[Array]:
        pairs = zip(self.states, self.arrays, strict=True)
        return [self.place.back(state.get("master", weight)) for state, weight in pairs]

    def close(self) -> None:
        """Nothing outlives this object."""

    def plan(self) -> Overview:
        """Return what a fused step with the latest gradients does."""
        plan: Any = self.optimizer.plan
        overview: Overview = plan(self.indices, self.arrays, self.grads, self.states)
        return overview
