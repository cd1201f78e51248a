"""Imported by the process that workers are forked from: loads for all of them what Numba loads with the first kernel.

That is SciPy's linear algebra and Numba's own library of functions: half a second for every worker otherwise.
"""

from numba.core.registry import cpu_target

cpu_target.target_context.refresh()
