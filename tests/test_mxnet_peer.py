"""The benchmark's MXNet, with a module in its place that has the same names and does SGD in NumPy."""

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stepspec
from cases import DTYPES, Case, Model, Reason
from mxnet_peer import MXNet, Worker, contender
from shapes import Shapes
from timing import PeerError, seconds

FAKE = """
import os
import types

import numpy as np


class Tensor(np.ndarray):
    def asnumpy(self):
        return np.asarray(self)


def array(source, dtype):
    return np.array(source, dtype).view(Tensor)


def row_sparse_array(parts, shape, dtype):
    dense = np.zeros(shape, dtype).view(Tensor)
    dense[parts[1]] = parts[0]
    return dense


class MXNetError(Exception):
    pass


class Optimizer:
    def __init__(self, name, learning_rate, use_fused_step, param_idx2name, momentum=0.0):
        assert use_fused_step
        print("a warning, where the answers go")
        self.name, self.rate, self.momentum, self.aggregate_num = name, learning_rate, momentum, None

    def create_state_multi_precision(self, index, weight):
        if self.name == "GroupAdaGrad":
            assert weight.ndim == 2
        if self.name == "FTML":
            os.write(2, b"last words")
            os._exit(3)
        if self.name == "NAG":
            raise MXNetError("Traceback:\\n  File op.h\\nMXNetError: no such kernel")
        return np.zeros_like(weight)

    def update_multi_precision(self, indices, weights, grads, states):
        assert len(indices) <= self.aggregate_num or self.aggregate_num == 1
        for weight, grad, mom in zip(weights, grads, states, strict=True):
            mom *= np.float32(self.momentum)
            mom += np.float32(self.rate) * grad
            weight -= mom


optimizer = types.SimpleNamespace(create=Optimizer)
sparse = types.SimpleNamespace(row_sparse_array=row_sparse_array)
nd = types.SimpleNamespace(array=array, sparse=sparse, waitall=lambda: None)
"""
SHAPES: Shapes = {f"w{i}_weight": (3, 2, 2) for i in range(70)} | {"w_bias": (3,)}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mxnet.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MXNET_PYTHON", sys.executable)


def case(optimizer: str = "SGD", dtype: str = "float32", **settings: Any) -> Case:
    return Case(optimizer, {"learning_rate": 0.1, **settings}, Model.random(SHAPES, DTYPES[dtype]), 1)


def started(one: Case) -> MXNet:
    peer = contender(one)
    assert isinstance(peer, MXNet), peer
    return peer


def reason(one: Case) -> str:
    refusal = contender(one)
    assert isinstance(refusal, Reason)
    return refusal.why


@pytest.mark.usefixtures("fake")
def test_it_starts_with_the_weights_of_the_model_and_takes_its_steps() -> None:
    one = case(momentum=0.9)
    model = one.model
    peer = started(one)
    assert all(map(np.array_equal, peer.weights(), model.weights))
    optimizer = stepspec.SGD(learning_rate=0.1, momentum=0.9)
    weights = [weight.copy() for weight in model.weights]
    indices = list(range(len(weights)))
    states = [optimizer.create_state(i, weight) for i, weight in enumerate(weights)]
    for grads in (*model.grads, model.grads[0]):
        assert 0 < seconds(peer) < 1
        optimizer.step(indices, weights, grads, states)
    assert all(map(np.array_equal, peer.weights(), weights))
    peer.close()
    peer.close()
    assert peer.worker.process.returncode is not None


@pytest.mark.usefixtures("fake")
def test_row_sparse_gradients_arrive() -> None:
    shape = (5, 3)
    gradient = stepspec.RowSparse(np.ones((2, 3), np.float32), np.array([1, 4]), shape)
    peer = started(
        Case("SGD", {"learning_rate": 1.0}, Model({"w": shape}, [np.zeros(shape, "f4")], [[gradient]]), 1)
    )
    seconds(peer)
    assert np.array_equal(peer.weights()[0], -gradient.to_dense())
    peer.close()


@pytest.mark.usefixtures("fake")
def test_group_adagrad_gets_matrices_and_gives_back_the_shapes() -> None:
    peer = started(case("GroupAdaGrad"))
    assert [weight.shape for weight in peer.weights()] == list(SHAPES.values())
    peer.close()


@pytest.mark.usefixtures("fake")
def test_what_it_refuses_has_a_reason() -> None:
    assert reason(case("NAG")) == "MXNetError: no such kernel"
    assert "unexpected keyword argument 'rounding'" in reason(case(rounding="stochastic"))
    assert reason(case(dtype="bfloat16")) == "no optimizers for bfloat16"


@pytest.mark.usefixtures("fake")
def test_a_process_that_dies_is_told_with_its_code() -> None:
    assert reason(case("FTML")) == "its process ended with code 3: last words"
    peer = started(case())
    peer.worker.process.kill()
    with pytest.raises(PeerError, match="ended with code -9"):
        peer.step()


def test_an_interpreter_that_cannot_do_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MXNET_PYTHON", raising=False)
    assert reason(case()) == "not installed: MXNET_PYTHON names no interpreter"
    monkeypatch.setenv("MXNET_PYTHON", "/nowhere/python")
    assert reason(case()) == "cannot run /nowhere/python: No such file or directory"
    monkeypatch.setenv("MXNET_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", "")
    assert "No module named 'mxnet'" in reason(case())


def test_something_else_than_an_answer_is_told() -> None:
    worker = Worker([sys.executable, "-c", "input(); print('hello')"], threads=1)
    with pytest.raises(PeerError, match="not an answer to 'step': hello"):
        worker.ask("step")
    assert worker.process.returncode is not None


def test_an_answer_is_not_waited_for_without_end() -> None:
    worker = Worker([sys.executable, "-c", "import time; time.sleep(60)"], threads=1, limit=0.1)
    with pytest.raises(PeerError, match=r"no answer to 'step' within 0.1 s"):
        worker.ask("step")
    assert worker.process.returncode is not None


def test_the_worker_is_python_3_8() -> None:
    source = Path(__file__).parents[1] / "benchmarks" / "mxnet_worker.py"
    ast.parse(source.read_text(), feature_version=(3, 8))
