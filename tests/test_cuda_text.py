"""Fragments of rules and the CUDA functions printed for them, one pair per construct."""

import pytest
from fragments import spec

from stepspec.generator.emit import emit

ROW = "h: {per: row}"
COLUMN = "c: {per: column}"


def kernels(update: str, state: str = "") -> str:
    """Return the module's text from its first decorator on, without empty lines, notes and docstrings."""
    text = emit(spec(update, state=state))["x_cuda.py"]
    lines = text[text.index("\n@") + 1 :].split("\n")
    return "\n".join(line for line in lines if line and not line.lstrip().startswith(("#", '"""'))) + "\n"


@pytest.mark.parametrize(
    ("update", "state", "printed"),
    [
        (
            "weight -= lr * grad",
            "",
            """
@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, lr):
    return weight - lr * grad
UPDATE = {(): update}
""",
        ),
        # noise is an argument like an array, in each stage by the number of its stream
        (
            "z = normal()\nweight -= normal() * z / norm(z)",
            "",
            """
@elements(reads=("normal",), reduces={"norm_z": "norm"})
def reduce(normal):
    return normal
@elements(reads=("weight", "normal", "normal_2"), writes=("weight",))
def update(weight, normal, normal_2, norm_z):
    z = normal
    return weight - normal_2 * z / norm_z
REDUCE = {(): reduce}
UPDATE = {(): update}
""",
        ),
        # an array that is only written; a value that is needed twice
        (
            "e = lr * grad\nweight -= e",
            "e: {per: element}",
            """
@elements(reads=("weight", "grad"), writes=("weight", "e"))
def update(weight, grad, lr):
    new_e = lr * grad
    return weight - new_e, new_e
UPDATE = {(): update}
""",
        ),
        # only the last statement can be part of the return
        (
            "old = weight\nweight -= grad - b\nb = old",
            "b: {per: element}",
            """
@elements(reads=("weight", "grad", "b"), writes=("weight", "b"))
def update(weight, grad, b):
    old = weight
    new_weight = weight - (grad - b)
    return new_weight, old
UPDATE = {(): update}
""",
        ),
        # a condition beside other results stands in brackets
        (
            "b = lr * b\nweight = grad if grad > b else weight",
            "b: {per: element}",
            """
@elements(reads=("weight", "grad", "b"), writes=("weight", "b"))
def update(weight, grad, b, lr):
    new_b = lr * b
    return (grad if grad > new_b else weight), new_b
UPDATE = {(): update}
""",
        ),
        # terms of reductions over the tensor; numbers between two passes
        (
            "weight -= lr * grad / (norm(weight) + max(grad))",
            "",
            """
@elements(reads=("weight", "grad"), reduces={"norm_weight": "norm", "max_grad": "max"})
def reduce(weight, grad):
    return weight, grad
@scalars("norm_weight_plus_max_grad")
def combine(norm_weight, max_grad):
    return norm_weight + max_grad
@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, lr, norm_weight_plus_max_grad):
    return weight - lr * grad / norm_weight_plus_max_grad
REDUCE = {(): reduce}
COMBINE = {(): combine}
UPDATE = {(): update}
""",
        ),
        # a state that is one number of the tensor
        (
            "k = k * lr\nweight -= k * grad",
            "k: {per: tensor, init: 1}",
            """
@scalars("new_k")
def combine(k, lr):
    return k * lr
@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, new_k):
    return weight - new_k * grad
COMBINE = {(): combine}
UPDATE = {(): update}
""",
        ),
        # two rounds of row reductions
        (
            "x = grad - mean(grad, per=row)\nweight -= x / norm(x, per=row)",
            "",
            """
@terms(row_mean_grad="mean")
def update_terms(grad):
    return grad
@terms(row_norm_x="norm")
def update_terms_2(grad, row_mean_grad):
    return grad - row_mean_grad
@rows(update_terms, update_terms_2, element=("weight", "grad"), writes=("weight",))
def update(weight, grad, row_mean_grad, row_norm_x):
    x = grad - row_mean_grad
    return weight - x / row_norm_x
UPDATE = {(): update}
""",
        ),
        # row states: numbers of a row, and a reduction over all rows
        (
            "weight -= grad * mean(h * h)\nh = 0.5 * h",
            ROW,
            """
@row_values("mean_h_times_h_term")
def reduce_rows(h):
    return h * h
reduce = rows(
    reduce_rows,
    row=("h",),
    row_reduces={"mean_h_times_h": (Reduction("mean", over="row", per="tensor"), "mean_h_times_h_term")},
)(None)
@row_values("new_h")
def update_rows(h, half):
    return half * h
@rows(update_rows, element=("weight", "grad"), row=("h",), writes=("weight",), row_writes={"h": "new_h"})
def update(weight, grad, mean_h_times_h):
    return weight - grad * mean_h_times_h
REDUCE = {(): reduce}
UPDATE = {(): update}
""",
        ),
        # the term of a reduction over rows is a number of the row already
        (
            "h = h + norm(grad, per=row)\nweight -= grad * sum(h)",
            ROW,
            """
@terms(row_norm_grad="norm")
def reduce_terms(grad):
    return grad
@row_values("new_h")
def reduce_rows(h, row_norm_grad):
    return h + row_norm_grad
reduce = rows(
    reduce_terms,
    reduce_rows,
    element=("grad",),
    row=("h",),
    row_reduces={"sum_h": (Reduction("sum", over="row", per="tensor"), "new_h")},
)(None)
@terms(row_norm_grad="norm")
def update_terms(grad):
    return grad
@row_values("new_h")
def update_rows(h, row_norm_grad):
    return h + row_norm_grad
@rows(
    update_terms,
    update_rows,
    element=("weight", "grad"),
    row=("h",),
    writes=("weight",),
    row_writes={"h": "new_h"},
)
def update(weight, grad, sum_h):
    return weight - grad * sum_h
REDUCE = {(): reduce}
UPDATE = {(): update}
""",
        ),
        # column states and reductions per column
        (
            "c += mean(grad, per=column)\nweight -= lr * c",
            COLUMN,
            """
@rows(element=("grad",), reduces={"column_mean_grad": Reduction("mean", over="element", per="column")})
def reduce(grad):
    return grad
@rows(element=("weight",), column=("c", "column_mean_grad"), writes=("weight",))
def update(weight, c, column_mean_grad, lr):
    new_c = c + column_mean_grad
    return weight - lr * new_c
@columns(reads=("c", "column_mean_grad"), writes=("c",))
def update_columns(c, column_mean_grad):
    return c + column_mean_grad
REDUCE = {(): reduce}
UPDATE = {(): update}
UPDATE_COLUMNS = {(): update_columns}
""",
        ),
        # reductions over columns and over elements: two kernels of one stage
        (
            "weight -= grad * sum(c) * norm(grad)\nc = 0.5 * c",
            COLUMN,
            """
@elements(reads=("grad",), reduces={"norm_grad": "norm"})
def reduce(grad):
    return grad
@columns(reads=("c",), reduces={"sum_c": "sum"})
def reduce_columns(c):
    return c
@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, sum_c, norm_grad):
    return weight - grad * sum_c * norm_grad
@columns(reads=("c",), writes=("c",))
def update_columns(c, half):
    return half * c
REDUCE = {(): (reduce, reduce_columns)}
UPDATE = {(): update}
UPDATE_COLUMNS = {(): update_columns}
""",
        ),
    ],
)
def test_functions(update: str, state: str, printed: str) -> None:
    assert kernels(update, state) == printed.lstrip("\n")


def test_notes_and_docstrings() -> None:
    text = emit(spec("g = 2 * grad\nweight -= g / norm(g) * mean(g)"))["x_cuda.py"]
    assert (
        '''
def reduce(grad, two):
    """Return the terms of norm_g and mean_g."""
    # g = 2 * grad
    g = two * grad
    # weight -= g / norm(g) * mean(g)
    return g, g
'''
        in text
    )


def test_a_long_return_is_broken() -> None:
    states = "\n".join(f"{'s' * 30}{n}: {{per: element}}" for n in range(4))
    update = "\n".join(f"{'s' * 30}{n} = lr * grad * {'s' * 30}{n}" for n in range(4))
    text = kernels(f"{update}\nweight -= grad", states)
    assert f"    return (\n        weight - grad,\n        new_{'s' * 30}0,\n" in text
    compile(text, "x", "exec")


def test_functions_have_names_of_their_own() -> None:
    """The kernel of one variant is called as the rows' function of another could be."""
    written = spec(
        "m = mean(grad, per=row)\nweight -= m\nif x:\n  weight -= m * m\nif x_terms:\n  weight -= grad / m",
        tensors="x: {default: true}\nx_terms: {default: true}",
    )
    text = emit(written)["x_cuda.py"]
    defined = [line for line in text.split("\n") if line.startswith("def ")]
    assert len({line.partition("(")[0] for line in defined}) == len(defined)
    assert "def update_x_terms(" in text
    assert "def update_x_terms_2(" in text
