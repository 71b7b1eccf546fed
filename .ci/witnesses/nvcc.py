"""NVIDIA's nvcc from its wheel: host libraries with their kernels as PTX inside, launched through the CUDA runtime.

`libcudart.so.13` is whichever the loader finds; under `hadal-emulator exec` that is the emulator's.
"""

import ctypes
import importlib.util
import pathlib
import subprocess

TOOLKIT = pathlib.Path(importlib.util.find_spec("nvidia.cu13").submodule_search_locations[0])
NVCC = TOOLKIT / "bin/nvcc"


def start(library, source, flags):
    """Begins to compile; `loaded` ends it. Warnings are the headers' own and say nothing of the emulator."""
    return library, subprocess.Popen(
        [NVCC, "-w", "-std=c++17", "-O3", "-gencode", "arch=compute_90a,code=compute_90a", "--expt-relaxed-constexpr", "-DNDEBUG",
         "-shared", "-Xcompiler", "-fPIC", "-cudart", "none", f"-L{TOOLKIT}/lib", "-Xlinker", "-l:libcudart.so.13", *flags,
         "-o", library, source])


def loaded(started):
    library, process = started
    assert process.wait() == 0, f"nvcc failed on {library}"
    return ctypes.CDLL(str(library))
