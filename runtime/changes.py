"""Changes of an optimizer's attributes: all are checked, and one that does not fit is refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stepspec import arguments
from stepspec.rule import Rule
from stepspec.states import Layout


class Complete(type):
    """The type of optimizer classes; tells an optimizer when its constructor has ended: see `Changes`."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, which `inspect` and editors would otherwise not look for behind `__call__`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # of this very class
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().__call__(*args, **kwargs)
        optimizer._complete()
        return optimizer


class Changes(Rule, metaclass=Complete):
    """Checks hyperparameters against each other and against the states that exist."""

    _is_complete = False
    # raised by changes of numbers, and by changes that are about single tensors
    _versions = 0, 0
    # flags and dimensions of tensors that have states, to these
    _created: dict[tuple[tuple[tuple[str, bool], ...], int], dict[str, str]]

    if not TYPE_CHECKING:  # type checkers find mistyped names themselves, unless they see this

        def __setattr__(self, name: str, value: object) -> None:
            """Set what there is: a mistyped name would otherwise change nothing, silently."""
            known = name[0] == "_" or name in self.__dict__ or hasattr(type(self), name)
            if not known and self._is_complete:
                raise AttributeError(arguments.no_attribute(type(self), name))
            super().__setattr__(name, value)

    def _change(self, name: str, value: float | bool | str) -> None:
        """Set a hyperparameter; after construction only if requirements and existing states allow it."""
        if not self._is_complete:
            self.__dict__[name] = value
            return
        old = self.__dict__.get(name)
        self.__dict__[name] = value
        try:
            self._check_combinations()
            self._check_requirements()
            self._check_layouts(name)
        except BaseException:
            self.__dict__[name] = old
            raise
        self._new_version()

    def _complete(self) -> None:
        self._check_combinations()
        self._check_requirements()
        self._is_complete = True

    def _check_combinations(self) -> None:
        """Refuse switches that exclude each other."""

    def _check_requirements(self) -> None:
        for text, holds in self.requirements.items():
            if not holds(self):
                names = [n for n in re.findall(r"[A-Za-z_]\w*", text) if n in self.__dict__]
                values = ", ".join(f"{n} = {self.__dict__[n]!r}" for n in names)
                raise ValueError(f"{type(self).__name__} requires {text}, but {values}")

    def _check_layouts(self, changed: str) -> None:
        """Refuse a change that makes a state appear or vanish which tensors already lack or have."""
        for (flags, ndim), before in self._created.items():
            after = _extents(self._layout(dict(flags), ndim))
            if after != before:
                names = ", ".join(repr(name) for name in sorted(before.keys() ^ after.keys() or after))
                change = f"{type(self).__name__}: {changed} cannot change to {self.__dict__[changed]!r}"
                raise ValueError(
                    f"{change}: there are states, and {names} would appear or vanish; "
                    "make a new optimizer and create its states"
                )

    def _note_layout(self, flags: Mapping[str, bool], ndim: int, layout: Layout) -> None:
        self._created[tuple(flags.items()), ndim] = _extents(layout)

    def _new_version(self, *, tensors: bool = False) -> None:
        """Tell plans that a number has changed, and whether something about single tensors has."""
        numbers, names = self._versions
        self._versions = numbers + 1, names + tensors


def _extents(layout: Layout) -> dict[str, str]:
    return {name: state.per for name, state in layout.items()}
