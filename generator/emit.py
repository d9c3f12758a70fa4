"""Specs -> the texts of the modules in `generated/`: a template places finished lines and decides nothing."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from stepspec.generator.analysis import compile_variants
from stepspec.generator.classes import ClassText, print_class
from stepspec.generator.cpu_text import print_cpu
from stepspec.generator.cuda_text import print_cuda
from stepspec.generator.errors import Problems
from stepspec.generator.kernels import KernelsText, Stage, Target, print_kernels, stages
from stepspec.generator.parse import Rule, parse, read_rule
from stepspec.generator.passes import static_atoms
from stepspec.generator.printer import HostPrinter
from stepspec.generator.reader import read_draft, read_source
from stepspec.generator.spec import Spec
from stepspec.generator.text import WIDTH, table

TARGETS: dict[str, Target] = {"cpu": print_cpu, "cuda": print_cuda}


@dataclass(frozen=True)
class Origin:
    """What the first line of generated modules says: in which folder their specs are, and a remark."""

    folder: str
    remark: str

    def header(self, name: str = "") -> str:
        """Return the first line of what is made of the file `name`, or of the whole folder."""
        return f"# Generated from {self.folder}{name} by stepspec. {self.remark}"


OWN = Origin("specs/", 'Do not edit: run "make generate".')
IN_MEMORY = Origin("", "It stands in memory only.")


@dataclass(frozen=True)
class ReferenceView:
    """What the template of an optimizer's class is given."""

    header: str
    imports: tuple[str, ...]
    c: ClassText
    module: str
    launches: tuple[str, ...]


@dataclass(frozen=True)
class KernelsView:
    """What the template of a kernels module is given."""

    header: str
    imports: tuple[str, ...]
    name: str
    k: KernelsText
    variant_names: str
    stages: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class IndexView:
    """What the template of a package's `__init__.py` is given."""

    header: str
    docstring: str
    imports: tuple[str, ...]
    names: tuple[str, ...]
    calls: tuple[str, ...]


def emit(spec: Spec, origin: Origin = OWN) -> dict[str, str]:
    """Return the modules of one spec: file name -> text. Raise SpecError if the rule has a mistake."""
    rule = parse(spec)
    variants = compile_variants(rule)
    printed = print_class(rule, variants)
    header = origin.header(f"{spec.stem}.yaml")
    launches = tuple(_launches(stages(rule, variants), printed.fused_store))
    reference = ReferenceView(header, _class_imports(printed), printed, spec.stem, launches)
    texts = {f"{spec.stem}.py": _render("reference.py.j2", reference)}
    for target, print_kernel in TARGETS.items():
        view = _kernels_view(header, rule, print_kernels(rule, variants, print_kernel))
        texts[f"{spec.stem}_{target}.py"] = _render(f"{target}.py.j2", view)
    return texts


def check(path: Path) -> None:
    """Raise SpecError with every mistake of the spec file at `path`, in its data and in its formulas."""
    source = read_source(path)
    problems = Problems(source)
    draft = read_draft(source, path.stem, problems)
    if draft.update.text:
        read_rule(draft, problems)
    problems.raise_any()
    emit(draft)


def emit_index(specs: Iterable[Spec], origin: Origin) -> str:
    """Return the text of `generated/__init__.py` for these specs."""
    classes = sorted((spec.stem, spec.name) for spec in specs)
    imports = [f"from stepspec.generated.{module} import {name}" for module, name in classes]
    docstring = "The optimizers that stand in `specs/`, one module each, with their kernels beside them."
    view = IndexView(origin.header(), docstring, tuple(imports), _sorted(classes), ())
    return _render("index.py.j2", view)


def emit_package(specs: Iterable[Spec], origin: Origin) -> str:
    """Return the text of `__init__.py` of a package elsewhere, which registers its classes."""
    classes = sorted((spec.stem, spec.name) for spec in specs)
    imports = ["import stepspec", "", *(f"from .{module} import {name}" for module, name in classes)]
    docstring = "Optimizers, which `stepspec.create` knows once this package is imported."
    calls = tuple(f"stepspec.register({name})" for _, name in classes)
    view = IndexView(origin.header(), docstring, tuple(imports), _sorted(classes), calls)
    return _render("index.py.j2", view)


def _sorted(classes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the names as ruff sorts them: constants first."""
    return tuple(sorted((name for _, name in classes), key=lambda name: (not name.isupper(), name)))


def _render(template: str, view: ReferenceView | KernelsView | IndexView) -> str:
    return _environment().get_template(template).render(vars(view))


@functools.cache  # it keeps compiled templates
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is Python, not HTML
    )
    environment.filters["indented"] = lambda line, levels: "    " * levels + line if line else line
    return environment


def _class_imports(c: ClassText) -> tuple[str, ...]:
    dictionaries = [line for line in c.attributes if "ClassVar[" in line]
    abstract = ["Sequence"]
    abstract += ["Callable"] if any("Callable[" in line for line in dictionaries) else []
    abstract += ["Mapping"] if dictionaries or c.layout or c.variant or c.lazy else []
    typing = ["Any"] + (["ClassVar"] if dictionaries else [])
    lines = ["import math"] if c.math else []
    lines += [
        f"from collections.abc import {', '.join(sorted(abstract))}",
        f"from typing import {', '.join(typing)}",
    ]
    lines += ["", "import numpy as np", ""]
    if c.hyperparameter_kinds:
        lines += _import("stepspec.hyperparameters", c.hyperparameter_kinds)
    lines.append("from stepspec.optimizer import Optimizer")
    lines += ["from stepspec.rates import Rate"] if c.lazy else []
    if c.reference:
        lines += _import("stepspec.reference", c.reference)
    lines.append("from stepspec.sparse import RowSparse")
    return (*lines, *_import("stepspec.states", ("Array", *c.state_types)))


def _kernels_view(header: str, rule: Rule, k: KernelsText) -> KernelsView:
    atoms = ", ".join(HostPrinter().text(atom).replace("self.", "") for atom in static_atoms(rule))
    imports = (line for module, names in k.imports for line in _import(module, names))
    lines = tuple(_stage_lines(stage) for stage in k.stages)
    return KernelsView(header, tuple(imports), rule.spec.name, k, f", by ({atoms})" if atoms else "", lines)


def _import(module: str, names: tuple[str, ...]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def _launches(stages: tuple[Stage, ...], store: str) -> Iterable[str]:
    for stage in stages:
        yield f"call.launch(kernels.{stage.label})  # {', '.join(stage.results)}"
    if store:
        yield f"call.store({store})"


def _stage_lines(stage: Stage) -> tuple[str, ...]:
    return tuple(table(f"{stage.label} = ", (f"{variant}: {kernel}" for variant, kernel in stage.kernels)))
