"""Check stepspec on a GPU against the CPU, bit for bit, and measure it beside torch; nothing is installed.

Whatever of torch, CuPy and numba-cuda is there makes the arrays. For a part only:
`python benchmarks/gpu.py --only check bandwidth --optimizers SGD`. Without a GPU, `--emulate` runs the
checks on a few small tensors. First it tells what the machine has, and takes a step on one tensor: if that
fails, nothing else is tried. The sections then run in processes of their own, the check in one per optimizer.
A failed check makes the exit status 1, but the measurements go on.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import report
import stepspec
from cases import OPTIMIZERS
from environment import environment
from gpu_bandwidth import Bandwidth
from gpu_check import Check
from gpu_clock import EventClock
from gpu_experiments import Experiments
from gpu_machine import Machine, prepare
from gpu_models import Models
from gpu_places import Device, installed
from gpu_processes import GRACE, Apart, Found
from gpu_tools import Tools
from gpu_trials import FORMS, SHAPES, TINY, optimizers
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
PARTS = {"check": 0.3, "bandwidth": 0.12, "models": 0.32, "tools": 0.18, "experiments": 0.08}
# seconds for the first step
FIRST = 90.0
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


def run(
    options: Options,
    section: Section,
    minutes: float,
    ran: Run,
    changed: Callable[[], object],
    alive: Callable[[], bool],
) -> None:
    """Run the parts of a section while its time lasts; `changed` is called after each of them.

    After an error `alive` tells whether the GPU still answers; if not, the others are left out.
    """
    start = time.monotonic()
    for title, action in section.parts(options):
        if time.monotonic() - start > 60 * minutes:
            ran.skipped.append(f"{section.name}: {title}")
            continue
        print(f"{time.monotonic() - start:6.1f} s  {section.name}: {title}", flush=True)
        try:
            action()
        except Exception as error:  # noqa: BLE001 - what else there is to measure must not be lost
            traceback.print_exc()
            ran.errors.append(f"{section.name}: {title}: {type(error).__name__}: {error}")
            if not alive():
                ran.errors.append(f"{section.name}: the GPU answers no more, nothing else was tried")
                break
        gc.collect()  # what a failed part held
        changed()
    changed()


def answers() -> bool:
    """Whether the GPU still does what it is asked: after some errors it does nothing more for a process."""
    try:
        EventClock().synchronize()
    except (ImportError, RuntimeError) as error:
        return isinstance(error, ImportError)  # nothing here has used the driver
    return True


def made(chosen: argparse.Namespace, devices: Sequence[Device], libraries: Mapping[str, str]) -> Section:
    """Return the section of this process."""
    name = "check" if chosen.emulate else chosen.only[0]
    small = chosen.tiny or chosen.emulate
    forms = [form for form in FORMS if form != "shifted"] if chosen.emulate else FORMS
    make: dict[str, Callable[[], Section]] = {
        "machine": lambda: Machine(devices, libraries),
        "check": lambda: Check(devices[: 1 if small else None], TINY if small else SHAPES, forms),
        "tools": Tools,
        "bandwidth": lambda: Bandwidth(devices[0], EventClock()),
        "models": lambda: Models(devices[0], EventClock()),
        "experiments": lambda: Experiments(devices[0], EventClock()),
    }
    return make[name]()


def parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ["machine", *PARTS]
    add("--only", nargs="+", choices=names, default=names, help="default: everything")
    add("--optimizers", nargs="+", choices=optimizers(), default=list(optimizers()))
    add("--sets", nargs="*", choices=SET_NAMES, default=list(SET_NAMES), help="models; default: all")
    add("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    add("--libraries", nargs="+", default=[], help="whose arrays are stepped; default: what is there")
    add("--rounds", type=at_least_one, default=12, metavar="N", help="default: 12")
    add("--minutes", type=float, default=8.5, metavar="M", help="what all takes at most; default: 8.5")
    add("--tiny", action="store_true", help="check small tensors only: for slow tools")
    add("--emulate", action="store_true", help="check small tensors on an emulated GPU")
    folder = Path(__file__).parent / "output"
    add("--output", type=Path, default=folder, metavar="DIR", help="for gpu.json and gpu.md")
    add("--child", type=Path, help=argparse.SUPPRESS)  # the file that a section's process writes to
    chosen = parser.parse_args(arguments)
    sets = () if chosen.tiny or chosen.emulate else tuple(sorted(chosen.sets, key=size))
    options = Options(
        chosen.rounds,
        tuple(name for name in SETS if name in sets),
        tuple(name for name in optimizers() if name in chosen.optimizers),
        tuple(chosen.dtypes),
        chosen.output,
        environment(stepspec.get_num_threads()),
    )
    return chosen, options


def main(arguments: Sequence[str] | None = None) -> int:
    chosen, options = parsed(arguments)
    prepare()
    options.output.mkdir(parents=True, exist_ok=True)
    if chosen.child or chosen.emulate:
        return here(chosen, options)
    return apart(options, chosen.only, chosen.minutes, sys.argv[1:] if arguments is None else arguments)


def here(chosen: argparse.Namespace, options: Options) -> int:
    """Run one section in this process: one that the script has started, or the check on an emulated GPU."""
    ran = Run()
    with ExitStack() as stack:
        if chosen.emulate:
            from gpu_emulated import emulated  # needs the tests, which an installation lacks

            devices = [stack.enter_context(emulated())]
        else:
            devices, ran.libraries = installed()
            devices = [d for d in devices if d.name in (chosen.libraries or [d.name])]
        ran.libraries |= {device.name: "used" for device in devices}
        if not devices and chosen.only[0] != "machine":
            print(f"no library finds a GPU: {ran.libraries}", file=sys.stderr)
            return 2
        section = made(chosen, devices, ran.libraries)
        if section.name != "check":  # others have settings for these
            options = replace(options, optimizers=tuple(o for o in OPTIMIZERS if o in options.optimizers))

        def failures() -> list[str]:
            return [*getattr(section, "failures", []), *ran.errors]

        def changed() -> None:
            if chosen.child:
                Found.of([ran, section], failures()).write(chosen.child)
            else:
                report.write(options.environment, [ran, section], options.output, FORM)

        alive = (lambda: True) if chosen.emulate else answers
        run(options, section, chosen.minutes, ran, changed, alive)
    if not chosen.child:
        print("\n".join(short([section], failures(), chosen.output)))
    return 1 if failures() else 0


def apart(options: Options, names: Sequence[str], minutes: float, arguments: Sequence[str]) -> int:
    """Run sections in processes of their own, and write what there is whenever it is more."""
    start = time.monotonic()
    sections: list[Apart] = []
    chosen = [name for name in PARTS if name in names]
    total = sum(PARTS[name] for name in chosen)
    ends = itertools.accumulate(PARTS[name] / total for name in chosen)
    try:
        with TemporaryDirectory() as folder:
            for name, end in [("machine", 0.0), *zip(chosen, ends, strict=True)]:
                seconds = max(0.0, start + 60 * minutes * end - time.monotonic()) if end else FIRST
                print(f"{time.monotonic() - start:6.1f} s  {name}: {seconds:.0f} s at most", flush=True)
                sections.append(Apart(name, commands(name, options, seconds, arguments), Path(folder)))
                changed = partial(report.write, options.environment, sections, options.output, FORM)
                sections[-1].run(seconds + GRACE, changed)
                changed()
                if name == "machine" and sections[0].failures:
                    break
    except KeyboardInterrupt:
        print("stopped; what follows was found before", file=sys.stderr)
    failures = [text for section in sections for text in section.failures]
    print("\n".join(short(sections, failures, options.output)))
    return 1 if failures else 0


def commands(name: str, options: Options, seconds: float, arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return what runs a section: the check in a process per optimizer, as it has many kernels to compile."""
    command = [
        sys.executable,
        str(Path(__file__)),
        *arguments,
        "--only",
        name,
        "--minutes",
        str(seconds / 60),
    ]
    if name == "check":
        return {one: [*command, "--optimizers", one, "--child"] for one in options.optimizers}
    return {name: [*command, "--child"]}


def short(sections: Sequence[Section], failures: Sequence[str], output: Path) -> list[str]:
    """Return the end of the output: targets, and what failed."""
    goals = [target for section in sections for target in section.targets()]
    lines = ["", *report.targets(goals)] if goals else []
    failed = [f"FAILED {text[:300]}" for text in failures[:10]]
    return [*lines, "", *failed, f"{len(failures)} failures", f"Written: {output / 'gpu.md'}, gpu.json"]


if __name__ == "__main__":
    sys.exit(main())
