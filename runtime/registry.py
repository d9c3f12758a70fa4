"""Optimizers by name."""

from __future__ import annotations

import difflib
import sys
from typing import Any, TypeVar

from stepspec.optimizer import Optimizer

Class = TypeVar("Class", bound=type[Optimizer])

_registered: dict[str, type[Optimizer]] = {}


def register(cls: Class) -> Class:
    """Make a class known to `create` under its name, case-insensitive; usable as a decorator.

    A class that is defined once more, as by reloading its module, takes the place of its former self.

    Raises
    ------
    TypeError
        If it is not a subclass of `Optimizer`.
    ValueError
        If another class has the name; both are named, with their files.

    """
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise TypeError(f"register takes a subclass of stepspec.Optimizer, not {cls!r}")
    known = _classes().get(cls.__name__.lower(), cls)
    if _full_name(known) != _full_name(cls):
        raise ValueError(f"{_described(cls)}: the name {cls.__name__!r} is taken by {_described(known)}")
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


def _full_name(cls: type[Optimizer]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _described(cls: type[Optimizer]) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"{_full_name(cls)} in {file}" if file else _full_name(cls)
