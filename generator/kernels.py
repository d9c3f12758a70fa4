"""A Program's kernels -> the functions of a kernels module, as finished lines, for any target."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stepspec.generator.analysis import Variant
from stepspec.generator.free_names import FreeNames
from stepspec.generator.hoist import words
from stepspec.generator.ir import Compare, Expr, Logic, Name, kernel_name, walk
from stepspec.generator.kernel_text import KernelText, Printed
from stepspec.generator.parse import Rule
from stepspec.generator.passes import Choice
from stepspec.generator.stages import Kernel, ScalarKernel

# what a target makes of a kernel of this name; its other functions get names that are free
Target = Callable[[Kernel, str, FreeNames], Printed]


@dataclass(frozen=True)
class Stage:
    """One launch: its name, what it computes, and the name of each variant's kernel that takes part."""

    label: str
    results: tuple[str, ...]
    kernels: tuple[tuple[tuple[bool, ...], str], ...]


@dataclass(frozen=True)
class KernelsText:
    """All kernels of one rule, what they import, and for each stage which of them run."""

    kernels: tuple[KernelText, ...]
    stages: tuple[Stage, ...]
    imports: tuple[tuple[str, tuple[str, ...]], ...]


def stages(rule: Rule, variants: tuple[Variant, ...]) -> tuple[Stage, ...]:
    """Return the launches of all variants."""
    return tuple(stage for stage, _ in _stages(rule, variants))


def print_kernels(rule: Rule, variants: tuple[Variant, ...], target: Target) -> KernelsText:
    """Return the kernels of all variants; variants that need the same kernel share it."""
    found = _stages(rule, variants)
    free = FreeNames(name for _, kernels in found for name in kernels)
    texts: list[KernelText] = []
    listed: list[Stage] = []
    imports: dict[str, frozenset[str]] = {}
    for stage, kernels in found:
        printed = {name: target(kernel, name, free) for name, kernel in kernels.items()}
        for text in printed.values():
            texts += text.texts
            for module, needed in text.imports.items():
                imports[module] = imports.get(module, frozenset()) | needed
        entries = tuple((choice, printed[name].entry) for choice, name in stage.kernels)
        listed.append(Stage(stage.label, stage.results, entries))
    ordered = tuple((module, _in_order(imports[module])) for module in sorted(imports))
    return KernelsText(tuple(texts), tuple(listed), ordered)


def _in_order(imported: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(imported, key=lambda name: (not name.isupper(), name[0].islower(), name)))


def _stages(rule: Rule, variants: tuple[Variant, ...]) -> list[tuple[Stage, dict[str, Kernel]]]:
    """Return every launch in order, with its kernels by name."""
    found = []
    for label, by_variant in _labels(variants):
        names_of = _kernel_names(rule, label, by_variant)
        chosen = tuple((tuple(choice.values()), names_of[kernel]) for choice, kernel in by_variant)
        results = tuple(dict.fromkeys(r for _, kernel in by_variant for r in _results(kernel)))
        found.append((Stage(label, results, chosen), {name: kernel for kernel, name in names_of.items()}))
    return found


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
        name = "_".join([base, *_atom_words(rule, common)])
        named[kernel] = name if name not in named.values() else f"{name}_{len(named) + 1}"
    return named


def _atom_words(rule: Rule, atoms: Sequence[Expr]) -> Iterator[str]:
    """Yield a word for each condition that holds: the state that is stored because of it, if there is one."""
    needed = {state: set(walk(condition)) & set(atoms) for state, condition in rule.presence.items()}
    stored = [state for state, condition in rule.presence.items() if needed[state] == set(_joined(condition))]
    said: set[Expr] = set()
    for atom in atoms:
        said.add(atom)
        states = [state for state in stored if atom in needed[state] <= said]
        yield states[0] if len(states) == 1 else _atom_word(atom)


def _joined(condition: Expr) -> Iterator[Expr]:
    """Yield the conditions that `and` joins."""
    match condition:
        case Logic(operator="and", left=left, right=right):
            yield from _joined(left)
            yield from _joined(right)
        case _:
            yield condition


def _atom_word(atom: Expr) -> str:
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
