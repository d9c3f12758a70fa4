"""The CUDA target: kernels of generated modules, and what launches them on arrays in a GPU's memory.

Needs the extra `stepspec[cuda]` when a kernel is compiled or launched, not to be imported.

Note [Words of the CUDA target]
A *kernel* is what a generated module holds: functions of numbers, of one of four forms (`kernels`). `passes`
says which *passes* it takes over tensors that are stored alike; a pass has one *entry*, the function that
numba-cuda compiles (`recipes`). What a pass does to a tensor falls into *parts*; an *item* is a part of one
tensor (`items`), and a block of threads takes up item after item. A *use* is a pass with the tensors of a
call that it is for, and one launch; a *group* is the uses of tensors that are counted together, and a
*program* all groups of an order, with their tables (`launches`, `tables`). A *plan* keeps programs, and all
else about the tensors of a call that stays (`plan`).

Where to look, or to change something:

- how a kernel of a form runs: `entries` (elements), `row_entries`, `column_entries`, `scalar_entries`;
  `scattered` where rows are looked up; `reductions` and what it imports where a kernel reduces;
- how numbers are read, rounded and written: `access` (consecutive ones), `row_access` (single ones);
- how Python becomes machine code: `device_code`, then `compilation`;
- what arrays are, and of which library: `libraries`, `arrays`, `copies`;
- what a step does: `plan`, with `recognition` and `gradients` for what changes between steps, `staging` for
  what goes to the device, `strided` for arrays that kernels cannot walk; `norms` for what a Trainer asks;
- CUDA itself: `driver` is what is asked of it, `native` and `calls` are how.
"""

from stepspec.cuda.kernels import Kernel, Reduction, columns, elements, row_values, rows, scalars, terms

__all__ = ["Kernel", "Reduction", "columns", "elements", "row_values", "rows", "scalars", "terms"]
