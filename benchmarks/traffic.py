"""Bytes that an update moves, as the compiler counts them."""

from importlib.resources import as_file, files

import stepspec
from stepspec.generator.analysis import compile_variants, cost
from stepspec.generator.parse import parse
from stepspec.generator.reader import load


def bytes_per_element(name: str, itemsize: int = 4) -> int:
    """Return the bytes read and written per element by the costliest variant of an optimizer.

    That is the variant which keeps every state and applies to large tensors: momentum on, LARS adapting.
    """
    stem = type(stepspec.create(name)).__module__.rpartition(".")[2]
    with as_file(files("stepspec.specs") / f"{stem}.yaml") as path:
        rule = parse(load(path))
    return max(cost(variant).bytes(itemsize) for variant in compile_variants(rule))
