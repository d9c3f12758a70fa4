"""Warnings that point at the line of the user's program, however deep inside stepspec they arise."""

from __future__ import annotations

import linecache
import sys
import warnings
from types import FrameType

# NumPy wraps every `step`, in np.errstate
_INSIDE = ("stepspec", "numpy")


def warn(message: str) -> None:
    """Warn (UserWarning) at the nearest caller outside of stepspec, and of what it has generated."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and _is_inside(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_inside(frame: FrameType) -> bool:
    if str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        return True
    first = linecache.getline(frame.f_code.co_filename, 1)
    return first.startswith("# Generated from ") and " by stepspec. " in first
