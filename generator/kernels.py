"""A Program's kernels -> the functions of a kernels module, as finished lines."""

from dataclasses import dataclass

from stepspec.generator.analysis import Variant
from stepspec.generator.hoist import words
from stepspec.generator.ir import Compare, Expr, Name, kernel_name
from stepspec.generator.loops import ArrayLines, KernelText, ScalarLines
from stepspec.generator.parse import Rule
from stepspec.generator.passes import Choice
from stepspec.generator.rows import RowLines
from stepspec.generator.stages import Kernel, ScalarKernel


@dataclass(frozen=True)
class StageText:
    """One launch: its name, what it computes, and the kernel of every variant that takes part."""

    label: str
    results: tuple[str, ...]
    kernels: tuple[tuple[tuple[bool, ...], str], ...]


@dataclass(frozen=True)
class KernelsText:
    """All kernels of one rule, and the functions they import."""

    kernels: tuple[KernelText, ...]
    stages: tuple[StageText, ...]
    arithmetic: tuple[str, ...]
    decorators: tuple[str, ...]
    walks: tuple[str, ...]


def print_kernels(rule: Rule, variants: tuple[Variant, ...]) -> KernelsText:
    """Return the kernels of all variants; variants that need the same kernel share it."""
    texts: list[KernelText] = []
    stages: list[StageText] = []
    used: set[str] = set()
    decorators: set[str] = set()
    walks: set[str] = set()
    for label, by_variant in _labels(variants):
        names_of = _kernel_names(rule, label, by_variant)
        for kernel, name in names_of.items():
            lines = _lines(kernel)
            texts.append(lines.text(name))
            used |= lines.used
            decorators.add(lines.decorator)
            if isinstance(lines, RowLines):
                decorators |= {"Reduction"} if lines.kernel.reductions else set()
                walks |= lines.imported
        chosen = tuple((tuple(choice.values()), names_of[kernel]) for choice, kernel in by_variant)
        results = tuple(dict.fromkeys(r for _, kernel in by_variant for r in _results(kernel)))
        stages.append(StageText(label, results, chosen))
    arithmetic = _in_order(used - {"abs"})
    return KernelsText(tuple(texts), tuple(stages), arithmetic, _in_order(decorators), _in_order(walks))


def _in_order(imported: set[str]) -> tuple[str, ...]:
    return tuple(sorted(imported, key=lambda name: (not name.isupper(), name[0].islower(), name)))


def _lines(kernel: Kernel) -> ScalarLines | ArrayLines:
    if isinstance(kernel, ScalarKernel):
        return ScalarLines(kernel)
    return RowLines(kernel) if kernel.by_rows else ArrayLines(kernel)


def _labels(variants: tuple[Variant, ...]) -> list[tuple[str, list[tuple[Choice, Kernel]]]]:
    """Return every launch of the rule in order, with the kernels of the variants that take part in it."""
    order = ("COMBINE", "REDUCE", "UPDATE", "UPDATE_COLUMNS")
    found: dict[tuple[str, int], list[tuple[Choice, Kernel]]] = {}
    for variant in variants:
        for (kind, stage), kernel in variant.program.stages:
            key = (kind, 0 if kind.startswith("UPDATE") else stage)
            found.setdefault(key, []).append((variant.choice, kernel))
    keys = sorted(found, key=lambda k: (k[0].startswith("UPDATE"), k[1], order.index(k[0])))
    several = {kind for kind, _ in keys if sum(k == kind for k, _ in keys) > 1}
    return [(f"{kind}_{stage}" if kind in several else kind, found[kind, stage]) for kind, stage in keys]


def _kernel_names(rule: Rule, label: str, by_variant: list[tuple[Choice, Kernel]]) -> dict[Kernel, str]:
    """Name the distinct kernels of one launch after the conditions that hold wherever they are used."""
    choices: dict[Kernel, list[Choice]] = {}
    for choice, kernel in by_variant:
        choices.setdefault(kernel, []).append(choice)
    base = label.lower()
    if len(choices) == 1:
        return dict.fromkeys(choices, base)
    named: dict[Kernel, str] = {}
    for kernel, users in choices.items():
        common = [atom for atom in users[0] if all(choice[atom] for choice in users)]
        name = "_".join([base, *(_atom_word(rule, atom) for atom in common)])
        named[kernel] = name if name not in named.values() else f"{name}_{len(named) + 1}"
    return named


def _atom_word(rule: Rule, atom: Expr) -> str:
    states = [state for state, condition in rule.presence.items() if condition == atom]
    if len(states) == 1:
        return states[0]
    match atom:
        case Compare():
            return words(atom)
        case Name(name=name):
            return name
        case _:
            raise AssertionError(f"not a static atom: {atom}")


def _results(kernel: Kernel) -> tuple[str, ...]:
    if isinstance(kernel, ScalarKernel):
        return tuple(kernel_name(name) for name in kernel.returns)
    written = tuple(name for name, _ in kernel.arrays if name in dict(kernel.writes))
    return tuple(s.target.name for s in kernel.reductions) or written
