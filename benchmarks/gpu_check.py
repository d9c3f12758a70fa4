"""Whether a GPU gives the CPU's bits: every spec, storage, form of arrays and library, then whole models."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cases import OPTIMIZERS, Case, Model
from gpu_places import Device
from gpu_trials import FORMS, SHAPES, STORAGES, Trial, difference, ended, formed, trials
from ours import Stepspec
from places import HOST
from sections import Options, Part, Table, Target
from shapes import SETS, Shapes

STEPS = 3
# of many differences, how many lines the report has, and of errors how many are printed with their frames
MOST_FAILURES = 40
MOST_FRAMES = 3


@dataclass
class Count:
    """How many trials there were of a kind, and how many ended in the CPU's bits."""

    trials: int = 0
    same: int = 0


@dataclass
class Check:
    """Compares steps on a GPU with those of the CPU.

    Parameters
    ----------
    devices
        The libraries whose arrays are stepped; only the first one steps everything.
    shapes
        Those of the tensors of a trial.
    forms
        How arrays lie there, and what gradients are.

    """

    devices: Sequence[Device]
    shapes: Shapes = field(default_factory=lambda: SHAPES)
    forms: Sequence[str] = FORMS
    name = "check"
    counts: dict[tuple[str, str, str], Count] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def parts(self, options: Options) -> Iterator[Part]:
        for number, device in enumerate(self.devices):
            for optimizer in options.optimizers:
                for dtype, storage in STORAGES:
                    if dtype in device.dtypes and (not number or not storage):
                        action = partial(self._trials, device, optimizer, dtype, storage, not number)
                        yield Part(f"{optimizer}, {label(dtype, storage)}, {device.name}", action)
        for name in options.sets:
            for optimizer in (one for one in options.optimizers if one in OPTIMIZERS):
                yield Part(f"{optimizer}, {name}", partial(self._model, name, optimizer))

    def _trials(
        self, device: Device, optimizer: str, dtype: str, storage: dict[str, Any], everything: bool
    ) -> None:
        asked = trials if everything else formed
        for trial in asked(optimizer, dtype, storage, self.forms):
            self.hold(trial, device, label(dtype, storage))

    def hold(self, trial: Trial, device: Device, storage: str) -> None:
        """Step a trial on the CPU and on a device, and note what differs."""
        count = self.counts.setdefault((trial.optimizer, storage, device.name), Count())
        count.trials += 1
        here = ended(trial, self.shapes, HOST)
        try:
            there = ended(trial, self.shapes, device)
        except Exception as error:  # noqa: BLE001 - a trial that fails must not hide what the others find
            traceback.print_exc(limit=None if len(self.failures) < MOST_FRAMES else 0)
            self._fail(f"{trial}, {device.name}: {type(error).__name__}: {error}")
            return
        apart = {name: difference(array, there[name]) for name, array in here.items()}
        found = [f"{name}: {text}" for name, text in apart.items() if text]
        count.same += not found
        for text in found[:2]:
            self._fail(f"{trial}, {device.name}: {text}")

    def _model(self, name: str, optimizer: str) -> None:
        case = Case(optimizer, OPTIMIZERS[optimizer], Model.random(SETS[name]()), 0)
        device = self.devices[0]
        count = self.counts.setdefault((optimizer, name, device.name), Count())
        count.trials += 1
        both = [Stepspec(case, "fused_step", place=place) for place in (HOST, device)]
        for contender in both:
            for _ in range(STEPS):
                contender.prepare()
                contender.step()
        pairs = zip(case.model.shapes, *(contender.weights() for contender in both), strict=True)
        found = [f"{weight}: {text}" for weight, a, b in pairs if (text := difference(a, b))]
        count.same += not found
        for text in found[:2]:
            self._fail(f"{optimizer}, {name}, {device.name}: {text}")

    def _fail(self, text: str) -> None:
        print(f"FAILED {text}", file=sys.stderr, flush=True)
        self.failures.append(text)

    def tables(self) -> Iterator[Table]:
        rows = [
            (optimizer, kind, library, str(count.trials), str(count.same))
            for (optimizer, kind, library), count in self.counts.items()
        ]
        if rows:
            header = ("optimizer", "storage or model", "arrays of", "trials", "with the CPU's bits")
            lines = [f"- {line}" for line in self.failures[:MOST_FAILURES]]
            if len(self.failures) > MOST_FAILURES:
                lines.append(f"- and {len(self.failures) - MOST_FAILURES} more")
            yield Table("Bits", header, rows, "\n".join(lines))

    def targets(self) -> Iterator[Target]:
        for name in dict.fromkeys(optimizer for optimizer, _, _ in self.counts):
            counts = [count for (optimizer, _, _), count in self.counts.items() if optimizer == name]
            trials, same = (sum(getattr(c, what) for c in counts) for what in ("trials", "same"))
            yield Target(
                f"{name}: share of trials with the CPU's bits", 1.0, same / trials, note=f"{trials} trials"
            )

    def data(self) -> object:
        counts = [[*key, count.trials, count.same] for key, count in self.counts.items()]
        return {"counts": counts, "failures": self.failures}


def label(dtype: str, storage: dict[str, Any]) -> str:
    return ", ".join([dtype, *(f"{name}={value}" for name, value in storage.items())])
