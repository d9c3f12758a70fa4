"""How the benchmark compares contenders before it times them, on models of a few numbers."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optax_peer
import stepspec
import torch_peer
from agreement import STEPS, DisagreementError, disagreement, same_bits, take_steps
from cases import DTYPES, OPTIMIZERS, Array, Case, Model, Reason, settings_of
from contest import Peers, Persistent, hold, moved
from ours import PATHS, Stepspec
from peers import PEERS
from row_sparse import DENSE, KINDS, RowSparseGradients, table
from sections import Options
from shapes import Shapes
from stepspec.overview import Streams
from storage import STEEP
from timing import Contender, PeerError

SHAPES: Shapes = {"fc_weight": (7, 5), "fc_bias": (7,), "stem_weight": (4, 3, 2, 2)}
THREADS = 2


def drawn(optimizer: str, dtype: str = "float32") -> Case:
    return Case(optimizer, settings_of(optimizer, dtype), Model.random(SHAPES, DTYPES[dtype]), THREADS)


class Fake:
    """SGD with momentum in NumPy, which may be given another rate, and to die at some step."""

    label = "fake"

    def __init__(self, case: Case, rate: float = 0.01, dies_at: int = 10_000) -> None:
        self.case, self.rate, self.dies_at = case, rate, dies_at
        self.arrays = [weight.copy() for weight in case.model.weights]
        self.momenta = [np.zeros_like(weight) for weight in self.arrays]
        self.steps = self.prepared = self.closed = 0

    def prepare(self) -> None:
        self.prepared += 1

    def step(self) -> None:
        if self.steps == self.dies_at:
            raise PeerError("it died")
        grads: Any = self.case.model.grads[self.steps % 2]
        for weight, momentum, grad in zip(self.arrays, self.momenta, grads, strict=True):
            momentum[:] = np.float32(0.9) * momentum + np.float32(self.rate) * grad
            np.subtract(weight, momentum, out=weight)
        self.steps += 1

    def weights(self) -> list[Array]:
        return self.arrays

    def close(self) -> None:
        self.closed += 1


def test_only_peers_that_agree_are_timed() -> None:
    fakes: list[Fake] = []

    def fake(**options: Any) -> Callable[[Case], Contender]:
        def make(case: Case) -> Contender:
            fakes.append(Fake(case, **options))
            return fakes[-1]

        return make

    peers: Peers = {
        "same": fake(),
        "faster": fake(rate=0.0101),
        "still": fake(rate=0.0),
        "stillborn": fake(dies_at=0),
        "absent": lambda _: Reason("not installed"),
    }
    outcome = hold(drawn("SGD"), "tiny", 1, peers)
    assert set(outcome.times) == {*PATHS, "fake"}
    assert set(outcome.missing) == set(peers) - {"same"}
    assert outcome.missing["faster"].startswith("disagrees: fc_weight ends 1.0e-02 of its way off")
    assert outcome.missing["still"].startswith("disagrees: fc_weight ends 1.0e+00 of its way off")
    assert outcome.missing["stillborn"] == "it died"
    assert outcome.missing["absent"] == "not installed"
    assert all(fake.closed for fake in fakes)
    assert (outcome.tensors, outcome.parameters, outcome.bytes) == (3, 90, 1800)


def test_a_peer_that_dies_while_it_is_timed_is_left_out() -> None:
    outcome = hold(drawn("SGD"), "tiny", 1, {"fake": lambda case: Fake(case, dies_at=5)})
    assert set(outcome.times) == set(PATHS)
    assert outcome.missing == {"fake": "it died"}


def test_norms_may_be_summed_in_single_precision() -> None:
    case = drawn("LARS")
    fused = Stepspec(case, "fused_step")
    take_steps(fused, 1)

    def off(factor: float) -> str:
        pairs = zip(case.model.weights, fused.weights(), strict=True)
        return disagreement(case, fused.weights(), [start + (end - start) * factor for start, end in pairs])

    assert off(1.002) == ""
    assert off(1.02) != ""


def test_persistent_gradients_are_laid_out_once() -> None:
    fake = Fake(drawn("SGD"))
    persistent = Persistent(fake)
    for _ in range(3):
        persistent.prepare()
        persistent.step()
    assert (fake.prepared, fake.steps) == (1, 3)


def test_bits_that_differ_stop_the_benchmark() -> None:
    case = drawn("SGD")
    one, two = (Stepspec(case, path) for path in PATHS)
    with pytest.raises(DisagreementError, match="fc_weight: fused_step did not move"):
        same_bits(case, [one, two])
    for contender in (one, two):
        take_steps(contender, 2)
    same_bits(case, [one, two])
    two.arrays[1][3] = np.nextafter(two.arrays[1][3], np.float32(np.inf))
    with pytest.raises(DisagreementError, match="fc_bias: step and fused_step differ"):
        same_bits(case, [one, two])


def test_not_a_number_disagrees() -> None:
    case = drawn("SGD")
    fused = Stepspec(case, "fused_step")
    take_steps(fused, 1)
    broken = [weight.copy() for weight in fused.weights()]
    assert disagreement(case, fused.weights(), broken) == ""
    broken[2][0, 0, 0, 0] = np.nan
    assert disagreement(case, fused.weights(), broken).startswith("disagrees: stem_weight")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_streams_add_up_to_the_bytes_of_the_plan(optimizer: str, dtype: str) -> None:
    fused = Stepspec(drawn(optimizer, dtype), "fused_step")
    fused.prepare()
    for group in fused.plan().groups:
        for launch in group.launches:
            streams = launch.streams
            per_element = sum(streams.read) + 2 * sum(streams.updated) + sum(streams.written)
            rows = (
                2 * 4 * (7 + 7 + 4) if optimizer == "GroupAdaGrad" else 0
            )  # its states have one number a row
            assert launch.bytes == launch.elements * per_element + rows


def test_a_rule_of_two_passes_has_the_streams_of_both() -> None:
    fused = Stepspec(drawn("LARS", "bfloat16"), "fused_step")
    fused.prepare()
    norms, update = Streams(read=(2, 4)), Streams((2,), (4, 4), (2,))
    assert moved(fused.plan()) == {norms: 83 * 6, update: 90 * 20}  # the bias is not scaled


def agree(case: Case, peer: Contender | Reason) -> str:
    ours = Stepspec(case, "step")  # the fused step's bits, and nothing to compile
    assert not isinstance(peer, Reason)
    for contender in (ours, peer):
        take_steps(contender, STEPS)
    return disagreement(case, ours.weights(), peer.weights())


def test_a_missing_decay_is_noticed() -> None:
    case = drawn("AdamW")
    without = Case("AdamW", {**case.settings, "wd": 0.0}, case.model, THREADS)
    assert agree(case, Stepspec(case, "step")) == ""
    assert agree(case, Stepspec(without, "step")).startswith("disagrees: fc_weight")


@pytest.mark.parametrize("way", ["fused", "foreach"])
@pytest.mark.parametrize("optimizer", torch_peer.ALGORITHMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_agrees_and_leaves_shared_gradients(optimizer: str, dtype: str, way: str) -> None:
    pytest.importorskip("torch")
    case = drawn(optimizer, dtype)
    before = [np.copy(grad) for grads in case.model.grads for grad in grads]  # type: ignore[arg-type]  # all dense
    peer = torch_peer.contender(case, way)
    assert agree(case, peer) == ""
    for grad, old in zip([grad for grads in case.model.grads for grad in grads], before, strict=True):
        np.testing.assert_array_equal(grad, old)
    assert isinstance(peer, torch_peer.Torch)
    for stored, weight in zip(peer.stored, peer.weights(), strict=True):
        rounded = weight.astype(DTYPES[dtype])
        np.testing.assert_array_equal(torch_peer.array(stored.detach()), rounded)


@pytest.mark.parametrize("optimizer", optax_peer.OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_optax_agrees(optimizer: str, dtype: str) -> None:
    pytest.importorskip("optax")
    case = drawn(optimizer, dtype)
    peer = optax_peer.contender(Case(optimizer, case.settings, case.model, int(os.environ["NPROC"])))
    assert agree(case, peer) == ""
    assert isinstance(peer, optax_peer.Optax)
    for stored, weight in zip(peer.stored, peer.weights(), strict=dtype != "float32"):
        np.testing.assert_array_equal(np.asarray(stored), weight.astype(DTYPES[dtype]))


@pytest.mark.parametrize("optimizer", ["FTML", "LARS", "GroupAdaGrad"])
def test_what_torch_lacks_has_a_reason(optimizer: str) -> None:
    for way in torch_peer.WAYS:
        assert isinstance(torch_peer.contender(drawn(optimizer), way), Reason)


def test_stochastic_rounding_is_stepspecs_alone() -> None:
    model = Model.random(SHAPES, DTYPES["bfloat16"])
    case = Case("SGD", OPTIMIZERS["SGD"] | {"rounding": "stochastic"}, model, THREADS)
    assert all(isinstance(make(case), Reason) for make in PEERS.values())


def test_torch_takes_sparse_gradients_without_momentum() -> None:
    pytest.importorskip("torch")
    sparse, _ = table(300, "float32")
    plain, momentum = (kind.case(sparse, THREADS) for kind in (KINDS[0], KINDS[4]))
    assert agree(plain, torch_peer.contender(plain, "foreach")) == ""
    assert isinstance(torch_peer.contender(momentum, "foreach"), Reason)
    assert isinstance(torch_peer.contender(plain, "fused"), Reason)
    assert isinstance(optax_peer.contender(plain), Reason)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_gradients_are_the_sparse_ones(dtype: str) -> None:
    sparse, dense = table(300, dtype)
    assert len(dense.grads) == DENSE
    for (one,), (other,) in zip(sparse.grads, dense.grads, strict=False):
        assert isinstance(one, stepspec.RowSparse)
        np.testing.assert_array_equal(one.to_dense(), other)


def test_row_sparse_steps_stand_beside_dense_ones(tmp_path: Path) -> None:
    from environment import environment

    section = RowSparseGradients(rows=300)
    options = Options(1, ("MLP",), tuple(OPTIMIZERS), ("float32",), tmp_path, environment(THREADS))
    for part in section.parts(options):
        part.action()
    (found,) = section.tables()
    assert [row[0] for row in found.rows] == [f"{kind.label}, float32" for kind in KINDS]
    assert all(row[3] != "-" for row in found.rows), "a dense step disagrees"
    assert [row[2] == "-" for row in found.rows] == [kind.is_lazy for kind in KINDS], "`step` is never lazy"
    json.dumps(section.data())


def test_steep_gradients_show_a_peer_that_does_nothing() -> None:
    model = Model.random(SHAPES, DTYPES["bfloat16"], STEEP)
    case = Case("SGD", OPTIMIZERS["SGD"], model, THREADS)
    fused = Stepspec(case, "fused_step")
    take_steps(fused, 3)
    assert disagreement(case, fused.weights(), fused.weights()) == ""
    assert disagreement(case, fused.weights(), model.weights) != ""


def test_one_case_from_the_command_line_to_the_files(tmp_path: Path) -> None:
    for package in ("tqdm", "matplotlib"):
        pytest.importorskip(package)
    import bench

    chosen = "--sections peers --sets MLP --optimizers GroupAdaGrad --dtypes float32 --rounds 1 --output"
    assert bench.main([*chosen.split(), str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "bench.json").read_text())["sections"]["peers"]
    assert found["times"]["fused_step"]["count"] > 0
    assert found["missing"]["torch fused"] in ("no such optimizer", "not installed")
    assert "## GroupAdaGrad, float32" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").exists()
