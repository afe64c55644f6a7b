"""MLflow beside jobs: one run whatever happens to them, no point twice, and a server that dies stops nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from training import Training

pytestmark = pytest.mark.long


class Server:
    """A tracking server of MLflow on this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1"]
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None and time.monotonic() < deadline, self.folder / "server.log"
                time.sleep(0.5)

    def kill(self) -> None:
        """It dies with all its workers."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def track(training: Training, server: Server) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mar.cli", "track", "--study", str(training.root / "study.json")],
        env={**os.environ, "MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=server.folder,
    )  # fmt: skip


def test_one_run_without_double_points(slurm: Callable[..., str], server: Server, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    training = Training(tmp_path / "results")
    head = training.launch("--slurm-gpus-per-node=1", MLFLOW_TRACKING_URI=server.uri)
    training.wait_for(lambda: training.logged() >= 2)
    subprocess.run(["scancel", "--signal=USR2", training.job_id()], check=True)
    training.wait_for(lambda: (training.run_folder / "checkpoints" / "index.json").exists())
    writers = [track(training, server) for _ in range(3)]  # at the same time, while the training goes on
    said = [writer.communicate(timeout=300)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], said
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (run,) = client.search_runs([experiment])
    assert len(client.get_metric_history(run.info.run_id, "loss")) >= 2

    server.kill()
    dead = track(training, server)
    assert f"{server.uri}: MLflow fails" in dead.communicate(timeout=120)[0] and dead.returncode == 0
    out, err = head.communicate(timeout=400)
    assert head.returncode == 0 and training.starts() == 2, out + err

    server.start()
    for _ in range(2):
        assert track(training, server).wait(timeout=300) == 0
    (after,) = client.search_runs([experiment])
    assert after.info.run_id == run.info.run_id and after.info.status == "FINISHED"
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    assert points == [(line["images"], line["loss"]) for line in training.log()]
