"""Which passes a kernel takes over tensors whose arrays are stored in some formats."""

from __future__ import annotations

import functools

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
        return _made(kernel, layout)
    except ImportError as error:
        if (error.name or "").startswith("stepspec"):
            raise
        raise missing_extra(error) from error


def _made(kernel: Kernel, layout: Layout) -> tuple[Pass, ...]:
    """Return what the modules of entries make; importing them loads numba-cuda."""
    if kernel.form == "scalars":
        from stepspec.cuda import scalar_entries

        return scalar_entries.passes_of(kernel, layout)
    if kernel.form == "columns":
        from stepspec.cuda import column_entries

        return column_entries.passes_of(kernel, layout)
    if kernel.form == "rows":
        from stepspec.cuda import row_entries

        return row_entries.passes_of(kernel, layout)
    assert kernel.form == "elements", kernel.form
    if kernel.reduces:
        from stepspec.cuda import reductions

        return reductions.passes_of(kernel, layout)
    if layout.formats.gradient != "dense":
        from stepspec.cuda import scattered

        return scattered.passes_of(kernel, layout)
    from stepspec.cuda import entries

    return entries.passes_of(kernel, layout)
