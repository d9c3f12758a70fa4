"""CUDA kernels without device code: their functions, run by the generated `fused_step` on the host.

To run on whole arrays, a module's text is read anew: conditional expressions become `where`, and what it
imports of `stepspec.arithmetic` comes from `stepspec.reference`. Elements have the shape (rows, columns),
numbers of rows (rows, 1), of columns (1, columns), so that a function works on all of them at once.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stepspec
from stepspec import reference
from stepspec.cuda.kernels import Function, Kernel, Reduction, RowValues, Terms
from stepspec.noise import STREAMS
from stepspec.rates import Rate, host_scalar
from stepspec.tensors import Tensor

Array = NDArray[Any]
# what a function of numbers returns, so many arrays of a shape and dtype, where arrays and numbers are known
Evaluate = Callable[[Function, Mapping[str, Any], tuple[int, int], Any, int], list[Array]]

# kind -> the reduction per tensor, row and column
REDUCTIONS: Mapping[str, Mapping[str, Callable[[Any], Any]]] = {
    "norm": {"tensor": reference.norm, "row": reference.row_norm, "column": reference.column_norm},
    "sum": {"tensor": reference.total, "row": reference.row_sum, "column": reference.column_sum},
    "mean": {"tensor": reference.mean, "row": reference.row_mean, "column": reference.column_mean},
    "max": {"tensor": reference.largest, "row": reference.row_max, "column": reference.column_max},
}


class _Whole(ast.NodeTransformer):
    """Makes functions of numbers take arrays."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name("where", ast.Load()), [node.test, node.body, node.orelse], [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        whole = node.values[0]
        for value in node.values[1:]:
            whole = ast.BinOp(whole, operator, value)
        return whole

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return ast.UnaryOp(ast.Invert(), node.operand) if isinstance(node.op, ast.Not) else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.module == "stepspec.arithmetic":
            node.module = "stepspec.reference"
        return node


def on_whole_arrays(text: str, name: str = "x_cuda") -> SimpleNamespace:
    """Return the kernels and stages of a module's text, for `HostCall`."""
    tree = ast.fix_missing_locations(_Whole().visit(ast.parse(text)))
    names: dict[str, Any] = {"__name__": name, "where": reference.where}
    exec(compile(tree, name, "exec"), names)
    return SimpleNamespace(**names)


def module_text(optimizer_class: type) -> str:
    """Return the text of the CUDA kernels that stand beside a generated class."""
    path = Path(inspect.getfile(sys.modules[optimizer_class.__module__]))
    return path.with_stem(f"{path.stem}_cuda").read_text()


class Arrays:
    """The arrays and numbers of one tensor, by name, while its launches run."""

    def __init__(self, optimizer: Any, tensor: Tensor) -> None:
        self.optimizer, self.tensor = optimizer, tensor
        shape = tensor.weight.shape
        self.shape = shape[0], int(np.prod(shape[1:]))
        self.values: dict[str, Any] = {"weight": tensor.weight, "grad": tensor.grad, **tensor.state}
        self.stored: dict[str, Any] = {}

    def variant(self) -> tuple[bool, ...]:
        variant: tuple[bool, ...] = self.optimizer._variant(self.tensor.flags, self.tensor.weight.ndim)
        return variant

    def array(self, name: str, role: str) -> Array:
        """Return an array as its role lies in a matrix; noise is drawn as for `step`."""
        rows, columns = self.shape
        whole = (rows, columns)
        shape = {"element": whole, "noise": whole, "row": (rows, 1), "column": (1, columns)}[role]
        array: Array = self.tensor.normal(STREAMS[name]) if role == "noise" else self.values[name]
        assert array.dtype == self.tensor.dtype, name
        return array.reshape(shape)

    def number(self, name: str) -> np.float64:
        """Return a number of the tensor: from a state, a reduction, or as the host computes it."""
        if name in self.values:
            return np.float64(self.values[name])
        rate = Rate(self.tensor.lr, self.tensor.wd, self.tensor.t)
        if name in self.optimizer.host:
            return np.float64(host_scalar(self.optimizer, name, rate, "a tensor"))
        return np.float64(getattr(rate if name in rate._fields else self.optimizer, name))

    def store(self, name: str, value: Any) -> None:
        """Write an array: later launches see it, and the tensor gets it at the end."""
        old = self.values[name]
        self.values[name] = self.stored[name] = np.array(value).reshape(old.shape)

    def reduce(self, name: str, reduction: Reduction, terms: Array) -> None:
        """Keep the result of a reduction under its name."""
        self.values[name] = REDUCTIONS[reduction.kind][reduction.per](terms)


def evaluate_whole(
    function: Function, known: Mapping[str, Any], shape: tuple[int, int], dtype: Any, count: int
) -> list[Array]:
    """Call a function once on whole arrays; it may neither promote them nor vary over more axes."""
    given = function(**{name: known[name] for name in taken(function)})
    results = [np.asarray(result) for result in (given if isinstance(given, tuple) else (given,))]
    assert len(results) == count, function
    assert all(result.dtype == dtype for result in results), function
    return [np.broadcast_to(result, shape) for result in results]


def taken(function: Function) -> list[str]:
    """Return the names of what a function takes."""
    return list(inspect.signature(function).parameters)


def run_kernel(arrays: Arrays, kernel: Kernel, evaluate: Evaluate = evaluate_whole) -> None:
    """Do what one launch does to one tensor."""
    if kernel.form == "scalars":
        assert kernel.function
        numbers = {name: arrays.number(name) for name in kernel.scalars}
        results = evaluate(kernel.function, numbers, (1, 1), np.float64, len(kernel.returns))
        arrays.values.update((name, value[0, 0]) for name, value in zip(kernel.returns, results, strict=True))
        return
    dtype, known = arrays.tensor.dtype, _known(arrays, kernel, evaluate)
    shape = (1, arrays.shape[1]) if kernel.form == "columns" else arrays.shape
    given = (*kernel.writes, *kernel.reduces)
    results = evaluate(kernel.function, known, shape, dtype, len(given)) if kernel.function else []
    for name, value in zip(given, results, strict=True):
        if name in kernel.writes:
            arrays.store(name, value)
        else:
            arrays.reduce(name, kernel.reduces[name], value)
    for name, number in kernel.row_writes.items():
        arrays.store(name, known[number])
    for name, (reduction, number) in kernel.row_reduces.items():
        arrays.reduce(name, reduction, known[number])


def _known(arrays: Arrays, kernel: Kernel, evaluate: Evaluate) -> dict[str, Any]:
    """Return what the function of a kernel can take, by name: arrays, scalars, numbers of rows."""
    dtype, rows = arrays.tensor.dtype, arrays.shape[0]
    known = {name: dtype(arrays.number(name)) for name in kernel.scalars}
    known |= {parameter.name: arrays.array(parameter.name, parameter.role) for parameter in kernel.arrays}
    for step in kernel.before:
        shape = (rows, 1) if isinstance(step, RowValues) else arrays.shape
        values = evaluate(step.function, known, shape, dtype, len(step.gives))
        if isinstance(step, Terms):
            kinds = step.reduces.values()
            values = [REDUCTIONS[kind]["row"](terms) for kind, terms in zip(kinds, values, strict=True)]
        known |= dict(zip(step.gives, values, strict=True))
    return known


class HostCall:
    """Stands in for the call of `fused_step`: its launches run tensor by tensor, in `run_kernel`."""

    def __init__(self, optimizer: Any, arguments: tuple[Any, ...], kernels: Any, evaluate: Evaluate) -> None:
        self._optimizer, self._arguments = optimizer, arguments
        self._kernels, self._evaluate = kernels, evaluate
        self._stages: list[Mapping[Any, Any]] = []
        self._stores: dict[str, str] = {}

    def kernels(self, name: str) -> Any:
        return self._kernels

    def launch(self, stage: Mapping[Any, Any]) -> None:
        self._stages.append(stage)

    def store(self, **states: str) -> None:
        self._stores = states

    def __enter__(self) -> "HostCall":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with np.errstate(all="ignore"):
                for tensor in self._optimizer._tensors(*self._arguments):
                    self._run(Arrays(self._optimizer, tensor))

    def _run(self, arrays: Arrays) -> None:
        for stage in self._stages:
            entry = stage.get(arrays.variant(), ())
            for kernel in entry if isinstance(entry, tuple) else (entry,):
                run_kernel(arrays, kernel, self._evaluate)
        numbers = {
            state: arrays.values[name] for state, name in self._stores.items() if name in arrays.values
        }
        arrays.tensor.store(**arrays.stored, **numbers)


def launch_on_host(
    optimizer: stepspec.Optimizer, kernels: Any, evaluate: Evaluate = evaluate_whole
) -> stepspec.Optimizer:
    """Make `fused_step` of an optimizer run CUDA kernels on the host."""
    optimizer.__dict__["_call"] = lambda *arguments: HostCall(optimizer, arguments, kernels, evaluate)
    return optimizer
