"""A kernel -> a serial loop over one chunk of a tensor: the target CPU."""

from stepspec.generator.free_names import FreeNames
from stepspec.generator.kernel_text import Printed, imports, print_scalars
from stepspec.generator.loops import ArrayLines
from stepspec.generator.rows import RowLines
from stepspec.generator.stages import Kernel, ScalarKernel

MODULE = "stepspec.cpu"


def print_cpu(kernel: Kernel, name: str, free: FreeNames) -> Printed:
    """Return the function of a kernel, called `name`; it needs no other."""
    if isinstance(kernel, ScalarKernel):
        return print_scalars(kernel, name, MODULE)
    lines = RowLines(kernel) if kernel.by_rows else ArrayLines(kernel)
    text = lines.text(name)
    needs = {MODULE: lines.decorators, "stepspec.walks": lines.walks}
    return Printed((text,), (name,), imports(lines.printer.used, needs))
