"""What the machine has to offer: memory, cores, and whether it computes in bfloat16."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError

MIB = 2**20


@dataclass(frozen=True)
class MachineFacts:
    """Where training would run; memory in MiB. ``available`` is what is free now, of the device or of the system.

    ``load`` is how many processes waited for a core in the last minute, None where the system does not say.
    """

    device: str
    name: str
    memory: float
    available: float
    cores: int
    threads: int
    has_bfloat16: bool
    load: float | None

    @property
    def is_busy(self) -> bool:
        """True where a core's worth of other work runs, so that times measured now are too long."""
        return self.load is not None and self.load > 1.0

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**vars(self), "is_busy": self.is_busy}


def read_machine() -> MachineFacts:
    """The machine this runs on: its first GPU where there is one, else its processor."""
    import torch

    from preftune.models.loading import weight_dtype
    from preftune.models.settings import ModelConfig

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
    else:
        free, total = system_memory()
        name = processor_name()
    return MachineFacts(
        device=device.type,
        name=name,
        memory=total / MIB,
        available=free / MIB,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        has_bfloat16=weight_dtype(ModelConfig(model="-"), device) == torch.bfloat16,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def planned_gpu(gib: float) -> MachineFacts:
    """A machine that is not here: one GPU with so many GiB free; PreftuneError for none."""
    if not gib > 0:
        raise PreftuneError(f"A GPU has no {gib:g} GiB.", where="--gpu-memory", mend="For example --gpu-memory 80.")
    here = read_machine()
    return replace(
        here,
        device="cuda",
        name=f"a GPU with {gib:g} GiB, not this machine",
        memory=gib * 1024,
        available=gib * 1024,
        has_bfloat16=True,
        load=None,
    )


def system_memory() -> tuple[int, int]:
    """(available, all) bytes of the system, of the container where one sets a limit; 0 where neither says."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        pages = getattr(os, "sysconf_names", {})
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in pages else 0
        return total, total
    lines = (line.split() for line in file.read_text(encoding="ascii", errors="replace").splitlines())
    said = {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) > 1 and parts[1].isdigit()}
    total, available = said.get("MemTotal", 0), said.get("MemAvailable", said.get("MemFree", 0))
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit() and int(text) < total:
        held = int(used.read_text()) if used.is_file() else 0
        return min(available, max(0, int(text) - held)), int(text)
    return available, total


def processor_name() -> str:
    """The processor by its own name."""
    import platform

    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()
