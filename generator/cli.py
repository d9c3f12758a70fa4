"""The `stepspec` command."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from stepspec.generator.emit import check
from stepspec.generator.errors import SpecError, nearest
from stepspec.generator.generate import apply, compare, load_all
from stepspec.generator.reader import load
from stepspec.generator.show import show

# beside this package, in a checkout and in a wheel; never imported, so that a broken file there can be mended
SPECS = Path(__file__).parent.parent / "specs"
GENERATED = Path(__file__).parent.parent / "generated"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 if something is wrong with a spec or a file."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader of a pipe has gone: nothing more to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"stepspec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stepspec: interrupted, nothing was changed", file=sys.stderr)
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
    add = commands.add_parser("generate", help="write generated/ from specs/")
    add.add_argument(
        "--check",
        action="store_true",
        help="write nothing; show what differs and exit with 1 if anything does",
    )
    add.set_defaults(run=_generate)
    add = commands.add_parser("check", help="validate spec files, all mistakes in one run")
    add.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a spec, or a folder of specs")
    add.set_defaults(run=_check)
    return parser


def _list(_: argparse.Namespace) -> int:
    specs = load_all(SPECS)
    width = max((len(spec.name) for spec in specs), default=0)
    for spec in sorted(specs, key=lambda s: s.name.lower()):
        print(f"{spec.name.ljust(width)}  {spec.summary}")
    return 0


def _show(options: argparse.Namespace) -> int:
    wanted: str = options.optimizer
    if wanted.endswith(".yaml"):
        print(show(load(Path(wanted))), end="")
        return 0
    specs = {spec.name: spec for spec in load_all(SPECS)}
    for name, spec in specs.items():
        if name.lower() == wanted.lower():
            print(show(spec), end="")
            return 0
    hint = nearest(wanted, specs) or f"there are {', '.join(sorted(specs))}"
    print(f"stepspec: no optimizer is called '{wanted}'\nhint: {hint}", file=sys.stderr)
    return 1


def _generate(options: argparse.Namespace) -> int:
    changes = compare(SPECS, GENERATED)
    if options.check:
        if changes:
            print(changes.diff(), end="")
            print("generated/ differs from specs/; run: stepspec generate", file=sys.stderr)
        return int(bool(changes))
    apply(changes)
    for name in changes.written:
        print(f"wrote generated/{name}")
    for name in changes.removed:
        print(f"removed generated/{name}: its spec is gone")
    if not changes:
        print("generated/ is up to date")
    return 0


def _check(options: argparse.Namespace) -> int:
    paths: list[Path] = []
    for path in options.paths:
        paths += sorted(path.glob("*.yaml")) if path.is_dir() else [path]
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
