"""The machine that figures are measured on, and what a process takes of its memory.

python -m benchmarks.machine        prints the machine as JSON, its matrix-multiply rate included
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from preftune.versions import installed_versions

MATMUL_SIZE = 2048
_WARM_UP, _REPEATS = 3, 15
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB), load (processes waiting, mean of a minute), versions and date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": installed_versions() | {"trl": _version("trl")},
    }


def machine_slug(machine: dict[str, Any]) -> str:
    """The machine's name as part of a file name: ``amd-epyc-2-cores``."""
    return re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip("-")


def matmul_gflops(dtype_name: str, size: int = MATMUL_SIZE) -> float:
    """The best rate of a square matrix product in torch, in GFLOP/s: what no training step here can exceed."""
    import torch

    left, right = (torch.randn(size, size).to(getattr(torch, dtype_name)) for _ in range(2))
    seconds = []
    for _ in range(_WARM_UP + _REPEATS):
        begun = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds[_WARM_UP:]) / 1e9


def measure_matmul() -> dict[str, float]:
    """GFLOP/s by dtype."""
    return {name: matmul_gflops(name) for name in ("float32", "bfloat16")}


def resident_mib() -> float | None:
    """Resident memory of this process; None where the system has no /proc."""
    return _status_mib("VmRSS")


def peak_mib() -> float | None:
    """The kernel's high-water mark of resident memory since the process began or ``reset_peak``."""
    return _status_mib("VmHWM")


def reset_peak() -> bool:
    """Lowers the high-water mark to what is resident now; False where the system does not allow it."""
    try:
        _CLEAR_REFS.write_text("5")  # proc(5): 5 resets the peak resident set size
    except OSError:
        return False
    return True


def _status_mib(key: str) -> float | None:
    if not _STATUS.exists():
        return None
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    print(json.dumps(describe_machine() | {"matmul_gflops": measure_matmul()}, indent=1))
