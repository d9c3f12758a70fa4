"""The proof that rows without gradient stay as they are: what it finds, and that it never finds too much."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fragments import module, optimizer_class, rule, spec
from random_rules import VALUES, random_spec

import stepspec
from stepspec.generator import language, signs
from stepspec.generator.analysis import compile_variants
from stepspec.generator.errors import SpecError
from stepspec.generator.lazy import lazy_is_exact, lazy_verdicts
from stepspec.generator.parse import Rule, parse
from stepspec.generator.printer import Printer
from stepspec.generator.reader import load
from stepspec.rates import Rate

SPECS = Path(__file__).parent.parent / "specs"
HISTORY = "h: {per: element}"
EPSILON = 'epsilon: {default: 1e-8, range: "[0, inf)"}'
OPEN = 'b: {default: 1, range: "(0, inf)"}'
CLOSED = 'b: {default: 1, range: "[1e-60, 2]"}'
SWAPPED = "h: {init: 1}\nv: {per: element}"
SIGNED = 'b: {default: 1, range: "[-1, 1]"}'


def verdicts(found: Rule) -> list[str]:
    """Return the condition of every variant as text."""
    return [Printer().text(verdict) for verdict in lazy_verdicts(found, compile_variants(found))]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("sgd", ["wd == 0", "False"]),
        ("nag", ["wd == 0", "False"]),
        ("group_adagrad", ["epsilon > 0"]),
        ("ftml", ["False"]),
        ("lars", ["wd == 0", "False", "False", "False"]),
    ],
)
def test_verdicts_of_specs(name: str, texts: list[str]) -> None:
    assert verdicts(parse(load(SPECS / f"{name}.yaml"))) == texts


@pytest.mark.parametrize(
    ("update", "declared", "text"),
    [
        ("weight -= lr * grad", {}, "True"),
        ("weight -= lr * sign(grad) + wd * epsilon * weight", {"hyperparameters": EPSILON}, "wd == 0"),
        ("weight -= lr * mean(grad, per=row) * grad", {}, "True"),
        ("h += square(grad)\nweight -= lr * grad / (sqrt(h) + 1)", {"state": HISTORY}, "True"),
        ("h += abs(grad)\nweight -= lr * grad / sqrt(h + 0.5)", {"state": HISTORY}, "True"),
        ("h = maximum(h, abs(grad))\nweight -= lr * grad / (h + t)", {"state": HISTORY}, "True"),
        ("h += square(grad)\nweight -= lr * grad / maximum(h, 0.5)", {"state": HISTORY}, "True"),
        ("h += square(grad)\nweight -= lr * grad / h ** 0.5", {"state": "h: {init: 0.5}"}, "False"),
        ("n = norm(grad, per=row)\nweight -= lr * (grad / n if n > 0 else 0)", {}, "True"),
        ("h = 0.9 * h + grad if grad != 0 else h\nweight -= grad * h", {"state": HISTORY}, "True"),
        ("weight -= lr * exp(grad) * tanh(grad)", {}, "True"),
        ("weight -= grad / lr", {}, "lr > 0"),
        ("weight -= grad / wd", {}, "wd > 0"),
        ("weight -= grad / clip_gradient", {}, "False"),
        # nothing changes, but the kernels read the whole tensor
        ("weight -= grad if sum(weight) > 0 else 2 * grad", {}, "False"),
        ("weight -= grad / b", {"hyperparameters": OPEN}, "b > 0"),
        ("weight -= grad / b + wd * weight", {"hyperparameters": OPEN}, "wd == 0 and b > 0"),
        ("weight -= grad / b", {"hyperparameters": 'b: {default: 1, range: "[0.5, 2]"}'}, "True"),
        ("h += grad\nweight -= lr * h", {"state": HISTORY}, "False"),
        # bias correction: the state fades without gradients
        ("h = 0.9 * h + grad\nweight -= lr * grad * h", {"state": HISTORY}, "False"),
        ("v = weight\nweight -= lr * grad * v", {"state": "v: {init: weight}"}, "False"),
        ("weight -= lr * grad * normal()", {}, "True"),
        ("weight -= lr * grad + sqrt(lr) * normal()", {}, "False"),
        ("h += square(grad)\nweight -= lr * grad / (h + abs(normal()))", {"state": HISTORY}, "False"),
        ("weight -= grad + epsilon * normal()", {"hyperparameters": EPSILON}, "epsilon == 0"),
        ("h = 0.9 * h + normal()\nweight -= lr * grad * h", {"state": HISTORY}, "False"),
    ],
)
def test_verdict(update: str, declared: dict[str, str], text: str) -> None:
    assert verdicts(rule(update, **declared)) == [text]


ATTACKS: list[tuple[str, dict[str, str], dict[str, float]]] = [
    # a divisor that can be 0, or NaN, or negative
    ("h += grad\nweight -= lr * grad / (h + 1)", {"state": HISTORY}, {}),
    ("h += grad\nweight -= lr * grad / (sqrt(h) + 1)", {"state": HISTORY}, {}),
    ("h += square(grad)\nweight -= lr * grad / h", {"state": HISTORY}, {}),
    ("weight -= lr * grad / (abs(weight) + epsilon)", {"hyperparameters": EPSILON}, {"epsilon": 0.0}),
    ("weight -= lr * grad / log(abs(weight) + 1)", {}, {}),
    # positive as it is written, 0 in float32
    ("weight -= lr * grad / (abs(weight) + epsilon)", {"hyperparameters": EPSILON}, {"epsilon": 1e-46}),
    ("weight -= lr * grad / (abs(weight) + b)", {"hyperparameters": OPEN}, {"b": 1e-46}),
    ("weight -= grad / (abs(weight) + lr)", {}, {"learning_rate": 1e-46}),
    ("weight -= lr * grad / (abs(weight) + 1e-50)", {}, {}),
    ("weight -= lr * grad / (abs(weight) + b)", {"hyperparameters": CLOSED}, {"b": 1e-60}),
    # products that underflow
    ("weight -= lr * grad / (abs(weight) + b * b)", {"hyperparameters": OPEN}, {"b": 1e-30}),
    ("weight -= lr * grad / (abs(weight) + square(b + 0 * weight))", {"hyperparameters": OPEN}, {"b": 1e-30}),
    ("weight -= lr * grad / (abs(weight) + 1e-30 / (t + 1e30))", {}, {}),
    ("weight -= lr * grad / (abs(weight) + exp(-1000 + grad))", {}, {}),
    # a sum whose parts cancel
    ("weight -= lr * grad / (b - 0.5 + weight)", {"hyperparameters": OPEN}, {"b": 0.5}),
    ("weight -= lr * grad / (1 - tanh(100 + grad))", {}, {}),
    # NaN from finite weights, and infinity from a bound that is off
    ("weight -= lr * grad * sqrt(weight)", {}, {}),
    ("weight -= lr * grad * log(weight)", {}, {}),
    ("weight -= lr * grad * clip_gradient", {}, {}),
    ("weight -= lr * grad * b", {"hyperparameters": "b: {default: .inf}"}, {}),
    ("weight -= minimum(grad, sqrt(weight))", {}, {}),
    ("weight -= lr * grad * b ** t", {"hyperparameters": "b: {default: .inf}"}, {}),
    ("weight -= maximum(grad, -sqrt(weight))", {}, {}),
    ("weight -= lr * grad * norm(sqrt(weight), per=row)", {}, {}),
    # zeros that are none
    ("weight -= lr * clip(grad, b)", {"hyperparameters": SIGNED}, {"b": -1.0}),
    ("weight -= lr * clip(grad, 0.5, 2)", {}, {}),
    ("weight -= lr * clip(grad, -2, -0.5)", {}, {}),
    ("weight -= lr * maximum(grad, 0.5)", {}, {}),
    ("weight -= lr * exp(grad)", {}, {}),
    ("weight -= lr * (1 if grad >= 0 else grad)", {}, {}),
    ("weight -= lr * (1 if weight >= 0 else grad)", {}, {}),
    # a number that is 0 in float32, in a formula of the host that is not
    ("weight -= wd * 1e30 * weight + grad", {}, {"wd": 1e-46}),
    ("weight -= wd / lr * weight + grad", {}, {"wd": 1e-46, "learning_rate": 1e-30}),
    # arrays that change places, or take what another row has
    ("h = maximum(h, 0 - abs(grad))\nweight -= lr * grad * h", {"state": "h: {init: -1}"}, {}),
    ("h = minimum(h, abs(grad))\nweight -= lr * grad * h", {"state": "h: {init: 1}"}, {}),
    (
        "u = h\nh = v + abs(grad)\nv = u\nweight -= lr * h * grad * v",
        {"state": "h: {init: 1}\nv: {per: element}"},
        {},
    ),
    ("h = max(h, per=row)\nweight -= grad * h", {"state": "h: {init: weight}"}, {}),
    ("weight -= lr * mean(grad) + grad", {}, {}),
    ("weight -= lr * mean(grad, per=column) + grad", {}, {}),
    ("weight = norm(weight, per=row) * sign(weight) + 0 * grad", {}, {}),
    ("weight = 0 * grad + lr", {}, {}),
]


@pytest.mark.parametrize(("update", "declared", "numbers"), ATTACKS)
def test_attack(update: str, declared: dict[str, str], numbers: dict[str, float]) -> None:
    """Each rule changes a row without gradient; a proof that says otherwise is wrong."""
    optimizer = optimizer_class(module(spec(update, **declared)))(**numbers)
    weight = np.array([[0.0, -2.0], [3.0, 0.5], [-1.0, -0.0]], np.float32)
    state = optimizer.create_state(0, weight)
    before = {name: array.copy() for name, array in {"weight": weight, **state}.items()}
    optimizer.step([0], [weight], [np.array([[-1, -1], [0, 0], [0, 0]], np.float32)], [state])
    after = {"weight": weight, **state}
    if all(np.array_equal(after[name][1:], before[name][1:]) for name in before):
        # the first step had to make a state that the second one trips over
        optimizer.step([0], [weight], [np.zeros_like(weight)], [state])
    assert not all(np.array_equal(after[name], before[name]) for name in before)
    assert not is_exact(optimizer, np.float32)


def is_exact(optimizer: Any, dtype: Any) -> bool:
    """Return what the generated method says of a tensor without multipliers."""
    return bool(optimizer._lazy_is_exact(Rate(optimizer.learning_rate, optimizer.wd, 1), {}, 2, dtype))


def test_conditions_are_decided_in_the_compute_dtype() -> None:
    optimizer = stepspec.GroupAdaGrad(epsilon=1e-46)
    assert not is_exact(optimizer, np.float32)
    assert is_exact(optimizer, np.float64)
    optimizer.epsilon = 1e-8
    assert is_exact(optimizer, np.float32)


def test_a_switch_that_flips_between_steps() -> None:
    """What one variant does to a state counts for the others, too."""
    update = "h = h + grad if signed else h + square(grad)\nweight -= lr * grad / (sqrt(h) + 1)"
    assert verdicts(rule(update, "signed: {default: true}", HISTORY)) == ["False", "False"]
    update = update.replace("h + grad if", "h + abs(grad) if")
    assert verdicts(rule(update, "signed: {default: true}", HISTORY)) == ["True", "True"]


def test_no_condition_contradicts_a_variant() -> None:
    momentum = 'momentum: {default: 0.9, range: "[0, 1)"}'
    update = "mom = mom + grad\nweight -= lr * grad + momentum * mom"
    assert verdicts(rule(update, momentum, "mom: {when: momentum > 0}")) == ["True", "False"]
    assert verdicts(rule(update, momentum, "mom: {per: element}")) == ["momentum == 0"]


FLAGS = "a: {default: true}\nb: {default: true}"


@pytest.mark.parametrize(
    ("update", "declared", "condition"),
    [
        ("weight -= lr * grad", {}, "True"),
        ("weight -= lr * weight", {}, "False"),
        ("weight -= lr * grad * (2 if a else 1) * (3 if b else 1)", {"tensors": FLAGS}, "True"),
        ("weight -= lr * (grad if a else weight) * (2 if b else 1)", {"tensors": FLAGS}, "a"),
        ("weight -= lr * (2 if a else 1) * (grad if b else weight)", {"tensors": FLAGS}, "b"),
        ("weight -= lr * (weight if a else grad) * (2 if b else 1)", {"tensors": FLAGS}, "not a"),
        ("weight -= lr * (grad if a or b else weight)", {"tensors": FLAGS}, "a or b"),
        ("weight -= lr * (grad if a and not b else weight)", {"tensors": FLAGS}, "a and not b"),
        ("weight -= lr * (grad if a else wd * weight) * (2 if b else 1)", {"tensors": FLAGS}, "a or wd == 0"),
        (
            "weight -= wd * weight if a else grad / b",
            {"tensors": "a: {default: true}", "hyperparameters": OPEN},
            "wd == 0 if a else b > 0",
        ),
    ],
)
def test_condition_of_all_variants(update: str, declared: dict[str, str], condition: str) -> None:
    found = rule(update, **declared)
    assert Printer().text(lazy_is_exact(found, compile_variants(found))) == condition


SIGNATURE = "def _lazy_is_exact(self, p: Rate, flags: Mapping[str, bool], ndim: int, dtype: Any) -> bool:"


@pytest.mark.parametrize(
    ("update", "declared", "method"),
    [
        ("weight -= lr * weight", {}, None),
        ("weight -= lr * grad", {}, "return True"),
        ("weight -= lr * grad + wd * weight", {}, "return p.wd == 0"),
        ("weight -= grad / lr", {}, "return bool(dtype(p.lr) > 0)"),
        ("weight -= grad / b", {"hyperparameters": OPEN}, "return bool(dtype(self.b) > 0)"),
        (
            "weight -= wd * weight if ndim > 1 else grad / b",
            {"hyperparameters": OPEN},
            "return bool(p.wd == 0 if ndim > 1 else dtype(self.b) > 0)",
        ),
        (
            "weight -= wd * weight + grad if nesterov else grad",
            {"hyperparameters": "nesterov: {default: true}"},
            "return not self.nesterov or p.wd == 0",
        ),
    ],
)
def test_emitted_method(update: str, declared: dict[str, str], method: str | None) -> None:
    text = module(spec(update, **declared))
    signature = (
        "    def _lazy_is_exact(self, p: Rate, flags: Mapping[str, bool], ndim: int, dtype: Any) -> bool:\n"
    )
    if method is None:
        assert "_lazy_is_exact" not in text
        assert "Rate" not in text
    else:
        assert f"{signature}        {method}\n\n    def create_state" in text
    compile(text, "x.py", "exec")


def test_every_function_has_its_law() -> None:
    assert set(signs.FUNCTIONS) == set(language.FUNCTIONS)


def test_functions_keep_zeros() -> None:
    """What the laws say of 0 holds to the bit."""
    from stepspec import reference

    zeros = np.array([0.0, -0.0], np.float32)
    for name in ("sqrt", "abs", "square", "sign", "tanh"):
        assert signs.FUNCTIONS[name](signs.ZERO).is_zero
        function: Any = np.abs if name == "abs" else getattr(reference, name)
        assert not function(zeros).any()


@pytest.mark.parametrize("seed", range(60))
def test_random_rules(seed: int) -> None:
    """Wherever the proof holds, rows without gradient stay as they are: equal, but for the sign of zero."""
    chance = random.Random(seed)
    checked = 0
    for _ in range(3):
        checked += _attack_at_random(chance)


def _attack_at_random(chance: random.Random) -> int:
    try:
        text = module(random_spec(chance))
    except SpecError:
        return 0
    if "_lazy_is_exact" not in text:
        return 0
    # overflow is not part of the promise
    cls = optimizer_class(text.replace('all="ignore"', 'divide="ignore", invalid="ignore", over="raise"'))
    return sum(_stays(cls, chance) for _ in range(4))


def _stays(cls: Any, chance: random.Random) -> bool:
    """Take four steps with random numbers; tell whether something was proven and could be seen."""
    numbers = {name: chance.choice(VALUES[name]) for name in VALUES if hasattr(cls, name)}
    numbers |= {"wd": chance.choice([0.0, 0.0, 1e-46, 0.1])} if cls.uses_wd else {}
    numbers |= {"learning_rate": chance.choice([0.1, 1.0, 1e-46, 0.0])}
    numbers |= {"rescale_grad": chance.choice([1.0, -0.5, 0.0, 1e-46])}
    optimizer = cls(clip_gradient=chance.choice([None, 1e-46, 1.0]), **numbers)
    dtype: Any = chance.choice([np.float32, np.float32, np.float64])
    if not is_exact(optimizer, dtype):
        return False
    noise = np.random.default_rng(chance.randrange(1 << 30))
    weight = noise.choice([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-20, 0.5, -2.0], (6, 3)).astype(dtype)
    state = optimizer.create_state(0, weight)
    arrays = {"weight": weight, **state}
    try:
        for _ in range(3):
            grad = noise.choice([0.0, 1.0, -1.0, 1e-25, -0.3, -1e-40], (6, 3)).astype(dtype)
            optimizer.step([0], [weight], [grad], [state])
        before = {name: array.copy() for name, array in arrays.items()}
        grad = noise.standard_normal((6, 3)).astype(dtype)
        grad[::2] = 0
        optimizer.step([0], [weight], [grad], [state])
    except (ArithmeticError, ValueError):
        return False
    rows = [row for row in range(0, 6, 2) if all(np.isfinite(array[row]).all() for array in before.values())]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array[rows], before[name][rows], f"{cls.rule}\n{numbers}")
    return bool(rows)
