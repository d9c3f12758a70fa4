"""Warnings that point at the line of the user's program, however deep inside stepspec they arise."""

from __future__ import annotations

import sys
import warnings

# NumPy wraps every `step`, in np.errstate
_INSIDE = ("stepspec", "numpy")


def warn(message: str) -> None:
    """Warn (UserWarning) at the nearest caller outside of stepspec."""
    frame, level = sys._getframe(1), 2
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]  # None above the outermost frame
    warnings.warn(message, UserWarning, stacklevel=level)
