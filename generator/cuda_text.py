"""A kernel -> functions of one element, row, column or tensor: the target CUDA."""

from dataclasses import replace

from stepspec.generator.free_names import FreeNames
from stepspec.generator.functions import FunctionPrinter, Outcome, names_of, written_by
from stepspec.generator.ir import Extent, Statements, names
from stepspec.generator.kernel_text import (
    KernelText,
    Printed,
    imports,
    name_tuple,
    print_scalars,
    reduction_of,
)
from stepspec.generator.rounds import needed
from stepspec.generator.row_functions import RowFunctions
from stepspec.generator.stages import ArrayKernel, Kernel, ScalarKernel
from stepspec.generator.text import call

MODULE = "stepspec.cuda"


def print_cuda(kernel: Kernel, name: str, free: FreeNames) -> Printed:
    """Return the functions of a kernel, called `name` and what is still `free` in the module.

    What only columns have a part in is done once per column. A kernel that also reduces other things becomes
    two, and a launch runs both.
    """
    if isinstance(kernel, ScalarKernel):
        return print_scalars(kernel, name, MODULE)
    over_columns = tuple(s for s in kernel.reductions if reduction_of(s).value.extent is Extent.COLUMN)
    others = tuple(s for s in kernel.reductions if s not in over_columns)
    if not over_columns or not others:
        return _print_array_kernel(kernel, name, free)
    first = _print_array_kernel(_collecting(kernel, others), name, free)
    second = _print_array_kernel(_collecting(kernel, over_columns), free.fresh(f"{name}_columns"), free)
    modules = sorted({*first.imports, *second.imports})
    needs = {m: first.imports.get(m, frozenset()) | second.imports.get(m, frozenset()) for m in modules}
    return Printed(first.texts + second.texts, first.names + second.names, needs)


def _collecting(kernel: ArrayKernel, reductions: Statements) -> ArrayKernel:
    """Return a kernel that collects the terms of some of the reductions only."""
    statements = needed(kernel.statements, (n for s in reductions for n in names(s.value)))
    read = {n.name for s in (*statements, *reductions) for n in names(s.value)}
    arrays = tuple((name, extent) for name, extent in kernel.arrays if name in read)
    return replace(kernel, arrays=arrays, statements=statements, reductions=reductions)


def _print_array_kernel(kernel: ArrayKernel, name: str, free: FreeNames) -> Printed:
    walked = {reduction_of(s).value.extent for s in kernel.reductions} | {n.extent for _, n in kernel.writes}
    if walked == {Extent.COLUMN}:
        return _print_flat(kernel, name, "columns")
    if kernel.by_rows:
        return RowFunctions(kernel, name, free).printed(MODULE)
    return _print_flat(kernel, name, "elements")


def _print_flat(kernel: ArrayKernel, name: str, form: str) -> Printed:
    """Return the function of one element, or of one column, of a kernel that knows no other extent."""
    arrays = [array for array, _ in kernel.arrays]
    printer = FunctionPrinter((*arrays, *kernel.scalars))
    outcome = Outcome(written_by(kernel), kernel.reductions)
    results = outcome.results(names_of(kernel))
    function = printer.function(name, outcome.docstring, kernel.statements, results)
    reads = [array for array in arrays if array in printer.taken]
    arguments = [f"reads={name_tuple(reads)}"] * bool(reads)
    arguments += outcome.arguments(lambda s: f'"{reduction_of(s).function}"')
    text = KernelText(name, (*call(f"@{form}", arguments, ""), *function))
    return Printed((text,), (name,), imports(printer.used, {MODULE: (form,)}))
