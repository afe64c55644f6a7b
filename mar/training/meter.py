"""How well a training uses its machine: images a second, peak memory, operations against the peak, waiting for data."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

from mar.runtime import devices


class Meter:
    """Measures between two lines of the log, in the first process.

    Attributes:
        waited: seconds in which the model waited for its next micro-batch since the last line.
    """

    def __init__(self, device: torch.device, processes: int, dtype: str) -> None:
        self.device, self.processes, self.dtype = device, processes, dtype
        self.waited, self.operations = 0.0, 0.0
        self._since, self._images = time.monotonic(), -1

    def start(self, images: int, operations: Callable[[], float] | None = None) -> None:
        """Begin to measure after so many images; `operations` counts those of one image where a peak is known."""
        if operations and self._peak():
            self.operations = operations()
        self.waited, self._since, self._images = 0.0, time.monotonic(), images

    def read(self, images: int) -> dict[str, float]:
        """What the log says, by name, since its last line or the start; then it is measured anew.

        Returns:
            images_per_second: of all processes together. data_wait: share of the time in which the model waited for
            data. peak_memory: bytes; of the device, or of the process on a CPU. utilisation: operations of the model a
            second and GPU as a share of the GPU's peak (MFU; those that gradient_checkpointing repeats are counted),
            where both are known.
        """
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        rate = (images - self._images) / seconds
        found = {"images_per_second": rate, "data_wait": min(1.0, self.waited / seconds)}
        found["peak_memory"] = self._memory()
        if self.operations and (peak := self._peak()):
            found["utilisation"] = self.operations * rate / (self.processes * peak)
        self.waited, self._since, self._images = 0.0, now, images
        return {name: float(f"{value:.6g}") for name, value in found.items()}

    def _memory(self) -> int:
        """Bytes at the peak since the start of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _peak(self) -> float | None:
        """Operations a second of the device at the precision of the training, where they are known."""
        if self.device.type != "cuda" or self.dtype != "bf16":
            return None
        return devices.bf16_peak(torch.cuda.get_device_name(self.device))
