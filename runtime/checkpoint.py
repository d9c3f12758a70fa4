"""Checkpoints: states, update counts, hyperparameters and schedules in one file, without pickle.

A file knows tensors by their names and says which optimizer and which rule wrote it. Weights are not in it:
they are the model's, and whoever resumes first brings those of the same moment. Training then gives the
bits that it would have given without a stop. Weights that are saved first, under a name that holds
`num_update`, are there at whatever moment the process is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stepspec import archive
from stepspec.atomic import AnyPath
from stepspec.exclusive import undisturbed
from stepspec.matching import Match
from stepspec.places import to_host
from stepspec.records import Part as Part
from stepspec.records import Record, check_name, describe
from stepspec.states import Array

_log = logging.getLogger("stepspec")

# what a trainer keeps besides its parts
Numbers = Mapping[str, float | int | bool | None]
# takes these numbers from a file, checks them, and returns the functions that set them
Accept = Callable[[Mapping[str, Any]], list[Callable[[], object]]]


def save(path: AnyPath, parts: Mapping[str, Part], trainer: Numbers | None = None) -> None:
    """Write a checkpoint in one go: a process killed at any moment leaves the old file or the new one.

    Parameters
    ----------
    path
        ``*.safetensors``, or any other name for the format of ``.npz``.
    parts
        The optimizers and their tensors by names of their own; ``""`` for the only one.
    trainer
        Finite numbers of whoever steps the parts, for `accept` of `load`.

    Raises
    ------
    OSError
        If the file cannot be written, or is no regular file; an old one is then as it was.
    ValueError
        If two tensors of a part have the same name, or a name does not fit into a file.
    TypeError
        If a state is no NumPy array of a supported dtype, or a schedule has an attribute that is no data.
    RuntimeError
        If another thread is in the middle of an update of one of the optimizers.

    """
    with _turns(parts):
        archive.save(path, _arrays(parts), _content(parts, trainer))


def dumps(parts: Mapping[str, Part]) -> bytes:
    """Return the bytes of the ``.npz`` that `save` would write."""
    with _turns(parts):
        return archive.dumps(_arrays(parts), _content(parts))


def load(
    path: AnyPath,
    parts: Mapping[str, Part],
    *,
    strict: bool = True,
    accept: Accept | None = None,
) -> list[str]:
    """Set optimizers and states to what a checkpoint holds; all of it or, if it is refused, nothing.

    Parameters
    ----------
    path
        A file of either format. It is read as a whole before the first array changes.
    parts
        What `save` was given. Arrays of states are written in place; missing ones are added. Hyperparameters
        and multipliers become those of the file.
    strict
        Whether everything must match. If False, what matches is loaded, even if the optimizer or its rule is
        another one, and the rest is returned and logged as a warning. The states and the count of a tensor
        are loaded together or not at all.
    accept
        Is given what `save` was given as `trainer`, or an empty mapping, once all else has been checked. It
        raises ValueError, or returns functions that cannot fail: they run with all other writes.

    Returns
    -------
    list of str
        What was left, one sentence each; empty if `strict`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or no checkpoint, or, with `strict`, anything differs: optimizer, rule, schedule,
        tensors, shapes, dtypes, states, or a weight from its rounded master. The message lists every
        difference.
    RuntimeError
        If another thread is in the middle of an update of one of the optimizers.

    """
    return _load(f"checkpoint {os.fsdecode(path)!r}", *archive.load(path), parts, strict, accept)


def loads(data: bytes, parts: Mapping[str, Part], *, strict: bool = True) -> list[str]:
    """Set optimizers and states to what the bytes of a checkpoint hold; see `load`."""
    return _load("the checkpoint", *archive.loads(data), parts, strict)


def _load(
    source: str,
    arrays: Mapping[str, Array],
    content: Any,
    parts: Mapping[str, Part],
    strict: bool,
    accept: Accept | None = None,
) -> list[str]:
    if not isinstance(content, dict) or "parts" not in content:
        raise ValueError(f"{source} holds arrays, but no optimizer's states; take another file")
    records = content["parts"]
    with _turns(parts):
        left = [f"{_group(key)}only in the checkpoint" for key in records if key not in parts]
        left += [f"{_group(key)}not in the checkpoint" for key in parts if key not in records]
        writes = []
        for key in (key for key in parts if key in records):
            match = Match(parts[key], records[key], _states(key, records[key], arrays))
            left += [f"{_group(key)}{difference}" for difference in match.differences]
            writes += match.writes
        if left and strict:
            raise ValueError(f"{source} does not fit; strict=False would load the rest:\n{_list(left)}")
        if accept is not None:
            writes += accept(content.get("trainer", {}))
        undisturbed(writes)
    if left:
        _log.warning("%s does not fit in part, which was left:\n%s", source, _list(left))
    return left


def _content(parts: Mapping[str, Part], trainer: Numbers | None = None) -> Any:
    for key in parts:
        check_name("group", key)
    described = {key: describe(part) for key, part in parts.items()}
    return {"parts": described, "trainer": dict(trainer or {})}


def _arrays(parts: Mapping[str, Part]) -> dict[str, Array]:
    """Return the states of all tensors by their names in the file."""
    found: dict[str, Array] = {}
    for key, part in parts.items():
        for label, index in part.labels(part.states).items():
            states = part.states[index].items()
            found |= {_array_name(key, label, name): to_host(array) for name, array in states}
    return found


def _states(key: str, record: Record, arrays: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Return the states of the tensors of a record by tensor and name."""
    return {
        label: {name: arrays[_array_name(key, label, name)] for name in saved["states"] or ()}
        for label, saved in record["tensors"].items()
    }


def _array_name(key: str, label: str, state: str) -> str:
    """Return an array's name in the file: different for other names, and fit for an entry of a zip."""
    names = (key, label, state) if key else (label, state)
    return "/".join(name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00") for name in names)


def _group(key: str) -> str:
    return f"group {key!r}: " if key else ""


def _list(differences: list[str]) -> str:
    return "\n".join(f"- {difference}" for difference in differences)


@contextlib.contextmanager
def _turns(parts: Mapping[str, Part]) -> Iterator[None]:
    """Keep other threads from stepping the optimizers meanwhile."""
    with contextlib.ExitStack() as stack:
        for part in parts.values():
            turns = part.optimizer._exclusive
            stack.callback(turns.give_back, turns.take(type(part.optimizer).__name__))
        yield
