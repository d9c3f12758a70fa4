"""The `stepspec` command."""

import argparse
import io
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from stepspec.generator.emit import check
from stepspec.generator.errors import SpecError, nearest
from stepspec.generator.generate import compare, load_all, spec_files
from stepspec.generator.new import SCHEMA, new_spec
from stepspec.generator.project import Project, ProjectError, outside_project, own_project, real
from stepspec.generator.reader import load
from stepspec.generator.show import show
from stepspec.generator.writing import update


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 if something is wrong with a spec or a file."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # escape what the encoding lacks, as Latin-1 does dashes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        print(end="", flush=True)  # here, where a failure can be told
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader of a pipe has gone: nothing more to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ProjectError, OSError) as error:
        print(f"stepspec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stepspec: interrupted; of files, all were written or none", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stepspec", description="A compiler for optimizers.")
    parser.add_argument("--version", action="version", version=f"stepspec {version('stepspec')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    add = commands.add_parser("list", help="list the optimizers, one line each")
    add.set_defaults(run=_list)
    add = commands.add_parser("show", help="show an optimizer's rule, cost, stages and generated reference")
    add.add_argument("optimizer", help="a name such as NAG, or the path of a spec")
    add.set_defaults(run=_show)
    add = commands.add_parser("new", help="write a spec to start from")
    add.add_argument("name", help="of the class, such as Lion")
    add.add_argument("--specs", type=Path, metavar="DIR", help="where to write it (specs/ by default)")
    add.set_defaults(run=_new)
    add = commands.add_parser(
        "generate",
        help="write Python modules from specs",
        description="Write generated/ from specs/, or with --specs and --out a package of your own.",
    )
    add.add_argument("--specs", type=Path, metavar="DIR", help="a folder of your own specs")
    add.add_argument("--out", type=Path, metavar="PACKAGE_DIR", help="the Python package to write them to")
    add.add_argument(
        "--check",
        action="store_true",
        help="write nothing; show what differs and exit with 1 if anything does",
    )
    add.set_defaults(run=_generate)
    add = commands.add_parser("check", help="validate spec files, all mistakes in one run")
    add.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a spec, or a folder of specs")
    add.set_defaults(run=_check)
    add = commands.add_parser("schema", help="print the JSON schema of specs, for editors")
    add.set_defaults(run=_schema)
    return parser


def _list(_: argparse.Namespace) -> int:
    specs = load_all(own_project().specs)
    width = max((len(spec.name) for spec in specs), default=0)
    for spec in sorted(specs, key=lambda s: s.name.lower()):
        print(f"{spec.name.ljust(width)}  {spec.summary}")
    return 0


def _show(options: argparse.Namespace) -> int:
    wanted: str = options.optimizer
    if wanted.endswith(".yaml"):
        print(show(load(Path(wanted))), end="")
        return 0
    specs = {spec.name: spec for spec in load_all(own_project().specs)}
    for name, spec in specs.items():
        if name.lower() == wanted.lower():
            print(show(spec), end="")
            return 0
    hint = nearest(wanted, specs) or f"there are {', '.join(sorted(specs))}"
    print(f"stepspec: no optimizer is called '{wanted}'\nhint: {hint}", file=sys.stderr)
    return 1


def _new(options: argparse.Namespace) -> int:
    own = own_project().specs.path
    folder: Path | None = options.specs
    if folder is None:
        # in a clone, its own; elsewhere those of the project that one stands in
        folder = Path(os.path.relpath(own)) if Path.cwd().is_relative_to(own.parent) else Path("specs")
    print(f"wrote {new_spec(options.name, folder)}: write your update into it, and run")
    outside = f"stepspec generate --specs {shlex.quote(str(folder))} --out PACKAGE_DIR"
    print(f"    {'make generate' if real(folder) == real(own) else outside}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    project = _project(options)
    package = project.package.shown
    if options.check:
        changes = compare(project)
        if changes:
            print(changes.diff(), end="")
            print(f"{package}/ differs from {project.specs.shown}/; run: {project.command}", file=sys.stderr)
        return int(bool(changes))
    changes = update(project)
    for name in changes.written:
        print(f"wrote {package}/{name}")
    for name in changes.removed:
        print(f"removed {package}/{name}: its spec is gone")
    if not changes:
        print(f"{package}/ is up to date")
    return 0


def _project(options: argparse.Namespace) -> Project:
    specs, package = options.specs, options.out
    if specs is None and package is None:
        return own_project()
    if specs is None or package is None:
        raise ProjectError("--specs and --out go together: the folder of the specs, and that of the package")
    return outside_project(specs, package)


def _check(options: argparse.Namespace) -> int:
    paths: list[Path] = []
    for path in options.paths:
        paths += spec_files(path) if path.is_dir() else [path]
    if not paths:
        print("stepspec: no spec found", file=sys.stderr)
        return 1
    wrong = 0
    for path in paths:
        try:
            check(path)
            print(f"{path}: ok")
        except SpecError as error:
            wrong += 1
            print(f"{error}\n", file=sys.stderr)
        except OSError as error:
            wrong += 1
            print(f"stepspec: {error}\n", file=sys.stderr)
    return int(wrong > 0)


def _schema(_: argparse.Namespace) -> int:
    print(SCHEMA.read_text(encoding="utf-8"), end="")
    return 0
