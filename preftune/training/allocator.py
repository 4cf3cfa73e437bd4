"""glibc's allocator told to keep large freed blocks: returning them costs page faults at every step."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def tune_allocator() -> bool:
    """Sets the limits for this process, unless the user set any by environment; True where it did.

    Worth 15 to 20% of a step on a CPU. Nothing is done where the C library is not glibc.
    """
    chosen_by_user = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen_by_user or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 * 2**20)
    return True
