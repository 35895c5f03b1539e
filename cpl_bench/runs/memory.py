"""Memory that training frees is kept for the next step.

A paper-size step frees and asks for gigabytes in blocks of tens of megabytes. glibc hands blocks
beyond 32 MB back to the system each time and takes them anew, page by page, which was what made two
members dearer than twice one (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""The numbers of mallopt's parameters, glibc's <malloc.h>."""
NEVER = -1


def keep_freed_memory() -> bool:
    """Have this process keep what it frees until it ends; False where the C library can't.

    It holds for all of the process, and nothing undoes it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, NEVER))
