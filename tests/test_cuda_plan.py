"""Plans of arrays on a GPU: what they copy and launch, in which order, and what they recognise."""

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from device_training import placed, train_on_device
from emulated_driver import EmulatedDriver, EmulatedEvent
from training import Array, assert_same_bits, random_tensors, train

import stepspec
from stepspec.cuda.calls import CudaError
from stepspec.cuda.driver import use
from stepspec.cuda.passes import Pass

SHAPES = ((5,), (3, 4), (70, 61), (0, 2), ())


@pytest.fixture
def driver() -> Iterator[EmulatedDriver]:
    emulated = EmulatedDriver()
    with use(emulated):
        yield emulated


class Run:
    """The same steps by `step` on the host and by `fused_step` on a device, compared after each.

    Parameters
    ----------
    driver
        The emulated one.
    shapes
        Of the weights.
    layout
        Makes of an array what lies on the device.
    options
        Of both optimizers.

    """

    def __init__(self, driver: EmulatedDriver, shapes: Any = SHAPES, device: int = 0, **options: Any) -> None:
        self.driver, self.device = driver, device
        options = {"momentum": 0.9, "learning_rate": 0.1, **options}
        self.host, self.fused = stepspec.SGD(**options), stepspec.SGD(**options)
        self.weights = random_tensors(shapes, np.float32)
        self.states = [self.host.create_state(i, weight) for i, weight in enumerate(self.weights)]
        self.indices: Any = list(range(len(shapes)))
        self.on_device: Any = [self.put(weight) for weight in self.weights]
        self.device_states = [{name: self.put(array) for name, array in s.items()} for s in self.states]
        self.seed = 0

    def put(self, array: Any, **how: Any) -> Any:
        return placed(self.driver, array, self.device, **how)

    def gradients(self) -> list[Array]:
        self.seed += 1
        return random_tensors([weight.shape for weight in self.weights], np.float32, self.seed)

    def step(self, grads: Any = None, placed_grads: Any = None) -> None:
        """Step both, with random gradients unless there are others."""
        grads = self.gradients() if grads is None else grads
        placed_grads = [*map(self.put, grads)] if placed_grads is None else placed_grads
        self.host.step(self.indices, self.weights, grads, self.states)
        self.fused.fused_step(self.indices, self.on_device, placed_grads, self.device_states)

    def check(self) -> None:
        """Compare all arrays."""
        for host, device in zip(self.weights, self.on_device, strict=True):
            assert np.array_equal(host, device.numpy())
        for state, states in zip(self.states, self.device_states, strict=True):
            for name, array in state.items():
                assert np.array_equal(array, states[name].numpy())

    def plans(self) -> list[Any]:
        return list(self.fused._plans)


def test_only_what_changed_is_copied(driver: EmulatedDriver) -> None:
    run = Run(driver)
    grads = run.gradients()
    lying = [*map(run.put, grads)]
    copied = []
    for change in (None, None, "lr", "addresses", None):
        before = driver.copied
        if change == "lr":
            run.host.set_learning_rate(0.05)
            run.fused.set_learning_rate(0.05)
        if change == "addresses":
            keep, lying = lying, [*map(run.put, grads)]
        run.step(grads, lying)
        copied.append(driver.copied - before)
    run.check()
    row = 8 * len(SHAPES)
    assert copied[0] > 10 * row  # all tables
    assert copied[1:] == [0, row, row, 0]
    assert len(keep) == len(SHAPES)


def test_a_step_waits_for_nothing(driver: EmulatedDriver) -> None:
    run = Run(driver)
    grads = [run.gradients() for _ in range(6)]
    lying = [[*map(run.put, each)] for each in grads]
    before = driver.waits
    for number in range(6):
        # learning rates change the tables while earlier steps still have to read them
        run.host.set_learning_rate(0.1 / (number + 1))
        run.fused.set_learning_rate(0.1 / (number + 1))
        run.step(grads[number], lying[number])
    assert driver.waits == before
    run.check()
    assert len(driver.launches) == 6


def test_a_step_in_a_captured_stream_is_refused(driver: EmulatedDriver) -> None:
    """It would be replayed with the rates, and the addresses of gradients, of the captured call."""
    run = Run(driver)
    grads = [run.put(grad, stream=7) for grad in run.gradients()]
    driver.captured = {7}
    with pytest.raises(RuntimeError, match="SGD: a step cannot be captured in a CUDA graph"):
        run.fused.fused_step(run.indices, run.on_device, grads, run.device_states)
    assert (driver.launches, run.fused.num_update) == ([], 0)
    driver.captured = set()
    run.step()
    run.check()


def test_streams_of_threads_wait_for_each_other(
    driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One handle is another stream in each thread, and the tables of a plan are one."""
    monkeypatch.setattr(EmulatedEvent, "done", lambda event: False)
    run = Run(driver)
    grads = run.gradients()
    lying = [run.put(grad, stream=2) for grad in grads]
    run.step(grads, lying)
    run.host.set_learning_rate(0.01)
    run.fused.set_learning_rate(0.01)

    def step_in_a_thread() -> None:
        run.step(grads, lying)
        driver.synchronize(0, 2)

    thread = threading.Thread(target=step_in_a_thread)
    thread.start()
    thread.join()
    driver.finish()
    run.check()
    assert len(driver.launches) == 2


def test_tensors_of_all_formats_share_a_launch_only_with_their_like(driver: EmulatedDriver) -> None:
    weights = [*random_tensors(SHAPES[:2], np.float32), *random_tensors(SHAPES[:2], np.float64)]
    grads = [[weight.copy() for weight in weights]]
    expected = train(stepspec.SGD(), weights, fused=False, grads=grads, steps=1)
    assert_same_bits(expected, train_on_device(driver, stepspec.SGD(), weights, grads=grads, steps=1))
    assert len(driver.launches) == 2


@pytest.mark.parametrize("aggregate_num", [1, 2, None])
def test_aggregation_changes_no_bit(driver: EmulatedDriver, aggregate_num: int | None) -> None:
    run = Run(driver, aggregate_num=aggregate_num)
    run.step()
    run.step()
    run.check()
    # the empty tensor has nothing to launch
    assert len(driver.launches) == 2 * {1: 4, 2: 3, None: 1}[aggregate_num]


def test_arrays_of_any_strides(driver: EmulatedDriver) -> None:
    shapes = ((40, 103), (7,), (2, 3, 4), (1, 5))
    run = Run(driver, shapes)
    run.on_device[0] = run.put(np.asfortranarray(run.weights[0]))
    run.on_device[1] = run.put(np.repeat(run.weights[1], 3)[::3])
    run.device_states[2]["mom"] = run.put(np.zeros((4, 3, 2), np.float32).T[:, ::-1])
    for _ in range(3):
        grads = run.gradients()
        gaps = np.repeat(grads[3], 2, axis=1)[:, ::2]
        lying = [run.put(np.asfortranarray(grads[0])), *map(run.put, grads[1:3]), run.put(gaps)]
        run.step(grads, lying)
    run.check()
    overview = run.fused.plan(run.indices, run.on_device, lying, run.device_states)
    assert overview.copied == ("tensor 0", "tensor 1", "tensor 2")
    assert overview.copied_gradients == ("tensor 0", "tensor 3")


def test_streams_wait_for_each_other(driver: EmulatedDriver) -> None:
    run = Run(driver)
    first, second = 11, 12
    for array in (*run.on_device, *(state["mom"] for state in run.device_states)):
        array.stream = first
    other = run.put(np.zeros((3, 4), np.float32))
    for _ in range(2):
        grads = run.gradients()
        late, lying = run.put(grads[1]), [run.put(grad, stream=first) for grad in grads]
        lying[1] = run.put(np.zeros((3, 4), np.float32), stream=second)
        # work that is under way on the gradient's stream comes before the step
        driver.copy(0, lying[1].address, late.address, grads[1].nbytes, second)
        run.step(grads, lying)
        # what that stream gets later comes after the step
        driver.copy(0, lying[1].address, other.address, grads[1].nbytes, second)
        driver.synchronize(0, second)
    run.check()


def test_a_plan_used_on_another_stream_waits_for_its_last_use(driver: EmulatedDriver) -> None:
    run = Run(driver)
    for stream in (5, 6, 5):
        for array in (*run.on_device, *(state["mom"] for state in run.device_states)):
            array.stream = stream
        run.host.set_learning_rate(0.1 * stream)
        run.fused.set_learning_rate(0.1 * stream)
        grads = run.gradients()
        run.step(grads, [run.put(grad, stream=stream) for grad in grads])
    driver.synchronize(0, 5)
    run.check()
    assert len(run.plans()) == 1


def test_two_devices(driver: EmulatedDriver) -> None:
    for device in (1, 0):
        run = Run(driver, device=device)
        run.step()
        run.check()


def test_other_dicts_and_lists_of_the_same_arrays_need_no_other_plan(driver: EmulatedDriver) -> None:
    run = Run(driver)
    run.step()
    run.device_states = [dict(state) for state in run.device_states]
    run.on_device, run.indices = tuple(run.on_device), range(len(SHAPES))
    run.step()
    run.check()
    assert len(run.plans()) == 1


@pytest.mark.parametrize("what", ["weight", "state", "address"])
def test_other_arrays_need_another_plan(driver: EmulatedDriver, what: str) -> None:
    run = Run(driver)
    run.step()
    driver.finish()
    if what == "weight":
        run.on_device[2] = run.put(run.weights[2])
    elif what == "state":
        run.device_states[2]["mom"] = run.put(run.states[2]["mom"])
    else:  # the same object with other memory, as torch's `.data = ` gives it
        run.on_device[2].__dict__.update(run.put(run.weights[2]).__dict__)
    run.step()
    run.check()
    assert len(run.plans()) == 2


def test_gradients_of_another_kind_need_all_checks(driver: EmulatedDriver) -> None:
    run = Run(driver)
    run.step()
    for grads in (run.gradients(), run.gradients()):
        lying = [*map(run.put, grads)]
        lying[1] = run.put(grads[1].astype(np.float16))
        grads[1] = grads[1].astype(np.float16)
        run.step(grads, lying)
    run.step()
    run.check()
    assert len(run.plans()) == 2


@pytest.mark.parametrize("known", [False, True], ids=["first", "planned"])
def test_refused_calls_change_nothing(driver: EmulatedDriver, known: bool) -> None:
    run = Run(driver)
    if known:
        run.step()
    driver.finish()
    launched = list(driver.launches)
    grads = [*map(run.put, run.gradients())]
    short, there = run.put(np.zeros((3, 3), np.float32)), placed(driver, np.zeros((3, 4), np.float32), 1)
    refused: list[tuple[Any, str]] = [
        (short, r"gradient of tensor 1 has shape \(3, 3\)"),
        (run.on_device[1], "gradient of tensor 1"),
        (there, "on device 1"),
        (np.zeros((3, 4), np.float32), "is on the host"),
        (None, "gradient of tensor 1 is None"),
    ]
    for grad, message in refused:
        with pytest.raises((TypeError, ValueError), match=message):
            run.fused.update(run.indices, run.on_device, [grads[0], grad, *grads[2:]], run.device_states)
    assert driver.launches == launched
    run.check()
    assert run.fused.num_update == int(known)
    run.step()
    run.check()


def test_nothing_is_launched_before_all_is_compiled(
    driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(driver, aggregate_num=1)
    compiled, code = [], Pass.code

    def failing(self: Pass, capability: tuple[int, int]) -> Any:
        compiled.append(self)
        if len(compiled) == 2:
            raise RuntimeError("no code for it")
        return code(self, capability)

    monkeypatch.setattr(Pass, "code", failing)
    run.weights[2], run.states[2]["mom"] = (
        a.astype(np.float64) for a in (run.weights[2], run.states[2]["mom"])
    )
    run.on_device[2], run.device_states[2]["mom"] = run.put(run.weights[2]), run.put(run.states[2]["mom"])
    with pytest.raises(RuntimeError, match="no code for it"):
        run.step()
    assert not driver.launches
    assert run.fused.num_update == 0


def test_a_failed_launch_says_that_weights_may_be_lost(
    driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(results: Any) -> None:
        raise CudaError("cuLaunchKernel failed: CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(driver, "check", check)
    run = Run(driver)
    with pytest.raises(RuntimeError, match=r"SGD: a step failed on GPU 0, and its weights.*ILLEGAL_ADDRESS"):
        run.step()


def test_tensors_at_a_rate_of_zero_are_left_alone(driver: EmulatedDriver) -> None:
    weights = random_tensors([(5,), (70, 61)], np.float32)
    found = []
    for fused in (False, True):
        optimizer = stepspec.FTML(learning_rate=0.1)
        optimizer.set_lr_mult({0: 0.0})
        run = train_on_device(driver, optimizer, weights) if fused else train(optimizer, weights, fused=False)
        assert optimizer.num_update == 3
        found.append(run)
    assert_same_bits(*found)
    assert np.array_equal(found[1][0][0], weights[0])


def test_noise_is_of_the_present_count(driver: EmulatedDriver) -> None:
    weights = random_tensors([(70, 61), (9,)], np.float16)
    options: dict[str, Any] = {"rounding": "stochastic", "seed": 5, "begin_num_update": 2**32 - 2}
    expected = train(stepspec.SGD(**options), weights)
    assert_same_bits(expected, train_on_device(driver, stepspec.SGD(**options), weights))


def test_gradients_are_let_go(driver: EmulatedDriver) -> None:
    run = Run(driver)
    run.step()
    grads = run.gradients()
    lying = [*map(run.put, grads)]
    references = [*map(weakref.ref, lying)]
    run.step(grads, lying)
    del lying
    assert not any(reference() for reference in references)


def test_plan_tells_what_a_step_launches(driver: EmulatedDriver) -> None:
    weights = [np.ones((300, 100), np.float32), np.ones(10, np.float32)]
    optimizer = stepspec.LARS(momentum=0.9, param_idx2name={0: "a", 1: "b_bias"})
    states = [optimizer.create_state(i, weight) for i, weight in enumerate(weights)]
    there = [[placed(driver, array) for array in arrays] for arrays in (weights, weights)]
    kept = [{name: placed(driver, array) for name, array in state.items()} for state in states]
    overview = optimizer.plan([0, 1], there[0], there[1], kept)
    host = optimizer.plan([0, 1], weights, [np.copy(weight) for weight in weights], states)
    assert overview.device == 0
    assert overview.bytes == host.bytes
    assert [launch.kernel for launch in overview.groups[0].launches] == [
        launch.kernel for launch in host.groups[0].launches
    ]
    # norms: partial results, then totals; the trust ratio; both updates
    assert overview.groups[0].regions == 5
    assert "on GPU 0" in str(overview)
    assert "in 5 launches" in str(overview)
    assert not driver.launches


def test_row_numbers_are_copied_when_they_change(driver: EmulatedDriver) -> None:
    run = Run(driver, ((40, 3), (5,)))
    copied: list[int] = []
    for rows in ([1, 5], [1, 5], [2, 7], list(range(0, 40, 3)), [4]):
        values, dense = random_tensors([(len(rows), 3), (5,)], np.float32, len(copied))
        grads = [stepspec.RowSparse(values, rows, (40, 3)), dense]
        lying = [*map(run.put, grads)]
        before = driver.copied
        run.step(grads, lying)
        copied.append(driver.copied - before)
    run.check()
    # the gradients' addresses are new each time
    assert copied[1] == 8 * 2
    assert copied[2] == copied[1] + 8 * 2


@pytest.mark.parametrize("kind", ["rows", "strides"])
def test_a_failed_allocation_leaves_what_the_next_call_needs(
    driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = Run(driver, ((900, 3), (5,), (4, 6), (7, 2)))
    few, many = (2, 600) if kind == "rows" else (1, 4)

    def gradients(count: int) -> tuple[list[Any], list[Any]]:
        grads: list[Any] = run.gradients()
        if kind == "rows":
            grads[0] = stepspec.RowSparse(grads[0][:count].copy(), range(count), (900, 3))
            return grads, [*map(run.put, grads)]
        turned = [np.asfortranarray(grad) if k < count else grad for k, grad in enumerate(grads)]
        return grads, [*map(run.put, turned)]

    def failing(device: int, size: int) -> Any:
        raise CudaError("cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY")

    run.step(*gradients(few))
    for _ in range(2):
        grads, lying = gradients(many)
        with monkeypatch.context() as patch:
            patch.setattr(driver, "allocate", failing)
            with pytest.raises(CudaError, match="OUT_OF_MEMORY"):
                run.fused.update(run.indices, run.on_device, lying, run.device_states)
    assert run.fused.num_update == 1
    run.step(grads, lying)
    run.check()


def test_numbers_that_ctrl_c_leaves_unsure_are_sent_again(
    driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(driver)
    copy_in = driver.copy_in

    def interrupted(*arguments: Any) -> None:
        copy_in(*arguments)
        raise KeyboardInterrupt

    grads = run.gradients()
    lying = [*map(run.put, grads)]
    run.step(grads, lying)
    run.fused.set_learning_rate(0.05)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "copy_in", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.fused.update(run.indices, run.on_device, lying, run.device_states)
    assert run.fused.num_update == 1
    run.fused.set_learning_rate(0.1)
    run.step(grads, lying)
    run.check()


def test_page_locked_memory_is_left_alone_after_ctrl_c(
    driver: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(driver)
    run.step()
    kept = []  # freeing gradients would wait for the work
    for rate, is_interrupted in ((0.1, True), (0.05, True), (0.2, False), (0.3, False)):
        run.host.set_learning_rate(rate)
        run.fused.set_learning_rate(rate)
        grads = run.gradients()
        kept.append([*map(run.put, grads)])
        if not is_interrupted:
            run.step(grads, kept[-1])
            continue
        # the step's end is not noted, but its work is queued and counted
        with monkeypatch.context() as patch:
            patch.setattr(EmulatedEvent, "record", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                run.step(grads, kept[-1])
    assert run.fused.num_update == 5
    run.check()


def _interrupted(event: EmulatedEvent, stream: int) -> None:
    raise KeyboardInterrupt


def test_an_array_turned_where_it_lies_needs_another_plan(driver: EmulatedDriver) -> None:
    run = Run(driver, ((4, 4), (5,)))
    run.step()
    driver.finish()
    run.on_device[0].strides = run.on_device[0].strides[::-1]
    run.weights[0] = run.weights[0].T
    run.step()
    run.check()
    run.on_device[1].writeable = False
    with pytest.raises(ValueError, match="the weight of tensor 1 is read-only"):
        run.step()


def test_a_gradient_off_its_alignment_is_refused(driver: EmulatedDriver) -> None:
    run = Run(driver)
    run.step()
    lying = [*map(run.put, run.gradients())]
    lying[1].address += 2
    with pytest.raises(TypeError, match="the gradient of tensor 1 has elements at addresses"):
        run.fused.update(run.indices, run.on_device, lying, run.device_states)
    run.step()
    run.check()
