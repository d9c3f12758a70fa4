"""Settings of an optimizer, as its class declares them, that between them reach every variant of its rule."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

import stepspec
from stepspec.hyperparameters import Flag, Hyperparameter

Settings: TypeAlias = dict[str, Any]


def own_numbers(kind: type[stepspec.Optimizer]) -> dict[str, Hyperparameter]:
    """Return the optimizer's own hyperparameters that are numbers."""
    return {name: own for name, own in vars(kind).items() if isinstance(own, Hyperparameter)}


def settings(kind: type[stepspec.Optimizer]) -> list[Settings]:
    """Return the defaults, then arguments that reach every other variant."""
    decay = {"wd": 0.05} if kind.uses_wd else {}
    common: list[Settings] = [
        {},
        {"clip_gradient": 0.7, "rescale_grad": -0.5},
        {"learning_rate": 0.5, **decay},
    ]
    numbers = [
        {name: value, **decay}
        for name, own in own_numbers(kind).items()
        for value in (0.0, 0.3)
        if value in own.range
    ]
    turned = [
        {name: not inspect.signature(kind).parameters[name].default}
        for name, own in vars(kind).items()
        if isinstance(own, Flag)
    ]
    return [*common, *numbers, *({**flag, **options} for flag in turned for options in ({}, *numbers))]
