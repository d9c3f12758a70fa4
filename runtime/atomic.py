"""Writing a file in one go: a process killed at any moment leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# a temporary file that nobody has written to for so many seconds was left by a killed process
ABANDONED = 3600.0
# a temporary file's name beyond the one it is made for: two dots, 16 digits, the ending
_MORE = len("..0123456789abcdef.tmp")
_LONGEST_NAME = 255


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[io.BufferedRandom]:
    """Open a new file; once the block has ended without an error, it is on the disk and replaces `path`.

    It is written under a hidden name in the same folder, since renaming within a file system is one action. A
    symbolic link stays, and what it points to is replaced. An error leaves the old file, if any, as it was.
    Anything else of that name, such as a folder or a device, is an OSError.
    """
    given = os.fsdecode(path)
    target = os.path.realpath(given)
    _check_target(given, target)
    folder, name = os.path.split(target)
    hidden = f".{_shortened(name)}."
    _remove_abandoned(folder, hidden)
    temporary = os.path.join(folder, f"{hidden}{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):  # it may not be there
            os.unlink(temporary)
        raise
    _flush_folder(folder)


def _check_target(given: str, target: str) -> None:
    """Raise OSError unless `target` is a regular file or none yet."""
    if os.path.basename(given) in ("", os.curdir, os.pardir):
        raise IsADirectoryError(errno.EISDIR, "the name of a folder, not of a file", given)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), given)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file, so it cannot be replaced", given)


def _shortened(name: str) -> str:
    """Return as much of a name as fits into that of a temporary file."""
    return os.fsencode(name)[: _LONGEST_NAME - _MORE].decode(errors="ignore")


def _flush_folder(folder: str) -> None:
    """Bring a folder's new entry to the disk, so that a loss of power does not bring the old one back."""
    with contextlib.suppress(OSError):  # not every system can, and the new file is there
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_abandoned(folder: str, hidden: str) -> None:
    """Remove the temporary files that killed processes left; one that cannot be removed stays."""
    left = re.compile(re.escape(hidden) + r"[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if left.fullmatch(entry.name):
                _remove_if_abandoned(entry)


def _remove_if_abandoned(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):  # renamed meanwhile, or somebody else's
        idle = time.time() - entry.stat(follow_symlinks=False).st_mtime
        if entry.is_file(follow_symlinks=False) and idle > ABANDONED:
            os.unlink(entry.path)
