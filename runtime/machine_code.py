"""Machine code of C functions: as bytes, and linked into this process.

Note [Machine code]
Each function is linked on its own, with all that it calls inside, whether it was compiled here or by another
process: names inside never meet equal ones of another function, which Numba's single engine would take
for the same. Loading needs LLVM's linker alone, which takes a millisecond; to load what it cached, Numba
imports all of its compiler first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import llvmlite.binding as llvm

_linked: list[llvm.ExecutionEngine] = []  # code lives as long as its engine


@dataclass(frozen=True)
class MachineCode:
    """One C function and all that it calls.

    Parameters
    ----------
    symbol
        The function's name in the object code.
    externals
        What it needs from the process, by name.
    object_code
        An object file, made for this processor.

    """

    symbol: str
    externals: tuple[str, ...]
    object_code: bytes

    def to_bytes(self) -> bytes:
        """Return it as bytes, a line of JSON first."""
        return json.dumps([self.symbol, self.externals]).encode() + b"\n" + self.object_code

    @classmethod
    def from_bytes(cls, content: bytes) -> MachineCode:
        """Return what `to_bytes` was called on."""
        head, _, object_code = content.partition(b"\n")
        symbol, externals = json.loads(head)
        return cls(symbol, tuple(externals), object_code)

    def link(self) -> int:
        """Return the address of the function, after linking it into this process for good.

        Raises
        ------
        LookupError
            If an external is unknown here: LLVM would end the process.

        """
        target = llvm.Target.from_triple(llvm.get_process_triple())
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target.create_target_machine())
        # only now, as the first engine makes the symbols of the process known
        missing = [name for name in self.externals if not llvm.address_of_symbol(name)]
        if missing:
            raise LookupError(f"machine code needs {', '.join(missing)}, unknown to this process")
        engine.add_object_file(llvm.ObjectFileRef.from_data(self.object_code))
        engine.finalize_object()
        _linked.append(engine)
        address: int = engine.get_function_address(self.symbol)
        return address
