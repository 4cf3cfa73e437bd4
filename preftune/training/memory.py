"""How much memory a process holds, cheap enough to be asked at every logged step."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

_MIB = 2.0**20
_STATM = Path("/proc/self/statm")


def memory_figures() -> dict[str, float]:
    """``memory/rss_mib`` of this process, and with a GPU ``memory/cuda_peak_mib``, the most since the run began."""
    figures = {"memory/rss_mib": resident_bytes() / _MIB}
    if torch.cuda.is_available():
        figures["memory/cuda_peak_mib"] = torch.cuda.max_memory_allocated() / _MIB
    return figures


def resident_bytes() -> float:
    """Memory in use now; the most so far where the system does not tell."""
    try:
        return float(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return _most_so_far()


def _most_so_far() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most) if sys.platform == "darwin" else 1024.0 * most
