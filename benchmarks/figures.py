"""The cells of tables about contests."""

from collections.abc import Iterable, Mapping

from contest import Outcome

NONE = "-"


def header(first: str, labels: Iterable[str]) -> tuple[str, ...]:
    return (
        first,
        "parameters",
        "`fused_step`",
        "`step`",
        *labels,
        "bytes/element",
        "GB/s",
        "streams GB/s",
        "share",
    )


def line(name: str, outcome: Outcome, labels: Iterable[str]) -> tuple[str, ...]:
    """Return a row: milliseconds, how many times `fused_step`'s those of the others are, and the traffic."""
    share, bound = outcome.share, outcome.bound
    return (
        name,
        f"{outcome.parameters / 1e6:.2f} M",
        str(outcome.fused),
        *(cell(outcome, label) for label in ("step", *labels)),
        f"{outcome.bytes / outcome.parameters:.3g}",
        f"{outcome.gigabytes:.1f}",
        f"{outcome.bytes / bound / 1e6:.1f}" if bound else "in cache",
        f"{share:.0%}" if share else NONE,
    )


def cell(outcome: Outcome, label: str) -> str:
    ratio = outcome.ratio(label)
    return NONE if ratio is None else f"{outcome.times[label]} {ratio:.{2 if ratio < 10 else 0}f}x"


def footnotes(outcomes: Mapping[str, Outcome]) -> str:
    """Return why peers are missing, with the rows' names unless the reason holds for all rows."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, outcome in outcomes.items():
        for label, why in outcome.missing.items():
            rows.setdefault((label, why), []).append(name)
    labels: dict[tuple[str, str], list[str]] = {}
    for (label, why), names in rows.items():
        where = "" if len(names) == len(outcomes) else f" ({'; '.join(names)})"
        labels.setdefault((why, where), []).append(label)
    return " ".join(f"{', '.join(alike)}{where}: {why}." for (why, where), alike in labels.items())
