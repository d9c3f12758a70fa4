"""The results as a picture: how long the peers take, and how near fused steps come to the bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import OPTIMIZERS
from comparison import Comparison
from contest import Outcome
from peers import PEERS
from sections import Section

# the palette of Okabe and Ito, which the colour-blind can tell apart; markers differ too
STYLES = dict(
    zip(
        ("torch fused", "torch foreach", "torch compiled", "optax", "MXNet"),
        (("#D55E00", "o"), ("#E69F00", "s"), ("#CC79A7", "^"), ("#009E73", "D"), ("#0072B2", "v")),
        strict=True,
    )
)
BARS = {"float32": "#56B4E9", "bfloat16": "#0072B2", "float16": "#009E73"}
INK, FAINT = "#333333", "#DDDDDD"


def draw(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Draw bench.png from the comparison, if there is one with something in it; return its path."""
    outcomes = [o for s in sections if isinstance(s, Comparison) for o in s.outcomes]
    if not outcomes:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    optimizers = [name for name in OPTIMIZERS if any(o.optimizer == name for o in outcomes)]
    dtypes = list(dict.fromkeys(o.dtype for o in outcomes))
    wide = [o for o in outcomes if o.dtype == dtypes[0]]
    with pyplot.rc_context(
        {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT}
    ):
        figure = pyplot.figure(figsize=(3 + 1.6 * len(optimizers), 7.5), layout="constrained")
        shared = [o for o in outcomes if o.share is not None]
        heights = (3, 2) if shared else (3,)
        panels: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _ratios(panels[0], optimizers, wide)
        if shared:
            _shares(panels[1], optimizers, dtypes, shared)
        path = folder / "bench.png"
        figure.savefig(path, dpi=160)
        pyplot.close(figure)
    return [path]


def _ratios(figure: Any, optimizers: list[str], outcomes: list[Outcome]) -> None:
    """One panel for each optimizer."""
    figure.suptitle(
        f"Time of a step over stepspec's fused step, {outcomes[0].dtype} (right of 1: stepspec is faster)"
    )
    sets = list(dict.fromkeys(o.set for o in outcomes))
    panels = figure.subplots(1, len(optimizers), sharex=True, sharey=True, squeeze=False)[0]
    panels[0].set(xscale="log", yticks=range(len(sets)), yticklabels=sets, ylim=(len(sets) - 0.5, -0.5))
    for panel, optimizer in zip(panels, optimizers, strict=True):
        panel.set_title(optimizer)
        panel.axvline(1, color=INK, linewidth=1)
        panel.grid(axis="both", color=FAINT, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        _markers(panel, sets, [o for o in outcomes if o.optimizer == optimizer])
    left, right = panels[0].get_xlim()
    panels[0].set_xlim(min(left, 0.5), max(right, 20))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _markers(panel: Any, sets: list[str], outcomes: list[Outcome]) -> None:
    """Draw a marker for each peer, on a line for each set."""
    for label in PEERS:
        found = [(r, sets.index(o.set)) for o in outcomes if (r := o.ratio(label)) is not None]
        ratios, places = zip(*found, strict=True) if found else ((), ())
        colour, marker = STYLES[label]
        panel.plot(ratios, places, marker, color=colour, label=label, alpha=0.9)
    if not any(label in outcome.times for outcome in outcomes for label in PEERS):
        panel.text(
            0.5, 0.5, "no peer has it", transform=panel.transAxes, ha="center", backgroundcolor="white"
        )


def _shares(figure: Any, optimizers: list[str], dtypes: list[str], outcomes: list[Outcome]) -> None:
    """Bars for the largest set that has shares, in groups by optimizer."""
    largest = max(outcomes, key=lambda o: o.parameters).set
    panel = figure.subplots()
    panel.set_title(f"Share of the streaming bandwidth, {largest}")
    width = 0.8 / len(dtypes)
    for k, dtype in enumerate(dtypes):
        shares = {o.optimizer: o.share for o in outcomes if (o.dtype, o.set) == (dtype, largest)}
        heights = [100 * (shares.get(name) or 0) for name in optimizers]
        places = [i + (k - (len(dtypes) - 1) / 2) * width for i in range(len(optimizers))]
        bars = panel.bar(places, heights, 0.92 * width, label=dtype, color=BARS[dtype])
        panel.bar_label(bars, fmt=lambda height: f"{height:.0f}%" if height else "", fontsize=8)
    panel.axhline(90, color=INK, linewidth=1, linestyle=":")
    panel.set_ylim(0, 125)
    panel.set_yticks((0, 25, 50, 75, 90, 100))
    panel.set_xticks(range(len(optimizers)), optimizers)
    panel.yaxis.set_major_formatter("{x:g}%")
    panel.legend(loc="upper right", ncols=len(dtypes), frameon=False)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
