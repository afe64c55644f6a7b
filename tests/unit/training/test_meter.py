"""What the log says of how well a training uses its machine."""

import tiny
import torch

from mar.data.tokens import TokenSet
from mar.runtime import runlog
from mar.runtime.devices import bf16_peak
from mar.training import meter
from mar.training.meter import Meter
from mar.training.trainer import Trainer


def test_of_a_gpu(monkeypatch):
    """100 images in 2 s on two A100, 31.2 TFLOP an image: 0.78 PFLOP a second and GPU would be 2.5 times the peak."""
    clock = iter([0.0, 10.0, 12.0, 16.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5_000_000_000)
    measured = Meter(torch.device("cuda", 0), 2, "bf16")
    measured.waited = 7.0  # before the start
    measured.start(1000, lambda: 3.12e12)
    measured.waited += 0.5
    line = {"images_per_second": 50.0, "data_wait": 0.25, "peak_memory": 5e9, "utilisation": 50 * 3.12e12 / 2 / 312e12}
    assert measured.read(1100) == line
    assert measured.read(1300) == line | {"data_wait": 0.0}, "since the line before"


def test_without_a_known_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    for device, dtype in ((torch.device("cpu"), "bf16"), (torch.device("cuda", 0), "bf16")):
        measured = Meter(device, 1, dtype)
        measured.start(0, lambda: 1 / 0)
        assert measured.operations == 0.0


def test_peaks_by_name():
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989e12, "NVIDIA L40S": 362e12}
    assert {name: bf16_peak(name) for name in names} == names
    assert bf16_peak("NVIDIA GeForce GTX 1080") is None


def test_of_a_training(tmp_path):
    root = tiny.make_root(tmp_path)
    run = Trainer(tiny.study(), "ar-ce", 0, TokenSet.open(root / "tokens/vq/train"), root / "runs/ar-ce/seed0")
    run.run(lambda: 1 / 0)  # of a CPU no peak is known
    lines = runlog.read(run.folder / "metrics.jsonl")
    assert len(lines) == 6
    for line in lines:
        assert line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1 and line["peak_memory"] > 1e7
        assert "utilisation" not in line
