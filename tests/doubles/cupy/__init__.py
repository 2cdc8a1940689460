"""As much of CuPy as embcache/gpu/cuda.py and the check use, over the emulated device: so that these run without a GPU.

It is strict where a GPU would be: handles must be alive, a stream that is being captured is not waited for, and what is
launched on it does not run. test_gpucheck.py compares its calls with those of the CuPy that is installed.
"""

from __future__ import annotations

from . import cuda

__all__ = ["cuda"]
