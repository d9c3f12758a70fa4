"""Bad calls: each is refused with its reason; weights, states, gradients and counts stay as they were."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import stepspec

NAMES = {0: "fc1_weight", 1: "fc1_bias"}


class Units(np.ndarray):
    """A subclass of NumPy's array whose operators may mean something else."""


@dataclass
class Case:
    """A good call of two named tensors and one without a name, for a case to spoil."""

    name: str = "nag"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(3)
        shapes = ((4, 3), (3,), (2, 2, 2))
        self.optimizer = stepspec.create(self.name, param_idx2name=NAMES, **self.options)
        self.indices: Any = [0, 1, 2]
        self.weights: Any = [random.standard_normal(s).astype(np.float32) for s in shapes]
        self.grads: Any = [random.standard_normal(s).astype(np.float32) for s in shapes]
        self.states: Any = [
            self.optimizer.create_state(i, w) for i, w in zip(self.indices, self.weights, strict=True)
        ]
        self.memory: list[Any] = []
        self.step = self.optimizer.fused_step

    def call(self) -> None:
        self.step(self.indices, self.weights, self.grads, self.states)

    def bytes(self) -> list[bytes]:
        """All memory that the call could reach, and the counts."""
        groups = [self.weights, self.grads, self.memory, [self.optimizer.num_update]]
        groups += [[self.optimizer.update_count(i) for i in range(3)]]
        states = self.states if isinstance(self.states, (list, tuple)) else [self.states]
        groups += [list(state.values()) for state in states if isinstance(state, dict)]
        return [_bytes(item) for group in groups for item in (group if isinstance(group, list) else [group])]


def _bytes(item: Any) -> bytes:
    return np.ascontiguousarray(item).tobytes() if isinstance(item, np.ndarray) else repr(item).encode()


def weight(number: int, value: Callable[[Any], Any]) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        case.weights[number] = value(case.weights[number])

    return spoil


def grad(number: int, value: Callable[[Any], Any]) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        case.grads[number] = value(case.grads[number])

    return spoil


def mom(number: int, value: Callable[[Any], Any]) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        case.states[number]["mom"] = value(case.states[number]["mom"])

    return spoil


def put(**lists: Any) -> Callable[[Case], None]:
    def spoil(case: Case) -> None:
        for name, value in lists.items():
            setattr(case, name, value)

    return spoil


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def foreign(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder())


def bare_weight(case: Case) -> None:
    case.indices, case.weights, case.grads, case.states = (
        [1],
        case.weights[1],
        [case.grads[1]],
        [case.states[1]],
    )


def bare_grad(case: Case) -> None:
    case.grads = case.grads[0]


def bare_state(case: Case) -> None:
    case.states = case.states[0]


def no_mom(case: Case) -> None:
    del case.states[1]["mom"]


def extra_state(case: Case) -> None:
    case.states[0]["velocity"] = np.zeros((4, 3), np.float32)


def renamed_state(case: Case) -> None:
    case.states[0]["momentum"] = case.states[0].pop("mom")


def state_list(case: Case) -> None:
    case.states[2] = list(case.states[2].values())


def state_none(case: Case) -> None:
    case.states[0] = None


def one_weight_twice(case: Case) -> None:
    case.weights[1], case.grads[1] = case.weights[0], case.grads[0]
    case.states[1] = case.optimizer.create_state(1, case.weights[0])


def one_state_twice(case: Case) -> None:
    case.weights[1] = case.weights[0].copy()
    case.grads[1], case.states[1] = case.grads[0], case.states[0]


def overlapping_views(case: Case) -> None:
    memory = np.zeros(30, np.float32)
    case.memory = [memory]
    case.weights[0], case.weights[1] = memory[:12].reshape(4, 3), memory[11:14]


def weight_over_state(case: Case) -> None:
    case.weights[1] = case.states[0]["mom"][0]


def crossing_columns(case: Case) -> None:
    memory = np.zeros((4, 6), np.float32)
    case.memory = [memory]
    case.weights[0], case.states[0]["mom"] = memory[:, 0:3], memory[:, 2:5]


def grad_is_weight(case: Case) -> None:
    case.grads[1] = case.weights[1]


def grad_over_state(case: Case) -> None:
    case.grads[1] = case.states[0]["mom"][1]


def grad_over_other_weight(case: Case) -> None:
    memory = np.zeros(20, np.float32)
    case.memory = [memory]
    case.weights[0], case.grads[1] = memory[:12].reshape(4, 3), memory[10:13]


def negative_rate(case: Case) -> None:
    case.optimizer.lr_scheduler = lambda n: -0.1


def nan_rate(case: Case) -> None:
    case.optimizer.lr_scheduler = lambda n: float("nan")


def infinite_rate(case: Case) -> None:
    case.optimizer.set_learning_rate(1e300)
    case.optimizer.set_lr_mult({"fc1_bias": 1e300})


def bad_multiplier(case: Case) -> None:
    case.optimizer.param_dict = {1: type("Parameter", (), {"lr_mult": -1.0})}


BAD: tuple[tuple[str, Callable[[Case], None], type[Exception], str], ...] = (
    (
        "list_for_weight",
        weight(0, lambda w: w.tolist()),
        TypeError,
        r"weight of 'fc1_weight' \(index 0\).*np.asarray",
    ),
    ("masked_weight", weight(0, np.ma.masked_array), TypeError, r"weight of 'fc1_weight'.*filled"),
    ("masked_grad", grad(1, np.ma.masked_array), TypeError, r"gradient of 'fc1_bias' \(index 1\)"),
    ("subclass", weight(0, lambda w: w.view(Units)), TypeError, "Units; convert it with np.asarray"),
    ("scalar_weight", weight(1, lambda w: np.float32(1)), TypeError, "weight of 'fc1_bias'"),
    ("no_grad", grad(2, lambda g: None), TypeError, "gradient of tensor 2 is None"),
    ("integer_weight", weight(0, lambda w: w.astype(np.int32)), TypeError, "int32.*float32 and float64"),
    ("complex_weight", weight(1, lambda w: w.astype(np.complex64)), TypeError, "complex64"),
    ("object_weight", weight(1, lambda w: w.astype(object)), TypeError, "dtype object"),
    ("foreign_weight", weight(0, foreign), TypeError, "foreign byte order"),
    ("foreign_grad", grad(0, foreign), TypeError, "gradient of 'fc1_weight'.*foreign byte order"),
    ("foreign_state", mom(0, foreign), TypeError, "state 'mom' of 'fc1_weight'.*foreign byte order"),
    ("wide_grad", grad(1, np.float64), TypeError, "gradient of 'fc1_bias'.*float64, its weight only float32"),
    ("narrow_grad", weight(1, lambda w: w.astype(np.float64)), TypeError, "float32, expected float64"),
    ("integer_grad", grad(0, lambda g: g.astype(np.int64)), TypeError, "gradient of 'fc1_weight'.*int64"),
    ("wide_state", mom(2, lambda m: m.astype(np.float64)), TypeError, "state 'mom' of tensor 2.*float64"),
    ("state_is_list", mom(1, lambda m: m.tolist()), TypeError, "state 'mom' of 'fc1_bias'.*must be a numpy"),
    (
        "grad_shape",
        grad(0, lambda g: g.T),
        ValueError,
        r"gradient of 'fc1_weight'.*\(3, 4\), expected \(4, 3\)",
    ),
    ("grad_flat", grad(2, np.ravel), ValueError, r"gradient of tensor 2 has shape \(8,\)"),
    ("grad_broadcasts", grad(0, lambda g: g[:1]), ValueError, r"\(1, 3\), expected \(4, 3\)"),
    ("state_shape", mom(0, lambda m: m[:2]), ValueError, r"state 'mom' of 'fc1_weight'.*\(2, 3\)"),
    ("read_only_weight", weight(1, frozen), ValueError, "weight of 'fc1_bias'.*read-only"),
    ("read_only_state", mom(0, frozen), ValueError, "state 'mom' of 'fc1_weight'.*read-only"),
    ("no_state", no_mom, ValueError, r"'fc1_bias' \(index 1\) lacks 'mom'.*create_state\(1, weight\)"),
    ("extra_state", extra_state, ValueError, "holds 'velocity', where only 'mom'"),
    ("renamed_state", renamed_state, ValueError, "lacks 'mom'"),
    ("list_for_state", state_list, TypeError, "state of tensor 2 must be a dict, not list"),
    ("none_for_state", state_none, TypeError, "state of 'fc1_weight'.*must be a dict"),
    ("bare_index", put(indices=0), TypeError, "indices must be a list"),
    ("bare_weight", bare_weight, TypeError, "weights must be a list.*not ndarray"),
    ("bare_grad", bare_grad, TypeError, "grads must be a list"),
    ("bare_state", bare_state, TypeError, "states must be a list.*not dict"),
    ("generator", put(indices=(i for i in range(3))), TypeError, "indices must be a list.*generator"),
    ("few_indices", put(indices=[0, 1]), ValueError, "2 indices, 3 weights, 3 grads, 3 states"),
    ("few_grads", put(grads=[]), ValueError, "3 weights, 0 grads"),
    ("bool_index", put(indices=[0, True, 2]), TypeError, "index must be an int, not True"),
    ("float_index", put(indices=[0, 1.0, 2]), TypeError, "index must be an int, not 1.0"),
    (
        "name_for_index",
        put(indices=["fc1_weight", 1, 2]),
        TypeError,
        "index must be an int, not 'fc1_weight'",
    ),
    ("unhashable_index", put(indices=[[0], 1, 2]), TypeError, "index must be an int"),
    ("negative_index", put(indices=[0, -1, 2]), ValueError, "must not be negative: -1"),
    ("index_twice", put(indices=[0, 1, 0]), ValueError, r"'fc1_weight' \(index 0\) is given 2 times"),
    ("weight_twice", one_weight_twice, ValueError, "'fc1_weight'.*'fc1_bias'.*same array"),
    ("state_twice", one_state_twice, ValueError, "state 'mom' of 'fc1_weight'.*'fc1_bias'.*same array"),
    ("views_overlap", overlapping_views, ValueError, "'fc1_weight'.*'fc1_bias'.*overlap"),
    ("weight_over_state", weight_over_state, ValueError, "weight of 'fc1_bias'.*overlap"),
    ("columns_overlap", crossing_columns, ValueError, "weight of 'fc1_weight'.*state 'mom'.*overlap"),
    (
        "grad_is_weight",
        grad_is_weight,
        ValueError,
        "weight of 'fc1_bias'.*gradient of 'fc1_bias'.*same array",
    ),
    ("grad_over_state", grad_over_state, ValueError, "state 'mom' of 'fc1_weight'.*gradient of 'fc1_bias'"),
    ("grad_over_weight", grad_over_other_weight, ValueError, "'fc1_weight'.*gradient of 'fc1_bias'.*overlap"),
    (
        "broadcast_weight",
        weight(0, lambda w: as_strided(w, strides=(0, 4))),
        ValueError,
        "'fc1_weight'.*overlaps itself",
    ),
    (
        "sliding_state",
        mom(0, lambda m: as_strided(m, strides=(4, 4))),
        ValueError,
        "state 'mom'.*overlaps itself",
    ),
    ("negative_rate", negative_rate, ValueError, r"lr_scheduler's rate for update \d .*not -0.1"),
    ("nan_rate", nan_rate, ValueError, "must not be NaN"),
    ("infinite_rate", infinite_rate, ValueError, "'fc1_bias'.*not finite: lr = inf"),
    ("bad_multiplier", bad_multiplier, ValueError, r"param_dict\[1\].lr_mult = -1.0"),
)


@pytest.mark.parametrize("known", [False, True], ids=["first", "planned"])
@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
@pytest.mark.parametrize(("spoil", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_refused_and_untouched(
    spoil: Callable[[Case], None], error: type[Exception], message: str, fused: bool, known: bool
) -> None:
    case = Case()
    case.step = case.optimizer.fused_step if fused else case.optimizer.step
    if known:
        case.call()
    spoil(case)
    before = case.bytes()
    with pytest.raises(error, match=message):
        case.call()
    assert case.bytes() == before


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_a_refused_call_does_not_spoil_the_next(fused: bool) -> None:
    case, twin = Case(), Case()
    case.step = case.optimizer.fused_step if fused else case.optimizer.step
    case.call()
    good = case.grads
    case.grads = [good[0], good[1], good[2].astype(np.float64)]
    with pytest.raises(TypeError, match="tensor 2"):
        case.call()
    case.grads = good
    case.call()
    twin.call()
    twin.call()
    assert case.bytes() == twin.bytes()


@pytest.mark.parametrize("index", [-1, -2])
def test_a_negative_index_is_not_taken_for_a_very_large_one(index: int) -> None:
    case = Case()
    case.indices = [0, 1 << 63, 2]
    case.call()
    case.indices = [0, index, 2]
    with pytest.raises(ValueError, match=f"must not be negative: {index}"):
        case.call()


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_weight_decay_of_a_rule_without(fused: bool) -> None:
    case = Case("groupadagrad", {"wd": 0.1})
    case.step = case.optimizer.fused_step if fused else case.optimizer.step
    before = case.bytes()
    with pytest.raises(
        ValueError, match=r"'fc1_weight' \(index 0\): GroupAdaGrad has no weight decay.*wd_mult"
    ):
        case.call()
    assert case.bytes() == before
    case.optimizer.set_wd_mult({0: 0, "fc1_bias": 0, 2: 0})
    case.call()
    assert case.optimizer.num_update == 1


@pytest.mark.parametrize("fused", [False, True], ids=["step", "fused"])
def test_a_host_scalar_that_cannot_be_computed(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("ftml")
    host = {**stepspec.FTML.host, "one_minus_beta2_pow_t": lambda self, p: 1 / (p.t - 2)}
    monkeypatch.setattr(stepspec.FTML, "host", host)
    case.step = case.optimizer.fused_step if fused else case.optimizer.step
    case.call()
    before = case.bytes()
    with pytest.raises(
        ValueError, match=r"'fc1_weight' \(index 0\): the scalar 'one_minus_beta2_pow_t'.*division"
    ):
        case.call()
    assert case.bytes() == before


def test_create_state_checks_index_and_weight() -> None:
    optimizer = stepspec.create("sgd", momentum=0.9, param_idx2name=NAMES)
    with pytest.raises(TypeError, match=r"'fc1_weight'.*int32"):
        optimizer.create_state(0, np.zeros(3, np.int32))
    with pytest.raises(TypeError, match=r"must be a numpy\.ndarray, not list"):
        optimizer.create_state(1, [1.0])  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="negative"):
        optimizer.create_state(-1, np.zeros(3))
