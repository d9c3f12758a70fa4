"""Which optimizers a test is run with, and with how many of its cases.

Note [Sampling]
Every optimizer of `stepspec.generated` is tested without being named: what it gets follows from its kernels
and its name. Compiling takes nearly all of a test's time, so the full product of optimizers and storages is
for those in `REPRESENTATIVES`: one optimizer of each kind that no other kind includes. A kind is what roles
of parameters occur in what forms of kernels: elements alone, numbers of the tensor, rows, reductions, noise.

    on the CPU, `step` and `fused_step`                          representatives   others
    float32, float64; all variants, threads, grouping, shapes    all               all
    special values, golden records                               all               all
    resumed training                                             5 storages        2
    float16, bfloat16: as they are, with master, stochastic      6                 3: each way once
    gradients of another dtype                                   3 of 7            1
    row-sparse gradients                                         3 of 6            2
    strides and orders; processes that compile nothing again     all               -

    on GPUs, without one
    functions on the host and in the simulator                   all               all
    code for sm_90: dense float32 of all kernels                 all               all
    code for sm_90: other formats                                2 and a ninth     1
    the PTX machine: float32, special values                     all               all
    the PTX machine: float64, gradients of another dtype         all               -
    the PTX machine: half precision                              2 ways of 3       -
    the PTX machine: row-sparse gradients                        2 storages of 4   -
    the PTX machine: golden records                              1 kind and lazy   1 kind and lazy

One worker takes all tests of an optimizer, so that its kernels are compiled once.
"""

import importlib
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from training import named

from stepspec import Optimizer, generated
from stepspec.cpu import Kernel

OPTIMIZERS: tuple[type[Optimizer], ...] = tuple(getattr(generated, name) for name in generated.__all__)


def kernels(optimizer: type[Optimizer]) -> list[Kernel]:
    """Return the CPU kernels of an optimizer."""
    module = importlib.import_module(f"{optimizer.__module__}_cpu")
    return [value for value in vars(module).values() if isinstance(value, Kernel)]


def kind(optimizer: type[Optimizer]) -> frozenset[tuple[str, ...]]:
    """Return what the kernels of an optimizer are made of."""
    made = kernels(optimizer)
    roles = {(kernel.form, p.role) for kernel in made for p in kernel.parameters}
    return frozenset(roles | {(p.role, p.reduction.per) for k in made for p in k.reductions if p.reduction})


def _representatives() -> frozenset[type[Optimizer]]:
    """Return an optimizer of each largest kind: one with lazy updates if there is, with fewest kernels."""
    kinds = {kind(optimizer) for optimizer in OPTIMIZERS}
    best: dict[frozenset[tuple[str, ...]], type[Optimizer]] = {}

    def rank(optimizer: type[Optimizer]) -> tuple[bool, int, str]:
        return not hasattr(optimizer, "lazy_update"), len(kernels(optimizer)), optimizer.__name__

    for optimizer in sorted(OPTIMIZERS, key=rank):
        best.setdefault(kind(optimizer), optimizer)
    return frozenset(best[found] for found in kinds if not any(found < other for other in kinds))


REPRESENTATIVES = _representatives()


def turn(name: str) -> int:
    """Return a number that follows from a name, to choose by."""
    return zlib.crc32(name.encode())


def grouped(optimizer: type[Optimizer], *values: Any, name: str) -> Any:
    """Return parameters of a test that the worker of an optimizer runs."""
    return pytest.param(*values, id=name, marks=pytest.mark.xdist_group(optimizer.__name__))


def sampled(
    names: str, cases: Sequence[Any], each: int = 1, always: int = 0, most: int | None = None
) -> pytest.MarkDecorator:
    """Run a test with all optimizers: with all cases if they represent their kind, else with some.

    Parameters
    ----------
    names
        The test's parameters, separated by commas; `optimizer_class` is one more.
    cases
        A value each; tuples of values if there are several names.
    each
        How many cases the other optimizers get: consecutive ones, where they begin follows from the name.
    always
        How many cases, the first ones, all optimizers get beside those.
    most
        How many of the turns the representatives get instead of all.

    """
    found = []
    for optimizer in OPTIMIZERS:
        turns = cases[always:]
        start, count = turn(optimizer.__name__), each
        if optimizer in REPRESENTATIVES:
            count = len(turns) if most is None else most
        for case in (*cases[:always], *(turns[(start + i) % len(turns)] for i in range(count))):
            values = case if "," in names else (case,)
            words = (optimizer.__name__, *map(_word, values))
            found.append(grouped(optimizer, optimizer, *values, name="-".join(words)))
    return pytest.mark.parametrize(("optimizer_class", *names.replace(" ", "").split(",")), found)


def _word(value: Any) -> str:
    """Return a value of a case as it stands in the names of tests."""
    return named(value) if isinstance(value, dict) else getattr(value, "__name__", str(value))
