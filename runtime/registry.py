"""Optimizers by name."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from stepspec.optimizer import Optimizer

Class = TypeVar("Class", bound=type[Optimizer])

_registered: dict[str, type[Optimizer]] = {}


def register(cls: Class) -> Class:
    """Make a class known to `create` under its name, case-insensitive; usable as a decorator.

    Raises
    ------
    TypeError
        If it is not a subclass of `Optimizer`.
    ValueError
        If another class has the name.

    """
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise TypeError(f"register takes a subclass of stepspec.Optimizer, not {cls!r}")
    known = _classes().get(cls.__name__.lower(), cls)
    if known is not cls:
        raise ValueError(f"the name {cls.__name__!r} is taken by {known.__module__}.{known.__qualname__}")
    _registered[cls.__name__.lower()] = cls
    return cls


def create(name: str, /, **kwargs: Any) -> Optimizer:
    """Return a new optimizer by its name, case-insensitive.

    Parameters
    ----------
    name
        Such as ``"nag"``.
    **kwargs
        The arguments of its class.

    Raises
    ------
    TypeError
        If the name is not a str, or for an unknown argument.
    ValueError
        If there is no such optimizer, or an argument is out of its range.

    """
    if not isinstance(name, str):
        raise TypeError(f"an optimizer's name must be a str, not {name!r}")
    classes = _classes()
    if name.lower() not in classes:
        near = difflib.get_close_matches(name.lower(), classes, 1)
        known = ", ".join(sorted(cls.__name__ for cls in classes.values()))
        hint = f"did you mean {classes[near[0]].__name__!r}? Known" if near else "known"
        raise ValueError(f"there is no optimizer {name!r}; {hint} are {known}")
    return classes[name.lower()](**kwargs)


def _classes() -> dict[str, type[Optimizer]]:
    """Return all known classes by their names in lower case; the generated ones are imported when needed."""
    from stepspec import generated

    return {name.lower(): getattr(generated, name) for name in generated.__all__} | _registered
