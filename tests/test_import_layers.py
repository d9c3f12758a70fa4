"""Hold the arrows between modules: each package is a stack, and a module imports only from below itself."""

import ast
import subprocess
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "runtime": "stepspec",
    "runtime/cuda": "stepspec.cuda",
    "generator": "stepspec.generator",
    "generated": "stepspec.generated",
    "specs": "stepspec.specs",
}

# From the bottom up; modules of one line do not import each other. A new module has to be placed here.
GENERATOR = (
    "errors free_names",
    "language text",
    "document ir syntax",
    "signs spec",
    "fold scope values",
    "formulas reader",
    "parse",
    "passes",
    "hoist",
    "stages",
    "analysis printer",
    "attributes kernel_text lazy",
    "docs functions loops rounds",
    "classes row_functions rows",
    "cpu_text cuda_text",
    "kernels",
    "emit show",
    "project",
    "generate new",
    "writing",
    "cli",
)
RUNTIME = (
    "kernel_cache machine_code num_threads places schedule_arguments sources",
    "atomic compilation exclusive formats halves hyperparameters kept",
    "counts lr_scheduler notices sparse_checks states transcendental",
    "archive batches lanes memory noise overlaps pointers rates reference sparse storage synchronization",
    "objects one_place rule tally work",
    "arguments canonical checks inputs reading_arrays reading_calls tables threads",
    "streaming",
    "arithmetic arrays changes names reductions selections tensors walks",
    "gradients in_memory layout plan recognition settings",
    "slots",
    "pieces",
    "entries",
    "cpu",
    "host_plan norms_cpu rating",
    "norms overview",
    "call",
    "steps",
    "optimizer",
    "mxnet records registry",
    "matching",
    "checkpoint",
    "updater",
    "groups",
    "joint",
    "trainer",
    "__init__",
)
# The CUDA target stands below `call`, which asks it for the plan of a call on a device; what the rest of the
# runtime needs of it is imported late, as most processes have no such arrays.
CUDA = (
    "items",
    "calls device_code kernels staging tables",
    "access folds native",
    "driver noise_words row_folds",
    "compilation libraries",
    "arrays recipes strided_entry",
    "copies entries recognition row_access scalar_entries",
    "gradients scattered",
    "apart row_walks tensor_reductions",
    "column_reductions row_steps",
    "reductions",
    "column_entries row_entries",
    "passes",
    "launches",
    "strided",
    "norms orders",
    "plan",
    "__init__",
)
BELOW_CUDA = RUNTIME[: RUNTIME.index("call")]
# Only these may load numba-cuda and the bindings of CUDA when they are imported: what compiles.
CUDA_AT_THE_TOP = {
    "access",
    "column_entries",
    "column_reductions",
    "compilation",
    "device_code",
    "entries",
    "folds",
    "noise_words",
    "row_access",
    "row_entries",
    "row_folds",
    "row_steps",
    "row_walks",
    "scalar_entries",
    "scattered",
    "strided_entry",
    "tensor_reductions",
}
# Only these may load Numba when they are imported. What `import stepspec` loads imports them late, so that it
# costs no more than NumPy.
NUMBA_AT_THE_TOP = {
    "arithmetic",
    "canonical",
    "compilation",
    "cpu",
    "entries",
    "lanes",
    "layout",
    "memory",
    "norms_cpu",
    "objects",
    "pieces",
    "pointers",
    "reading_arrays",
    "reading_calls",
    "reductions",
    "slots",
    "storage",
    "streaming",
    "synchronization",
    "threads",
    "walks",
    "work",
}
LAYERS = {"stepspec": RUNTIME, "stepspec.cuda": CUDA, "stepspec.generator": GENERATOR}
GENERATED_MAY_IMPORT = {"math", "numpy", "typing", "collections", "collections.abc"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and whether it is imported inside a function."""

    target: str
    lazy: bool


def sources() -> dict[str, Path]:
    """Return the file of every module of the distribution, by the name it is imported as."""
    return {
        package if path.stem == "__init__" else f"{package}.{path.stem}": path
        for folder, package in FOLDERS.items()
        for path in sorted((ROOT / folder).glob("*.py"))
    }


SOURCES = sources()


def imports(text: str, module: str, is_package: bool, known: Container[str] = SOURCES) -> list[Import]:
    """Return what a module's text imports, relative imports resolved, submodules told from attributes."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        match node:
            case ast.Import(names):
                found.extend(Import(alias.name, lazy) for alias in names)
            case ast.ImportFrom(origin, names, level):
                package = module.split(".")[: None if is_package else -1]
                start = package[: len(package) - level + 1] if level else []
                base = ".".join([*start, *filter(None, [origin])])
                for alias in names:
                    name = f"{base}.{alias.name}"
                    found.append(Import(name if name in known else base, lazy))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                lazy = True
            case ast.If(ast.Name("TYPE_CHECKING")):
                return  # names in annotations, which make no module depend on another when it runs
        for child in ast.iter_child_nodes(node):
            visit(child, lazy)

    visit(ast.parse(text), lazy=False)
    return found


def modules(package: str) -> Iterator[tuple[str, list[Import]]]:
    """Yield every module of a package by its short name, with its imports."""
    for module, path in SOURCES.items():
        name = module.removeprefix(package).lstrip(".") or "__init__"
        if path.parent == SOURCES[package].parent:
            text = path.read_text(encoding="utf-8")
            yield name, imports(text, module, path.stem == "__init__")


def against_the_arrows(package: str, module: str, imported: list[Import]) -> list[str]:
    """Return the modules of its own package that a module imports, though they do not stand below it."""
    height = {name: level for level, line in enumerate(LAYERS[package]) for name in line.split()}
    wrong = []
    for entry in imported:
        name = entry.target.removeprefix(package).lstrip(".") or "__init__"
        own = entry.target == package or entry.target.startswith(package + ".")
        if own and name in height and height[name] >= height[module]:
            wrong.append(name)
    return wrong


def inside(target: str, package: str) -> bool:
    return target == package or target.startswith(package + ".")


@pytest.mark.parametrize("package", LAYERS)
def test_every_module_has_its_place(package: str) -> None:
    placed = " ".join(LAYERS[package]).split()
    assert sorted({*placed, "__init__"}) == sorted(name for name, _ in modules(package))
    assert len(placed) == len(set(placed))


@pytest.mark.parametrize("package", LAYERS)
def test_modules_import_from_below(package: str) -> None:
    for name, imported in modules(package):
        if name == "__init__" and package == "stepspec.generator":
            assert not [entry.target for entry in imported if inside(entry.target, "stepspec")]
        else:
            assert against_the_arrows(package, name, imported) == [], f"{package}.{name}"


def test_generator_knows_nothing_of_the_runtime() -> None:
    for name, imported in modules("stepspec.generator"):
        targets = [entry.target for entry in imported if inside(entry.target, "stepspec")]
        known = ("stepspec.generator", "stepspec.specs")
        assert all(any(inside(target, package) for package in known) for target in targets), name


def test_runtime_knows_nothing_of_the_generator() -> None:
    for name, imported in modules("stepspec"):
        known = [entry for entry in imported if inside(entry.target, "stepspec.generator")]
        # which compiles specs at run time, and nobody who does without should pay for that
        assert all(entry.lazy and name == "in_memory" for entry in known), name


def test_generated_code_imports_only_the_runtime_and_numpy() -> None:
    allowed = GENERATED_MAY_IMPORT | {f"stepspec.{name}" for name in " ".join(RUNTIME).split()}
    allowed |= {"stepspec.cuda"}
    for name, imported in modules("stepspec.generated"):
        targets = {entry.target for entry in imported}
        index = {target for target in targets if name == "__init__" and inside(target, "stepspec.generated")}
        assert targets - index <= allowed, name


def test_specs_hold_no_code() -> None:
    assert [name for name, imported in modules("stepspec.specs") if imported or name != "__init__"] == []


def test_the_cuda_target_knows_only_what_is_below_calls() -> None:
    known = {f"stepspec.{name}" for name in " ".join(BELOW_CUDA).split()}
    for name, imported in modules("stepspec.cuda"):
        targets = {entry.target for entry in imported if inside(entry.target, "stepspec")}
        assert {target for target in targets if not inside(target, "stepspec.cuda")} <= known, name


def test_the_cuda_target_is_imported_late() -> None:
    for package in FOLDERS.values():
        for name, imported in modules(package):
            if package not in ("stepspec.cuda", "stepspec.generated"):
                early = [e for e in imported if inside(e.target, "stepspec.cuda") and not e.lazy]
                assert early == [], f"{package}.{name}"


def test_numba_is_imported_late() -> None:
    """Numba's host part, numba-cuda and the bindings of CUDA: each at the top of those that need it only."""
    at_the_top = {"stepspec": NUMBA_AT_THE_TOP, "stepspec.cuda": CUDA_AT_THE_TOP}
    for package in FOLDERS.values():
        for name, imported in modules(package):
            heavy = [e for e in imported if inside(e.target, "numba") or inside(e.target, "cuda")]
            early = [entry.target for entry in heavy if not entry.lazy]
            assert not early or name in at_the_top.get(package, ()), f"{package}.{name}: {early}"


def test_importing_stepspec_loads_neither_numba_nor_the_generator() -> None:
    heavy = ("numba", "cuda", "jinja2", "yaml", "stepspec.generator", "stepspec.cuda")
    script = f"import sys, stepspec; stepspec.SGD; print([m for m in sys.modules if m in {heavy}])"
    printed = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60)
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import stepspec.plan", [Import("stepspec.plan", False)]),
        ("import numba.core as core", [Import("numba.core", False)]),
        ("from stepspec import plan, create", [Import("stepspec.plan", False), Import("stepspec", False)]),
        ("from . import plan", [Import("stepspec.plan", False)]),
        ("from .plan import Plan", [Import("stepspec.plan", False)]),
        ("def f():\n    import numba", [Import("numba", True)]),
        ("class A:\n    from numba import njit", [Import("numba", False)]),
        ("if True:\n    import numba", [Import("numba", False)]),
        ("if TYPE_CHECKING:\n    import numba", []),
    ],
)
def test_reading_imports(text: str, expected: list[Import]) -> None:
    assert imports(text, "stepspec.cpu", is_package=False, known={"stepspec.plan"}) == expected


def test_a_wrong_arrow_is_found() -> None:
    upward = [Import("stepspec.optimizer", True), Import("stepspec.compilation", False)]
    assert against_the_arrows("stepspec", "plan", upward) == ["optimizer"]
