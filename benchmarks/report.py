"""The form of the results: Markdown for people, JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from first_call import FirstCall
from memory import Peak
from results import OptimizerResult, Report, SetResult

METHOD = """\
Milliseconds of one step: median (quartiles). float32; contenders take turns. stepspec is handed new gradient
arrays at every step: new objects at other addresses. The stream is a plain loop over three arrays of the
set's size that reads all three and writes two of them in place, as SGD with momentum does; torch, stepspec
and the stream run on the same number of threads. `torch / fused` and `step / fused` say how many times as
long as the fused step the others take."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def markdown(report: Report) -> str:
    env = report.environment
    packages = ", ".join(f"{name} {number}" for name, number in env.packages.items())
    lines = [
        "# Benchmark",
        "",
        f"{env.processor}, {env.cores} cores, {env.threads} threads; {env.system}",
        "",
        f"Load average at the start: {env.load:.1f}",
        "",
        f"Python {env.python}; {packages}",
        "",
        METHOD,
        "",
        "## SGD, momentum 0.9",
        "",
        *sets(report.sets),
        "",
        f"## Other optimizers, {report.largest}",
        "",
        *optimizers(report.optimizers),
        "",
        f"## Memory beyond the arrays, one step of {report.largest}",
        "",
        *peaks(report.peaks),
        "",
        "## First fused step of a process, import included",
        "",
        *first_calls(report.first_calls),
    ]
    return "\n".join(lines) + "\n"


def sets(results: list[SetResult]) -> list[str]:
    header = (
        "set",
        "tensors",
        "parameters",
        "`step`",
        "`fused_step`",
        "torch fused",
        "torch / fused",
        "step / fused",
        "bytes/element",
        "GB/s",
        "stream GB/s",
        "share",
    )
    rows = [
        (
            r.name,
            f"{r.tensors}",
            f"{r.parameters / 1e6:.2f} M",
            str(r.step),
            str(r.fused),
            str(r.torch) if r.torch else "torch missing",
            f"{r.torch.median / r.fused.median:.2f}" if r.torch else "-",
            f"{r.step.median / r.fused.median:.1f}",
            f"{r.bytes_per_element:g}",
            f"{r.bandwidth:.1f}",
            f"{r.stream_bandwidth:.1f}" if r.stream_bandwidth else "in cache",
            f"{r.bandwidth / r.stream_bandwidth:.0%}" if r.stream_bandwidth else "-",
        )
        for r in results
    ]
    return table(header, rows)


def optimizers(results: list[OptimizerResult]) -> list[str]:
    header = ("optimizer", "`step`", "`fused_step`", "step / fused", "bytes/element", "GB/s")
    rows = [
        (
            r.name,
            str(r.step),
            str(r.fused),
            f"{r.step.median / r.fused.median:.1f}",
            f"{r.bytes_per_element:g}",
            f"{r.bandwidth:.1f}",
        )
        for r in results
    ]
    return table(header, rows)


def peaks(results: list[Peak]) -> list[str]:
    rows = [
        (r.label, f"{r.allocated:.2f}", "not known" if r.resident is None else f"{r.resident:.2f}")
        for r in results
    ]
    return table(("step", "allocated, MiB", "resident, MiB"), rows)


def first_calls(results: list[FirstCall]) -> list[str]:
    rows = [(r.optimizer, f"{r.cold:.2f}", f"{r.cached:.2f}") for r in results]
    return table(("optimizer", "empty cache, s", "cached, s"), rows)


def write(report: Report, folder: Path) -> list[Path]:
    """Write bench.md and bench.json into an existing folder and return their paths."""
    text, data = folder / "bench.md", folder / "bench.json"
    text.write_text(markdown(report), encoding="utf-8")
    data.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    return [text, data]
