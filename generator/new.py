"""The spec that an author starts from: complete, so that it can be generated and run at once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepspec.generator.errors import Source, SpecError
from stepspec.generator.project import ProjectError, own_project, real, taken_outside
from stepspec.generator.reader import file_name, read_spec

SCHEMA = own_project().specs.path / "schema.json"

TEXT = """\
# yaml-language-server: $schema=schema.json
name: {name}
summary: Gradient descent with momentum, to start from.
# paper: https://...

# What the user sets. A range is checked; `default: true` makes a switch, `default: .inf` an optional bound.
hyperparameters:
  learning_rate: {{default: 0.01}}
  momentum: {{default: 0.9, range: "[0, 1)", doc: Fraction of the velocity kept each step.}}

# What is kept between steps: a number per element, row, column or tensor.
state:
  m: {{per: element, init: 0, doc: Velocity.}}

# What a step does, in Python: `stepspec show` of this file tells what becomes of it. Besides the names above
# there are weight and grad; lr, wd and t, the tensor's learning rate, weight decay and update count from 1;
# rescale_grad, clip_gradient.
update: |
  g = clip(rescale_grad * grad, clip_gradient) + wd * weight
  m = momentum * m + g
  weight -= lr * m
"""


def new_spec(name: str, folder: Path) -> Path:
    """Write a first spec of the optimizer `name`, and the schema for editors beside it; return its path.

    Raises:
        ProjectError: if the name is none or is taken, or there is no place for the folder.
        OSError: if a file cannot be written; none is left then.
    """
    path = folder / file_name(name)
    text = TEXT.format(name=name)
    _check_name(name, text, path.stem)
    if owner := (_names(folder) | _reserved(folder)).get(name.lower()):
        raise ProjectError(f"the name '{name}' belongs to {owner}: choose another one")
    if not folder.exists() and real(folder).parent.is_dir():
        folder.mkdir()
    if not folder.is_dir():
        raise ProjectError(f"there is no folder {folder}, and none to make it in")
    with _created(path, text):
        schema = folder / SCHEMA.name
        if not schema.exists():
            with _created(schema, SCHEMA.read_text(encoding="utf-8")):
                pass
    return path


def _check_name(name: str, text: str, stem: str) -> None:
    """Raise ProjectError with what a reader of the spec would say of its name."""
    if not re.fullmatch(r"\w+", name):
        raise ProjectError(f"{name!r} cannot name an optimizer\nhint: write it as NAG or GroupAdaGrad")
    try:
        read_spec(Source(f"{stem}.yaml", text), stem)
    except SpecError as error:
        problem = error.problems[0]
        raise ProjectError(f"{problem.message}\nhint: {problem.hint or 'choose another name'}") from None


def _names(folder: Path) -> dict[str, str]:
    """Return the names of a folder's specs in lower case, as their files tell them -> the file."""
    files = (path for path in folder.glob("*") if path.suffix.lower() == ".yaml")
    return {path.stem.replace("_", "").lower(): str(path) for path in files}


def _reserved(folder: Path) -> dict[str, str]:
    """Return the names that specs in a folder cannot have, in lower case -> who has them."""
    own = own_project()
    return dict(own.taken if real(folder) == real(own.specs.path) else taken_outside())


@contextmanager
def _created(path: Path, text: str) -> Iterator[None]:
    """Write a file that was not there; take it away again if that, or the block, fails."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        try:
            file.write(text)
            file.flush()
            yield
        except BaseException:
            path.unlink()
            raise
