"""The C library that is built with the package, and the threads that run it.

It works on the CPU's fp32 tensors (deformable attention on 16-bit ones too). Where it is missing, as where remote code
travels alone, `library` says so, and PyTorch computes the same.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

INTERFACE = 5  # as in deformable_attention.c
# Arguments of what returns nothing: p, a pointer; i, int64_t; f, float.
FUNCTIONS = {
    "deformable_attention_run": "pp",
    "fused_dropout": "piiip",
    "fused_quantize": "ppiff",
    "fused_relu_backward": "pppiif",
    "fused_residual_norm": "ppppppiiifp",
    "fused_residual_norm_backward": "pppppppiiifp",
    "fused_sampling": "pppppiiip",
    "fused_sampling_backward": "ppppppiiip",
}
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
# With the process that it belongs to: a fork has none of its threads.
_pool: tuple[int, ThreadPoolExecutor] | None = None


@cache
def library() -> tuple[ctypes.CDLL | None, str | None]:
    """The best build that this processor runs, and why there is none."""
    folders = [Path(__file__).parent]
    # A copy of this file that travelled with a model uses the installed package's library.
    if (spec := find_spec("deformable_detr_refine")) and spec.origin:
        folders.append(Path(spec.origin).parent / "modeling")
    folder = next((folder for folder in folders if path_of(folder, "baseline").exists()), None)
    if folder is None:
        return (
            None,
            "the C library was not built (when the package was installed there was no C compiler), or is not here",
        )
    try:
        opened = open_library(path_of(folder, "baseline"))
        if opened.deformable_attention_has_avx2() and path_of(folder, "avx2").exists():
            opened = open_library(path_of(folder, "avx2"))
    except OSError as error:
        return None, f"the C library cannot be loaded: {error}"
    return opened, None


def loaded_library() -> ctypes.CDLL:
    """The library, for callers that know from `library` that it is here."""
    opened, reason = library()
    if opened is None:
        raise RuntimeError(reason)
    return opened


def path_of(folder: Path, build: str) -> Path:
    return folder / f"deformable_attention_{build}{SUFFIX}"


def open_library(path: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(path))
    if (interface := opened.deformable_attention_interface()) != INTERFACE:
        raise OSError(f"{path} has interface {interface}, but {INTERFACE} is needed: install the package again")
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
    for name, arguments in FUNCTIONS.items():
        function = getattr(opened, name)
        function.argtypes, function.restype = [types[letter] for letter in arguments], None
    return opened


def run_in_threads(work: Callable[[int], None], threads: int) -> None:
    """Call work(0) in this thread and work(1), work(2) ... in others; each takes tasks until none is left.

    A thread that comes too late is not waited for, so tasks must not be tied to one.
    """
    futures = []
    # RuntimeError: the interpreter is shutting down, or the system gives no thread. This one does it all then.
    with contextlib.suppress(RuntimeError):
        futures.extend(_executor().submit(work, number) for number in range(1, threads))
    work(0)
    for future in futures:
        if not future.cancel():
            future.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None or _pool[0] != os.getpid():
        _pool = os.getpid(), ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="deformable_attention")
    return _pool[1]
