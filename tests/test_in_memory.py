"""`stepspec.compile`: optimizer classes made of a spec's text at run time."""

import gc
import inspect
import linecache
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import traceback
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SPECS
from device_training import train_on_device
from emulated_driver import EmulatedDriver
from training import assert_same_bits, random_tensors, train

import stepspec
from stepspec import in_memory
from stepspec.compilation import _Inner
from stepspec.cuda.driver import use
from stepspec.cuda.passes import passes
from stepspec.formats import Formats
from stepspec.generator.errors import SpecError
from stepspec.optimizer import Optimizer

LION = """\
name: Lion
summary: Evolved sign momentum.
hyperparameters:
  learning_rate: {default: 1e-4}
  beta1: {default: 0.9, range: "[0, 1)"}
  beta2: {default: 0.99, range: "[0, 1)"}
state:
  m: {per: element}
update: |
  g = clip(rescale_grad * grad, clip_gradient)
  c = beta1 * m + (1 - beta1) * g
  weight -= lr * (sign(c) + wd * weight)
  m = beta2 * m + (1 - beta2) * g
"""
SHORT = """\
name: X
summary: Gradient descent.
hyperparameters:
  learning_rate: {default: 0.1}
update: |
  weight -= lr * grad
"""


def trained(optimizer: Any, fused: bool = True) -> bytes:
    """Return the weight and the state after two steps."""
    weight = np.linspace(-1, 1, 5000, dtype=np.float32)
    state = optimizer.create_state(0, weight)
    for factor in (1, -3):
        gradient = np.cos(weight) * np.float32(factor)
        (optimizer.fused_step if fused else optimizer.step)([0], [weight], [gradient], [state])
    return weight.tobytes() + b"".join(array.tobytes() for array in state.values())


def hand_over(optimizer: Any, results: Any) -> None:
    results.put(trained(optimizer))


def other(text: str = LION) -> str:
    """Return a text that no other test compiles."""
    other.count += 1  # type: ignore[attr-defined]  # functions can hold what they like
    return text.replace("summary: ", f"summary: {other.count} ")  # type: ignore[attr-defined]  # as above


other.count = 0  # type: ignore[attr-defined]  # as above


def test_both_paths_give_the_same_bits() -> None:
    lion = stepspec.compile(LION)
    assert lion.__name__ == "Lion"
    assert lion.__doc__.startswith("Evolved sign momentum.")  # type: ignore[union-attr]  # it has one
    fused, plain = (trained(lion(learning_rate=0.1, wd=0.1), fused) for fused in (True, False))
    assert fused == plain
    assert fused != trained(lion(learning_rate=0.1))


def test_changes_between_steps_are_seen() -> None:
    text = SHORT.replace("update", "  scale: {default: 1}\nupdate").replace("grad", "(scale * grad)")
    results = []
    for fused in (True, False):
        optimizer: Any = stepspec.compile(text)(use_fused_step=fused)
        weight, gradient = np.ones(3), np.ones(3)
        for scale in (1.0, 1.0, 3.0):
            optimizer.scale = scale
            optimizer.update([0], [weight], [gradient], [{}])
        results.append(weight.tobytes())
    assert results[0] == results[1]


def test_changes_are_checked() -> None:
    bounds = "  low: {default: 0}\n  high: {default: 1, range: '[0, 9]'}\nrequire: [low <= high]\nupdate"
    made: Any = stepspec.compile(SHORT.replace("update", bounds).replace("* grad", "* clip(grad, low, high)"))
    with pytest.raises(ValueError, match=r"X requires low <= high, but low = 2\.0, high = 1\.0"):
        made(low=2)
    optimizer = made()
    with pytest.raises(ValueError, match="X requires low <= high"):
        optimizer.low = 2
    with pytest.raises(AttributeError, match="did you mean 'high'"):
        optimizer.hihg = 2


def test_a_text_and_a_file(tmp_path: Path) -> None:
    lion = stepspec.compile(LION)
    assert stepspec.compile(LION.replace("\n", "\r\n")) is lion
    assert stepspec.compile(LION.replace("1e-4", "1e-3")) is not lion
    path = tmp_path / "lion.yaml"
    path.write_bytes(LION.replace("\n", "\r\n").encode("utf-8-sig"))
    assert stepspec.compile(path) is stepspec.compile(str(path))
    assert inspect.getsource(stepspec.compile(path)) == inspect.getsource(lion)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (LION.replace("beta2 * m", "beta3 * m"), SpecError, "<text>:13:7: unknown name 'beta3'"),
        ("\n", SpecError, "<text>:1:1: the spec is empty"),
        ("name: lion\n", SpecError, "<text>:1:7: 'lion' cannot name a class"),
        (
            "Lion",
            ValueError,
            "'Lion' is neither the path of a .yaml file nor a spec's text",
        ),
        (Path("lion.txt"), ValueError, "is neither the path of a .yaml file"),
        (Path("nowhere/lion.yaml"), FileNotFoundError, "nowhere/lion.yaml"),
        (LION.encode(), TypeError, "a spec is a text or a path, not b'name"),
    ],
)
def test_refused_specs(spec: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        stepspec.compile(spec)
    assert message in str(caught.value)


def test_a_file_that_has_another_name(tmp_path: Path) -> None:
    path = tmp_path / "tiger.yaml"
    path.write_text(LION)
    with pytest.raises(SpecError, match=r"tiger.yaml:1:7: the optimizer 'Lion' stands in a file called"):
        stepspec.compile(path)


def test_a_file_that_no_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "lion.yaml"
    path.touch()
    os.truncate(path, 1 << 42)
    with pytest.raises(SpecError, match=r"lion.yaml:1:1: a spec has at most 200000 bytes"):
        stepspec.compile(path)


def test_create_knows_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepspec.registry._registered", {})
    text = LION.replace("name: Lion", "name: Tiger")  # whoever follows the tutorial has a Lion
    tiger = stepspec.compile(text)
    with pytest.raises(ValueError, match="there is no optimizer 'tiger'"):
        stepspec.create("tiger")
    stepspec.register(tiger)
    assert type(stepspec.create("tiger")) is tiger
    with pytest.raises(ValueError, match=r"the name 'Tiger' is taken by stepspec\.compiled\.tiger_"):
        stepspec.register(stepspec.compile(other(text)))


def test_the_class_is_that_of_a_package() -> None:
    made: Any = stepspec.compile(SPECS / "lamb.yaml")
    assert made.__doc__ == stepspec.LAMB.__doc__
    assert inspect.signature(made) == inspect.signature(stepspec.LAMB)
    assert made.__mro__[1:] == stepspec.LAMB.__mro__[1:]
    assert isinstance(made, type(stepspec.LAMB))


def test_generated_lines_are_shown() -> None:
    lion = stepspec.compile(LION)
    assert inspect.getsource(lion).startswith("class Lion(Optimizer):\n")
    assert "c = beta1 * m + (1 - beta1) * g" in inspect.getsource(lion.step)
    broken = type("Broken", (lion,), {"_tensors": lambda *given: 1 / 0})()
    with pytest.raises(ZeroDivisionError) as caught:
        broken.step([0], [], [], [])
    lines = "".join(traceback.format_exception(caught.value))
    assert "lion.py>" in lines
    assert "for p in self._tensors(indices, weights, grads, states):" in lines


def test_pickle() -> None:
    lion = stepspec.compile(LION)
    assert pickle.loads(pickle.dumps(lion)) is lion
    optimizer = lion(learning_rate=0.25)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(optimizer, protocol))
        assert (type(copy), copy.learning_rate) == (lion, 0.25)


def test_modules_lead_to_their_classes() -> None:
    """By this, cloudpickle knows that it has to ask for the text, too."""
    lion = stepspec.compile(LION)
    assert pickle.loads(pickle.dumps(lion.step)) is lion.step
    module = sys.modules[lion.__module__]
    assert module.Lion is lion
    with pytest.raises(AttributeError, match=r"'stepspec\.compiled\.lion_.*' has no attribute 'Tiger'"):
        _ = module.Tiger


class Puma(stepspec.compile(LION)):  # type: ignore[misc]  # a base that is only known at run time
    """A subclass, which is in a module."""


def test_subclasses_are_pickled_as_any_class() -> None:
    assert pickle.loads(pickle.dumps(Puma)) is Puma
    assert type(pickle.loads(pickle.dumps(Puma()))) is Puma
    assert trained(Puma()) == trained(stepspec.compile(LION)())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_other_processes(method: str) -> None:
    optimizer = stepspec.compile(LION)(learning_rate=0.1)
    expected = trained(optimizer)
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=hand_over, args=[stepspec.compile(LION)(learning_rate=0.1), results])
    process.start()
    assert results.get(timeout=60) == expected
    process.join(60)
    assert process.exitcode == 0


def test_kernels_are_cached_by_their_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(tmp_path))
    caplog.set_level(logging.DEBUG, "stepspec")

    def events(text: str) -> list[str]:
        caplog.clear()
        trained(stepspec.compile(text)())
        messages = [
            record.message for record in caplog.records if "compiled.lion_cpu.update" in record.message
        ]
        return [message.split()[0] for message in messages]

    assert events(other()) == ["compiled"]
    assert events(other()) == ["loaded"], "the summary is not part of a kernel"
    assert events(other(LION.replace("(sign(c)", "(2 * sign(c)"))) == ["compiled"]
    assert len(list(tmp_path.glob("stepspec.compiled.lion_cpu.update-float32-*.kernel"))) == 2
    script = f"import stepspec; from stepspec.formats import Formats; lion = stepspec.compile({LION!r}); "
    script += "lion._origin.kernels('lion_cpu').update.address(Formats.plain('float32')); "
    script += "print(stepspec.compilation.compiled_names())"
    printed = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert printed == "()\n", "another process has the kernels"


def test_checkpoints_tell_the_optimizer(tmp_path: Path) -> None:
    weights = {"w": np.ones(3, np.float32)}
    trainer = stepspec.Trainer(weights, stepspec.compile(LION)(learning_rate=0.1))
    trainer.step({"w": np.ones(3, np.float32)})
    trainer.save_states(tmp_path / "run.npz")
    stepspec.Trainer(weights, stepspec.compile(LION)(learning_rate=0.1)).load_states(tmp_path / "run.npz")
    changed = stepspec.compile(LION.replace("(sign(c)", "(2 * sign(c)"))
    with pytest.raises(ValueError, match="the update rule differs"):
        stepspec.Trainer(weights, changed(learning_rate=0.1)).load_states(tmp_path / "run.npz")
    with pytest.raises(ValueError, match=r"Lion.*SGD|SGD.*Lion"):
        stepspec.Trainer(weights, "sgd").load_states(tmp_path / "run.npz")


def test_threads_get_one_class() -> None:
    text, found = other(), list[type[Optimizer]]()
    start = threading.Barrier(4)

    def compile_it() -> None:
        start.wait(10)
        found.append(stepspec.compile(text))

    threads = [threading.Thread(target=compile_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_nothing_is_kept_of_classes_that_are_gone() -> None:
    text = other()
    made = stepspec.compile(text)
    trained(made())
    name, gone = made.__module__, weakref.ref(made)
    known = [file for file in linecache.cache if file.startswith(f"<{name.rpartition('.')[2]}:")]
    assert name in sys.modules
    assert len(known) == 2, "the class and its kernels for CPUs"
    del made
    gc.collect()
    assert gone() is None
    assert name not in sys.modules
    assert not set(known) & set(linecache.cache)
    assert not [key for key in in_memory._classes if key[1] == text]
    # by type: other libraries have objects that warn when they are asked for their class
    kept = [found for found in gc.get_objects() if issubclass(type(found), _Inner)]
    assert not [found for found in kept if found.py_func.__module__ == "stepspec.compiled.lion_cpu"]
    assert trained(stepspec.compile(text)()) == trained(stepspec.compile(LION)())


def test_a_class_that_is_made_anew_while_its_former_self_goes() -> None:
    text, made = other(SHORT), list[Any]()
    former = stepspec.compile(text)
    watch = weakref.ref(former, lambda _: made.append(stepspec.compile(text)))
    del former
    gc.collect()
    assert watch() is None
    (again,) = made
    assert inspect.getsource(again).startswith("class X(Optimizer):\n")
    assert again.__module__ in sys.modules


def test_names_that_stand_for_themselves() -> None:
    """Modules in memory are called after specs, and can be called anything that names a class."""
    for name in ("Import", "Os", "Stepspec", "SGD"):
        made = stepspec.compile(SHORT.replace("name: X", f"name: {name}"))
        assert trained(made(learning_rate=0.5), fused=False) == trained(stepspec.SGD(learning_rate=0.5))


def test_kernels_for_gpus_are_cached_by_their_text() -> None:
    def stamps(text: str) -> list[str | None]:
        origin = in_memory.Origin.of(stepspec.compile(text))
        kernels = origin.kernels("lion_cuda") if origin else None
        assert kernels is not None
        return [step.stamp for step in passes(kernels.update, Formats.plain("float32"))]

    (stamp,) = stamps(LION)
    assert stamp is not None
    assert stamps(other()) == [stamp]
    assert stamps(LION.replace("(sign(c)", "(2 * sign(c)")) != [stamp]


def test_a_gpu_gives_the_same_bits() -> None:
    driver, weights = EmulatedDriver(), random_tensors([(7, 3)], np.float32)
    with use(driver):
        found = train_on_device(driver, stepspec.compile(LION)(learning_rate=0.1), weights)
    assert driver.launches
    assert_same_bits(train(stepspec.compile(LION)(learning_rate=0.1), weights), found)
