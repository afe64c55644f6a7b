"""A training of `mar` itself on the test cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIT = Path(__file__).parents[1] / "support"


def stop_until_warned(process: int, wait_for: Callable[[Callable[[], Any]], None]) -> None:
    """Let a slot pass without work, as on a machine on which the work takes longer, until Slurm warns the process.

    Slurm wakes a process that it warns, which may be gone before anybody looks.
    """

    def warned() -> bool:
        try:
            text = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return "State:\tT" not in text

    os.kill(process, signal.SIGSTOP)
    wait_for(lambda: not warned())  # the stop takes a moment
    wait_for(warned)


class Training:
    """A tiny study, and launchers of its training: four micro-batches a step, for as many processes."""

    def __init__(self, folder: Path, images: int = 4000) -> None:
        sys.path.insert(0, str(UNIT))
        import tiny

        self.recipe = {**tiny.STUDY["recipes"]["short"], "images": images, "micro_batch": 2, "log_images": 200}
        self.recipe["checkpoint_images"] = images // 2
        root: Path = tiny.make_root(folder)
        file = root / "study.json"
        study = json.loads(file.read_text())
        study["recipes"]["short"] |= self.recipe
        file.write_text(json.dumps(study))
        self.root, self.job = root, root / "jobs" / "train"
        self.run_folder = root / "runs" / "mar-diff" / "seed0"
        self.command = ["--threads", "1", "train", "--study", str(file), "--variant", "mar-diff", "--seed", "0"]

    def launch(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Start a launcher."""
        return subprocess.Popen(
            [
                sys.executable, "-m", "mar.cli", "launch", "--cluster", "slurm", "--folder", str(self.job),
                "--outputs", f"{self.run_folder}/ema.safetensors {self.run_folder}/run.json", "--slurm-device=cpu",
                *options, "--", *self.command,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )  # fmt: skip

    def alone(self) -> None:
        """Train without Slurm."""
        subprocess.run([sys.executable, "-m", "mar.cli", *self.command], check=True, capture_output=True)

    def job_id(self) -> str:
        record: dict[str, Any] = json.loads((self.job / "job.json").read_text())
        return str(record["job"])

    def wait_for(self, condition: Callable[[], Any], seconds: float = 240.0) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def log(self) -> list[dict[str, Any]]:
        """Whole lines of the log of the run."""
        file = self.run_folder / "metrics.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def logged(self) -> int:
        """How many."""
        return len(self.log())

    def record(self) -> dict[str, Any]:
        """What the finished run says of itself."""
        record: dict[str, Any] = json.loads((self.run_folder / "run.json").read_text())
        return record

    def rank(self) -> int:
        """Process of the only rank."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if "submitit.core._submit" in line and str(self.job) in line and "srun" not in line:
                    return int(entry.name)
        raise AssertionError(f"{self.job}: no process")

    def starts(self) -> int:
        """How often the job started and went on."""
        log = self.job / f"{self.job_id()}_0_log.out"
        return log.read_text().count("going on after") + 1
