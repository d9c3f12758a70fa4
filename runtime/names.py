"""Tensors by name: what a Trainer is made of, and the gradients of a step."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepspec.checks import check_weight
from stepspec.overlaps import check_overlaps
from stepspec.states import Array

# as many names as a message spells out
FEW = 8


def check_params(params: object) -> dict[str, Array]:
    """Return a copy of the dict of weights; TypeError or ValueError names what is wrong."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of names to arrays, not {type(params).__name__}")
    if not params:
        raise ValueError("params holds no tensors")
    for name in params:
        if not isinstance(name, str):
            raise TypeError(f"params: a name must be a str, not {name!r}")
    seen = [check_weight(repr(name), weight) for name, weight in params.items()]
    names = list(params)
    check_overlaps(seen, [], lambda k: f"the weight of {names[k]!r}")
    return dict(params)


def truth(label: str, value: object) -> bool:
    """Return True or False; TypeError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{label} must be True or False, not {value!r}")
    return bool(value)


def given(params: Mapping[str, Array], grads: object, ignore_missing: bool) -> dict[int, Any]:
    """Return index to gradient; ValueError for unknown names and, unless ignored, for missing ones."""
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads must be a dict of names to gradients, not {type(grads).__name__}")
    for name in grads:
        if name not in params:
            near = difflib.get_close_matches(str(name), params, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is a gradient for {name!r}, but no tensor of that name{hint}")
    missing = [name for name in params if grads.get(name) is None]
    if not truth("ignore_missing", ignore_missing) and missing:
        raise ValueError(
            f"{len(missing)} of {len(params)} tensors have no gradient: {some(missing)}; "
            "pass ignore_missing=True to leave them as they are"
        )
    return {index: grads[name] for index, name in enumerate(params) if grads.get(name) is not None}


def some(names: Sequence[str]) -> str:
    """Spell a few names."""
    return ", ".join(map(repr, names[:FEW])) + (", ..." if len(names) > FEW else "")
