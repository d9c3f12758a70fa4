"""Row-sparse gradients: exact as dense ones with zeros, lazy where asked for or where that is the same."""

import warnings
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from sampling import sampled
from training import Array, States, assert_same_bits, bits, random_tensors, train

import stepspec
from stepspec import RowSparse

SHAPES: tuple[tuple[int, ...], ...] = (
    (1,),
    (7,),
    (5, 0),
    (3, 5),
    (300, 1),
    (1, 300),
    (8, 16, 3, 3),
    (700, 33),
    (70_001,),
)
LAZY = [stepspec.SGD, stepspec.LARS]
FEW: tuple[dict[str, Any], ...] = ({}, {"momentum": 0.9}, {"momentum": 0.9, "wd": 0.1, "clip_gradient": 0.5})


def sparse_gradients(seed: int, dtype: Any, share: float = 0.3) -> list[RowSparse]:
    """Return a row-sparse gradient of each shape; a present row may be zero."""
    random = np.random.default_rng(seed)
    grads = []
    for shape in SHAPES:
        rows = np.flatnonzero(random.random(shape[0]) < share)
        values = random.standard_normal((rows.size, *shape[1:])).astype(dtype)
        values[: rows.size // 4] = 0
        grads.append(RowSparse(values, rows, shape))
    return grads


def absent(grad: RowSparse) -> Array:
    return np.setdiff1d(np.arange(grad.shape[0]), grad.rows)


def run(
    optimizer: stepspec.Optimizer, dtype: Any, grads: list[list[Any]], fused: bool = True
) -> tuple[list[Array], States]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half precision without a master
        return train(optimizer, random_tensors(SHAPES, dtype), fused=fused, grads=grads, steps=len(grads))


@sampled(
    "dtype, given, options",
    [
        (np.float32, np.float32, {}),
        (np.float64, np.float64, {}),
        (np.float16, np.float16, {"multi_precision": True}),
        (bfloat16, np.float32, {}),
        (bfloat16, bfloat16, {"rounding": "stochastic"}),
        (np.float32, bfloat16, {"clip_gradient": 0.5, "rescale_grad": 2.0}),
    ],
    always=1,
    most=2,
)
def test_absent_rows_count_as_zeros(
    optimizer_class: type[stepspec.Optimizer], dtype: Any, given: Any, options: dict[str, Any]
) -> None:
    sparse: list[list[Any]] = [
        list(sparse_gradients(k, given, share)) for k, share in enumerate((0.3, 0.0, 1.0))
    ]
    dense: list[list[Any]] = [[grad.to_dense() for grad in some] for some in sparse]
    decay: dict[str, Any] = {"wd": 0.1} if optimizer_class.uses_wd else {}
    expected = run(optimizer_class(**options, **decay), dtype, dense, fused=False)
    for fused, threads in ((False, 1), (True, 1), (True, 2)):
        stepspec.set_num_threads(threads)
        assert_same_bits(run(optimizer_class(**options, **decay), dtype, sparse, fused), expected)


@pytest.mark.filterwarnings("ignore:.*no master")
@pytest.mark.parametrize("options", FEW, ids=str)
@pytest.mark.parametrize("optimizer_class", LAZY)
def test_a_lazy_update_is_the_dense_one_of_the_present_rows(
    optimizer_class: Any, options: dict[str, Any]
) -> None:
    """Present rows move as in a dense step, all else stays as it is, the momentum included."""
    for dtype in (np.float32, bfloat16):
        lazy, dense = (optimizer_class(lazy_update=lazy, **options) for lazy in (True, False))
        weights = random_tensors(SHAPES, dtype)
        states = [lazy.create_state(i, w) for i, w in enumerate(weights)]
        indices = list(range(len(weights)))
        for step in range(3):
            grads = sparse_gradients(step, np.float32)
            before = [
                [w.copy(), *(a.copy() for a in s.values())] for w, s in zip(weights, states, strict=True)
            ]
            copies = [arrays[0].copy() for arrays in before]
            dense_states = [
                {name: array.copy() for name, array in zip(s, arrays[1:], strict=True)}
                for s, arrays in zip(states, before, strict=True)
            ]
            dense.update(indices, copies, [grad.to_dense() for grad in grads], dense_states)
            lazy.update(indices, weights, grads, states)
            for i, grad in enumerate(grads):
                after = [weights[i], *states[i].values()]
                meant = [copies[i], *dense_states[i].values()]
                for a, m, b in zip(after, meant, before[i], strict=True):
                    assert bits(a[grad.rows]) == bits(m[grad.rows])
                    assert bits(a[absent(grad)]) == bits(b[absent(grad)])


def test_group_adagrad_is_lazy_by_itself() -> None:
    """The compiler proves that rows without gradient stay as they are, so a sparse step is the dense one."""
    weight = np.ones((1000, 8), np.float32)
    grad = RowSparse(np.ones((2, 8), np.float32), [3, 500], weight.shape)
    for options, lazy in (
        ({}, True),
        ({"epsilon": 0.0}, False),
        ({"epsilon": 1e-60}, False),
        ({"multi_precision": True}, True),
    ):
        optimizer = stepspec.GroupAdaGrad(**options)
        plan = optimizer.plan([0], [weight], [grad], [optimizer.create_state(0, weight)])
        assert bool(plan.lazy) == lazy, options
        assert bool(plan.scattered) != lazy, options


def test_a_proof_holds_for_the_rates_of_the_call() -> None:
    """SGD without momentum is lazy by itself while the tensor's weight decay is 0."""
    weight = np.ones((1000, 8), np.float32)
    grad = RowSparse(np.ones((2, 8), np.float32), [3, 500], weight.shape)
    optimizer = stepspec.SGD(wd=0.1)
    for factor, lazy in ((1.0, False), (0.0, True), (2.0, False)):
        optimizer.set_wd_mult({0: factor})
        plan = optimizer.plan([0], [weight], [grad], [{}])
        assert bool(plan.lazy) == lazy
        optimizer.update([0], [weight], [grad], [{}])
        assert (weight[0] == weight[1]).all()
        assert (weight[0] != 1).all() == (factor == 2.0 or weight[0, 0] != 1)
    assert weight[0, 0] == np.float32(1) - np.float32(0.1) * np.float32(0.1) - np.float32(0.1) * (
        np.float32(0.2) * (np.float32(1) - np.float32(0.1) * np.float32(0.1))
    )


def test_step_leaves_absent_rows_alone_too() -> None:
    """The memory of absent rows is not touched: it may be shared, or a large file."""
    weight = np.ones((1000, 8), np.float32)
    optimizer = stepspec.GroupAdaGrad(use_fused_step=False)
    state = optimizer.create_state(0, weight)
    weight[7] = np.nan  # what is read there would be NaN everywhere
    grad = RowSparse(np.ones((2, 8), np.float32), [3, 500], weight.shape)
    optimizer.update([0], [weight], [grad], [state])
    assert np.flatnonzero(state["history"]).tolist() == [3, 500]
    assert np.flatnonzero(weight[:, 0] != 1).tolist() == [3, 7, 500]


def test_lazy_switch() -> None:
    with pytest.raises(ValueError, match="lazy_update needs use_fused_step"):
        stepspec.SGD(lazy_update=True, use_fused_step=False)
    with pytest.raises(ValueError, match="lazy_update excludes multi_precision"):
        stepspec.SGD(lazy_update=True, multi_precision=True)
    with pytest.raises(TypeError, match="FTML has no argument 'lazy_update'"):
        stepspec.FTML(lazy_update=True)
    optimizer = stepspec.SGD(lazy_update=True)
    with pytest.raises(ValueError, match="multi_precision"):
        optimizer.multi_precision = True
    weight = np.ones((4, 3), np.float32)
    grad = RowSparse(np.ones((1, 3), np.float32), [2], (4, 3))
    with pytest.raises(ValueError, match="lazy_update needs fused_step, and tensor 0"):
        optimizer.step([0], [weight], [grad], [{}])
    optimizer.step([0], [weight], [grad.to_dense()], [{}])
    assert optimizer.update_count(0) == 1


def test_dense_and_sparse_gradients_alternate(optimizer_class: type[stepspec.Optimizer]) -> None:
    some = sparse_gradients(0, np.float32)
    mixed: list[list[Any]] = [
        [g if (k + i) % 2 else g.to_dense() for i, g in enumerate(some)] for k in range(4)
    ]
    dense: list[list[Any]] = [[g.to_dense() for g in some] for _ in range(4)]
    optimizer = optimizer_class()
    assert_same_bits(run(optimizer, np.float32, mixed), run(optimizer_class(), np.float32, dense))
    assert len(list(optimizer._plans)) == 2


def test_bad_gradients_change_nothing(optimizer_class: type[stepspec.Optimizer]) -> None:
    weight = np.ones((4, 3), np.float32)
    optimizer = optimizer_class(param_idx2name={0: "table"})
    state = optimizer.create_state(0, weight)
    values = np.ones((2, 3), np.float32)
    shared = RowSparse(weight[:2], [0, 1], (4, 3))
    cases: list[tuple[Any, type[Exception], str]] = [
        (RowSparse(values, [0, 1], (5, 3)), ValueError, r"gradient of 'table'.*\(5, 3\)"),
        (RowSparse(np.ones((2, 3)), [0, 1], (4, 3)), TypeError, "gradient of 'table'.*float64"),
        (shared, ValueError, "gradient of 'table'.*overlap"),
        ((values, [0, 1]), TypeError, "gradient of 'table'.*tuple"),
    ]
    for grad, error, message in cases:
        for update in (optimizer.step, optimizer.fused_step):
            with pytest.raises(error, match=message):
                update([0], [weight], [grad], [state])
    with pytest.raises(TypeError, match=r"weight of 'table'.*RowSparse"):
        optimizer.update([0], [shared], [values], [state])  # type: ignore[list-item]  # the mistake
    assert (weight == 1).all()
    assert optimizer.update_count(0) == 0


def test_values_reshaped_behind_our_back(optimizer_class: type[stepspec.Optimizer]) -> None:
    """A gradient whose values no longer fit is refused, on the way that skips the full checks too."""
    weight = np.ones((4, 3), np.float32)
    optimizer = optimizer_class()
    state = optimizer.create_state(0, weight)
    for _ in range(2):
        optimizer.update([0], [weight], [RowSparse(np.ones((2, 3), np.float32), [0, 1], (4, 3))], [state])
    values = np.ones((2, 3), np.float32)
    grad = RowSparse(values, [0, 1], (4, 3))
    values.resize((1, 3), refcheck=False)
    with pytest.raises(ValueError, match="gradient of tensor 0"):
        optimizer.update([0], [weight], [grad], [state])


def test_views_are_copied_in_and_out(optimizer_class: type[stepspec.Optimizer]) -> None:
    some = sparse_gradients(1, np.float32)
    grad = next(g for g in some if g.shape == (700, 33))
    strided = RowSparse(np.asfortranarray(grad.values), grad.rows, grad.shape)
    results = []
    for order, given in (("C", grad), ("F", grad), ("C", strided), ("F", strided)):
        weight = np.array(random_tensors([(700, 33)], np.float32)[0], order=order)  # type: ignore[call-overload]  # a str
        optimizer = optimizer_class()
        state = optimizer.create_state(0, weight)
        for _ in range(2):
            optimizer.update([0], [weight], [given], [state])
        results.append(([np.ascontiguousarray(weight)], [state]))
    for other in results[1:]:
        assert_same_bits(results[0], other)
