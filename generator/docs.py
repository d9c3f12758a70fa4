"""A rule -> the docstring of its class."""

import re
import textwrap

from stepspec.generator import analysis, language
from stepspec.generator.ir import Expr
from stepspec.generator.lazy import ALWAYS, NEVER
from stepspec.generator.parse import Rule
from stepspec.generator.printer import Printer
from stepspec.generator.spec import Hyperparameter, Spec, number_text
from stepspec.generator.text import WIDTH

_NOISE = (
    "Each ``normal()`` is a standard normal number for every element, drawn anew in every step: `seed`, the "
    "tensor's name (or else its index), its update count and the element's position decide it, nothing else."
)


def sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def docstring(rule: Rule, exact: Expr) -> list[str]:
    """Return the docstring's lines; `exact` tells when leaving out rows without gradient changes nothing."""
    spec = rule.spec
    lines = [sentence(spec.summary), "", "Updates each weight by::", ""]
    lines += [f"    {line}".rstrip() for line in spec.update.text.rstrip().split("\n")]
    lines += ["", *_names_explained(rule), "", *_rows_explained(spec, exact), "", "Parameters", "----------"]
    for h in spec.arguments:
        lines += _parameter(h)
    lines += ["**kwargs", "    Arguments of every optimizer: see `stepspec.Optimizer`."]
    if spec.states:
        lines += ["", "State", "-----", *state_doc(rule)]
    if spec.flags:
        lines += ["", "Tensor flags", "------------"]
        for f in spec.flags:
            endings = " or ".join(f"`{e}`" for e in f.unless_name_ends)
            rule_of = f"{f.default}" + (
                f", but {not f.default} for names ending in {endings}" if endings else ""
            )
            lines += [f"{f.name} : bool, {rule_of}", *_paragraph(f.doc)]
    if spec.paper:
        lines += ["", "References", "----------", spec.paper]
    return lines


def _names_explained(rule: Rule) -> list[str]:
    used = [n for n in ("lr", "wd", "t", "rescale_grad", "clip_gradient") if analysis.uses(rule, n)]
    told = "; ".join(f"``{n}`` is the {language.HOST_NAMES[n].removeprefix('the ')}" for n in used)
    lines = _wrapped(f"where {told}.")
    if analysis.draws_noise(rule):
        lines += ["", *_wrapped(_NOISE)]
    if not analysis.uses(rule, "wd"):
        lines += ["", "Weight decay is not part of the rule: a non-zero one is refused."]
    if analysis.divides_by_rate(rule):
        lines += ["", "While a tensor's learning rate is 0, its weight and states stay as they are."]
    return lines


def _rows_explained(spec: Spec, exact: Expr) -> list[str]:
    """Say what becomes of the rows that a row-sparse gradient does not hold."""
    same = "as a gradient of zeros would leave them as they are"
    if exact == ALWAYS:
        return _wrapped(f"Rows that a row-sparse gradient lacks are skipped, {same}.")
    skipped = ["if `lazy_update` is set"] if spec.lazy_update else []
    skipped += [f"where ``{Printer().text(exact)}``, {same}"] if exact != NEVER else []
    told = f"are skipped {', and '.join(skipped)}; otherwise they count" if skipped else "count"
    return _wrapped(f"Rows that a row-sparse gradient lacks {told} as zeros.")


def _wrapped(text: str) -> list[str]:
    """Break a paragraph into lines, never inside of ``code``."""
    whole = re.sub("``.*?``", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _parameter(h: Hyperparameter) -> list[str]:
    if h.is_switch:
        return [f"{h.name} : bool, default {h.default}", *_paragraph(h.doc)]
    if h.name == "learning_rate":
        doc = (
            h.doc or "The learning rate; None takes the scheduler's. A number overrides the scheduler's base."
        )
        return [
            f"learning_rate : float in {h.range} or None, default {number_text(float(h.default))}",
            *_paragraph(doc),
        ]
    default = "None (off)" if h.default in (float("inf"), float("-inf")) else number_text(float(h.default))
    return [f"{h.name} : float in {h.range}, default {default}", *_paragraph(h.doc)]


def _paragraph(text: str) -> list[str]:
    return [f"    {line}" for line in textwrap.wrap(text, WIDTH - 12)]


def state_doc(rule: Rule) -> list[str]:
    lines = []
    for s in rule.spec.states:
        shapes = {
            "element": "shape of the weight",
            "row": "one value per row, shape (n, 1, ...)",
            "column": "one value per column, shape (1, ...)",
            "tensor": "one float64, shape (1,)",
        }
        start = "a copy of the weight" if isinstance(s.init, str) else number_text(s.init)
        stored = f", stored when {s.when.text}" if s.when else ""
        lines += [f"{s.name} : {shapes[s.per.word]}, starts at {start}{stored}", *_paragraph(s.doc)]
    return lines
