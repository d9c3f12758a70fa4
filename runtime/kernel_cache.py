"""The disk cache of compiled kernels: whole files only, and none that is not used for long.

Note [Cache files]
The key of what is cached (see Note [Cache key]) is part of a file's name, so a file never changes: several
processes may write the same one. It begins with a hash of its content, and is renamed into place. A reader
reads it in one go, so it may be deleted at any time: who needs it compiles it again. Using a file makes it
young again; whoever adds one deletes those that no process has used for `KEPT_DAYS`, such as those of
older versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

KEPT_DAYS = 60
_DAY = 86400.0
_SUFFIX, _TEMPORARY = ".kernel", ".tmp"
_HASH_BYTES = 32

log = logging.getLogger("stepspec")


def cache_folder() -> Path:
    """Return where compiled kernels are kept: $STEPSPEC_CACHE_DIR, else the user's cache folder."""
    chosen = os.environ.get("STEPSPEC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(base) / "stepspec"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no $HOME, and no entry for the user
        raise FileNotFoundError(f"{error}; set STEPSPEC_CACHE_DIR") from error


def read(name: str, key: str) -> bytes | None:
    """Return the content stored for a function's name and key, None if there is none that is whole."""
    try:
        path = _path(name, key)
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.info("cannot read the kernel cache: %s", error)
        return None
    digest, payload = content[:_HASH_BYTES], content[_HASH_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        log.info("damaged cache file %s: compiling again", path)
        return None
    _keep(path)
    return payload


def write(name: str, key: str, payload: bytes) -> None:
    """Store a content; where that is impossible, say so and go on."""
    temporary = None
    try:
        path = _path(name, key)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}{_TEMPORARY}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
        temporary.replace(path)
        _prune(path.parent)
    except OSError as error:
        log.info("cannot write the kernel cache, going on without: %s", error)
        with contextlib.suppress(OSError):  # it may never have been there
            if temporary is not None:
                temporary.unlink()


def _path(name: str, key: str) -> Path:
    return cache_folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}{_SUFFIX}"


def _keep(path: Path) -> None:
    """Make a file young again, once a day."""
    with contextlib.suppress(OSError):  # a shared folder may be read-only, and the file just deleted
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)


def _prune(folder: Path) -> None:
    """Delete what was not used for long, and what a killed process did not finish."""
    for path in _old(folder):
        with contextlib.suppress(OSError):  # another process was faster
            path.unlink()


def _old(folder: Path) -> Iterator[Path]:
    now = time.time()
    for entry in os.scandir(folder):
        days = {_SUFFIX: KEPT_DAYS, _TEMPORARY: 1}.get(Path(entry.name).suffix)
        with contextlib.suppress(OSError):  # another process was faster
            if days is not None and now - entry.stat().st_mtime > days * _DAY:
                yield Path(entry)
