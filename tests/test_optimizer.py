"""Arguments, rates, counts and the registry; and what holds when a step is interrupted."""

import copy
import ctypes
import functools
import itertools
import math
import operator
import pickle
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stepspec
from stepspec import cpu
from stepspec.hyperparameters import Flag, Hyperparameter, Range
from stepspec.lr_scheduler import CosineScheduler, FactorScheduler
from stepspec.states import TensorFlag

Array = NDArray[Any]
PATHS = pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])


class Ones:
    """Tensors of ones with gradients of ones: plain SGD moves each by its rate."""

    def __init__(
        self, optimizer: stepspec.Optimizer, count: int = 3, fused: bool = True, size: int = 2
    ) -> None:
        self.optimizer = optimizer
        self.indices = list(range(count))
        self.weights = [np.zeros(size) for _ in self.indices]
        self.states = [optimizer.create_state(i, w) for i, w in enumerate(self.weights)]
        self.run = optimizer.fused_step if fused else optimizer.step

    def step(self, *indices: int) -> list[float]:
        """Return how far each tensor went."""
        chosen = list(indices) or self.indices
        before = [w[0] for w in self.weights]
        grads = [np.ones_like(self.weights[i]) for i in chosen]
        self.run(chosen, [self.weights[i] for i in chosen], grads, [self.states[i] for i in chosen])
        return [float(b - w[0]) for b, w in zip(before, self.weights, strict=True)]


# ------------------------------------------------------------------ hyperparameters


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), np.longdouble(0.5)])
def test_numbers_become_floats(value: Any) -> None:
    optimizer = stepspec.SGD(momentum=value)
    assert type(optimizer.momentum) is float
    assert optimizer.momentum == 0.5


@pytest.mark.parametrize("value", [True, np.True_, "0.5", None, 1j, [0.5], np.array(0.5)])
def test_what_is_no_number_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="SGD: momentum must be a number"):
        stepspec.create("sgd", momentum=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1}, r"NAG: momentum = 1 is outside of its range \[0, 1\)"),
        ({"momentum": -0.5}, "momentum = -0.5"),
        ({"momentum": math.nan}, "momentum must not be NaN"),
        ({"learning_rate": -1}, "learning_rate = -1"),
        ({"learning_rate": math.inf}, "learning_rate = inf"),
        ({"learning_rate": 10**400}, "learning_rate is too large"),
        ({"wd": -0.1}, "wd = -0.1"),
        ({"wd": math.inf}, "wd = inf"),
        ({"rescale_grad": math.inf}, "rescale_grad = inf"),
        ({"clip_gradient": 0}, r"clip_gradient = 0 is outside of its range \(0, inf\) or None"),
        ({"clip_gradient": -1.0}, "clip_gradient = -1.0"),
        ({"clip_gradient": math.inf}, "clip_gradient = inf"),
        ({"begin_num_update": -1}, "begin_num_update must not be negative"),
        ({"aggregate_num": 0}, "aggregate_num must be at least 1"),
        ({"aggregate_num": -math.inf}, "aggregate_num"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    expected = TypeError if "aggregate_num" in options and options["aggregate_num"] != 0 else ValueError
    with pytest.raises(expected, match=message):
        stepspec.create("nag", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentun": 0.9}, "SGD has no argument 'momentun'; did you mean 'momentum'"),
        ({"learning_rat": 0.9}, "did you mean 'learning_rate'"),
        ({"clip_gradients": 1}, "did you mean 'clip_gradient'"),
        ({"lr": 1}, "SGD has no argument 'lr'; did you mean 'learning_rate'"),
        ({"weight_decay": 1}, "SGD has no argument 'weight_decay'; did you mean 'wd'"),
        ({"xyzzy": 1}, "SGD has no argument 'xyzzy'$"),
        ({"param_idx2name": ["a"]}, "param_idx2name must be a dict"),
        ({"param_idx2name": {0: 1}}, r"param_idx2name\[0\] must be a str"),
        ({"param_idx2name": {"a": "b"}}, "an index must be an int"),
        ({"param_dict": [1]}, "param_dict must be a dict"),
        ({"aggregate_num": 2.5}, "aggregate_num must be None, inf or an int"),
        ({"begin_num_update": 1.0}, "begin_num_update must be an int"),
        ({"use_fused_step": 1}, "use_fused_step must be True or False"),
        ({"multi_precision": "yes"}, "multi_precision must be True or False"),
        ({"lr_scheduler": 0.1}, "lr_scheduler must be callable"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        stepspec.create("sgd", **options)


def test_clip_gradient_none_is_infinite() -> None:
    optimizer = stepspec.create("sgd", clip_gradient=2)
    assert optimizer.clip_gradient == 2.0
    optimizer.clip_gradient = None
    assert optimizer.clip_gradient == math.inf


def test_a_refused_change_changes_nothing() -> None:
    optimizer = stepspec.create("nag")
    for name, value in (("momentum", 1.5), ("wd", -1.0), ("clip_gradient", 0.0), ("rescale_grad", math.nan)):
        before = getattr(optimizer, name)
        with pytest.raises(ValueError, match=name):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before


def test_a_state_cannot_appear_or_vanish() -> None:
    optimizer = stepspec.SGD()
    optimizer.momentum = 0.9
    optimizer.momentum = 0.0
    optimizer.create_state(0, np.zeros(3))
    with pytest.raises(ValueError, match=r"momentum cannot change to 0.9: there are states, and 'mom' would"):
        optimizer.momentum = 0.9
    assert optimizer.momentum == 0.0
    with_momentum = stepspec.SGD(momentum=0.5)
    Ones(with_momentum).step()
    with_momentum.momentum = 0.25
    with pytest.raises(ValueError, match="'mom'"):
        with_momentum.momentum = 0


def test_own_hyperparameters_flags_and_requirements() -> None:
    class Bounded(stepspec.Optimizer):
        low = Hyperparameter("[-inf, inf)")
        high = Hyperparameter("(0, inf]")
        fast = Flag()
        requirements = {"low <= high": lambda self: self.low <= self.high}  # noqa: RUF012  # as generated

        def __init__(self, low: Any = None, high: Any = None, fast: Any = False) -> None:
            super().__init__(0.1)
            self.low, self.high, self.fast = low, high, fast

    optimizer = Bounded()
    assert (optimizer.low, optimizer.high, optimizer.fast) == (-math.inf, math.inf, False)
    with pytest.raises(ValueError, match=r"Bounded requires low <= high, but low = 3.0, high = 2.0"):
        Bounded(low=3, high=2)
    optimizer.high = 5
    with pytest.raises(ValueError, match="low <= high"):
        optimizer.low = 6
    assert optimizer.low == -math.inf
    with pytest.raises(TypeError, match=r"fast must be True or False, not 1"):
        optimizer.fast = 1
    with pytest.raises(ValueError, match=r"low = inf is outside of its range \[-inf, inf\) or None"):
        optimizer.low = math.inf


def test_a_bound_that_is_off_lies_outside_of_its_range() -> None:
    optimizer = stepspec.LAMB(lower_bound=None, upper_bound=2)
    assert (optimizer.lower_bound, optimizer.upper_bound) == (-math.inf, 2.0)
    optimizer.lower_bound = optimizer.lower_bound
    optimizer.lower_bound = 0
    optimizer.upper_bound = None
    assert (optimizer.lower_bound, optimizer.upper_bound) == (0.0, math.inf)
    for name, wrong in (("lower_bound", -1), ("lower_bound", math.inf), ("upper_bound", -math.inf)):
        with pytest.raises(ValueError, match=rf"LAMB: {name} = .* \[0, inf[)\]] or None"):
            setattr(optimizer, name, wrong)


@pytest.mark.parametrize("text", ["", "0, 1", "[0, 1", "[0; 1)", "[a, 1)"])
def test_ranges_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|float"):
        Range.parse(text)


# ------------------------------------------------------------------ rates and counts


@PATHS
def test_multipliers(fused: bool) -> None:
    names = {0: "a", 1: "b", 2: "c"}
    ones = Ones(stepspec.create("sgd", learning_rate=1.0, param_idx2name=names), fused=fused)
    ones.optimizer.set_lr_mult({"a": 0.5, 1: 2.0, "b": 9.0, "unknown": 7})
    assert ones.step() == [0.5, 2.0, 1.0]
    quarter: Any = np.float32(0.25)
    ones.optimizer.set_lr_mult({2: quarter})
    assert ones.step() == [1.0, 1.0, 0.25]
    parameter = types.SimpleNamespace(lr_mult=4.0)
    ones.optimizer.param_dict = {2: parameter}
    assert ones.step() == [1.0, 1.0, 4.0]
    parameter.lr_mult = 0.0
    assert ones.step() == [1.0, 1.0, 0.0]
    ones.optimizer.set_learning_rate(2.0)
    assert ones.step() == [2.0, 2.0, 0.0]


@PATHS
def test_weight_decay_multipliers(fused: bool) -> None:
    ones = Ones(stepspec.create("sgd", learning_rate=1.0, wd=0.5, rescale_grad=0.0), fused=fused)
    for weight in ones.weights:
        weight[:] = 8.0
    ones.optimizer.set_wd_mult({0: 0, 1: 0.5})
    assert ones.step() == [0.0, 2.0, 4.0]


def test_a_scalar_that_only_changes_its_sign() -> None:
    weights, grads = [np.zeros(2)], [np.ones(2)]
    optimizer = stepspec.create("sgd", rescale_grad=0.0)
    optimizer.fused_step([0], weights, grads, [{}])
    optimizer.rescale_grad = -0.0
    weights[0][:] = -0.0
    optimizer.fused_step([0], weights, grads, [{}])
    twin = [np.full(2, -0.0)]
    optimizer.step([0], twin, grads, [{}])
    assert weights[0].tobytes() == twin[0].tobytes() == np.zeros(2).tobytes()


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_multipliers(value: float) -> None:
    optimizer = stepspec.create("sgd")
    with pytest.raises(ValueError, match=r"SGD: lr_mult\['a'\]"):
        optimizer.set_lr_mult({"a": value})
    with pytest.raises(TypeError, match="wd_mult must be a dict"):
        optimizer.set_wd_mult([1.0])  # type: ignore[arg-type]  # wrong on purpose
    assert dict(optimizer.lr_mult) == dict(optimizer.wd_mult) == {}


@PATHS
def test_flags_by_name_and_by_object(fused: bool) -> None:
    names = {0: "gamma_weight", 1: "mygamma", 2: "fc_bias"}
    ones = Ones(stepspec.create("lars", learning_rate=1.0, eta=0.5, param_idx2name=names), fused=fused)
    for weight in ones.weights:
        weight[:] = 4.0
    exempt, scaled = 1.0, pytest.approx(2.0)
    assert ones.step() == [scaled, exempt, exempt]
    for weight in ones.weights:
        weight[:] = 4.0
    ones.optimizer.param_dict = {0: types.SimpleNamespace(adapt=False), 2: types.SimpleNamespace(adapt=True)}
    assert ones.step() == [exempt, exempt, scaled]


@pytest.mark.parametrize("default", [True, False])
def test_a_flag_is_its_default_unless_the_name_ends_so(default: bool) -> None:
    flag = TensorFlag(default, unless_name_ends=("bias", "gamma"))
    assert [flag.for_name(name) for name in ("fc_bias", "mygamma")] == [not default] * 2
    assert [flag.for_name(name) for name in ("bias_1", "0")] == [default] * 2
    assert TensorFlag(default).for_name("fc_bias") is default


@PATHS
def test_an_emptied_param_dict_decides_nothing_more(fused: bool) -> None:
    own = {0: types.SimpleNamespace(lr_mult=0.5, adapt=False)}
    optimizer = stepspec.create("lars", learning_rate=1.0, eta=0.5, param_dict=own)
    ones = Ones(optimizer, fused=fused)
    for expected in ([0.5, 2.0, 2.0], [2.0, 2.0, 2.0]):
        for weight in ones.weights:
            weight[:] = 4.0
        assert ones.step() == pytest.approx(expected)
        own.clear()


@PATHS
def test_all_counts_of_a_call_rise_before_the_rate_is_read(fused: bool) -> None:
    optimizer = stepspec.create("sgd", learning_rate=None, lr_scheduler=float, begin_num_update=10)
    ones = Ones(optimizer, fused=fused)
    assert optimizer.num_update == 10
    assert ones.step(0) == [11.0, 0.0, 0.0]
    assert ones.step(0, 1) == [12.0, 12.0, 0.0]
    assert ones.step(2) == [0.0, 0.0, 12.0]
    assert [optimizer.update_count(i) for i in (0, 1, 2, 7)] == [12, 11, 11, 10]
    assert ones.step() == [13.0, 13.0, 13.0]
    assert optimizer.learning_rate == 13.0


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_the_schedule_follows_the_largest_count_of_all_tensors(fused: bool) -> None:
    """Also that of a tensor which is not in the call, however many others are."""
    seen: list[int] = []

    def schedule(num_update: int) -> float:
        seen.append(num_update)
        return 0.5

    optimizer = stepspec.SGD(learning_rate=None, lr_scheduler=schedule)
    weights = [np.ones(2) for _ in range(3)]
    update = optimizer.fused_step if fused else optimizer.step
    for indices in ([2], [2], [2], [0, 1], [0, 1, 2]):
        update(indices, [weights[i] for i in indices], [np.ones(2) for _ in indices], [{} for _ in indices])
    assert seen == [1, 2, 3, 3, 4]
    assert optimizer.num_update == 4
    assert [optimizer.update_count(i) for i in range(4)] == [2, 2, 4, 0]


@PATHS
def test_counts_that_differ_reach_the_rule(fused: bool) -> None:
    together, apart = (Ones(stepspec.create("ftml"), fused=fused) for _ in range(2))
    for chosen in ((0,), (0, 1), (0, 1, 2)):
        together.step(*chosen)
        for index in chosen:
            apart.step(index)
    assert [w.tobytes() for w in together.weights] == [w.tobytes() for w in apart.weights]


@PATHS
def test_a_rate_of_zero_freezes_what_divides_by_it(fused: bool) -> None:
    ones = Ones(stepspec.create("ftml"), fused=fused)
    ones.step()
    ones.optimizer.set_lr_mult({1: 0.0})
    before = {name: array.copy() for name, array in ones.states[1].items()}
    moved = ones.step()
    assert moved[1] == 0.0
    assert moved[0] != 0.0
    assert all(np.array_equal(array, before[name]) for name, array in ones.states[1].items())
    assert ones.optimizer.update_count(1) == 2
    ones.optimizer.set_learning_rate(0.0)
    assert ones.step() == [0.0, 0.0, 0.0]
    assert ones.optimizer.num_update == 3


@pytest.mark.parametrize("together", [None, math.inf, 1, 2, np.int64(3), 100])
def test_aggregation_changes_nothing(optimizer_class: type[stepspec.Optimizer], together: Any) -> None:
    random = np.random.default_rng(0)
    start = [random.standard_normal(shape) for shape in ((30, 700), (5,), (3, 3), (200, 200), ())]
    results = []
    for number in (None, together):
        optimizer = optimizer_class(aggregate_num=number)
        weights = [w.copy() for w in start]
        states = [optimizer.create_state(i, w) for i, w in enumerate(weights)]
        for _ in range(2):
            optimizer.update(list(range(5)), weights, [np.asarray(np.sin(w)) for w in start], states)
        results.append([a.tobytes() for a in (*weights, *(a for s in states for a in s.values()))])
        assert optimizer.num_update == 2
    assert results[0] == results[1]


# ------------------------------------------------------------------ schedules


def test_rates_without_a_scheduler() -> None:
    assert stepspec.create("sgd").learning_rate == 0.1
    assert stepspec.create("sgd", learning_rate=None).learning_rate == 0.01
    optimizer = stepspec.create("sgd", learning_rate=0.5)
    optimizer.set_learning_rate(0.25)
    assert optimizer.learning_rate == 0.25
    with pytest.raises(ValueError, match="learning_rate = -1"):
        optimizer.set_learning_rate(-1)


def scheduled(optimizer: stepspec.Optimizer, num_update: int) -> float:
    """Return what the optimizer's scheduler says."""
    assert optimizer.lr_scheduler is not None
    return optimizer.lr_scheduler(num_update)


def test_a_number_overrides_a_copy_of_the_scheduler() -> None:
    scheduler = CosineScheduler(6, base_lr=0.05, warmup_steps=2)
    with pytest.warns(UserWarning, match="SGD: learning_rate = 0.2 overrides the base rate"):
        optimizer = stepspec.create("sgd", learning_rate=0.2, lr_scheduler=scheduler)
    assert scheduler.base_lr == 0.05
    assert scheduled(optimizer, 2) == 0.2
    with pytest.warns(UserWarning, match="learning_rate = 0.1 overrides"):
        assert scheduled(stepspec.create("sgd", lr_scheduler=scheduler), 2) == 0.1
    kept = stepspec.create("sgd", learning_rate=None, lr_scheduler=scheduler)
    assert kept.lr_scheduler is scheduler
    stepspec.create("sgd", learning_rate=0.05, lr_scheduler=scheduler)  # nothing is overridden: no warning


def test_a_plain_function_as_scheduler() -> None:
    optimizer = stepspec.create("sgd", lr_scheduler=lambda n: 1 / (n + 1))
    assert optimizer.learning_rate == 1.0
    with pytest.raises(ValueError, match="no base rate that learning_rate could override"):
        stepspec.create("sgd", learning_rate=0.3, lr_scheduler=lambda n: 0.1)


def test_a_scheduler_decides_until_it_is_taken_away() -> None:
    optimizer = stepspec.create("sgd", learning_rate=None, lr_scheduler=FactorScheduler(2, 0.5, base_lr=0.5))
    with pytest.raises(ValueError, match="the lr_scheduler decides"):
        optimizer.set_learning_rate(0.1)
    optimizer.lr_scheduler = None
    optimizer.learning_rate = 0.125
    assert optimizer.learning_rate == 0.125


# ------------------------------------------------------------------ the registry


def test_create_finds_names_in_any_case() -> None:
    assert type(stepspec.create("gRoUpAdAgRaD")) is stepspec.GroupAdaGrad
    with pytest.raises(ValueError, match="no optimizer 'ngg'; did you mean 'NAG'"):
        stepspec.create("ngg")
    with pytest.raises(TypeError, match="name must be a str"):
        stepspec.create(stepspec.SGD)  # type: ignore[arg-type]  # wrong on purpose


def test_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepspec.registry._registered", {})

    @stepspec.register
    class Mine(stepspec.SGD):
        pass

    assert stepspec.register(Mine) is Mine
    ones = Ones(stepspec.create("mine", learning_rate=1.0))
    assert ones.step() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="the name 'SGD' is taken by stepspec"):
        stepspec.register(type("SGD", (stepspec.SGD,), {}))
    with pytest.raises(TypeError, match=r"subclass of stepspec.Optimizer"):
        stepspec.register(int)  # type: ignore[type-var]  # wrong on purpose


@PATHS
def test_a_subclass_in_a_module_of_the_same_name(fused: bool) -> None:
    mine = type("Mine", (stepspec.SGD,), {"__module__": "my_project.sgd"})
    assert Ones(mine(learning_rate=1.0), fused=fused).step() == [1.0, 1.0, 1.0]


def test_a_plain_scheduler_for_a_subclass_with_a_constructor_of_its_own() -> None:
    class Mine(stepspec.SGD):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)

    assert Mine(lr_scheduler=lambda n: 0.5).learning_rate == 0.5
    with pytest.raises(ValueError, match="no base rate"):
        Mine(lr_scheduler=lambda n: 0.5, learning_rate=0.125)


# ------------------------------------------------------------------ copies, threads, interrupts


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_by_themselves(copied: Callable[[Any], Any]) -> None:
    one = Ones(stepspec.create("ftml", param_idx2name={0: "a"}))
    one.step()
    two = Ones(copied(one.optimizer))
    two.weights, two.states = copy.deepcopy((one.weights, one.states))
    assert one.step() == two.step()
    two.step()
    assert (one.optimizer.num_update, two.optimizer.num_update) == (2, 3)


@PATHS
def test_one_optimizer_in_two_threads_is_refused(fused: bool) -> None:
    errors: list[BaseException] = []

    def second() -> None:
        try:
            ones.step()
        except RuntimeError as error:
            errors.append(error)

    def scheduler(number: int) -> float:
        if number and threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        return 1.0

    ones = Ones(stepspec.create("sgd", learning_rate=None, lr_scheduler=scheduler), fused=fused)
    assert ones.step() == [1.0, 1.0, 1.0]
    assert "another thread is in the middle" in str(errors[0])
    assert ones.optimizer.num_update == 1


def test_two_optimizers_in_two_threads() -> None:
    trainings = [Ones(stepspec.create("nag"), count=20, size=5000) for _ in range(3)]
    threads = [threading.Thread(target=lambda t=t: [t.step() for _ in range(30)]) for t in trainings[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(30):
        trainings[2].step()
    assert len({np.concatenate(t.weights).tobytes() for t in trainings}) == 1


def test_interrupted_before_or_after_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just before a group's work; just before and just after it, where Python cannot see it yet."""
    prepared, interrupt = cpu.prepared, ctypes.pythonapi.PyErr_SetInterrupt

    def before(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def around(*arguments: Any) -> Callable[[], object]:
        actions: list[Callable[[], object]] = [interrupt, prepared(*arguments), interrupt]
        return functools.partial(deque, map(operator.call, actions), 0)

    ones = Ones(stepspec.create("sgd", momentum=0.5, learning_rate=1.0))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for interrupted, weight, count in ((before, 0.0, 0), (around, -1.0, 1)):
            monkeypatch.setattr(cpu, "prepared", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ones.step()
            assert [w[0] for w in ones.weights] == [weight] * 3
            assert ones.optimizer.num_update == count
    finally:
        signal.signal(signal.SIGINT, handler)
    monkeypatch.setattr(cpu, "prepared", prepared)
    assert ones.step() == [1.5, 1.5, 1.5]


class Twice:
    """Two tensors, one in Fortran order, to be interrupted: each as before, or stepped and counted."""

    def __init__(self, fused: bool) -> None:
        self.optimizer = stepspec.create("nag", learning_rate=1.0)
        self.weights = [np.zeros((2, 3), order="F"), np.zeros(4)]
        self.states = [self.optimizer.create_state(i, w) for i, w in enumerate(self.weights)]
        self.grads = [np.ones((2, 3)), np.ones(4)]
        self.run = self.optimizer.fused_step if fused else self.optimizer.step
        self.velocity = [0.0, 0.0]
        self.position = [0.0, 0.0]
        self.count = [0, 0]

    def step(self) -> None:
        self.run([0, 1], self.weights, self.grads, self.states)

    def check(self) -> None:
        for index, (weight, state) in enumerate(zip(self.weights, self.states, strict=True)):
            while self.count[index] < self.optimizer.update_count(index):
                self.count[index] += 1
                self.velocity[index] = 0.9 * self.velocity[index] + 1.0
                self.position[index] -= 0.9 * self.velocity[index] + 1.0
            assert np.array_equal(state["mom"], np.full(weight.shape, self.velocity[index]))
            assert np.array_equal(weight, np.full(weight.shape, self.position[index]))


# an interrupt that comes in a callback of the garbage collector is swallowed by Python, with this warning
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@PATHS
def test_interrupted_at_any_moment(fused: bool) -> None:
    """A signal at hundreds of moments from the call's begin to its end."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    twice = Twice(fused)
    twice.step()
    before = signal.signal(signal.SIGALRM, interrupt)
    caught = 0
    try:
        for moment in range(1, 600):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * moment / 2)
                twice.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
            twice.check()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught > 20


def test_interrupted_between_numbers_and_their_rows() -> None:
    """The next call does not take numbers for known that no kernel has seen."""
    for stop in itertools.count(1):
        ones = Ones(stepspec.create("sgd", learning_rate=1.0))
        assert ones.step() == [1.0, 1.0, 1.0]
        ones.optimizer.learning_rate = 0.5
        finished = _interrupted(stop, ones.step, "stepspec.inputs")
        for rate in (0.5, 1.0):
            ones.optimizer.learning_rate = rate
            assert ones.step() == [rate] * 3
        if finished:
            break
    assert stop > 10


def test_interrupted_at_any_line_of_the_reference() -> None:
    for stop in itertools.count(1):
        twice = Twice(fused=False)
        finished = _interrupted(stop, twice.step)
        twice.check()
        twice.step()  # the optimizer can still be used
        twice.check()
        if finished:
            break
    assert stop > 20


def _interrupted(stop: int, function: Callable[[], object], module: str = "stepspec") -> bool:
    """Call a function with an interrupt at one of its lines; return whether it ended before that line."""
    lines = itertools.count(1)

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if module not in frame.f_globals.get("__name__", ""):
            return None
        if event == "line" and next(lines) == stop:
            raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(previous)
    return True


def test_a_mistyped_attribute_is_refused() -> None:
    optimizer = stepspec.SGD(momentum=0.9)
    with pytest.raises(AttributeError, match="SGD has no attribute 'momentun'; did you mean 'momentum'"):
        optimizer.momentun = 0.5  # type: ignore[attr-defined]  # the mistake

    class Mine(stepspec.SGD):
        def __init__(self) -> None:
            super().__init__()
            self.extra = 1

    mine = Mine()
    mine.extra = 2
    assert mine.extra == 2


def test_warnings_point_at_the_user() -> None:
    schedule = stepspec.lr_scheduler.FactorScheduler(10, base_lr=0.5)
    for make in (stepspec.SGD, functools.partial(stepspec.create, "sgd")):
        with pytest.warns(UserWarning, match="overrides the base rate") as caught:
            make(learning_rate=0.1, lr_scheduler=schedule)
        assert caught[0].filename == __file__


def test_plan_tells_what_a_step_does() -> None:
    optimizer = stepspec.LARS(momentum=0.9, aggregate_num=2, param_idx2name={0: "a", 1: "b_bias", 2: "c"})
    weights = [np.ones((300, 100), np.float32), np.ones(10, np.float32), np.ones((7, 8), np.float32, "F")]
    grads: list[Any] = [np.ones((300, 100), np.float32), np.ones(10, np.float32)]
    grads.append(stepspec.RowSparse(np.ones((2, 8), np.float32), [0, 3], (7, 8)))
    states = [optimizer.create_state(i, w) for i, w in enumerate(weights)]
    plan = optimizer.plan([0, 1, 2], weights, grads, states)
    assert [group.tensors for group in plan.groups] == [2, 1]
    assert [(launch.kernel, launch.tensors, launch.elements) for launch in plan.groups[0].launches] == [
        ("reduce", 1, 30000),
        ("combine", 1, 0),
        ("update_mom_adapt", 1, 30000),
        ("update_mom", 1, 10),
    ]
    # reduce reads weight and gradient; the update reads three arrays and writes two
    assert [launch.bytes for launch in plan.groups[0].launches] == [240_000, 0, 600_000, 200]
    assert plan.copied == ("'c' (index 2)",)
    assert plan.scattered == ("'c' (index 2)",)
    assert (plan.lazy, plan.frozen) == ((), ())
    assert "copied each step, not C-contiguous: 'c' (index 2)" in str(plan)
    assert f"{plan.bytes:,} bytes" in str(plan)
    assert all((w == 1).all() for w in weights)
    assert optimizer.num_update == 0
    grads[0] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="gradient of 'a'"):
        optimizer.plan([0, 1, 2], weights, grads, states)


def test_plan_is_honest_and_leaves_no_trace() -> None:
    class Mine(stepspec.SGD):
        def fused_step(self, *arguments: Any) -> None:
            super().fused_step(*arguments)

    weight = np.ones((5, 4), np.float32)
    for optimizer in (stepspec.SGD(), Mine()):
        plan = optimizer.plan([3], [weight], [np.ones((5, 4), np.float32, "F")], [{}])
        assert (plan.copied, plan.copied_gradients) == ((), ("tensor 3",))
        assert "gradients copied, not C-contiguous: tensor 3" in str(plan)
        optimizer.momentum = 0.9  # there are no states yet


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lr", {"learning_rate": 1e39}),
        ("lr", {"learning_rate": 3.4028235677973366e38}),
        ("wd", {"wd": 1e40}),
        ("rescale_grad", {"rescale_grad": -1e40}),
    ],
)
def test_numbers_that_float32_cannot_hold(name: str, options: dict[str, Any], fused: bool) -> None:
    """They would make every weight infinite or NaN; float64 holds them."""
    optimizer = stepspec.SGD(use_fused_step=fused, param_idx2name={1: "table"}, **options)
    wide, weight = np.ones(3), np.ones(3, np.float32)
    with pytest.raises(ValueError, match=f"'table'.*float32, where {name} = .* is infinite"):
        optimizer.update([0, 1], [wide, weight], [wide.copy(), weight.copy()], [{}, {}])
    assert (wide == 1).all()
    assert (weight == 1).all()
    optimizer.update([0], [wide], [wide.copy()], [{}])
    stepspec.SGD(learning_rate=3.4e38).update([0], [weight], [weight * 0], [{}])


def test_a_refused_call_fixes_no_hyperparameter() -> None:
    for fused in (False, True):
        optimizer = stepspec.SGD(
            learning_rate=None, lr_scheduler=lambda count: math.nan, use_fused_step=fused
        )
        weight = np.ones(3, np.float32)
        with pytest.raises(ValueError, match="NaN"):
            optimizer.update([0], [weight], [weight.copy()], [{}])
        optimizer.momentum = 0.9


def test_copies_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = stepspec.SGD(param_idx2name={0: "w"})
    weight, grad = np.ones((5, 4), np.float32, "F"), np.ones((5, 4), np.float32, "F")
    with caplog.at_level("INFO", "stepspec"):
        for _ in range(3):
            optimizer.update([0], [weight], [grad], [{}])
    found = [record.getMessage() for record in caplog.records if "contiguous" in record.getMessage()]
    assert found == [
        "an array of 'w' (index 0) is not C-contiguous: every step copies it",
        "the gradient of 'w' (index 0) is not C-contiguous: such gradients are copied",
    ]


@PATHS
def test_a_call_about_no_tensors_does_no_harm(fused: bool) -> None:
    ones = Ones(stepspec.SGD(learning_rate=0.5, use_fused_step=fused))
    for _ in range(2):
        ones.optimizer.update([], [], [], [])
    assert ones.optimizer.num_update == 0
    ones.optimizer.update(ones.indices, ones.weights, [np.ones(2) for _ in ones.indices], ones.states)
    assert all((weight == -0.5).all() for weight in ones.weights)
