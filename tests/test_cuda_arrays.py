"""Arrays on a GPU, of any library: their shadows, where a call's arrays lie, and what is kept there."""

import copy
import gc
import pickle
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from emulated_driver import DeviceArray, EmulatedDriver
from training import Array

import stepspec
from stepspec.checks import check_call
from stepspec.cuda.arrays import Quick, device_number, shadows
from stepspec.cuda.driver import use
from stepspec.places import beside, copied, new, on_device, shadow, to_host, writing

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MATRIX = np.arange(24, dtype=np.float32).reshape(4, 6)
VIEWS: dict[str, Any] = {
    "whole": MATRIX,
    "turned": MATRIX.T,
    "columns": MATRIX[:, 1:3],
    "rows": MATRIX[::2],
    "backwards": MATRIX[::-1, ::-2],
    "number": MATRIX[1:2, 2].reshape(()),
    "empty": MATRIX[:0],
    "half": MATRIX.astype(np.float16)[:, ::2],
    "bfloat16": MATRIX.astype(BFLOAT16)[1:],
}


def placed(driver: EmulatedDriver, array: Any, device: int = 0, **how: Any) -> Any:
    """Return a copy on a device, which type checkers do not take for NumPy's."""
    return DeviceArray(driver, array, device, **how)


def assert_same(one: Array, two: Any) -> None:
    """Fail unless two arrays have the same bits, shape and dtype."""
    assert (one.shape, one.dtype) == (two.shape, two.dtype)
    assert one.tobytes() == two.tobytes()


@pytest.fixture
def driver() -> Iterator[EmulatedDriver]:
    emulated = EmulatedDriver()
    with use(emulated):
        yield emulated


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_shadow_has_the_facts_of_its_array(driver: EmulatedDriver, view: Any) -> None:
    array = placed(driver, view)
    seen = shadow(array)
    assert type(seen) is np.ndarray
    assert (seen.shape, seen.dtype, seen.flags.writeable) == (view.shape, view.dtype, True)
    if view.size:
        assert (seen.ctypes.data, seen.strides) == (array.address, view.strides)
    assert not shadow(placed(driver, MATRIX, writeable=False)).flags.writeable


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_numbers_are_read_and_written_in_any_layout(driver: EmulatedDriver, view: Any) -> None:
    array = placed(driver, view)
    assert_same(to_host(array), view)
    write = writing(array, np.flip(view))
    assert_same(array.numpy(), view)  # nothing yet
    write()
    assert_same(array.numpy(), np.flip(view))


def test_pieces_between_the_elements_of_a_view_stay(driver: EmulatedDriver) -> None:
    whole = placed(driver, MATRIX)
    part = SimpleNamespace(
        __cuda_array_interface__=whole.__cuda_array_interface__
        | {"shape": (4, 2), "strides": (24, 8), "data": (whole.address + 4, False)}
    )
    writing(part, np.full((4, 2), -1, np.float32))()
    expected = MATRIX.copy()
    expected[:, 1:5:2] = -1
    assert_same(whole.numpy(), expected)


def test_reading_waits_for_the_stream_of_the_array(driver: EmulatedDriver) -> None:
    array = placed(driver, MATRIX, stream=7)
    source = driver.pin(4)
    source.array.view(np.float32)[:] = 99
    driver.copy_in(0, array.address, source.address, 4, 7)
    assert to_host(array)[0, 0] == 99


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16, np.float64])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 2)])
def test_new_arrays_of_an_unknown_library_are_ours(driver: EmulatedDriver, dtype: Any, shape: Any) -> None:
    like = placed(driver, MATRIX, device=1, stream=7)
    made = new(like, shape, np.dtype(dtype), 0.5)
    assert device_number(made) in (1, None)
    assert made.__cuda_array_interface__["stream"] == 7
    assert_same(to_host(made), np.full(shape, 0.5, dtype))


@pytest.mark.parametrize(
    "copying", [copy.deepcopy, copy.copy, lambda array: pickle.loads(pickle.dumps(array))]
)
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
def test_copies_of_our_arrays_have_memory_of_their_own(
    driver: EmulatedDriver, copying: Any, dtype: Any
) -> None:
    original = copied(placed(driver, MATRIX), np.dtype(dtype))
    other = copying(original)
    address = shadow(original).ctypes.data
    assert shadow(other).ctypes.data != address
    del original
    gc.collect()
    assert to_host(other).dtype == dtype
    assert to_host(other).tolist() == MATRIX.tolist()
    writing(other, to_host(other) * 2)()
    assert to_host(other).tolist() == (2 * MATRIX).tolist()


def test_a_large_array_is_filled_piece_by_piece(driver: EmulatedDriver) -> None:
    made = new(placed(driver, MATRIX), (1_500_000,), np.dtype(np.float32), 2.0)
    assert (to_host(made) == 2).all()


def test_a_copy_in_another_dtype_is_exact(driver: EmulatedDriver) -> None:
    half = VIEWS["half"].T
    made = copied(placed(driver, half), np.dtype(np.float32))
    assert on_device(made)
    assert shadow(made).flags.c_contiguous
    assert_same(to_host(made), half.astype(np.float32))


def test_arrays_are_moved_beside_another(driver: EmulatedDriver) -> None:
    there = placed(driver, MATRIX)
    moved = beside(there, {"a": MATRIX, "b": there})
    assert_same(to_host(moved["a"]), MATRIX)
    assert moved["b"] is there
    assert beside(MATRIX, {"a": MATRIX})["a"] is MATRIX


# ---------------------------------------------------------------------- what is refused


def interface(array: Any, **changes: Any) -> Any:
    return SimpleNamespace(__cuda_array_interface__=array.__cuda_array_interface__ | changes)


def test_a_mask_and_stream_zero_are_refused(driver: EmulatedDriver) -> None:
    array = placed(driver, MATRIX)
    opt = stepspec.SGD()
    with pytest.raises(TypeError, match=r"the weight of tensor 0 is masked; fill it in"):
        opt.create_state(0, interface(array, mask=array))
    nameless = interface(array, stream=0)
    with pytest.raises(ValueError, match="names stream 0"):
        Quick([nameless]).streams([nameless])


def test_memory_of_no_device_is_refused(driver: EmulatedDriver) -> None:
    array = interface(placed(driver, MATRIX), data=(MATRIX.ctypes.data, False))
    with pytest.raises(TypeError, match=r"^the weight of x names memory of no CUDA device"):
        device_number(array, "the weight of x")


def test_a_wrong_dtype_is_refused_as_on_the_host(driver: EmulatedDriver) -> None:
    with pytest.raises(TypeError, match=r"the weight of tensor 3 has dtype int32; supported are float16"):
        stepspec.SGD().create_state(3, placed(driver, MATRIX.astype(np.int32)))


@pytest.mark.parametrize("use_fused_step", [True, False])
def test_a_call_in_two_places_names_both(driver: EmulatedDriver, use_fused_step: bool) -> None:
    opt = stepspec.SGD(momentum=0.9, param_idx2name={0: "w", 1: "b"}, use_fused_step=use_fused_step)
    here, there = MATRIX.copy(), placed(driver, MATRIX)
    state = opt.create_state(0, here)
    cases: dict[str, tuple[Any, Any, Any]] = {
        "the gradient of 'w' (index 0)": ([here], [there], [state]),
        "the weight of 'b' (index 1)": ([here, there], [here + 1, here + 1], [state, state]),
        "state 'mom' of 'w' (index 0)": ([here], [here + 1], [{"mom": there}]),
    }
    for what, (weights, grads, states) in cases.items():
        with pytest.raises(ValueError, match="copy one of them") as error:
            opt.update(list(range(len(weights))), weights, grads, states)
        assert str(error.value).startswith(f"{what} is on a GPU, and the weight of 'w' (index 0) on the host")
    assert opt.update_count(0) == 0


def test_shadows_are_of_one_device(driver: EmulatedDriver) -> None:
    def label(index: int) -> str:
        return f"tensor {index}"

    first, second = placed(driver, MATRIX), placed(driver, MATRIX, device=1)
    empty = placed(driver, MATRIX[:0])
    with pytest.raises(
        ValueError, match=r"^state 'm' of tensor 4 is on device 1, and the weight of tensor 3 on"
    ):
        shadows(label, [3, 4], [first, first], [first, first], [{}, {"m": second}])
    with pytest.raises(
        ValueError, match=r"^the gradient of tensor 3 is on the host, and the weight of tensor 3"
    ):
        shadows(label, [3], [first], [MATRIX], [{}])
    found = shadows(label, [0, 1], [empty, second], [empty, None], [{"m": second}, None])
    assert found.grads[1] is found.states[1] is None
    assert found.states[0]["m"].ctypes.data == second.address


def test_shadows_overlap_where_their_arrays_do(driver: EmulatedDriver) -> None:
    array = placed(driver, MATRIX)
    opt = stepspec.SGD()
    seen = shadows(opt._label, [0, 1], [array, array], [array, array], [{}, {}])
    with pytest.raises(ValueError, match="overlap in memory"):
        check_call(opt, [0, 1], seen.weights, seen.grads, seen.states)


def test_step_says_that_numpy_cannot_read_a_gpu(driver: EmulatedDriver) -> None:
    array = placed(driver, MATRIX)
    opt = stepspec.SGD(use_fused_step=False)
    with pytest.raises(
        TypeError, match=r"the weight of tensor 0 is on a GPU, .*DeviceArray, .*use_fused_step=True"
    ):
        opt.update([0], [array], [array], [{}])


# ---------------------------------------------------------------------- reading many quickly


def test_like_arrays_are_recognised_and_others_are_not(driver: EmulatedDriver) -> None:
    one, two = placed(driver, MATRIX), placed(driver, MATRIX[0])
    quick = Quick([one, two])
    again = [placed(driver, MATRIX + 1), placed(driver, MATRIX[1])]
    assert quick.addresses(again) is not None
    assert quick.addresses(again).tolist() == [array.address for array in again]  # type: ignore[union-attr]  # see above
    for other in (
        MATRIX,
        None,
        placed(driver, MATRIX.T),
        placed(driver, MATRIX[:, :5]),
        placed(driver, MATRIX.view(np.int32)),
        placed(driver, MATRIX, device=1),
    ):
        assert quick.addresses([other, two]) is None
    assert quick.addresses([one]) is None


def test_kept_arrays_are_known_by_identity_address_size_and_strides(driver: EmulatedDriver) -> None:
    array = placed(driver, MATRIX)
    quick = Quick([array], keep=True)
    assert quick.addresses([array]) is not None
    array.address += 4
    assert quick.addresses([array])[0] == array.address  # type: ignore[index]  # None would fail too
    for name, value in (("shape", (2, 6)), ("strides", (4, 8)), ("writeable", False)):
        before = getattr(array, name)
        setattr(array, name, value)
        assert quick.addresses([array]) is None
        setattr(array, name, before)
        assert quick.addresses([array]) is not None


class Liar:
    """An array whose interface is another one's, but for what is changed, or left out if that is `...`."""

    def __init__(self, array: Any, changed: dict[str, Any]) -> None:
        self.array = array
        found = {**array.__cuda_array_interface__, **changed}
        self.__cuda_array_interface__ = {key: value for key, value in found.items() if value is not ...}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": ...}, "has no 'data'"),
        ({"shape": ...}, "has no 'shape'"),
        ({"typestr": ...}, "has no 'typestr'"),
        ({"shape": (-4, 6)}, "negative dimensions"),
        ({"strides": (4,)}, "mismatch in length of strides"),
        ({"strides": (25, 4)}, "no multiples of their size; make a copy"),
        ({"stream": 0}, "names stream 0"),
        ({"typestr": "|V8"}, "has dtype |V8"),
    ],
)
def test_what_is_wrong_with_an_interface_is_said_of_the_tensor(
    driver: EmulatedDriver, changed: dict[str, Any], message: str
) -> None:
    opt, array = stepspec.SGD(), placed(driver, MATRIX)
    liars: list[Any] = [Liar(array, changed), Liar(placed(driver, MATRIX), changed)]
    for liar in liars:
        with pytest.raises(TypeError, match=re.escape(message)) as error:
            opt.update([0], [array], [liar], [{}])
        assert str(error.value).startswith("the gradient of tensor 0 ")
        opt.update([0], [array], [placed(driver, MATRIX)], [{}])
    assert opt.num_update == 2


def test_what_is_no_array_is_no_matter_of_places(driver: EmulatedDriver) -> None:
    weights: list[Any] = [None, [1.0], np.float32(1)]
    for weight in weights:
        with pytest.raises(TypeError, match="the weight of tensor 0"):
            stepspec.SGD().update([0], [weight], [placed(driver, MATRIX)], [{}])


def test_streams_are_named_once(driver: EmulatedDriver) -> None:
    arrays = [placed(driver, MATRIX, stream=stream) for stream in (None, 1, 7, 7, 2)]
    assert Quick(arrays).streams(arrays) == (0, 2, 7)
    assert Quick(arrays[:1]).streams(arrays[:1]) == ()


# ---------------------------------------------------------------------- states, sparse gradients, checkpoints


def test_states_lie_beside_their_weight(driver: EmulatedDriver) -> None:
    half = MATRIX.astype(np.float16)
    host = stepspec.create("ftml", multi_precision=True).create_state_multi_precision(0, half)
    weight = placed(driver, half, device=1)
    states = stepspec.create("ftml", multi_precision=True).create_state_multi_precision(0, weight)
    assert states.keys() == host.keys()
    for name, array in states.items():
        assert device_number(array) == 1
        assert_same(to_host(array), host[name])


def test_a_row_sparse_gradient_may_lie_on_a_device(driver: EmulatedDriver) -> None:
    values, rows = placed(driver, MATRIX[:2]), placed(driver, np.array([1, 3]))
    grad = stepspec.RowSparse(values, rows, (9, 6))
    assert grad.values is values
    assert grad.rows.tolist() == [1, 3]
    assert (grad.shape, grad.dtype, grad.is_whole()) == ((9, 6), np.dtype(np.float32), True)
    assert repr(grad) == "RowSparse(2 of 9 rows, shape=(9, 6), dtype=float32)"
    with pytest.raises(ValueError, match="values must have shape"):
        stepspec.RowSparse(values, [1], (9, 6))
    for reading in (grad.to_dense, grad.to_scipy):
        with pytest.raises(TypeError, match="copy of its values on the host"):
            reading()
    with pytest.raises(TypeError, match=r"RowSparse\.summed reads numbers on the host.*coalesce"):
        stepspec.RowSparse.summed(values, [3, 3], (9, 6))
    with pytest.raises(TypeError, match="pass the array itself"):
        stepspec.RowSparse.from_dense(values)
    opt, weight = stepspec.SGD(), np.zeros((9, 6), np.float32)
    with pytest.raises(
        ValueError, match=r"the gradient of tensor 0 is on a GPU, and the weight of tensor 0 on the host"
    ):
        opt.update([0], [weight], [grad], [{}])


def trained(driver: EmulatedDriver, opt: stepspec.Optimizer, weight: Any) -> dict[str, Any]:
    """Return states that hold other numbers than they began with."""
    state = opt.create_state_multi_precision(0, weight)
    for k, array in enumerate(state.values()):
        seen = shadow(array)
        writing(array, np.full(seen.shape, k + 2.5, seen.dtype))()
    return state


def test_a_checkpoint_goes_from_device_to_host_and_back(driver: EmulatedDriver) -> None:
    there = stepspec.Updater(stepspec.create("ftml"))
    there.states[0] = trained(driver, there.optimizer, placed(driver, MATRIX))
    saved = there.get_states()
    here = stepspec.Updater(stepspec.create("ftml"))
    here.set_states(saved)
    for name, array in there.states[0].items():
        assert_same(here.states[0][name], to_host(array))
    kept = dict(there.states[0])
    for array in kept.values():
        writing(array, np.zeros(shadow(array).shape, shadow(array).dtype))()
    there.set_states(saved)
    assert all(there.states[0][name] is array for name, array in kept.items())
    for name, array in kept.items():
        assert_same(to_host(array), here.states[0][name])


def test_loaded_states_follow_the_weight(driver: EmulatedDriver) -> None:
    here = stepspec.Updater(stepspec.create("ftml"))
    here.states[0] = trained(driver, here.optimizer, MATRIX)
    there = stepspec.Updater(stepspec.create("ftml"))
    there.set_states(here.get_states())
    with there._states_of([0], [placed(driver, MATRIX)]) as [state]:
        assert all(map(on_device, state.values()))
        for name, array in state.items():
            assert_same(to_host(array), here.states[0][name])


def test_a_trainer_loads_states_to_its_weights(driver: EmulatedDriver, tmp_path: Any) -> None:
    half = MATRIX.astype(np.float16)

    def trainer(weight: Any) -> stepspec.Trainer:
        return stepspec.Trainer({"w": weight}, "ftml", multi_precision=True)

    one = trainer(half)
    one.step({"w": half + np.float16(1)})
    one.save_states(tmp_path / "states.npz")
    two = trainer(placed(driver, half))
    with pytest.raises(ValueError, match="its weight is not its master in the checkpoint"):
        trainer(placed(driver, half + np.float16(1))).load_states(tmp_path / "states.npz")
    assert two.load_states(tmp_path / "states.npz") == []
    for name, array in two.states["w"].items():
        assert device_number(array) == 0
        assert_same(to_host(array), one.states["w"][name])
    two.save_states(tmp_path / "again.npz")
    assert trainer(half).load_states(tmp_path / "again.npz") == []


def test_a_trainer_refuses_overlapping_weights_on_a_device(driver: EmulatedDriver) -> None:
    array = placed(driver, MATRIX)
    with pytest.raises(ValueError, match="the weight of 'a' and the weight of 'b' overlap in memory"):
        stepspec.Trainer({"a": array, "b": array}, "sgd")


def test_states_of_mxnet_are_taken_over_to_a_device(driver: EmulatedDriver) -> None:
    opt, weight = stepspec.SGD(momentum=0.9), placed(driver, MATRIX)
    found = stepspec.mxnet.import_states(opt, {0: weight}, {0: MATRIX})
    assert_same(to_host(found[0]["mom"]), -MATRIX)


# ---------------------------------------------------------------------- training by name

SHAPES = {"a": (70, 61), "a_bias": (5,), "b": (3, 4), "b_bias": (1,)}


class Training:
    """A Trainer on the host and one on a device, with the same tensors in two groups."""

    def __init__(self, driver: EmulatedDriver, **options: Any) -> None:
        self.driver, self.random = driver, np.random.default_rng(5)
        weights = self.numbers()
        options = {"momentum": 0.9, "groups": {"*bias": {"wd": 0.1}}, **options}
        self.host = stepspec.Trainer(weights, "sgd", **options)
        self.device = stepspec.Trainer(self.placed(weights), "sgd", **options)

    def numbers(self) -> dict[str, Any]:
        return {name: self.random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}

    def placed(self, arrays: dict[str, Any]) -> dict[str, Any]:
        return {name: placed(self.driver, array) for name, array in arrays.items()}

    def compare(self) -> None:
        for name, weight in self.host.params.items():
            assert_same(weight, to_host(self.device.params[name]))


def test_clipping_and_skipping_on_a_device_are_those_of_the_host(driver: EmulatedDriver) -> None:
    training = Training(driver, clip_global_norm=1.0, skip_nonfinite=True)
    for number in range(3):
        grads = training.numbers()
        if number == 1:
            grads["b"][1, 2] = np.inf
        done = number != 1
        assert training.device.step(training.placed(grads)) is training.host.step(grads) is done
        assert training.device.global_norm == training.host.global_norm
        training.compare()
    assert training.device.skipped == 1


def test_groups_on_a_device_do_not_write_each_others_gradients(driver: EmulatedDriver) -> None:
    training = Training(driver)
    for _ in range(2):
        grads = training.numbers()
        training.device.step(training.placed(grads))
        training.host.step(grads)
    training.compare()
    weight: Any = training.device.params["a"]
    part = SimpleNamespace(__cuda_array_interface__=weight.__cuda_array_interface__ | {"shape": (5,)})
    both = "the weight of 'a' .* and the gradient of 'a_bias' .* overlap in memory"
    with pytest.raises(ValueError, match=both):
        training.device.step(training.placed(grads) | {"a_bias": part})
    training.compare()


def test_a_gradient_elsewhere_is_refused_by_a_plan_that_knows_the_weights(driver: EmulatedDriver) -> None:
    training = Training(driver)
    grads = training.numbers()
    training.device.step(training.placed(grads))
    training.host.step(grads)
    there = placed(driver, grads["b"], device=1)
    for other, place in ((grads["b"], "on the host"), (there, "on device 1")):
        with pytest.raises(ValueError, match=f"the gradient of 'b' .* is {place}, and the weight of 'a'"):
            training.device.step(training.placed(grads) | {"b": other})
    training.compare()
