"""A folder of specs and the package that is generated from it: where both are, and which names are free."""

import keyword
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepspec.generator.emit import OWN, Origin, emit_index, emit_package
from stepspec.generator.spec import Spec

# beside this package, in a checkout and in a wheel; never imported, so that a broken file there can be mended
SPECS = Path(__file__).parent.parent / "specs"
GENERATED = Path(__file__).parent.parent / "generated"
ITSELF = "stepspec itself"
# what `stepspec` itself offers under a name that could be a class's
_OFFERED = ("optimizer", "rowsparse", "stepspec", "trainer", "updater")


class ProjectError(Exception):
    """What is wrong with folders, files or names; the text is for the user of the command line."""


@dataclass(frozen=True)
class Folder:
    """A folder, and what messages call it."""

    path: Path
    shown: str


@dataclass(frozen=True)
class Project:
    """Specs and their package.

    Attributes:
        origin: what the first line of generated modules says.
        index: returns the text of the package's `__init__.py`.
        taken: names in lower case that no spec may have -> who has them.
        command: what brings the package up to date.
    """

    specs: Folder
    package: Folder
    origin: Origin
    index: Callable[[Iterable[Spec], Origin], str]
    taken: Mapping[str, str]
    command: str


def real(path: Path) -> Path:
    """Return where a path leads, without links; a loop of links, which `Path.resolve` refuses, stays."""
    return Path(os.path.realpath(path))


def own_project() -> Project:
    """Return the project of stepspec's own optimizers."""
    folders = Folder(SPECS, SPECS.name), Folder(GENERATED, GENERATED.name)
    return Project(*folders, OWN, emit_index, dict.fromkeys(_OFFERED, ITSELF), "stepspec generate")


def outside_project(specs: Path, package: Path) -> Project:
    """Return a project of a user; raise ProjectError where there can be none.

    Args:
        specs: a folder with specs.
        package: the folder to write to; it may be missing, but not its parent.
    """
    if (real(specs), real(package)) == (real(SPECS), real(GENERATED)):
        return own_project()
    _check_specs(specs)
    _check_package(package)
    way = Path(os.path.relpath(real(specs), real(package))).as_posix()
    if not way.isprintable():
        raise ProjectError(f"the folder {str(specs)!r} has a name that cannot stand in a comment: rename it")
    command = f"stepspec generate --specs {shlex.quote(str(specs))} --out {shlex.quote(str(package))}"
    remark = f'Do not edit: run "stepspec generate --specs {shlex.quote(way)} --out .".'
    return Project(
        Folder(specs, str(specs)),
        Folder(package, str(package)),
        Origin(f"{way}/", remark),
        emit_package,
        taken_outside(),
        command,
    )


def taken_outside() -> Mapping[str, str]:
    """Return the names that specs elsewhere cannot have, in lower case: those of stepspec's optimizers."""
    own = (path.stem.replace("_", "").lower() for path in SPECS.glob("*.yaml"))
    return dict.fromkeys(_OFFERED, ITSELF) | dict.fromkeys(own, "one of stepspec's own optimizers")


def _check_specs(folder: Path) -> None:
    if not folder.exists():
        raise ProjectError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise ProjectError(f"{folder} is a file: name the folder of the specs")


def _check_package(folder: Path) -> None:
    place = real(folder)
    if any(place.is_relative_to(real(part)) for part in (SPECS, GENERATED, Path(__file__).parent)):
        raise ProjectError(f"{folder} belongs to stepspec itself: write to a folder of your own")
    if not place.name.isascii() or not place.name.isidentifier() or keyword.iskeyword(place.name):
        hint = "use letters, digits and underscores, as in my_optimizers"
        raise ProjectError(f"{place.name!r} cannot name a package\nhint: {hint}")
    if place.name == "stepspec":
        raise ProjectError("a package called stepspec would hide stepspec: choose another name")
    if folder.exists() and not folder.is_dir():
        raise ProjectError(f"{folder} is a file: name the folder of the package")
    if not place.parent.is_dir():
        raise ProjectError(f"there is no folder {place.parent} to make {place.name} in")
