"""The functions of CUDA kernels, in NumPy: every spec and random rules have the bits of `step`."""

import functools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_host import launch_on_host, module_text, on_whole_arrays
from fragments import optimizer_class as class_of
from fragments import spec
from ml_dtypes import bfloat16
from random_rules import RandomRule, WideRule, random_spec
from test_every_optimizer import NAMES, shapes
from test_language import RULES, WITH_MAX
from training import SHAPES, assert_same_bits, random_tensors, train

import stepspec
from settings import settings
from stepspec import cuda
from stepspec.generator.emit import emit
from stepspec.generator.errors import SpecError
from stepspec.layout import TAIL


def compare(make: Any, kernels: Any, weights: Any, **options: Any) -> None:
    expected = train(make(), weights, fused=False, **options)
    assert_same_bits(expected, train(launch_on_host(make(), kernels), weights, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_optimizer(optimizer_class: type[stepspec.Optimizer], dtype: Any) -> None:
    kernels = on_whole_arrays(module_text(optimizer_class))
    weights = random_tensors(shapes(optimizer_class), dtype)
    for options in settings(optimizer_class):
        make = functools.partial(optimizer_class, param_idx2name=NAMES, **options)
        compare(make, kernels, weights, steps=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rule", "options"), RULES, ids=[f"{r}-{i}" for i, (r, _) in enumerate(RULES)])
def test_the_whole_language(language_package: Any, rule: str, options: dict[str, Any], dtype: Any) -> None:
    found = getattr(language_package, rule)
    kernels = on_whole_arrays(module_text(found))
    weights = random_tensors([s for s in SHAPES if rule not in WITH_MAX or 0 not in s], dtype)
    names = {1: "first_bias", 4: "conv_weight"}
    compare(functools.partial(found, param_idx2name=names, **options), kernels, weights, steps=2)


def test_half_precision(language_package: Any) -> None:
    """One kernel serves every storage: it sees numbers of the compute dtype."""
    weights = random_tensors([(5, 6), (300, 2)], bfloat16)
    for rule in ("Sparse", "Reductions"):
        found = getattr(language_package, rule)
        kernels = on_whole_arrays(module_text(found))
        compare(functools.partial(found, multi_precision=True), kernels, weights)
        compare(functools.partial(found, rounding="stochastic"), kernels, weights)


@pytest.mark.parametrize("seed", range(16))
def test_random_rules(seed: int) -> None:
    chance = random.Random(seed)
    kind = WideRule if seed % 2 else RandomRule
    assert sum(_agrees(chance, kind) for _ in range(10)) > 2


def _agrees(chance: random.Random, kind: type[RandomRule]) -> bool:
    """Compare one rule; tell whether there was one, and numbers of which the host computes its scalars."""
    try:
        written = random_spec(chance, kind)
        texts = emit(written)
    except SpecError:
        return False
    found, kernels = class_of(texts["x.py"]), on_whole_arrays(texts["x_cuda.py"])
    shapes = [(6,), (5, 4), (1, 300), *([] if found.refuses_empty else [(0, 3)])]
    try:
        compare(found, kernels, random_tensors(shapes, np.float32), steps=2)
    except ValueError as error:
        if "cannot be computed" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("per", ["tensor", "column", "row"])
def test_a_variant_that_leaves_the_weight_alone(per: str) -> None:
    written = spec(
        "k = 0.5 * k\nif x:\n  weight -= k * grad",
        state=f"k: {{per: {per}, init: 1}}",
        tensors="x: {default: false}",
    )
    texts = emit(written)
    found, kernels = class_of(texts["x.py"]), on_whole_arrays(texts["x_cuda.py"])
    for x in (False, True):
        chosen = {0: SimpleNamespace(x=x)}
        make = functools.partial(found, param_dict=chosen)
        compare(make, kernels, random_tensors([(5, 6)], np.float32))


def test_what_a_kernel_takes() -> None:
    @cuda.terms(square="sum")
    def terms(grad: Any, scale: Any) -> Any:
        return scale * grad

    @cuda.row_values("new_h", "double")
    def values(h: Any, square: Any, rate: Any) -> Any:
        return h + rate * square, 2 * h

    total = cuda.Reduction("sum", over="row")
    kernel = cuda.rows(
        terms, values, element=("grad",), row=("h",), row_reduces={"total": (total, "double")}
    )(None)
    assert [(slot.name, slot.role) for slot in kernel.slots[:5]] == [
        ("grad", "element"),
        ("h", "row"),
        ("scale", "scalar"),
        ("rate", "scalar"),
        ("total", "buffer"),
    ]
    assert kernel.slots[5:] == TAIL
    assert [p.reduction for p in kernel.reductions] == [total]
    with pytest.raises(TypeError, match="knows no new_v"):
        cuda.rows(terms, values, row=("h",), row_writes={"h": "new_v"})(None)
    with pytest.raises(TypeError, match="writes arrays or reduces"):
        cuda.rows(terms, values, row=("h",), row_writes={"h": "new_h"}, row_reduces=kernel.row_reduces)(None)
    with pytest.raises(TypeError, match=r"double knows no w"):
        cuda.rows(element=("grad",), writes=("w",))(double)


def double(grad: Any) -> Any:
    return grad + grad


def test_a_wrong_kernel_is_found() -> None:
    text = module_text(stepspec.NAG)
    wrong = text.replace("momentum * new_mom", "momentum * mom")
    weights = random_tensors([(5, 6)], np.float32)
    make = functools.partial(stepspec.NAG, momentum=0.9)
    compare(make, on_whole_arrays(text), weights)
    with pytest.raises(AssertionError, match="weight 0"):
        compare(make, on_whole_arrays(wrong), weights)
