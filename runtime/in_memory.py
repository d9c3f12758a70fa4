"""Optimizers compiled from a spec's text at run time, without files: `stepspec.compile`.

Note [In memory]
A compiled class can be collected like any other object, with the modules it was made of: `sys.modules` and
`linecache` only know where its text is, so that `inspect.getsource` and tracebacks show it, and forget that
with the class. What stays is the machine code of its kernels. Pickle cannot import such a class, and takes
the spec's text along instead: who loads it compiles the text again, and finds the kernels in the disk cache,
whose key holds their text. Libraries such as cloudpickle would take the class apart, if `sys.modules` did not
lead to it.
"""

from __future__ import annotations

import builtins
import copyreg
import hashlib
import linecache
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stepspec.changes import Complete
from stepspec.sources import Text

if TYPE_CHECKING:
    from stepspec.optimizer import Optimizer

# held while a text is compiled, so that threads get one class; a fork waits for it
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)

_classes: weakref.WeakValueDictionary[tuple[str, str], type[Optimizer]] = weakref.WeakValueDictionary()


def compile(spec: str | os.PathLike[str]) -> type[Optimizer]:
    """Return the optimizer class that a spec describes, without writing a file.

    It is what `stepspec generate` would make of the spec, with the same fused kernels for CPU and GPU: they
    are compiled when a step first needs them, and kept on disk by their text, for all processes. A text that
    was compiled before gives the same class again, as long as that is in use. The class and its optimizers
    can be pickled; `stepspec.create` knows it only after `stepspec.register`.

    Parameters
    ----------
    spec : str or path
        The path of a ``.yaml`` file, or the text of a spec: a str with more than one line.

    Raises
    ------
    ValueError
        For a spec with mistakes, all of which it shows with their places (it is a
        `stepspec.generator.errors.SpecError`), and for what is neither a text nor a path of a spec.
    TypeError
        If `spec` is neither a str nor a path.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> Lion = stepspec.compile('''
    ... name: Lion
    ... summary: Evolved sign momentum.
    ... hyperparameters:
    ...   learning_rate: {default: 1e-4}
    ...   beta1: {default: 0.9, range: "[0, 1)"}
    ...   beta2: {default: 0.99, range: "[0, 1)"}
    ... state:
    ...   m: {per: element}
    ... update: |
    ...   g = clip(rescale_grad * grad, clip_gradient)
    ...   c = beta1 * m + (1 - beta1) * g
    ...   weight -= lr * (sign(c) + wd * weight)
    ...   m = beta2 * m + (1 - beta2) * g
    ... ''')
    >>> optimizer = Lion(learning_rate=1e-3, wd=0.1)

    """
    from stepspec.generator.reader import read_source

    if isinstance(spec, str) and "\n" in spec:
        return _compiled("<text>", spec.replace("\r\n", "\n"), "")
    if not isinstance(spec, str | os.PathLike):
        raise TypeError(f"a spec is a text or a path, not {spec!r}")
    path = Path(spec)
    if path.suffix != ".yaml":
        raise ValueError(f"{spec!r} is neither the path of a .yaml file nor a spec's text, of several lines")
    return _compiled(str(path), read_source(path).text, path.stem)


class InMemory(Complete):
    """The type of compiled classes, by which pickle tells them from others; their subclasses have it, too."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What a compiled class was made of.

    Parameters
    ----------
    name
        Of the class's module.
    stem
        The name of the spec's file, without ending; '' if it was a text.
    text
        The spec.
    modules
        The texts of the generated modules, by file name.

    """

    name: str
    stem: str
    text: str
    modules: Mapping[str, str]
    _kernels: dict[str, ModuleType] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: type) -> Origin | None:
        """Return the origin of a class; None if it was not compiled in memory itself."""
        found: Origin | None = vars(kind).get("_origin")
        return found

    def kernels(self, name: str) -> ModuleType | None:
        """Return the module of kernels `name`, run when it is first asked for; None if there is none."""
        if name not in self._kernels:
            text = self.modules.get(f"{name}.py")
            if text is None:
                return None
            # its name is part of a cache file's, and tells nothing of the rest of the spec
            module = ModuleType(f"stepspec.compiled.{name}")
            _run(text, self.file(name), vars(module))
            self._kernels.setdefault(name, module)
        return self._kernels[name]

    def file(self, module: str) -> str:
        """Return what tracebacks call the text of a module."""
        return f"<{self.name.rpartition('.')[2]}: {module}.py>"


def _compiled(shown: str, text: str, stem: str) -> type[Optimizer]:
    with _lock:
        found = _classes.get((stem, text))
        if found is None:
            found = _classes[stem, text] = _made(shown, text, stem)
        return found


def _made(shown: str, text: str, stem: str) -> Any:
    from stepspec.generator.emit import IN_MEMORY, emit
    from stepspec.generator.errors import Source
    from stepspec.generator.reader import read_spec

    spec = read_spec(Source(shown, text), stem or None)
    modules = emit(spec, IN_MEMORY)
    digest = hashlib.sha256(repr((stem, text)).encode()).hexdigest()[:12]
    name = f"stepspec.compiled.{spec.stem}_{digest}"
    while name in sys.modules:  # its former self is not forgotten yet
        name += "_"
    origin = Origin(name, stem, text, modules)
    names: dict[str, Any] = {"__name__": origin.name}
    _run(modules[f"{spec.stem}.py"], origin.file(spec.stem), names)
    made = names[spec.name]
    made.__class__ = InMemory
    made._origin = origin
    _sign_post(origin, names, made)
    files = [origin.file(file.removesuffix(".py")) for file in modules]
    weakref.finalize(made, _forget, origin.name, files).atexit = False
    return made


def _run(text: str, file: str, names: dict[str, Any]) -> None:
    """Run the text of a module in a namespace, and let Python's tools show its lines."""
    names |= {"__file__": file, "__loader__": Text(text)}
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    # the annotations of this module are texts, of which theirs shall inherit nothing
    exec(builtins.compile(text, file, "exec", dont_inherit=True), names)


def _sign_post(origin: Origin, names: Mapping[str, Any], made: type) -> None:
    """Tell where the text of a class is, and that the class is its module's, see Note [In memory]."""
    module, known = ModuleType(origin.name), weakref.ref(made)

    def look_up(name: str) -> type:
        found = known()
        if found is None or name != found.__name__:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        return found

    shown = {name: names[name] for name in ("__doc__", "__file__", "__loader__")}
    vars(module).update(shown, __getattr__=look_up)
    sys.modules[origin.name] = module


def _forget(module: str, files: list[str]) -> None:
    for file in files:
        linecache.cache.pop(file, None)
    sys.modules.pop(module, None)  # last: it keeps its files' names from a new class


def _reduce(kind: type) -> str | tuple[Callable[..., Any], tuple[str, str, str]]:
    """Return what pickle makes of a compiled class: its text; of a subclass: its name, as of any class."""
    origin = Origin.of(kind)
    return kind.__qualname__ if origin is None else (_compiled, ("<pickle>", origin.text, origin.stem))


copyreg.pickle(InMemory, _reduce)
