"""What a trial takes of its machine while it runs: processors, memory, GPUs, energy.

A thread adds a line to `system.jsonl` every ten seconds: `{"time": seconds since 1970, "system/...": value}`, under the
names that MLflow uses for its own system metrics. Hours and energy go on from the last line of an earlier start, so a
killed process loses ten seconds of them. Energy is what the counters of the GPUs (NVML) and processors (RAPL) say where
they can be read: of the whole device, also where several trials share it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from harness.distributed import gather, rank

INTERVAL_SECONDS = 10.0
POWERCAP = Path("/sys/class/powercap")
HOURS = "system/trial_hours"
GPU_ENERGY = "system/gpu_energy_kwh"
PROCESSOR_ENERGY = "system/processor_energy_kwh"
_JOULES_PER_KWH = 3.6e6


class ProcessorEnergy:
    """Energy of the processor packages of this machine, from RAPL's counters.

    Args:
        root: Folder of the counters, which only some systems have and let everybody read.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._last: dict[Path, int] = {}
        self._joules = 0.0
        for counter in sorted(root.glob("*-rapl:*/energy_uj")):
            if counter.parent.name.count(":") == 1:  # a package; what is inside it has a second colon
                with suppress(OSError, ValueError):
                    self._last[counter] = int(counter.read_text())

    def joules(self) -> float | None:
        """Since this object was made; None where there is no counter. A counter may run over once between two calls."""
        if not self._last:
            return None
        for counter, before in self._last.items():
            with suppress(OSError, ValueError):
                now = int(counter.read_text())
                most = int((counter.parent / "max_energy_range_uj").read_text())
                self._joules += (now - before if now >= before else now + most - before) / 1e6
                self._last[counter] = now
        return self._joules


class Gpu:
    """The GPU that this process trains on, as NVML sees it.

    Args:
        device: A CUDA device.

    Raises:
        pynvml.NVMLError: There is no NVML, or it does not know the device.
    """

    def __init__(self, device: torch.device) -> None:
        pynvml.nvmlInit()
        self.name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(self.name)
        self._start = self._total_joules()

    def _total_joules(self) -> float | None:
        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        return None

    def joules(self) -> float | None:
        """Since this object was made; None where the GPU does not count."""
        now = self._total_joules()
        return None if now is None or self._start is None else now - self._start

    def read(self) -> dict[str, float]:
        """Utilisation, memory and power, as far as the GPU tells."""
        found: dict[str, float] = {}
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            found["system/gpu_0_memory_usage_megabytes"] = memory.used / 1e6
            found["system/gpu_0_memory_usage_percentage"] = 100 * memory.used / memory.total
        with suppress(pynvml.NVMLError):
            found["system/gpu_0_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        with suppress(pynvml.NVMLError):
            found["system/gpu_0_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        return found


class SystemMetrics:
    """Samples this worker's machine for as long as the trial runs; worker 0 writes `system.jsonl`, others their own.

    Args:
        folder: The trial's.
        device: Where this worker trains.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._path = folder / ("system.jsonl" if rank() == 0 else f"system-{rank()}.jsonl")
        last = read_last(self._path)
        self._before = {name: float(last.get(name, 0.0)) for name in (HOURS, GPU_ENERGY, PROCESSOR_ENERGY)}
        self._started = time.perf_counter()
        self._process = psutil.Process()
        self._processors, self._gpu = ProcessorEnergy(), _gpu_of(device)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._read()  # the first figures of a processor's use are since an unknown time
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._write()

    def hours(self) -> float:
        """Hours that the trial has run, over all starts."""
        return self._before[HOURS] + (time.perf_counter() - self._started) / 3600

    def energy_kwh(self) -> float | None:
        """Energy of all devices of the trial's workers, each once, over all starts; None where nothing counts.

        All workers call it.
        """
        names = {GPU_ENERGY: self._gpu.name if self._gpu else "", PROCESSOR_ENERGY: _machine()}
        counted: dict[str, float] = {}
        for device, kwh in gather([(names[kind], kwh) for kind, kwh in self._energies().items()]):
            counted[device] = max(kwh, counted.get(device, 0.0))
        return sum(counted.values()) if counted else None

    def _energies(self) -> dict[str, float]:
        """Energy in kWh over all starts, by kind, of the devices that count it."""
        with self._lock:
            joules = {
                GPU_ENERGY: self._gpu.joules() if self._gpu else None,
                PROCESSOR_ENERGY: self._processors.joules(),
            }
        return {kind: self._before[kind] + x / _JOULES_PER_KWH for kind, x in joules.items() if x is not None}

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self._write()

    def _write(self) -> None:
        line = json.dumps({"time": time.time(), **self._read()})
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:  # a full disk ends the trial elsewhere
            file.write("\n" + line)

    def _read(self) -> dict[str, float]:
        memory, processes = psutil.virtual_memory(), [self._process]
        with suppress(psutil.Error):
            processes += self._process.children(recursive=True)
        held = 0
        for process in processes:
            with suppress(psutil.Error):
                held += process.memory_info().rss
        found = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system/process_memory_usage_megabytes": held / 1e6,
            HOURS: self.hours(),
        }
        return {**found, **self._energies(), **(self._gpu.read() if self._gpu else {})}


def read_last(path: Path) -> Mapping[str, Any]:
    """The last whole line of a file of metrics; empty where there is none."""
    for line in reversed(path.read_text(encoding="utf-8").splitlines() if path.exists() else []):
        with suppress(json.JSONDecodeError):
            found: Mapping[str, Any] = json.loads(line)
            return found
    return {}


def _gpu_of(device: torch.device) -> Gpu | None:
    if device.type == "cuda":
        with suppress(pynvml.NVMLError):
            return Gpu(device)
    return None


def _machine() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "this machine"
