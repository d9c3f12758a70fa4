"""What a project's specs generate, and how its files differ from that."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepspec.generator.emit import emit
from stepspec.generator.errors import Problem, SpecError
from stepspec.generator.project import Folder, Project, ProjectError, real
from stepspec.generator.reader import load
from stepspec.generator.spec import Spec

MARK = re.compile(r"# Generated from .+ by stepspec\. Do not edit: ")


@dataclass(frozen=True)
class Changes:
    """How the folder of a package differs from its specs.

    Attributes:
        written: file name -> new text, for files that are missing or differ.
        removed: generated files that belong to no spec any more.
    """

    folder: Folder
    written: dict[str, str]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)

    def diff(self) -> str:
        """Return the unified diff from the files to what the specs generate."""
        parts: list[str] = []
        for name in sorted({*self.written, *self.removed}):
            path, shown = self.folder.path / name, f"{self.folder.shown}/{name}"
            old = (_read(path) or "").splitlines(keepends=True)
            new = self.written.get(name, "").splitlines(keepends=True)
            parts += difflib.unified_diff(old, new, shown, f"{shown} (from specs)")
        return "".join(parts)


def load_all(folder: Folder) -> tuple[Spec, ...]:
    """Return the specs of a folder, by file name.

    Raises:
        SpecError: for a spec with mistakes, or two of one name.
        ProjectError: for a file that is none, or a link that leads out of the folder.
        OSError: if a file cannot be read.
    """
    specs = tuple(load(path, f"{folder.shown}/{path.name}") for path in _files(folder))
    seen: dict[str, Spec] = {}
    for spec in specs:
        other = seen.setdefault(spec.name.lower(), spec)
        if other is not spec:
            raise _refusal(spec, f"'{spec.name}' stands in {other.source.name} already")
        # the text of a module is Unicode, but Python reads some letters in a module's name as others
        if not spec.stem.isascii():
            raise _refusal(spec, f"'{spec.stem}' cannot name a module", "use the letters a to z")
    return specs


def generated_texts(project: Project) -> dict[str, str]:
    """Return every module that a project's specs generate: file name -> text."""
    specs = load_all(project.specs)
    if not specs:
        raise ProjectError(f"there is no spec in {project.specs.shown}: their files end in .yaml")
    texts = {"__init__.py": project.index(specs, project.origin)}
    names = set(texts)
    for spec in specs:
        if owner := project.taken.get(spec.name.lower()):
            raise _refusal(spec, f"the name '{spec.name}' belongs to {owner}", "choose another name")
        for name, text in emit(spec, project.origin).items():
            if name.lower() in names:
                raise _refusal(spec, f"another spec generates {name} too", "rename one of them")
            names.add(name.lower())
            texts[name] = text
    return texts


def compare(project: Project) -> Changes:
    """Return how the package differs from what its specs generate. Nothing is written.

    Raises:
        SpecError: if a spec has a mistake.
        ProjectError: if a file is in the way that stepspec did not generate, or there is no spec.
        OSError: if a file cannot be read.
    """
    texts = generated_texts(project)
    folder = project.package
    for name in texts:
        _refuse_foreign(folder, name)
    written = {name: text for name, text in texts.items() if _read(folder.path / name) != text}
    present = sorted(path.name for path in folder.path.glob("*.py"))
    removed = tuple(n for n in present if n not in texts and MARK.match(_read(folder.path / n) or ""))
    return Changes(folder, written, removed)


def spec_files(folder: Path) -> list[Path]:
    """Return the specs in a folder, without what editors hide there."""
    return sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("."))


def _files(folder: Folder) -> Iterator[Path]:
    """Yield the specs of a project, which are files inside its folder."""
    inside = real(folder.path)
    for path in spec_files(folder.path):
        shown = f"{folder.shown}/{path.name}"
        if not path.name.isprintable():
            raise ProjectError(f"{shown!r} has a name that cannot stand in a comment: rename it")
        if not real(path).is_relative_to(inside):
            raise ProjectError(f"{shown} is a link that leads out of the folder: put the spec there itself")
        if not path.is_file():
            raise ProjectError(f"{shown} is no file: specs end in .yaml, and nothing else")
        yield path


def _refuse_foreign(folder: Folder, name: str) -> None:
    """Raise ProjectError if `name` is there and was not generated; an empty file may be replaced."""
    path, shown = folder.path / name, f"{folder.shown}/{name}"
    package = path.with_suffix("")
    if name != "__init__.py" and (package / "__init__.py").exists():
        raise ProjectError(f"the package {folder.shown}/{package.name} would hide {name}: rename one of them")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ProjectError(f"{shown} is in the way: it is a link or a folder, and stays as it is")
    text = _read(path) or ""
    if text.strip() and not MARK.match(text):
        raise ProjectError(f"{shown} was not generated by stepspec, and stays as it is: move it away")


def _refusal(spec: Spec, message: str, hint: str = "") -> SpecError:
    return SpecError(spec.source, [Problem(spec.span, message, hint)])


def _read(path: Path) -> str | None:
    return path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else None
