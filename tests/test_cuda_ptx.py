"""Every spec's kernels, compiled for GPUs without one: nothing contracted, no local memory, few registers."""

import re
from collections.abc import Iterator
from itertools import islice

import pytest

from gpu_kernels import FORMATS, MOST_REGISTERS, beyond, kernels, main, passes_of
from stepspec import generated
from stepspec.cuda.compilation import Code
from stepspec.cuda.passes import Pass

# one worker compiles what kernels share once
pytestmark = pytest.mark.xdist_group("ptx")

HOPPER, AMPERE = (9, 0), (8, 0)
# The full product takes minutes: of each kernel float32, and every so many of the other formats, in turns.
ALWAYS = ("float32", "float32, scattered", "float32, lazy")
EVERY = 9


def sampled(optimizer: str) -> Iterator[Pass]:
    """Yield passes of all kernels of an optimizer; over all optimizers, every format has its turn."""
    others = [name for name in FORMATS if name not in ALWAYS]
    first = generated.__all__.index(optimizer)
    for number, kernel in enumerate(kernels(optimizer).values(), first):
        for name in (*ALWAYS, *islice(others, number % EVERY, None, EVERY)):
            yield from passes_of(kernel, FORMATS[name])


def check(code: Code) -> None:
    assert not re.search(r"\bfma\b", code.ptx), code.name
    assert not re.search(r"\.local\b", code.ptx), code.name
    assert "call" not in code.ptx, code.name
    assert beyond(code) == "", code.name


@pytest.mark.parametrize("optimizer", generated.__all__)
def test_kernels_for_hopper(optimizer: str) -> None:
    found = {run: run.code(HOPPER) for run in sampled(optimizer)}
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
