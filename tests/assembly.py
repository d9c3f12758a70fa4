"""The machine code of kernels, for tests that look for vector instructions in it."""

from pathlib import Path
from typing import Any

import pytest

from stepspec import compilation, cpu
from stepspec.formats import Formats

# multiply and add in one instruction, with one rounding: no kernel may hold it, but for the square of one
# register in double precision, which is exact where that was float32
CONTRACTED = (
    r"\bvf(?:nmadd|n?msub|madd"
    r"(?!213pd\s.*, (%[xyz]mm\d+), \1(?!\d)|231pd\s+(%[xyz]mm\d+), \2,))"
)
ANY_CONTRACTED = r"\bvfn?m(?:add|sub)"
# arithmetic on eight or sixteen float32 at once
PACKED = r"\bv(add|sub|mul|div|sqrt|max|min)ps\s.*%[yz]mm"


def full_assembly(
    kernel: cpu.Kernel, formats: Formats | str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> str:
    """Return the assembly of a freshly compiled kernel with all that it calls."""
    return "".join(_parts(kernel, formats, monkeypatch, folder))


def entry_assembly(
    kernel: cpu.Kernel, formats: Formats | str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> str:
    """Return the assembly of a freshly compiled entry, without the C function around it."""
    entry, _, _ = _parts(kernel, formats, monkeypatch, folder)
    assert entry
    return entry


def _parts(
    kernel: cpu.Kernel, formats: Formats | str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[str, str, str]:
    monkeypatch.setenv("STEPSPEC_CACHE_DIR", str(folder))
    formats = Formats.plain(formats) if isinstance(formats, str) else formats
    compiled: list[tuple[Any, str]] = []
    compile_anew = compilation._compile

    def compile_and_keep(entry: Any, signature: Any) -> tuple[Any, str]:
        compiled.append(compile_anew(entry, signature))
        return compiled[-1]

    with monkeypatch.context() as patch:
        patch.setattr(compilation, "_compile", compile_and_keep)
        cpu.Kernel(kernel.function, kernel.form, kernel.parameters, kernel.returns).address(formats)
    ((library, symbol),) = compiled
    assembly: str = library.get_asm_str()
    return assembly.partition(f"{symbol}:")
