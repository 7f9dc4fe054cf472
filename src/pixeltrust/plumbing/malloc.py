"""Freed memory is kept for the next step: training frees and allocates the same tensors again and again.

glibc maps each large block anew and returns it to the kernel when it is freed, until its threshold has grown; setting any of its
values switches that growth off. `benchmarks/malloc.py` measures what that costs.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_VALUES = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 2**31 - 1}  # the most that glibc takes


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what this process frees, and return True if that was possible.

    Nothing is changed with another C library, or where the environment configures malloc (MALLOC_… or GLIBC_TUNABLES).
    """
    if not sys.platform.startswith("linux") or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (others than glibc lack it)
        return all([library.mallopt(which, value) == 1 for which, value in _VALUES.items()])
    except (OSError, AttributeError):
        return False
