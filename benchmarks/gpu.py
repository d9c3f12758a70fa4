"""Check stepspec on a GPU against the CPU, bit for bit, and measure it beside torch; nothing is installed.

Whatever of torch, CuPy and numba-cuda is there makes the arrays. For a part only:
`python benchmarks/gpu.py --only check bandwidth --optimizers SGD`. Without a GPU, `--emulate` runs the
checks on a few small tensors. A failed check makes the exit status 1, but the measurements go on.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import report
import stepspec
from cases import OPTIMIZERS
from environment import environment
from gpu_bandwidth import Bandwidth
from gpu_check import Check
from gpu_clock import EventClock
from gpu_experiments import Experiments
from gpu_models import Models
from gpu_places import Device, installed
from gpu_tools import Tools
from gpu_trials import FORMS, SHAPES, TINY
from sections import Options, Part, Section, Table, Target, at_least_one
from shapes import SETS, size

METHOD = """\
Milliseconds of one optimizer step: median (quartiles) of times between CUDA events around each step. The
contenders of a line take turns in one process; nothing waits within a turn, so that a step costs what the GPU
takes for it or, if that is longer, what the host takes to queue it ("host us"). Before contenders are timed
they step the same model, and whoever does not end where stepspec ends, within what rounding may do, is not
timed. Gradients are other arrays at every step. "torch foreach" is torch.optim's where it has the rule, else
the rule in torch's foreach functions. A copy's bandwidth counts what it reads and what it writes."""
GOALS = "Ratios are how many times as long as `fused_step` the peer takes."
FORM = report.Form("Run on a GPU", "gpu", METHOD, GOALS)

# sections, in order, and which part of the minutes each may take at most; what one leaves is the next one's
PARTS = {"check": 0.4, "tools": 0.15, "bandwidth": 0.15, "models": 0.2, "experiments": 0.1}
SET_NAMES = ("MLP", "1000 small", "ResNet-50", "GPT-2 small")


@dataclass
class Run:
    """What a run skipped, and which parts raised an error."""

    name = "run"
    skipped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    libraries: dict[str, str] = field(default_factory=dict)

    def tables(self) -> Iterator[Table]:
        rows = [("arrays of", f"{name}: {text}") for name, text in self.libraries.items()]
        rows += [("skipped, no time left", title) for title in self.skipped]
        rows += [("error", text) for text in self.errors]
        yield Table("The run", ("what", "which"), rows)

    def parts(self, options: Options) -> Iterator[Part]:
        return iter(())

    def targets(self) -> Iterator[Target]:
        return iter(())

    def data(self) -> object:
        return {"skipped": self.skipped, "errors": self.errors, "libraries": self.libraries}


def run(options: Options, sections: Sequence[Section], minutes: float, ran: Run) -> None:
    """Run the parts of all sections while their time lasts, and write what there is after each section."""
    start = time.monotonic()
    ends = itertools.accumulate(PARTS.get(section.name, 0.0) for section in sections)
    total = sum(PARTS.get(section.name, 0.0) for section in sections)
    for section, end in zip(sections, ends, strict=True):
        for title, action in section.parts(options):
            if time.monotonic() - start > 60 * minutes * end / total:
                ran.skipped.append(f"{section.name}: {title}")
                continue
            print(f"{time.monotonic() - start:6.1f} s  {section.name}: {title}", flush=True)
            try:
                action()
            except Exception as error:  # noqa: BLE001 - what else there is to measure must not be lost
                traceback.print_exc()
                ran.errors.append(f"{section.name}: {title}: {type(error).__name__}: {error}")
        report.write(options.environment, [ran, *sections], options.output, FORM)


def made(chosen: argparse.Namespace, devices: Sequence[Device]) -> list[Section]:
    """Return the chosen sections: those that measure need a real GPU."""
    small = chosen.tiny or chosen.emulate
    forms = [form for form in FORMS if form != "shifted"] if chosen.emulate else FORMS
    check = Check(devices[: 1 if small else None], TINY if small else SHAPES, forms)
    if chosen.emulate:
        return [check]
    clock = EventClock()
    make: dict[str, Callable[[], Section]] = {
        "check": lambda: check,
        "tools": Tools,
        "bandwidth": lambda: Bandwidth(devices[0], clock),
        "models": lambda: Models(devices[0], clock),
        "experiments": lambda: Experiments(devices[0], clock),
    }
    return [make[name]() for name in PARTS if name in chosen.only]


def parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: everything")
    add("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    add("--sets", nargs="*", choices=SET_NAMES, default=list(SET_NAMES), help="models; default: all")
    add("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    add("--libraries", nargs="+", default=[], help="whose arrays are stepped; default: what is there")
    add("--rounds", type=at_least_one, default=12, metavar="N", help="default: 12")
    add("--minutes", type=float, default=25.0, metavar="M", help="no part begins later; default: 25")
    add("--tiny", action="store_true", help="check small tensors only: for slow tools")
    add("--emulate", action="store_true", help="check small tensors on an emulated GPU")
    folder = Path(__file__).parent / "output"
    add("--output", type=Path, default=folder, metavar="DIR", help="for gpu.json and gpu.md")
    chosen = parser.parse_args(arguments)
    sets = () if chosen.tiny or chosen.emulate else tuple(sorted(chosen.sets, key=size))
    options = Options(
        chosen.rounds,
        tuple(name for name in SETS if name in sets),
        tuple(name for name in OPTIMIZERS if name in chosen.optimizers),
        tuple(chosen.dtypes),
        chosen.output,
        environment(stepspec.get_num_threads()),
    )
    return chosen, options


def main(arguments: Sequence[str] | None = None) -> int:
    chosen, options = parsed(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    ran = Run()
    with ExitStack() as stack:
        if chosen.emulate:
            from gpu_emulated import emulated  # needs the tests, which an installation lacks

            devices = [stack.enter_context(emulated())]
        else:
            devices, ran.libraries = installed()
            devices = [d for d in devices if d.name in (chosen.libraries or [d.name])]
        ran.libraries |= {device.name: "used" for device in devices}
        if not devices:
            print(f"no library finds a GPU: {ran.libraries}", file=sys.stderr)
            return 2
        sections = made(chosen, devices)
        try:
            run(options, sections, chosen.minutes, ran)
        except KeyboardInterrupt:
            print("stopped; what follows was found before", file=sys.stderr)
    written = report.write(options.environment, [ran, *sections], options.output, FORM)
    failures = [text for section in sections for text in getattr(section, "failures", [])] + ran.errors
    print("\n".join(short(sections, failures)))
    print("Written:", ", ".join(str(path) for path in written))
    return 1 if failures else 0


def short(sections: Sequence[Section], failures: Sequence[str]) -> list[str]:
    """Return the end of the output: tables, targets, and what failed."""
    lines = [line for section in sections for table in section.tables() for line in report.rendered(table)]
    goals = [target for section in sections for target in section.targets()]
    lines += ["", *report.targets(goals)] if goals else []
    return [*lines, "", *(f"FAILED {text}" for text in failures[:20]), f"{len(failures)} failures"]


if __name__ == "__main__":
    sys.exit(main())
