"""Specs made of fragments, for tests of the compiler, and their classes."""

from typing import Any

from stepspec.generator.emit import emit
from stepspec.generator.errors import Source
from stepspec.generator.ir import Statements
from stepspec.generator.parse import Rule, parse
from stepspec.generator.passes import straight_line, variants
from stepspec.generator.reader import read_spec
from stepspec.generator.spec import Spec


def spec(update: str, hyperparameters: str = "", state: str = "", tensors: str = "", more: str = "") -> Spec:
    """Return a spec with this update; declarations are one line each, `more` holds further keys."""
    parts = ["name: X", "summary: Test.", "hyperparameters:", "  learning_rate: {default: 0.1}"]
    parts += [f"  {line}" for line in hyperparameters.split("\n") if line]
    for key, text in (("state", state), ("tensors", tensors)):
        parts += [f"{key}:", *(f"  {line}" for line in text.split("\n"))] if text else []
    parts += [more] if more else []
    parts += ["update: |", *(f"  {line}" for line in update.split("\n"))]
    return read_spec(Source("x.yaml", "\n".join(parts) + "\n"), "x")


def rule(update: str, hyperparameters: str = "", state: str = "", tensors: str = "") -> Rule:
    """Return the rule of such a spec."""
    return parse(spec(update, hyperparameters, state, tensors))


def only(found: Rule) -> Statements:
    """Return the straight-line statements of a rule without variants."""
    (choice,) = variants(found)
    return straight_line(found, choice)


def module(written: Spec) -> str:
    """Return the text of the module with the class of a spec."""
    return emit(written)[f"{written.stem}.py"]


def optimizer_class(text: str, name: str = "X") -> Any:
    """Return the class that the text of a module defines; it has a `step`, but no kernels."""
    names: dict[str, Any] = {"__name__": "x"}
    exec(compile(text, "x.py", "exec"), names)
    return names[name]
