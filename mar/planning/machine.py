"""What `mar` needs of this machine, looked at one by one: the first half of `mar doctor`.

Nothing is changed, and nothing is fetched. Each line says what is there; one that says NOT OK has what will not work
and what to do about it. A note is no fault: something is missing that only some studies need.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mar import __version__
from mar.cluster import queue
from mar.data import idx
from mar.runtime import devices
from mar.runtime.folders import lock
from mar.runtime.provenance import git_commit, processor
from mar.study import layout
from mar.study.records import without_secrets

OK, NOTE, BAD = "ok", "note", "NOT OK"
OLDEST = (3, 11)  # Python
LOCK = layout.shipped().parent / "requirements.lock"  # of a checkout; an installed package has none
IMPORTED = ("numpy", "scipy", "pandas", "matplotlib", "torch", "torchvision", "diffusers", "mlflow", "snakemake")
DISK, MEMORY, FILES = 2e9, 4e9, 256  # bytes free, bytes of memory, open files: what the demo is sure to run with


class Line(NamedTuple):
    """One thing that was looked at: what it is called, OK, NOTE or BAD, and what was found."""

    what: str
    state: str
    text: str


def look() -> Iterator[Line]:
    """Everything that is looked at, in the order in which it is printed."""
    checks: tuple[Callable[[], Iterator[Line]], ...] = (
        *(_project, _python, _packages, _processor, _memory, _gpu, _compiler, _results, _database, _server),
        *(_scratch, _limits, _fashion, _assets, _slurm),
    )
    for check in checks:
        yield from check()


def text(line: Line) -> str:
    """A line as it is printed."""
    return f"{line.state:<7} {line.what:<12} {line.text}"


def _project() -> Iterator[Line]:
    where = "a checkout" if LOCK.exists() else "an installed package"
    yield Line("mar", OK, f"{__version__}, commit {git_commit()}, {where}: {layout.shipped().parent}")


def _python() -> Iterator[Line]:
    found = f"{platform.python_version()}, {sys.executable}, {platform.platform()}"
    if sys.version_info < OLDEST:
        found += f"; accepted: Python {'.'.join(map(str, OLDEST))} or newer"
    yield Line("python", OK if sys.version_info >= OLDEST else BAD, found)
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        yield Line("locale", NOTE, f"{encoding}: names of files with other letters may fail; set LC_ALL=C.UTF-8")


def _packages() -> Iterator[Line]:
    """Versions beside those of requirements.lock, and whether what is installed can be imported."""
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK.read_text("utf-8"), re.M)) if LOCK.exists() else {}
    others = []
    for name, pin in pins.items():
        with contextlib.suppress(PackageNotFoundError):  # what is missing and needed fails below
            if (here := version(name)).partition("+")[0] != pin.partition("+")[0]:
                others.append(f"{name} {here} (lock: {pin})")
    if others:
        said = ", ".join(others)
        yield Line("versions", NOTE, f"not those of requirements.lock: {said}; `make install` installs them")
    elif pins:
        yield Line("versions", OK, f"as in requirements.lock ({len(pins)} packages)")
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n importlib.import_module(name); print(name, flush=True)"
    done = subprocess.run([sys.executable, "-c", code, *IMPORTED], capture_output=True, text=True, check=False)
    if done.returncode:
        failed = IMPORTED[len(done.stdout.split())]
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        yield Line("packages", BAD, f"{failed} cannot be imported: {reason}; accepted: `make install`")
    else:
        yield Line("packages", OK, ", ".join(f"{name} {version(name)}" for name in IMPORTED))


def _processor() -> Iterator[Line]:
    usable, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    share = "" if usable == all_cores else f", of which this process may use {usable}"
    yield Line("processor", OK, f"{processor()}, {all_cores} cores{share}")


def _memory() -> Iterator[Line]:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.M))
    free = 1024 * int(found.get("MemAvailable", 0))
    limits = [_read(f"/sys/fs/cgroup/{name}").strip() for name in ("memory.max", "memory/memory.limit_in_bytes")]
    limit = min((int(x) for x in limits if x.isdigit()), default=sys.maxsize)
    said = f"{free / 1e9:.1f} GB free" + (f", limit of this group {limit / 1e9:.1f} GB" if limit < 1 << 50 else "")
    if 0 < min(free, limit) < MEMORY:
        yield Line("memory", BAD, f"{said}: trainings may be killed; accepted: {MEMORY / 1e9:.0f} GB")
    else:
        yield Line("memory", OK, said)


def _gpu() -> Iterator[Line]:
    smi = _said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    try:
        torch = importlib.import_module("torch")
    except Exception:  # `packages` says why
        return
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen:
        names = [torch.cuda.get_device_name(i) for i in range(seen)]
        driver = f", driver {smi.splitlines()[0].split(', ')[1]}" if smi else ""
        yield Line("gpu", OK, f"{', '.join(names)}; CUDA {torch.version.cuda}{driver}")
    elif smi:
        cards = "; ".join(smi.splitlines())
        yield Line("gpu", BAD, f"{cards}; torch {torch.__version__} sees none: {devices.remedy(torch.version.cuda)}")
    else:
        yield Line("gpu", NOTE, f"none: torch {torch.__version__} computes on the CPU; ImageNet studies need GPUs")


def _compiler() -> Iterator[Line]:
    name = os.environ.get("CXX", "g++")
    if found := shutil.which(name):
        first = (_said([found, "--version"]) or "").partition("\n")[0]
        yield Line("compiler", OK, f"{found}: {first}")
    else:
        yield Line("compiler", NOTE, f"no {name}: studies with `compile: true` (on GPUs) fail; install g++ or set CXX")


def _results() -> Iterator[Line]:
    """Whether results can be written, locked and renamed where they go, and the room there."""
    for folder in (layout.RESULTS, layout.FIGURES):
        place = folder if folder.exists() else Path()
        try:
            with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as made, lock(made):
                (Path(made) / "a").write_text("a", encoding="utf-8")
                (Path(made) / "a").replace(Path(made) / "b")
        except OSError as error:
            found = f"{place.resolve()}: {error.strerror}"
            yield Line(f"{folder}/", BAD, f"{found}; accepted: a folder that takes files and locks")
            continue
        yield _room(f"{folder}/", place)


def _room(what: str, place: Path) -> Line:
    free, disk = shutil.disk_usage(place).free, os.statvfs(place)
    said = f"{place.resolve()}: {free / 1e9:.1f} GB free"
    if free < DISK:
        return Line(what, BAD, f"{said}; accepted: {DISK / 1e9:.0f} GB; `mar plan` says how much a study needs")
    if disk.f_files and disk.f_favail < 10_000:
        return Line(what, BAD, f"{said}, but only {disk.f_favail:,} more files; accepted: 10,000")
    return Line(what, OK, said)


def _database() -> Iterator[Line]:
    path = layout.DATABASE
    if not path.exists():
        yield Line("database", OK, f"{path}: none yet; `mar track` makes it")
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=3)) as opened:
            (answer,) = opened.execute("pragma quick_check(1)").fetchone()
            (runs,) = opened.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        answer, runs = str(error), 0
    if answer != "ok":
        remedy = "results do not need it: move it away, and `mar track` fills another"
        yield Line("database", BAD, f"{path}: {answer}; {remedy}")
    else:
        yield Line("database", OK, f"{path}: {runs} runs of MLflow")


def _server() -> Iterator[Line]:
    """Whether somebody listens at the address of a tracking server, where one is named."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    parts, named = urlsplit(uri), f"MLFLOW_TRACKING_URI {without_secrets(uri)}"
    if not parts.hostname:
        return
    try:
        with socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 3):
            yield Line("mlflow", OK, f"{named}: listens")
    except OSError as error:
        yield Line("mlflow", BAD, f"{named}: {error}; accepted: a server, or no such variable")


def _scratch() -> Iterator[Line]:
    with contextlib.suppress(OSError):
        yield _room("scratch", Path(tempfile.gettempdir()))


def _limits() -> Iterator[Line]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FILES:
        yield Line("open files", BAD, f"at most {files}; accepted: {FILES} (ulimit -n)")


def _fashion() -> Iterator[Line]:
    """Whether the demo finds its images."""
    places = [idx.DEBIAN, *(layout.ASSETS / name for name in ("downloads", "fashion-mnist"))]
    if found := next((place for place in places if any(place.glob("*train-images*"))), None):
        yield Line("images", OK, f"Fashion-MNIST in {found}")
        return
    how = "by apt-get" if shutil.which("apt-get") else "from its address"
    yield Line("images", NOTE, f"Fashion-MNIST is fetched {how} when a study needs it; without a network: study digits")


def _assets() -> Iterator[Line]:
    names = sorted(path.stem for path in layout.ASSETS.glob("*.safetensors"))
    yield Line("weights", OK, f"imported: {', '.join(names)}" if names else "none imported; `mar import` does it")


def _slurm() -> Iterator[Line]:
    if not shutil.which("sbatch"):
        yield Line("slurm", OK, "none: jobs run on this machine")
        return
    release = _said(["sbatch", "--version"]) or "sbatch"
    partitions = queue.ask(["sinfo", "--noheader", "--format=%P %a %D"])
    if partitions is None:
        yield Line("slurm", BAD, f"{release}, and `sinfo` gets no answer: no job can be submitted; ask your site")
        return
    for command, why in {"srun": "jobs start", "squeue": "jobs are followed", "scancel": "jobs are ended"}.items():
        if not shutil.which(command):
            yield Line("slurm", BAD, f"no {command}, by which {why}; accepted: the commands of Slurm on the PATH")
    if not shutil.which("sacct"):
        yield Line(
            "slurm", NOTE, "no sacct: GPU hours are unknown, and a job that left the queue is judged by its files"
        )
    words = "; ".join(" ".join(line.split()) for line in partitions.strip().splitlines())
    yield Line("slurm", OK, f"{release}; partitions (state, nodes): {words or 'none'}")


def _said(command: list[str]) -> str | None:
    """What a command prints; None where it is missing, fails, or says nothing for ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8")
    return ""
