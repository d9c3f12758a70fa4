"""The CUDA target: kernels of generated modules, and what launches them on arrays in a GPU's memory.

Needs the extra `stepspec[cuda]` when a kernel is compiled or launched, not to be imported.
"""

from stepspec.cuda.kernels import Kernel, Reduction, columns, elements, row_values, rows, scalars, terms

__all__ = ["Kernel", "Reduction", "columns", "elements", "row_values", "rows", "scalars", "terms"]
