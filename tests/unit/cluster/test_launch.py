"""`mar launch` on real processes: the package here is a copy whose commands only sleep, fail or say their process.

What a job does when it ends, fails or is ended is the same whether it starts anew or is forked by a fork server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mar.cluster import fork_server, job_process, resources
from mar.cluster.launch import Slurm, launch
from mar.runtime import environment
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.reading import load, write_resolved

SOURCE = Path(__file__).parents[3] / "mar"
CLI = """
import os, sys, time

def main(arguments, prog_name):
    verb, *rest = arguments[2:] if arguments[0] == "--threads" else arguments
    with open("runs.txt", "a") as runs:
        runs.write(f"start {os.getpid()} {time.monotonic()}\\n")
    print("hello from", verb, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if verb == "sleep" and not os.path.exists("done"):  # as every stage: nothing to do when it is complete
        time.sleep(float(rest[0]))
        open("done", "w").close()
    if verb == "refuse":
        print("Error: a mistake", file=sys.stderr)
        raise SystemExit(1)
    if verb == "break":
        raise RuntimeError("a bug")
    with open("runs.txt", "a") as runs:
        runs.write(f"end {os.getpid()} {time.monotonic()}\\n")
"""
LIBRARY = """
import json, os
with open("imports.txt", "a") as file:
    file.write(f"{os.getpid()}\\n")
with open("environment.json", "w") as file:
    json.dump(dict(os.environ), file)
"""
RUN = "import sys; from mar.cluster.launch import launch; sys.exit(launch(sys.argv[2:], 'job', recipe=sys.argv[1]))"


@pytest.fixture
def anew(tmp_path: Path) -> Path:
    """A working folder with the copy of the package."""
    for package in ("cluster", "runtime"):
        shutil.copytree(SOURCE / package, tmp_path / "mar" / package)
    shutil.copy(SOURCE / "__init__.py", tmp_path / "mar")
    (tmp_path / "mar" / "cli").mkdir()
    (tmp_path / "mar" / "cli" / "__main__.py").write_text(CLI)
    (tmp_path / "torch.py").write_text("raise AssertionError('the launcher imported torch')")
    return tmp_path


@pytest.fixture
def forkable(anew: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same where a fork server may begin, whose only library says who imports it."""
    source = anew / "mar" / "cluster" / "fork_server.py"
    source.write_text(re.sub(r"LIBRARIES = \(.*?\n\)\n", 'LIBRARIES = ("library",)\n', source.read_text(), flags=re.S))
    (anew / "library.py").write_text(LIBRARY)
    monkeypatch.setattr(fork_server, "__file__", str(source))  # this process is of the same installation
    monkeypatch.chdir(anew)
    monkeypatch.setenv("PYTHONPATH", str(anew))
    for name in environment.THREADS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv(fork_server.ADDRESS, "")  # so that it is taken back
    monkeypatch.delenv(fork_server.ADDRESS)
    return anew


@pytest.fixture
def forked(forkable: Path) -> Iterator[Path]:
    """The same with a fork server."""
    held = fork_server.begin(9)
    assert held
    address = Path(os.environ[fork_server.ADDRESS])
    try:
        until(address.exists)
        yield forkable
    finally:
        os.close(held)
    until(lambda: not address.parent.exists())


@pytest.fixture(params=["anew", "forked"])
def place(request: pytest.FixtureRequest) -> Path:
    """Either of both."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def start(place: Path, *command: str, recipe: str = "a") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, recipe, *command],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place), "CUDA_VISIBLE_DEVICES": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def record(place: Path) -> dict[str, Any]:
    return json.loads((place / "job" / "job.json").read_text())


def runs(place: Path, what: str) -> list[int]:
    """Processes that started or ended the command, in order."""
    lines = (place / "runs.txt").read_text().split("\n")
    return [int(line.split()[1]) for line in lines if line.startswith(what)]


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_run(place: Path) -> int:
    until((place / "runs.txt").exists)
    time.sleep(0.1)
    return runs(place, "start")[0]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_is_a_process_of_its_own_whose_output_is_shown(place: Path) -> None:
    launcher = start(place, "greet")
    status, out, err = finish(launcher)
    assert (status, out, err) == (0, "hello from greet 3\n", "")  # the GPUs of the launcher, none of submitit's lines
    job = record(place)
    assert job["state"] == "finished" and job["cluster"] == "local" and job["command"] == "mar greet"
    assert len(runs(place, "end")) == 1 and runs(place, "end") != [launcher.pid]
    assert sorted(file.name for file in (place / "job").iterdir()) == [".lock", job["output"], "job.json"]


def test_what_a_job_computed_is_on_its_record(place: Path) -> None:
    cpu = "[i * i for i in range(3_000_000)]"
    main = CLI.replace('    print("hello', f'    {cpu}\n    print("hello')
    (place / "mar" / "cli" / "__main__.py").write_text(main)
    assert finish(start(place, "say"))[0] == 0
    record = json.loads((place / "job" / "job.json").read_text())
    assert record["state"] == "finished" and 0.05 < record["cpu_seconds"] < 60


def test_a_refusal_is_passed_on_in_one_line(place: Path) -> None:
    status, out, err = finish(start(place, "refuse"))
    assert status == 1
    assert out == "hello from refuse 3\nError: a mistake\n"
    assert err.startswith("launch: job ") and "failed: mar refuse; output: " in err
    assert record(place)["state"] == "failed"


def test_a_bug_keeps_its_traceback(place: Path) -> None:
    status, out, _ = finish(start(place, "break"))
    assert status == 1
    assert "Traceback" in out and out.count("RuntimeError: a bug") == 1
    assert record(place)["state"] == "failed"


def test_a_job_whose_process_was_killed_has_failed(place: Path) -> None:
    launcher = start(place, "sleep", "30")
    os.kill(wait_for_run(place), signal.SIGKILL)
    status, _, err = finish(launcher)
    assert status == 1 and "failed: mar sleep 30; output: " in err
    assert record(place)["state"] == "failed"


def test_after_kill_9_the_same_command_follows_the_running_job(place: Path) -> None:
    first = start(place, "sleep", "3")
    job = wait_for_run(place)
    first.kill()
    first.wait()
    assert alive(job) and record(place)["state"] == "running"
    status, out, _ = finish(start(place, "sleep", "3"))
    assert status == 0
    assert "of this command is running; following it" in out
    # It ended in its own time, then the command ran once more, a no-op that makes sure of its outputs.
    assert runs(place, "end")[0] == job and len(runs(place, "end")) == 2
    assert record(place)["state"] == "finished"


def test_a_running_job_of_another_recipe_is_ended(place: Path) -> None:
    first = start(place, "sleep", "30")
    job = wait_for_run(place)
    first.kill()
    first.wait()
    status, out, _ = finish(start(place, "greet", recipe="b"))
    assert status == 0
    assert "works on another recipe; ending it" in out
    assert not alive(job) and job not in runs(place, "end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_too(place: Path, number: signal.Signals) -> None:
    launcher = start(place, "sleep", "30")
    job = wait_for_run(place)
    launcher.send_signal(number)
    status, _, err = finish(launcher)
    assert status == 128 + number
    assert "stopped; run the same command to go on" in err
    assert not alive(job)
    assert record(place)["state"] == "stopped"


def test_two_launchers_never_run_two_jobs_at_once(place: Path) -> None:
    both = [start(place, "sleep", "1"), start(place, "sleep", "1")]
    assert [finish(launcher)[0] for launcher in both] == [0, 0]
    lines = (place / "runs.txt").read_text().split("\n")[:-1]
    events = [line.split()[0] for line in sorted(lines, key=lambda line: float(line.split()[2]))]
    assert events[:2] == ["start", "end"] and events == ["start", "end"] * (len(events) // 2)


def test_a_record_whose_process_id_came_again_is_no_running_job(place: Path) -> None:
    assert finish(start(place, "greet"))[0] == 0
    job = {**record(place), "state": "running", "pid": os.getpid()}  # alive, but not since then
    (place / "job" / "job.json").write_text(json.dumps(job))
    status, out, _ = finish(start(place, "greet"))
    assert (status, out) == (0, "hello from greet 3\n")


def test_forked_jobs_find_what_their_server_has_imported(forked: Path) -> None:
    main = CLI.replace("import os, sys, time", "import os, sys, time\nimport library")
    (forked / "mar" / "cli" / "__main__.py").write_text(main)  # read by the jobs, not by the server
    for word in ("first", "second"):
        status, out, _ = finish(start(forked, word))
        assert (status, out) == (0, f"hello from {word} 3\n")
    assert json.loads((forked / "environment.json").read_text()).items() >= environment.REPEATABLE.items()
    server = (forked / "imports.txt").read_text().split()
    assert len(server) == 1 and len(set(runs(forked, "end")) - {int(server[0])}) == 2
    assert record(forked)["pid"] == runs(forked, "end")[1] and record(forked)["cpu_seconds"] < 1


def test_a_forked_job_outlives_its_server_and_a_later_one_starts_anew(forked: Path) -> None:
    first = start(forked, "sleep", "2")
    job = wait_for_run(forked)
    server = int((forked / "imports.txt").read_text())
    os.kill(server, signal.SIGKILL)
    assert finish(first)[0] == 0 and runs(forked, "end") == [job]
    assert finish(start(forked, "greet"))[0] == 0
    assert record(forked)["state"] == "finished"
    shutil.rmtree(Path(os.environ[fork_server.ADDRESS]).parent)  # else done by the server


def test_a_job_of_several_threads_starts_anew_unless_it_times_models(
    forked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (forked / "mar" / "cli" / "__main__.py").write_text(CLI + "    sys.exit(7 * ('library' in sys.modules))\n")
    assert finish(start(forked, "greet"))[0] == 7
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert finish(start(forked, "greet"))[0] == 0
    assert finish(start(forked, "--threads", "2", "speed"))[0] == 7


def test_nothing_is_done_for_a_launcher_that_ended_before_the_job_was_on_record(forked: Path) -> None:
    command = job_process.Command(("greet",), "local", folder=str(forked / "job"))
    for wanted in (b"", b"{", fork_server.request(command)):
        with socket.socket(socket.AF_UNIX) as launcher:
            launcher.connect(os.environ[fork_server.ADDRESS])
            launcher.sendall(wanted)
    with pytest.raises(KeyboardInterrupt), fork_server.ask(command) as pid:
        assert pid
        job = pid
        assert alive(job)
        raise KeyboardInterrupt
    until(lambda: not alive(job))
    assert not (forked / "runs.txt").exists()
    assert finish(start(forked, "greet"))[0] == 0 and len(runs(forked, "end")) == 1


@pytest.mark.parametrize("other", ["code", "Python", "container"])
def test_a_server_of_another_installation_forks_nothing(
    forked: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    command = job_process.Command(("greet",), "local", folder=str(forked / "job"))
    with fork_server.ask(command) as pid:
        assert pid
    wait_for_run(forked)
    until(lambda: runs(forked, "end") == [pid])
    if other == "code":
        (forked / "mar" / "runtime" / "new.py").touch()
    elif other == "Python":
        monkeypatch.setattr(sys, "prefix", "/elsewhere")
    else:
        monkeypatch.setattr(os, "readlink", lambda path: f"{path}:[1]")
    with fork_server.ask(command) as pid:
        assert pid is None


@pytest.mark.parametrize(
    "does",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "import sys; from unittest import mock; sys.modules['torch'] = mock.Mock()  # which sees a GPU",
    ],
)
def test_a_server_whose_libraries_started_a_thread_or_see_a_gpu_forks_nothing(forkable: Path, does: str) -> None:
    (forkable / "library.py").write_text(LIBRARY + does)
    held = fork_server.begin(9)
    assert held
    try:
        until(lambda: not Path(os.environ[fork_server.ADDRESS]).parent.exists())
        assert finish(start(forkable, "greet"))[0] == 0
    finally:
        os.close(held)
    assert (forkable / "imports.txt").exists() and len(runs(forkable, "end")) == 1


def test_a_forked_training_has_the_weights_of_one_that_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in environment.THREADS:
        monkeypatch.setenv(name, "1")
    study = str(write_resolved(load(SOURCE.parent / "config" / "smoke.yaml")))
    weights, digests = layout.classifier(layout.RESULTS / "smoke") / "model.safetensors", list[str]()
    monkeypatch.setenv(fork_server.ADDRESS, "")
    assert launch(["--threads", "1", "prepare", "--study", study], tmp_path / "prepare") == 0
    assert launch(["--threads", "1", "classifier", "--study", study], tmp_path / "anew") == 0
    digests.append(sha256(weights))
    weights.unlink()
    monkeypatch.delenv(fork_server.ADDRESS)
    held = fork_server.begin(9)
    assert held
    try:
        until(Path(os.environ[fork_server.ADDRESS]).exists, 120)
        assert launch(["--threads", "1", "classifier", "--study", study], tmp_path / "forked") == 0
    finally:
        os.close(held)
    digests.append(sha256(weights))
    assert digests[0] == digests[1]
    seconds = [json.loads((tmp_path / way / "job.json").read_text())["cpu_seconds"] for way in ("anew", "forked")]
    assert seconds[1] < seconds[0], "it imported torch itself"


def test_few_jobs_need_no_server_and_an_empty_address_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fork_server.ADDRESS, raising=False)
    assert fork_server.begin(fork_server.FEW - 1) is None and fork_server.ADDRESS not in os.environ
    monkeypatch.setenv(fork_server.ADDRESS, "")
    assert fork_server.begin(100) is None
    with fork_server.ask(job_process.Command(("greet",), "local")) as pid:
        assert pid is None


def test_debug_runs_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["schema", "--out", str(tmp_path / "schema.json")], tmp_path / "job", "debug") == 0
    assert (tmp_path / "schema.json").exists()
    job = json.loads((tmp_path / "job" / "job.json").read_text())
    assert job["state"] == "finished" and job["pid"] == os.getpid()
    assert launch(["schema", "--nothing"], tmp_path / "job", "debug") == 2
    assert "No such option" in capsys.readouterr().err


def test_slurm_settings_belong_to_slurm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Slurm settings \{'partition': 'gpu'\} with --cluster local"):
        launch(["schema"], tmp_path, "local", slurm=Slurm(partition="gpu"))


def test_slurm_is_refused_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"--cluster slurm: .*srun.*accepted here: local, debug"):
        launch(["schema"], tmp_path / "job", "slurm")
    assert json.loads((tmp_path / "job" / "job.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("extra", "found"),
    [("reservation=x", "'reservation=x'"), ("--comment=x", "--comment"), ("--partition=x", "--partition")],
)
def test_extra_lines_that_are_none_or_ours_are_refused(tmp_path: Path, extra: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"slurm extra: found {found}"):
        launch(["schema"], tmp_path, "slurm", slurm=Slurm(extra=extra))


def test_only_stages_in_shards_are_shared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--slurm-shards 4 with train; accepted: encode, features, sample, sweep"):
        launch(["--threads", "1", "train", "--study", "x"], tmp_path, "slurm", slurm=Slurm(shards=4))


def test_slurm_settings_become_options_of_sbatch() -> None:
    site = Slurm(partition="gpu", constraint="a100|h100", nodes=2, gpus_per_node=8, time=60, mem=2048)
    assert site.parameters() == {
        "partition": "gpu",
        "constraint": "a100|h100",
        "nodes": 2,
        "gpus-per-node": 8,
        "ntasks-per-node": 8,
        "time": 60,
        "mem": "2048MB",
    }
    assert Slurm().parameters() == {}
    extra = Slurm(extra="--reservation='my jobs' --exclusive", signal=300).parameters()
    assert extra == {"reservation": "my jobs", "exclusive": True, "signal": "USR2@300"}


def test_settings_that_would_have_no_effect_are_refused() -> None:
    resources.check({"launcher": "slurm", "slurm_partition": "gpu", "mem_mb": 0}, {"train": ["nodes"]})
    resources.check({"mem_mb": "some expression of Snakemake", "tmpdir": "x"}, {})
    with pytest.raises(
        ValueError, match=r"default-resources: unknown name 'slurm_partitoin' \(did you mean 'slurm_part"
    ):
        resources.check({"launcher": "slurm", "slurm_partitoin": "gpu"}, {})
    with pytest.raises(ValueError, match=r"set-resources: train: unknown name 'node' \(did you mean 'nodes'\?\)"):
        resources.check({"launcher": "slurm"}, {"train": ["node"]})
    with pytest.raises(ValueError, match="default-resources: launcher: found 'pbs'; accepted: local, debug, slurm"):
        resources.check({"launcher": "pbs"}, {})
    with pytest.raises(ValueError, match="set-resources: train: launcher: found 'sge'; accepted: local"):
        resources.check({"launcher": "slurm"}, {"train": {"launcher": "sge"}})
    with pytest.raises(ValueError, match="slurm_partition: found 'a b'; accepted: a word"):
        resources.check({"launcher": "slurm", "slurm_partition": "'a b'"}, {})
    resources.check({"launcher": "slurm", "constraint": "[a100*2&h100*2]", "slurm_gres": "gpu:a100"}, {})
    with pytest.raises(
        ValueError, match=r"found slurm_partition, nodes with launcher 'local'.*repeat `launcher: slurm`"
    ):
        resources.check({"slurm_partition": "gpu", "nodes": 2}, {})


def test_every_resource_is_an_option_of_the_command() -> None:
    from mar.cli.__main__ import main

    known = {name for option in main.commands["launch"].params for name in option.opts}
    assert {option for option, _ in resources.LAUNCH.values()} <= known


def test_threads_of_a_task_are_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", said)
    job_process.cores_of_task()
    assert not said, "the site says nothing"
    said |= {"OMP_NUM_THREADS": "0"}  # what Snakemake exports for a rule that only waits
    job_process.cores_of_task()
    assert not said
    # of the shell on the head, or of Snakemake
    said |= {"SLURM_CPUS_PER_TASK": "6", "MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "0", "OPENBLAS_NUM_THREADS": "1"}
    job_process.cores_of_task()
    assert {name: said[name] for name in environment.THREADS} == dict.fromkeys(environment.THREADS, "6")


def test_a_stage_that_asks_for_a_gpu_is_told_to_use_one() -> None:
    assert Slurm().options() == ()
    assert Slurm(gpus_per_node=1).options() == ("--device", "cuda")
    assert Slurm(gpus_per_node=1, device="cpu").options() == ("--device", "cpu")
    with pytest.raises(ValueError, match=r"slurm device: found 'tpu'; accepted: cuda, cpu"):
        Slurm(device="tpu").parameters()


def test_of_four_sayings_of_a_resource_the_later_wins() -> None:
    asked = resources.asked
    table = {"launcher": "slurm"}
    study = {"nodes": 4, "gpus_per_node": 8, "runtime": 600}
    assert asked("train", table, {}, {})["runtime"] == 24 * 60
    assert asked("train", {**table, "runtime": 240}, {}, {})["runtime"] == 240
    assert asked("train", {**table, "runtime": 240}, {}, study)["runtime"] == 600
    assert asked("train", {**table, "runtime": 240}, {"train": {"runtime": 60}}, study)["runtime"] == 60
    # memory is for each task of a node, unless somebody says what a node gives
    assert asked("train", table, {"train": {"gpus_per_node": 4}}, study)["mem_mb"] == 4 * 24_000
    assert asked("train", {**table, "mem_mb": 0}, {}, study)["mem_mb"] == 0
    assert asked("train", {**table, "mem_mb": "max(2 * input.size_mb, 1000)"}, {}, {})["mem_mb"] == 24_000
    # where a rule runs here, nothing is asked of Slurm
    assert asked("sample", {**table, "slurm_partition": "gpu"}, {"sample": {"launcher": "local"}}, {}) == {
        **resources.UNSET,
        "launcher": "local",
    }
