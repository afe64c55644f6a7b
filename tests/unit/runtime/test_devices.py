"""Where a command computes."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from mar.cli.__main__ import main
from mar.runtime import devices


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.CHOSEN, "")


def gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


def test_a_gpu_where_there_is_one_and_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert devices.device() == torch.device("cpu")
    gpus(monkeypatch, 2)
    assert [devices.device(local) for local in (0, 1, 2)] == [torch.device("cuda", i) for i in (0, 1, 0)]
    devices.choose("cpu")
    assert devices.device(1) == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "found"),
    [("13.0", "CUDA 13.0, which needs NVIDIA's driver 580"), ("12.6", "driver 525"), (None, "built without CUDA")],
)
def test_a_gpu_that_was_asked_for_and_is_not_seen_is_an_error(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, found: str
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    devices.choose("cuda")
    with pytest.raises(ValueError, match=r"--device cuda: torch .* sees no GPU; ") as error:
        devices.device()
    assert found in str(error.value) and "--device cpu" in str(error.value)


def test_the_commands_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    for arguments, kind in ((["--device", "cpu"], "cpu"), ([], "cuda")):
        CliRunner().invoke(main, [*arguments, "schema"])
        assert devices.device().type == kind
