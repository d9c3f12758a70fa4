"""What `stepspec show` says of a rule: its text, its cost, its stages, its generated reference."""

from collections.abc import Iterable

from stepspec.generator.analysis import Variant, compile_variants, cost
from stepspec.generator.classes import print_class
from stepspec.generator.ir import Expr
from stepspec.generator.kernels import stages
from stepspec.generator.lazy import ALWAYS, NEVER, lazy_verdicts
from stepspec.generator.parse import Rule, parse
from stepspec.generator.printer import Printer
from stepspec.generator.spec import Spec, number_text
from stepspec.generator.text import indented


def show(spec: Spec) -> str:
    """Return the description of `spec` as lines for a terminal."""
    rule = parse(spec)
    variants = compile_variants(rule)
    sections = [
        [f"{spec.name}: {spec.summary}", *([spec.paper] if spec.paper else [])],
        ["Rule", *indented(spec.update.text.rstrip().split("\n"))],
        ["Hyperparameters", *indented(_hyperparameters(spec))],
        ["State", *indented(_states(spec))],
        ["Stages", *indented(_stages(rule, variants))],
        [
            "Cost per element (float32, float64, float16, float16 with a float32 master)",
            *indented(_costs(variants)),
        ],
        ["Row-sparse gradients", *indented(_laziness(rule, variants))],
        ["Reference", *indented(print_class(rule, variants).step)],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _hyperparameters(spec: Spec) -> list[str]:
    rows = [("name", "default", "range", "")]
    for h in spec.hyperparameters:
        default = str(h.default) if h.is_switch else number_text(float(h.default))
        rows.append((h.name, default, "true or false" if h.is_switch else str(h.range), h.doc))
    rows += [(f.name, str(f.default), "per tensor", f.doc) for f in spec.flags]
    return _table(rows)


def _states(spec: Spec) -> list[str]:
    if not spec.states:
        return ["none"]
    rows = [("name", "per", "starts at", "stored", "")]
    for s in spec.states:
        init = s.init if isinstance(s.init, str) else number_text(s.init)
        rows.append((s.name, s.per.word, init, f"when {s.when.text}" if s.when else "always", s.doc))
    return _table(rows)


def _stages(rule: Rule, variants: tuple[Variant, ...]) -> list[str]:
    rows = [("launch", "computes", "kernels")]
    for stage in stages(rule, variants):
        kernels = dict.fromkeys(kernel for _, kernel in stage.kernels)
        rows.append((stage.label, ", ".join(stage.results), ", ".join(kernels)))
    return _table(rows)


def _costs(variants: tuple[Variant, ...]) -> list[str]:
    rows = [("variant", "bytes moved", "flops", "passes", "bytes of state")]
    for variant in variants:
        c = cost(variant)
        moved = f"{c.bytes(4)}, {c.bytes(8)}, {c.bytes(2)}, {c.bytes_with_master}"
        state = f"{4 * c.state}, {8 * c.state}, {2 * c.state}, {4 * c.state + 4}"
        rows.append((_condition(variant), moved, str(c.flops), str(c.passes), state))
    return _table(rows)


def _laziness(rule: Rule, variants: tuple[Variant, ...]) -> list[str]:
    known: dict[Expr, str] = {NEVER: "never", ALWAYS: "always"}
    rows = []
    for variant, verdict in zip(variants, lazy_verdicts(rule, variants), strict=True):
        rows.append((f"{_condition(variant)}:", known.get(verdict) or Printer().text(verdict)))
    offered = "offered, off by default" if rule.spec.lazy_update else "not offered"
    told = [f"lazy_update: {offered}", "skipping absent rows equals the dense update:"]
    return [*told, *indented(_table(rows))]


def _condition(variant: Variant) -> str:
    texts = []
    for atom, holds in variant.choice.items():
        text = Printer().text(atom)
        texts.append(text if holds else f"not {text}" if text.isidentifier() else f"not ({text})")
    return ", ".join(texts) or "all tensors"


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
