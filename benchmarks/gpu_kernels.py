"""What the assembler says of the GPU kernels, compiled without a GPU: registers, shared and local memory.

Prints a Markdown table of every pass of every optimizer's kernels; the exit status is 1 if one is beyond its
bounds: more than 128 registers, a stack or spills.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from report import table
from stepspec import generated
from stepspec.cuda.kernels import Kernel
from stepspec.cuda.passes import Pass, passes
from stepspec.formats import Formats

if TYPE_CHECKING:
    from stepspec.cuda.compilation import Code

FLOAT32 = Formats.plain("float32")
DENSE = {
    "float32": FLOAT32,
    "float64": Formats.plain("float64"),
    "float16": Formats.plain("float16"),
    "bfloat16": Formats.plain("bfloat16"),
    "float16, master": replace(FLOAT32, grad="float16", copy="float16"),
    "bfloat16, master": replace(FLOAT32, grad="bfloat16", copy="bfloat16"),
    "float16, stochastic": replace(Formats.plain("float16"), stochastic=True),
    "bfloat16, stochastic": replace(Formats.plain("bfloat16"), stochastic=True),
    "float32, bfloat16 gradients": replace(FLOAT32, grad="bfloat16"),
    "float64, float32 gradients": replace(Formats.plain("float64"), grad="float32"),
}
FORMATS = {
    **DENSE,
    **{f"{name}, scattered": replace(formats, gradient="scattered") for name, formats in DENSE.items()},
    **{f"{name}, lazy": replace(formats, gradient="lazy") for name, formats in DENSE.items()},
}
MOST_REGISTERS = 128
HEADER = ("pass", "registers", "shared bytes", "stack bytes", "spilled bytes")


def kernels(optimizer: str) -> dict[str, Kernel]:
    """Return the kernels of an optimizer's generated module, by name."""
    module = importlib.import_module(f"{getattr(generated, optimizer).__module__}_cuda")
    return {name: value for name, value in vars(module).items() if isinstance(value, Kernel)}


def passes_of(kernel: Kernel, formats: Formats) -> tuple[Pass, ...]:
    """Return what a kernel launches for tensors in some formats; one that reduces visits all rows."""
    if formats.gradient == "lazy" and kernel.reductions:
        formats = replace(formats, gradient="scattered")
    reductions = ((p.name, p.reduction) for p in kernel.reductions if p.reduction)
    per_column = frozenset(name for name, reduction in reductions if reduction.per == "column")
    return passes(kernel, formats, per_column)


def beyond(code: Code) -> str:
    """Say in what a kernel is beyond its bounds; empty if it is not."""
    wrong = {
        f"{code.registers} registers": code.registers > MOST_REGISTERS,
        f"a stack of {code.stack} bytes": code.stack > 0,
        f"{code.spills} bytes of spills": code.spills > 0,
    }
    return ", ".join(what for what, is_wrong in wrong.items() if is_wrong)


def codes(optimizers: Sequence[str], formats: Sequence[str], capability: tuple[int, int]) -> Iterator[Code]:
    """Compile the passes of all kernels, each once."""
    seen: set[Pass] = set()
    for optimizer in optimizers:
        for kernel in kernels(optimizer).values():
            for run in (run for name in formats for run in passes_of(kernel, FORMATS[name])):
                if run not in seen:
                    seen.add(run)
                    yield run.code(capability)


def line(code: Code) -> tuple[str, ...]:
    numbers = (code.registers, code.shared, code.stack, code.spills)
    return (code.name.removeprefix("stepspec.generated."), *map(str, numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(generated.__all__)
    parser.add_argument("--optimizers", nargs="+", choices=known, default=known)
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--capability", default="9.0", help="of the GPU; default: 9.0")
    chosen = parser.parse_args(arguments)
    major, minor = map(int, chosen.capability.split("."))
    found = [*codes(chosen.optimizers, chosen.formats, (major, minor))]
    print("\n".join(table(HEADER, map(line, found))))
    wrong = [f"{code.name}: {text}" for code in found if (text := beyond(code))]
    print(f"\n{len(found)} kernels for sm_{major}{minor}, {len(wrong)} beyond their bounds")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
