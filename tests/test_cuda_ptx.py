"""Every spec's kernels, compiled for GPUs without one: nothing contracted, no local memory, few registers."""

import re
from collections.abc import Iterator
from itertools import islice

import pytest
from sampling import OPTIMIZERS, REPRESENTATIVES, grouped, turn

from gpu_kernels import FORMATS, MOST_REGISTERS, beyond, kernels, main, passes_of
from stepspec.cuda.compilation import Code
from stepspec.cuda.passes import Pass

HOPPER, AMPERE = (9, 0), (8, 0)
# The full product takes minutes: of each kernel float32, and every so many of the other formats, in turns.
ALWAYS = ("float32", "float32, scattered", "float32, lazy")
EVERY = 9
OTHERS = [name for name in FORMATS if name not in ALWAYS]


def some_passes(optimizer: str, representative: bool) -> Iterator[Pass]:
    """Yield passes of all kernels of an optimizer; over all kernels, every format has its turn."""
    for number, kernel in enumerate(kernels(optimizer).values(), turn(optimizer)):
        if representative:
            formats = [*ALWAYS, *islice(OTHERS, number % EVERY, None, EVERY)]
        else:
            formats = [ALWAYS[0], OTHERS[number % len(OTHERS)]]
        for name in formats:
            yield from passes_of(kernel, FORMATS[name])


def check(code: Code) -> None:
    assert not re.search(r"\bfma\b", code.ptx), code.name
    assert not re.search(r"\.local\b", code.ptx), code.name
    assert "call" not in code.ptx, code.name
    assert beyond(code) == "", code.name


@pytest.mark.parametrize(
    ("optimizer", "representative"),
    [grouped(o, o.__name__, o in REPRESENTATIVES, name=o.__name__) for o in OPTIMIZERS],
)
def test_kernels_for_hopper(optimizer: str, representative: bool) -> None:
    found = {run: run.code(HOPPER) for run in some_passes(optimizer, representative)}
    assert found
    for code in found.values():
        assert re.search(r"^\.target sm_90$", code.ptx, re.MULTILINE)
        check(code)


@pytest.mark.parametrize(
    ("optimizer", "formats"),
    [("SGD", "bfloat16, stochastic"), ("LARS", "float32"), ("GroupAdaGrad", "float32"), ("FTML", "float64")],
)
def test_kernels_for_ampere(optimizer: str, formats: str) -> None:
    *_, kernel = kernels(optimizer).values()
    for run in passes_of(kernel, FORMATS[formats]):
        code = run.code(AMPERE)
        assert re.search(r"^\.target sm_80$", code.ptx, re.MULTILINE)
        check(code)


@pytest.mark.parametrize("formats", ["float32, lazy", "float64, scattered"])
def test_what_needs_more_registers_gets_them_instead_of_local_memory(formats: str) -> None:
    (run,) = passes_of(kernels("GroupAdaGrad")["update"], FORMATS[formats])
    code = run.code(AMPERE)
    assert (code.stack, code.spills) == (0, 0)


@pytest.mark.parametrize(
    ("registers", "stack", "spills", "text"),
    [
        (MOST_REGISTERS, 0, 0, ""),
        (MOST_REGISTERS + 1, 0, 0, "129 registers"),
        (32, 8, 4, "a stack of 8 bytes, 4 bytes of spills"),
    ],
)
def test_bounds(registers: int, stack: int, spills: int, text: str) -> None:
    assert beyond(Code("name", "symbol", "", b"", registers, 0, stack, spills)) == text


def test_the_table_has_a_line_for_each_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--optimizers", "SGD", "--formats", "float32"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sgd_cuda.")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| sgd_cuda.update-float32",
        "| sgd_cuda.update_mom-float32",
    ]
