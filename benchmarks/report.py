"""The form of the results: Markdown for people, JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from first_call import FirstCall
from memory import Peak
from results import OptimizerResult, Report, SetResult, SparseResult, StorageResult, gigabytes
from row_sparse import COLUMNS, PRESENT
from timing import Timing

METHOD = """\
Milliseconds of one step: median (quartiles). float32, unless the table says otherwise. The contenders of a
line take turns; those of "Storage" all together. stepspec is handed new gradient arrays at every step: new
objects at other addresses. Making gradients, row-sparse ones too, is not timed. The stream is a plain loop
over three float32 arrays of the set's size that reads all three and writes two of them in place, as SGD with
momentum does; torch, stepspec and the stream run on the same number of threads. torch's SGD is fused, unless
its fused path does not move the weights or takes no such gradients. `torch / fused`, `step / fused` and
`dense / sparse` say how many times as long the former takes. Bytes are those that the plan of a fused step
counts: what each stage reads and writes."""
NO_PEER = "-"


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
    ]
    share = f"{1 / PRESENT:.0%} of {report.rows:,} x {COLUMNS} float32 rows"
    tables = {
        "SGD, momentum 0.9": sets(report.sets),
        f"Other optimizers, {report.largest}": optimizers(report.optimizers),
        f"Storage, {report.largest}, momentum 0.9": storages(report.storages),
        f"Row-sparse, {share}": sparse(report.sparse),
        f"Memory beyond the arrays, one step of {report.largest}": peaks(report.peaks),
        "First fused step of a process, import included": first_calls(report.first_calls),
    }
    for title, rows in tables.items():
        if len(rows) > 2:
            lines += ["", f"## {title}", "", *rows]
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
            times(r.torch, r.fused, 2),
            times(r.step, r.fused),
            *traffic(r),
            *stream(r),
        )
        for r in results
    ]
    return table(header, rows)


def optimizers(results: list[OptimizerResult]) -> list[str]:
    header = ("optimizer", "`step`", "`fused_step`", "step / fused", "bytes/element", "GB/s")
    rows = [(r.name, str(r.step), str(r.fused), times(r.step, r.fused), *traffic(r)) for r in results]
    return table(header, rows)


def storages(results: list[StorageResult]) -> list[str]:
    header = (
        "weights and gradients",
        "`fused_step`",
        "torch",
        "torch / fused",
        "bytes/element",
        "GB/s",
        "stream GB/s",
        "share",
    )
    rows = [
        (
            r.name,
            str(r.fused),
            f"{r.torch}{'' if r.torch_fused else ', not fused'}" if r.torch else NO_PEER,
            times(r.torch, r.fused, 2),
            *traffic(r),
            *stream(r),
        )
        for r in results
    ]
    return table(header, rows)


def sparse(results: list[SparseResult]) -> list[str]:
    header = ("optimizer", "absent rows", "dense", "sparse", "dense / sparse", "MB", "GB/s", "torch sparse")
    rows = [
        (
            r.name,
            "skipped" if r.skips else "zeros",
            str(r.dense),
            str(r.sparse),
            times(r.dense, r.sparse),
            f"{r.bytes / 1e6:.2f}",
            f"{gigabytes(r.bytes, r.sparse):.1f}",
            str(r.torch) if r.torch else NO_PEER,
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


def times(slow: Timing | None, fast: Timing, digits: int = 1) -> str:
    return f"{slow.median / fast.median:.{digits}f}" if slow else NO_PEER


def traffic(result: SetResult | OptimizerResult | StorageResult) -> tuple[str, str]:
    """Return bytes per element, and bandwidth."""
    return f"{result.bytes / result.parameters:.3g}", f"{gigabytes(result.bytes, result.fused):.1f}"


def stream(result: SetResult | StorageResult) -> tuple[str, str]:
    """Return the stream's bandwidth, and the share that the fused step has of it."""
    reference = result.stream_bandwidth
    if not reference:
        return "in cache", NO_PEER
    return f"{reference:.1f}", f"{gigabytes(result.bytes, result.fused) / reference:.0%}"


def write(report: Report, folder: Path) -> list[Path]:
    """Write bench.md and bench.json into an existing folder and return their paths."""
    text, data = folder / "bench.md", folder / "bench.json"
    text.write_text(markdown(report), encoding="utf-8")
    data.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    return [text, data]
