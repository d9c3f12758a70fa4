"""Reading the arguments of an optimizer's constructor: each function returns the checked value or raises."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stepspec.notices import warn
from stepspec.rates import multiplier

# the learning rate where neither a number nor a scheduler is given
DEFAULT_RATE = 0.01

# what PyTorch calls arguments -> what they are called here
OTHER_NAMES = {"lr": "learning_rate", "weight_decay": "wd", "eps": "epsilon", "betas": "beta1"}

Scheduler = Callable[[int], float]


def refuse_unknown(cls: type, unknown: Mapping[str, object]) -> None:
    """Raise TypeError for arguments that no constructor of `cls` knows, with the nearest name."""
    if not unknown:
        return
    name = next(iter(unknown))
    raise TypeError(f"{cls.__name__} has no argument {name!r}{_hint(name, _known(cls))}")


def no_attribute(cls: type, name: str) -> str:
    """Return what to tell who sets an attribute that optimizers of this class do not have."""
    known = [known for known in dir(cls) if known[0] != "_"]
    return f"{cls.__name__} has no attribute {name!r}{_hint(name, known)}"


def _hint(name: str, known: Sequence[str]) -> str:
    same = OTHER_NAMES.get(name)
    near = [same] if same in known else difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _known(cls: type) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return sorted({p.name for p in _parameters(cls) if p.kind in kinds} - {"self"})


def _parameters(cls: type) -> list[inspect.Parameter]:
    """Return the parameters of the constructors of a class and its bases."""
    constructors = [vars(base)["__init__"] for base in cls.__mro__[:-1] if "__init__" in vars(base)]
    return [p for init in constructors for p in inspect.signature(init).parameters.values()]


def count(label: str, value: object) -> int:
    """Return a number of updates or an index: an int >= 0 that leaves kernels' int64 room to count on."""
    return _natural(label, value, 62)


def seed(label: str, value: object) -> int:
    """Return a seed of noise: an int >= 0 of 64 bits."""
    return _natural(label, value, 64)


def _natural(label: str, value: object, bits: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{label} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{label} must not be negative: {value}")
    if value >= 1 << bits:
        raise ValueError(f"{label} must be below 2**{bits}, not {value}")
    return int(value)


def aggregate(label: str, value: object) -> float | None:
    """Return a number of tensors: None, inf or an int >= 1."""
    if value is None or (isinstance(value, float) and value == math.inf):
        return None if value is None else math.inf
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{label} must be None, inf or an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{label} must be at least 1, not {value}")
    return int(value)


def check_mapping(label: str, value: object) -> None:
    """Raise TypeError unless `value` is a dict or another mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{label} must be a dict, not {value!r} ({type(value).__name__})")


def names(owner: str, value: Mapping[int, str] | None) -> dict[int, str]:
    """Return a copy of tensors' names by index."""
    if value is None:
        return {}
    label = f"{owner}: param_idx2name"
    check_mapping(label, value)
    for index, name in value.items():
        count(f"{label}: an index", index)
        if not isinstance(name, str):
            raise TypeError(f"{label}[{index}] must be a str, not {name!r}")
    return {int(index): name for index, name in value.items()}


def multipliers(label: str, value: Mapping[int | str, float]) -> dict[int | str, float]:
    """Return a copy of factors by index or name."""
    check_mapping(label, value)
    keys = [key if isinstance(key, str) else count(f"{label}: an index", key) for key in value]
    factors = [multiplier(f"{label}[{key!r}]", factor) for key, factor in value.items()]
    return dict(zip(keys, factors, strict=True))


def check_scheduler(owner: str, scheduler: object) -> None:
    """Raise TypeError unless `scheduler` can be called, or is None."""
    if scheduler is not None and not callable(scheduler):
        kind = type(scheduler).__name__
        raise TypeError(f"{owner}: lr_scheduler must be callable, not {scheduler!r} ({kind})")


def schedule(cls: type, scheduler: Any, learning_rate: float | None) -> tuple[Scheduler | None, float]:
    """Return the scheduler to use and the rate without one.

    A number overrides the base rate of a scheduler that has one, in a copy. A plain callable has none: only
    None and the class's default, which nobody may have written, are accepted beside it.
    """
    check_scheduler(cls.__name__, scheduler)
    if scheduler is None or learning_rate is None:
        return scheduler, DEFAULT_RATE if learning_rate is None else learning_rate
    if not hasattr(scheduler, "with_base_lr"):
        if learning_rate not in [p.default for p in _parameters(cls) if p.name == "learning_rate"]:
            raise ValueError(
                f"{cls.__name__}: this lr_scheduler has no base rate that learning_rate could override; "
                "pass learning_rate=None, or a scheduler of stepspec.lr_scheduler"
            )
        return scheduler, learning_rate
    changed: Scheduler = scheduler.with_base_lr(learning_rate)
    if getattr(scheduler, "base_lr", None) != learning_rate:
        warn(
            f"{cls.__name__}: learning_rate = {learning_rate!r} overrides the base rate of the lr_scheduler; "
            "pass learning_rate=None to take the scheduler's"
        )
    return changed, learning_rate
