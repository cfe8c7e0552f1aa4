"""Other libraries, a file each, which says what cases it takes, and prepares one.

WHO, MODULES: how rows call it, and how Python may. `instance(case)`: what of it runs, or none. `prepare(case, operands)`: a
function that runs, and one that makes of what it returns the rows of the reference. What it rearranges before the run is
not timed. Nothing here imports a library before it is asked to prepare: without any of them, PyTorch included, cases are
still listed.
"""

import importlib.util

from libraries import deep_gemm, fa3, flash_mla, torch_cublaslt, triton_gemm

ALL = (deep_gemm, torch_cublaslt, triton_gemm, flash_mla, fa3)


def load(modules):
    """The first of some modules that there is."""
    *others, last = modules
    for name in others:
        if importlib.util.find_spec(name):
            return importlib.import_module(name)
    return importlib.import_module(last)


def missing(library):
    """Why it does not load, none if it does."""
    try:
        load(library.MODULES)
        return None
    except Exception as error:  # a wheel for another PyTorch fails in many ways
        return f"{type(error).__name__}: {error}".splitlines()[0]
