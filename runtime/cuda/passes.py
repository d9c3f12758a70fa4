"""Which passes a kernel takes over tensors whose arrays are stored in some formats."""

from __future__ import annotations

import functools
from collections.abc import Callable

from stepspec.cuda.driver import missing_extra
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.recipes import ROWS, Pass, pass_name
from stepspec.formats import Formats
from stepspec.layout import TAIL, Layout

__all__ = ["ROWS", "Pass", "layout_of", "pass_name", "passes"]


@functools.lru_cache(maxsize=1024)
def passes(kernel: Kernel, formats: Formats, results: frozenset[str] = frozenset()) -> tuple[Pass, ...]:
    """Return what is launched for a kernel, in order; equal layouts have the same passes.

    Parameters
    ----------
    kernel
        Of a generated module.
    formats
        How the tensors' arrays are stored.
    results
        The arrays that hold results of reductions.

    Raises
    ------
    MissingCuda
        If the extra is not installed.

    """
    return _passes(kernel, layout_of(kernel, formats, results))


def layout_of(kernel: Kernel, formats: Formats, results: frozenset[str] = frozenset()) -> Layout:
    """Return how a kernel finds its arrays; its parameters are the kernel's slots without TAIL."""
    parameters = tuple(slot for slot in kernel.slots if slot not in TAIL)
    return Layout.used(parameters, formats, results, flat=kernel.form == "elements")


@functools.lru_cache(maxsize=1024)
def _passes(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    try:
        passes_of = _maker(kernel, layout)
    except ImportError as error:
        if (error.name or "").startswith("stepspec"):
            raise
        raise missing_extra(error) from error
    return passes_of(kernel, layout)


def _maker(kernel: Kernel, layout: Layout) -> Callable[[Kernel, Layout], tuple[Pass, ...]]:
    """Return what makes the passes; the modules of entries load numba-cuda."""
    match kernel.form:
        case "elements" if kernel.reduces:
            from stepspec.cuda.reductions import passes_of
        case "elements" if layout.formats.gradient == "dense":
            from stepspec.cuda.entries import passes_of
        case "elements":
            from stepspec.cuda.scattered import passes_of
        case "rows":
            from stepspec.cuda.row_entries import passes_of
        case "columns":
            from stepspec.cuda.column_entries import passes_of
        case "scalars":
            from stepspec.cuda.scalar_entries import passes_of
    return passes_of
