"""Arrays of every kind give the bits of contiguous ones, and plans notice what changes between calls."""

import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stepspec
from stepspec import RowSparse, arrays, checks, gradients, recognition
from stepspec.host_plan import HostPlan

Array = NDArray[Any]
SHAPE = (6, 5, 4)


def strided(array: Array) -> Array:
    big = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = big[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def backwards(array: Array) -> Array:
    return np.flip(np.flip(array).copy())


def unaligned(array: Array) -> Array:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def column(array: Array) -> Array:
    memory = np.zeros((array.size, 3), array.dtype)
    memory[:, 1] = array.ravel()
    view = memory[:, 1].reshape(array.shape)
    assert np.may_share_memory(view, memory)
    return view


def transposed(array: Array) -> Array:
    return np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1)


def with_metadata(array: Array) -> Array:
    return array.astype(np.dtype(array.dtype, metadata={"unit": "m"}))


KINDS: tuple[Callable[[Array], Array], ...] = (
    np.asfortranarray,
    strided,
    backwards,
    unaligned,
    column,
    transposed,
    with_metadata,
)


def run(
    optimizer: stepspec.Optimizer,
    weight: Array,
    grads: list[Array],
    fused: bool,
    kind: Callable[[Array], Array] = lambda array: array,
    what: str = "all",
) -> list[Array]:
    """Step one tensor among plain ones, its arrays of a kind; return weight and states."""
    chosen = {name: kind if what in (name, "all") else np.array for name in ("weight", "grad", "state")}
    weight = chosen["weight"](weight.copy())
    state = {n: chosen["state"](a) for n, a in optimizer.create_state(1, weight).items()}
    other = np.ones(3, weight.dtype)
    others = optimizer.create_state(0, other)
    step = optimizer.fused_step if fused else optimizer.step
    for grad in grads:
        step([0, 1], [other, weight], [np.ones_like(other), chosen["grad"](grad.copy())], [others, state])
    return [weight, *state.values(), other, *others.values()]


def bits(array: Array) -> bytes:
    """Return the bits, where every NaN is the same."""
    return np.where(np.isnan(array), np.array(np.nan, array.dtype), array).tobytes()


def assert_same_bits(one: list[Array], two: list[Array]) -> None:
    for a, b in zip(one, two, strict=True):
        assert a.shape == b.shape
        assert bits(a) == bits(b)


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
@pytest.mark.parametrize("what", ["weight", "grad", "state", "all"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_strides_and_orders(
    representative: type[stepspec.Optimizer], kind: Callable[[Array], Array], what: str, fused: bool
) -> None:
    random = np.random.default_rng(1)
    weight, *grads = (random.standard_normal(SHAPE).astype(np.float32) for _ in range(4))
    plain = run(representative(), weight, grads, fused=False)
    assert_same_bits(plain, run(representative(), weight, grads, fused, kind, what))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 4), (3, 0), (2, 1, 3)])
def test_small_shapes(optimizer_class: type[stepspec.Optimizer], shape: tuple[int, ...], dtype: Any) -> None:
    random = np.random.default_rng(2)
    weight, *grads = (np.array(random.standard_normal(shape), dtype) for _ in range(4))
    optimizer = optimizer_class()
    assert_same_bits(run(optimizer_class(), weight, grads, False), run(optimizer, weight, grads, True))
    assert optimizer.num_update == 3


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_interleaved_columns_read_only_and_shared_gradients(
    optimizer_class: type[stepspec.Optimizer], fused: bool
) -> None:
    random = np.random.default_rng(5)
    values, grad = random.standard_normal((50, 2)), random.standard_normal(50)
    grad.flags.writeable = False
    results = []
    for weights in ([values.copy()[:, 0], values.copy()[:, 1]], list(values.copy().T)):
        optimizer = optimizer_class()
        states = [optimizer.create_state(i, w) for i, w in enumerate(weights)]
        for _ in range(2):
            (optimizer.fused_step if fused else optimizer.step)([0, 1], weights, [grad, grad], states)
        results.append([*weights, *(array for state in states for array in state.values())])
    assert_same_bits(*results)


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_broadcast_gradient(fused: bool) -> None:
    weights = [np.ones((4, 3)), np.ones((4, 3))]
    for weight, grad in zip(weights, (np.broadcast_to(0.5, (4, 3)), np.full((4, 3), 0.5)), strict=True):
        optimizer = stepspec.create("sgd")
        (optimizer.fused_step if fused else optimizer.step)([0], [weight], [grad], [{}])
    assert_same_bits([weights[0]], [weights[1]])


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_memory_mapped_weight(tmp_path: Path, fused: bool) -> None:
    mapped = np.memmap(tmp_path / "weight", np.float32, "w+", shape=(300,))
    mapped[:] = plain = np.linspace(0, 1, 300, dtype=np.float32)
    results: list[list[Array]] = []
    for weight in (mapped, plain):
        optimizer = stepspec.create("sgd", momentum=0.9)
        state = optimizer.create_state(0, weight)
        for _ in range(3):
            (optimizer.fused_step if fused else optimizer.step)([0], [weight], [np.ones_like(plain)], [state])
        results.append([np.asarray(weight), state["mom"]])
    assert_same_bits(*results)
    mapped.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "weight", np.float32), plain)


def test_many_interleaved_weights_are_told_apart() -> None:
    """The columns of one matrix, and what overlaps one of them."""
    matrix = np.zeros((6, 40))
    columns = list(matrix.T)
    grads = list(np.ones((6, 40)).T)
    optimizer = stepspec.create("sgd", learning_rate=1.0)
    for _ in range(2):
        optimizer.fused_step(list(range(40)), columns, grads, [{} for _ in columns])
    assert (matrix == -2).all()
    for bad in (matrix[1:3, 7], matrix[2, 5:8], matrix[:, 6:9:2]):
        weights = [*columns, bad]
        ones = [np.ones(w.shape) for w in weights]
        with pytest.raises(ValueError, match=r"the weight of tensor [5678] .* the weight of tensor 40"):
            optimizer.fused_step(list(range(41)), weights, ones, [{}] * 41)
    grads[5] = columns[3]
    with pytest.raises(ValueError, match=r"the weight of tensor 3 .* the gradient of tensor 5"):
        optimizer.fused_step(list(range(40)), columns, grads, [{} for _ in columns])
    assert (matrix == -2).all()


def test_only_unusual_gradients_are_looked_at_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def check(what: str, grad: Any, weight: Array) -> None:
        looked.append(what)
        checks.check_gradient(what, grad, weight)

    monkeypatch.setattr(gradients, "check_gradient", check)
    weights = [np.ones((4, 3), np.float32) for _ in range(9)]
    usual = [np.ones((4, 3), np.float32) for _ in weights]
    optimizer = stepspec.create("sgd", learning_rate=1.0)
    turned, unit = np.asfortranarray(usual[0]), with_metadata(usual[0])
    for grads in (usual, [*usual[:5], turned, *usual[6:8], unit], usual):
        looked.clear()
        optimizer.fused_step(list(range(9)), weights, grads, [{} for _ in weights])
    assert looked == []
    optimizer.fused_step(
        list(range(9)), weights, [*usual[:5], turned, *usual[6:8], unit], [{} for _ in weights]
    )
    assert looked == ["the gradient of tensor 5", "the gradient of tensor 8"]
    assert all((weight == -3).all() for weight in weights)
    assert len(list(optimizer._plans)) == 1


# ------------------------------------------------------------------ plans


class Training:
    """Two optimizers in step: one on its plans, one by the reference."""

    def __init__(self, count: int = 3, size: int = 8) -> None:
        self.fused, self.plain = (stepspec.create("nag", learning_rate=0.5) for _ in range(2))
        self.indices = list(range(count))
        self.weights = [np.linspace(i, i + 1, size, dtype=np.float32) for i in self.indices]
        self.states = [self.fused.create_state(i, w) for i, w in enumerate(self.weights)]
        self.twins = [w.copy() for w in self.weights]
        self.twin_states = [{n: a.copy() for n, a in s.items()} for s in self.states]

    def step(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        grads = [random.standard_normal(w.shape).astype(w.dtype) for w in self.weights]
        self.fused.fused_step(self.indices, self.weights, grads, self.states)
        self.plain.step(self.indices, self.twins, grads, self.twin_states)
        states = [array for state in self.states for array in state.values()]
        twins = [array for state in self.twin_states for array in state.values()]
        assert_same_bits([*self.weights, *states], [*self.twins, *twins])

    @property
    def plans(self) -> int:
        return len(list(self.fused._plans))


def test_a_plan_is_reused_with_new_gradients() -> None:
    training = Training()
    for seed in range(4):
        training.step(seed)
    assert training.plans == 1


def test_new_numbers_make_no_new_plan(optimizer_class: type[stepspec.Optimizer]) -> None:
    """Rates, schedule steps, batch sizes, decays, counts and gradients change from call to call."""
    optimizer = optimizer_class(learning_rate=0.1)
    weights = [np.ones((4, 3), np.float32) for _ in range(3)]
    states = [optimizer.create_state(i, w) for i, w in enumerate(weights)]

    def step(tensors: list[int]) -> list[Any]:
        grads = [np.ones((4, 3), np.float32) for _ in tensors]
        optimizer.fused_step(tensors, [weights[i] for i in tensors], grads, [states[i] for i in tensors])
        return list(optimizer._plans)

    plans = step([0, 1, 2])
    alone = step([1])[1:]  # from here on the counts of the three differ
    launches = list(plans[0]._launches)
    for number in range(1, 4):
        optimizer.set_learning_rate(0.1 / number)
        optimizer.rescale_grad = 1 / number
        optimizer.clip_gradient = number
        if optimizer.uses_wd:
            optimizer.wd = 0.01 * number
        assert step([0, 1, 2]) == [*alone, *plans]
    optimizer.lr_scheduler = stepspec.lr_scheduler.FactorScheduler(step=1, base_lr=0.1)
    for _ in range(3):
        assert step([0, 1, 2]) == [*alone, *plans]
    assert plans[0]._launches == launches
    assert [optimizer.update_count(i) for i in range(3)] == [7, 8, 7]


def test_rates_of_zero_come_and_go_between_known_launches() -> None:
    optimizer = stepspec.create("ftml", learning_rate=0.1)
    weight, grad = np.ones(4, np.float32), np.ones(4, np.float32)
    state = optimizer.create_state(0, weight)
    launches = []
    for lr in (0.1, 0.0, 0.2, 0.0, 0.3):
        optimizer.set_learning_rate(lr)
        before = weight.copy()
        optimizer.fused_step([0], [weight], [grad], [state])
        assert np.array_equal(weight, before) == (lr == 0)
        (plan,) = optimizer._plans
        launches.append({id(groups) for _, groups in plan._launches})
    assert [len(known) for known in launches] == [1, 2, 2, 2, 2]
    assert launches[1] == launches[-1]
    assert optimizer.update_count(0) == 5


def test_a_replaced_array_is_noticed() -> None:
    training = Training()
    training.step()
    training.weights[1] = training.weights[1].copy()
    training.step()
    training.states[2]["mom"] = training.states[2]["mom"].copy()
    training.step()
    assert training.plans == 3


def test_states_in_another_dict_are_the_same() -> None:
    training = Training()
    training.step()
    training.states = [dict(state) for state in training.states]
    training.step()
    assert training.plans == 1


def test_an_array_resized_in_place_is_noticed() -> None:
    training = Training()
    training.step()
    for arrays_ in (training.weights, training.twins):
        arrays_[0].resize(300_000, refcheck=False)
    for states in (training.states, training.twin_states):
        states[0]["mom"].resize(300_000, refcheck=False)
    training.step()


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_a_reshaped_or_frozen_array_is_noticed() -> None:
    training = Training()
    training.step()
    for group in (training.weights, training.twins):
        group[0].shape = (2, 4)
    for states in (training.states, training.twin_states):
        states[0]["mom"].shape = (2, 4)
    training.step()
    training.weights[0].flags.writeable = False
    with pytest.raises(ValueError, match="tensor 0 is read-only"):
        training.step()


def test_a_call_for_each_tensor_keeps_a_plan_for_each() -> None:
    training = Training(count=9)
    one = stepspec.create("sgd")
    plans = []
    for _ in range(2):
        for number in training.indices:
            one.fused_step([number], [training.weights[number]], [np.ones(8, np.float32)], [{}])
        plans.append(list(one._plans))
    assert [plan.indices for plan in plans[0]] == [(number,) for number in training.indices]
    assert plans[0] == plans[1]


def test_few_plans_of_the_same_tensors_are_kept() -> None:
    one = stepspec.create("sgd")
    weights = [np.ones(8, np.float32) for _ in range(6)]
    for weight in (*weights, weights[3]):
        one.fused_step([0], [weight], [np.ones(8, np.float32)], [{}])
    kept = [plan.known.snapshot.arrays[0] for plan in one._plans if isinstance(plan, HostPlan)]
    assert all(a is b for a, b in zip(kept, [weights[k] for k in (3, 5, 4, 2)], strict=True))


def test_plans_of_ever_new_subsets_do_not_pile_up() -> None:
    training = Training(count=9)
    one = stepspec.create("sgd")
    random = np.random.default_rng(0)
    for _ in range(100):
        indices = sorted(random.choice(9, 5, replace=False).tolist())
        some = [training.weights[i] for i in indices]
        grads = [np.ones(8, np.float32) for _ in indices]
        one.fused_step(indices, some, grads, [{} for _ in indices])
        assert sum(len(plan.indices) for plan in one._plans) <= 4 * 9
        assert indices in [list(plan.indices) for plan in one._plans]


def test_other_orders_and_subsets_are_other_plans() -> None:
    training = Training()
    training.step()
    for group in (training.indices, training.weights, training.states, training.twins, training.twin_states):
        group.reverse()
    training.step()
    assert training.plans == 2


def test_plans_keep_no_gradients() -> None:
    training = Training()
    for kind in (np.array, strided):
        grads = [kind(np.ones_like(w)) for w in training.weights]
        kept = [weakref.ref(grad) for grad in grads]
        training.fused.fused_step(training.indices, training.weights, grads, training.states)
        grads.clear()
        assert [reference() for reference in kept] == [None] * 3


@pytest.mark.parametrize("bulk", [True, False], ids=["bulk", "python"])
def test_slow_reading_does_the_same(bulk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrays, recognition):
        assert module.BULK
        monkeypatch.setattr(module, "BULK", bulk)
    training = Training()
    for seed in range(2):
        training.step(seed)
    assert training.plans == 1
    training.weights[0] = training.weights[0].copy()
    training.step()
    grads = [training.twins[0], training.weights[1], training.twins[2]]
    with pytest.raises(ValueError, match="gradient of tensor 1 are the same array"):
        training.fused.fused_step(training.indices, training.weights, grads, training.states)


def test_readers_agree_on_what_to_look_at_closely() -> None:
    weights: list[np.ndarray] = [np.zeros((4, 3), np.float32), np.zeros(5)]
    shapes, dtypes = [w.shape for w in weights], [w.dtype for w in weights]
    known = arrays.Gradients(shapes, dtypes, [], arrays.Snapshot(weights))
    good = (np.ones((4, 3), np.float32), np.ones(5))
    memory = np.zeros(15, np.uint8)
    odd: tuple[Any, ...] = (
        None,
        [1.0],
        np.float32(1),
        np.ones((3, 4), np.float32),
        np.ones((4, 3)),
        np.ones((4, 3), ">f4"),
        np.ones((4, 3), np.float32, order="F"),
        np.ma.masked_array(np.ones((4, 3), np.float32)),
        RowSparse(np.ones((4, 3), np.float32), range(4), (4, 3)),
        weights[0],
        memory,
    )
    for read in (known._read, known._ask):
        assert read(good) == []
        assert known.addresses.tolist() == [g.ctypes.data for g in good]
        for grad in odd:
            assert read((grad, good[1])) == [0]
        assert read((good[0], weights[1])) == [1]
        assert read((None, weights[1])) == [0, 1]


def test_readers_agree_on_row_sparse_gradients() -> None:
    table = np.zeros((9, 2, 3), np.float32)
    known = arrays.Gradients([table.shape], [table.dtype], [0], arrays.Snapshot([table]))
    values, beyond = np.ones((2, 2, 3), np.float32), np.ones((3, 2, 3), np.float32)
    cut = RowSparse(beyond, [0, 1, 2], table.shape)
    beyond.resize((2, 2, 3), refcheck=False)
    odd = (
        np.ones_like(table),
        values,
        cut,
        RowSparse(values, [1, 3], (8, 2, 3)),
        RowSparse(values.reshape(2, 3, 2), [1, 3], (9, 3, 2)),
        RowSparse(values.astype(np.float64), [1, 3], table.shape),
        RowSparse(np.asfortranarray(values), [1, 3], table.shape),
        RowSparse(table[3:5], [1, 3], table.shape),
    )
    for read in (known._read, known._ask):
        for rows in ([1, 8], [4, 5]):
            grad = RowSparse(values, rows, table.shape)
            assert read((grad,)) == []
            assert (known.addresses[0], known.present[0]) == (values.ctypes.data, 2)
            assert known.rows[0] == grad.rows.ctypes.data
        assert read((RowSparse(values[:0], [], table.shape),)) == []
        assert known.present[0] == 0
        for other in odd:
            assert read((other,)) == [0]


@pytest.mark.parametrize("name", ["sgd", "nag", "lars", "ftml", "groupadagrad"])
def test_no_temporary_of_model_size(name: str) -> None:
    optimizer = stepspec.create(name)
    weight, grad = np.ones((1000, 1000), np.float32), np.ones((1000, 1000), np.float32)
    state = optimizer.create_state(0, weight)
    optimizer.fused_step([0], [weight], [grad], [state])
    optimizer._plans.clear()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2):  # the first makes a plan
            optimizer.fused_step([0], [weight], [grad], [state])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < weight.nbytes / 8
