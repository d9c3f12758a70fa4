"""Plans of arrays on a GPU: what runs there, in the order of the arrays' streams, while the host goes on."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stepspec.arrays import is_plain
from stepspec.checks import Entry
from stepspec.compilation import log
from stepspec.cuda.arrays import device_number, shadow, shadows
from stepspec.cuda.calls import CudaError
from stepspec.cuda.copies import Owned
from stepspec.cuda.driver import driver
from stepspec.cuda.gradients import GradientRows
from stepspec.cuda.launches import Action, Group, Program
from stepspec.cuda.libraries import DEFAULT_STREAM, THREADS_STREAM
from stepspec.cuda.orders import Launches
from stepspec.cuda.recognition import Known
from stepspec.cuda.staging import Shipment, Staging
from stepspec.cuda.strided import Copies, Pair
from stepspec.plan import Given, Order, Plan, address_rows, names_of, noise_counts, noisy
from stepspec.rates import Rates
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.steps import Steps


class DevicePlan(Plan[Launches]):
    """Tables and launches of the tensors of a call, in the memory of a GPU.

    Note [Steps on a device]
    A step queues copies of what has changed and its launches on one stream, and returns; the host waits for
    nothing. The arrays name the stream; if they name several, the first one waits for the others on the
    device, and these for the step. What the queued work still needs is kept in the step's shipment until
    its event is done; a stream other than the last step's waits for that event.
    """

    target = "cuda"
    known: Known
    gradients: GradientRows

    def __init__(self, optimizer: Steps, entries: Sequence[Entry], given: Given) -> None:
        super().__init__(optimizer, entries, given)
        self.device: int = _device(given)
        self._driver = driver()
        self.known = Known(given, [names_of(entry) for entry in entries], optimizer._counts)
        self.gradients = GradientRows(self._driver, self.device, entries)
        self._moving = Copies(self._driver, self.device)
        self._staging = Staging(self._driver, self.device)
        self._buffers: list[list[Pair]] = [[] for _ in entries]
        self._noisy = noisy(optimizer, entries)
        keys, self._noise_count = np.zeros((2, len(entries)), np.int64)
        for i in self._noisy:
            keys[i] = optimizer._noise_key(self.indices[i])
        self._kept, places = _per_tensor(entries)
        self._fixed = {
            "copy": np.zeros(len(entries), np.int64),
            **places,
            **address_rows(entries, self._contiguous(entries)),
            "rows": np.array([shape.rows for shape in self.shapes], np.int64),
            "columns": np.array([shape.columns for shape in self.shapes], np.int64),
            "noise_key": keys,
        }
        self.copied = tuple(
            label for label, buffers in zip(self.labels, self._buffers, strict=True) if buffers
        )
        self._streams: tuple[int, ...] = ()
        self._last: tuple[int, Shipment] | None = None

    @classmethod
    def check(cls, optimizer: Steps, given: Given) -> list[Entry]:
        """Make all checks of a call, on shadows."""
        found = shadows(optimizer._label, *given)
        return optimizer._check(given.indices, found.weights, found.grads, found.states)

    def take_gradients(self, grads: tuple[Any, ...]) -> Sequence[Any] | None:
        """Take gradients as they lie, or copied; None if the call needs all checks."""
        if not self.gradients.take(grads):
            return None
        try:
            self._streams = self._named(grads)
        except ValueError:  # the checks say whose stream is wrong
            return None
        return grads

    def take_checked(self, entries: Sequence[Entry], grads: tuple[Any, ...]) -> Sequence[Any]:
        """Take gradients that have been checked."""
        self.gradients.take_checked(entries, grads)
        self._streams = self._named(grads)
        return grads

    # ------------------------------------------------------------------ launching it

    def run(self, optimizer: Steps, rates: Rates, order: Order) -> None:
        """Queue what a call asks for, and count; see Note [Steps on a device]."""
        with self._driver.current(self.device):
            self._refuse_capture(type(optimizer).__name__)
            launches = self.launches(order)
            launches.inputs.fill(launches.inputs.compute(optimizer, rates), optimizer, rates)
            if self._noisy:
                self._noise_count[:] = noise_counts(rates)
            self.note_layouts(optimizer)
            self._moving.take(self.gradients.moved)
            stream, *others = self._streams
            ready, moving = launches.ready(stream), self._moving.launch(stream)
            try:
                shipment = self._begin(stream, others)
                try:
                    for sender in (self.gradients, self._moving, launches):
                        sender.send(shipment, stream)
                    self._queue(launches.program.groups, ready, moving)
                finally:
                    self._end(shipment, stream, others)
            except CudaError as error:
                raise CudaError(
                    f"{type(optimizer).__name__}: a step failed on GPU {self.device}, and its weights and "
                    f"states may be lost: start a new process, from a checkpoint ({error})"
                ) from error

    def _refuse_capture(self, name: str) -> None:
        if any(self._driver.capturing(self.device, stream) for stream in self._streams):
            raise RuntimeError(
                f"{name}: a step cannot be captured in a CUDA graph, as its rates and counts are the host's: "
                "capture what comes before it, and step after the graph was replayed"
            )

    def _queue(
        self, groups: Sequence[Group], ready: Sequence[Sequence[Action]], moving: Sequence[Action]
    ) -> None:
        """Launch groups and count each, or nothing of both: these are C functions, see Note [Ctrl-C]."""
        for group, actions in zip(groups, ready, strict=True):
            commit = self.known.tally.raising(group.part)
            *results, _ = list(map(operator.call, [*moving, *actions, commit]))
            self._driver.check(results)
            moving = ()

    def counts(self, order: Order) -> list[tuple[int, int]]:
        """Return how many items and launches there are of the tensors launched together."""
        groups = self.launches(order).program.groups
        sizes = [[use.items.size for use in group.uses if use.items.size] for group in groups]
        return [(sum(items), len(items)) for items in sizes]

    def _begin(self, stream: int, others: Sequence[int]) -> Shipment:
        """Let the stream wait for what the step depends on."""
        shipment = self._staging.take()
        before, last = self._last or (stream, shipment)
        if (before != stream or stream == THREADS_STREAM) and last is not shipment:
            if not last.has_ended:
                last.end(before)
            self._driver.wait(self.device, stream, last.event)
        self._last = stream, shipment
        for other in others:
            shipment.event.record(other)
            self._driver.wait(self.device, stream, shipment.event)
        return shipment

    def _end(self, shipment: Shipment, stream: int, others: Sequence[int]) -> None:
        """Let what depends on the step wait for it."""
        shipment.end(stream)
        for other in others:
            self._driver.wait(self.device, other, shipment.event)

    def _named(self, grads: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the streams that the arrays name, first the one to launch on."""
        own = self.known.reader.streams(self.known.arrays)
        return tuple(dict.fromkeys((*own, *self.gradients.streams(grads)))) or (DEFAULT_STREAM,)

    # ------------------------------------------------------------------ making it

    def _made(self, order: Order) -> Launches:
        live = {
            "noise_count": self._noise_count,
            "present": self.gradients.present,
            "present_rows": self.gradients.present_rows,
            "grad": self.gradients.addresses,
        }
        program = Program(self._driver, self.device, self.shapes, order, self._fixed, live, self._kept)
        copies = [self._copies(group.moving) for group in program.groups]
        return Launches(program, copies, self.labels)

    def _copies(self, tensors: Sequence[int]) -> tuple[Copies, Copies]:
        """Return the copies of some tensors' arrays into their buffers, and back."""
        pairs = [pair for i in tensors for pair in self._buffers[i]]
        back = [(buffer, array) for array, buffer in pairs]
        return Copies(self._driver, self.device, pairs), Copies(self._driver, self.device, back)

    def _contiguous(self, entries: Sequence[Entry]) -> Array:
        """Return where all arrays lie, or buffers that stand for those which kernels cannot walk."""
        found = []
        owned = [(i, entry.weight) for i, entry in enumerate(entries)]
        owned += [(i, entry.written[name]) for i, entry in enumerate(entries) for name in names_of(entry)]
        for i, array in owned:
            found.append(array.ctypes.data)
            if not is_plain(array):
                log.info("an array of %s is not C-contiguous: every step copies it", self.labels[i])
                buffer = shadow(Owned(self.device, array.shape, array.dtype, None))
                self._buffers[i].append((array, buffer))
                found[-1] = buffer.ctypes.data
        return np.array(found, np.int64)


def _per_tensor(entries: Sequence[Entry]) -> tuple[dict[str, frozenset[int]], dict[str, Array]]:
    """Return the states that are one number per tensor: the tensors that have each, and where these lie."""
    places: dict[str, Array] = {}
    for i, entry in enumerate(entries):
        for name, array in entry.state.items():
            if entry.layout[name].per == "tensor":
                row = places.setdefault(name, np.zeros(len(entries), np.int64))
                row[i] = array.ctypes.data
    return {name: frozenset(np.flatnonzero(row).tolist()) for name, row in places.items()}, places


def _device(given: Given) -> int:
    """Return the device of a call's arrays; those without elements may not tell it."""
    return next((number for array in given.weights if (number := device_number(array)) is not None), 0)
