"""A copy of the project whose `mar` only writes the files that each stage promises, so that runs take seconds."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from mar.cluster import fork_server

SOURCE = Path(__file__).parents[2]
TIMEOUT = 600  # seconds of a whole workflow of stubs on a machine that is busy; alone it takes a tenth

# The promises of the stages, by hand and not from the rules, which are under test. It sleeps in a training if told to.
STUB = r"""#!{python} -S
import os, sys, time
arguments = sys.argv[1:]
if arguments[0] == "launch":
    arguments = arguments[arguments.index("--") + 1:]
arguments = arguments[arguments.index("--threads") + 2:]
verb, options = arguments[0], dict(zip(arguments[1::2], arguments[2::2]))
root = os.path.dirname(options["--study"])
assert os.path.exists(options["--study"])
v, k, s = options.get("--variant"), options.get("--seed"), options.get("--setting")
judged = f"given/{{options['--given']}}" if "--given" in options else f"{{v}}/seed{{k}}/{{s}}"
t, name, e, w = (options.get(f"--{{o}}") for o in ("tokenizer", "name", "extractor", "set"))
outputs = {{
    "prepare": ["data/manifest.json"],
    "classifier": ["classifier/model.safetensors", "classifier/classifier.json"],
    "rejecter": ["rejecter/model.safetensors", "rejecter/classifier.json"],
    "tasks": [f"tasks/{{v}}/seed{{k}}/tasks.json"],
    "features": [f"features/{{e}}/{{w}}/manifest.json"],
    "statistics": [f"statistics/{{e}}/{{w}}.npz"],
    "reference": ["metrics/reference.json"],
    "tokenizer": [f"tokenizers/{{t}}/model.safetensors", f"tokenizers/{{t}}/config.json"],
    "rfid": [f"tokenizers/{{t}}/rfid.json"],
    "encode": [f"tokens/{{t}}/train/manifest.json", f"tokens/{{t}}/heldout/manifest.json"],
    "train": [f"runs/{{v}}/seed{{k}}/ema.safetensors", f"runs/{{v}}/seed{{k}}/run.json"],
    "sweep": [f"sweeps/{{v}}/{{s}}.json"],
    "sample": [f"samples/{{v}}/seed{{k}}/{{s}}/manifest.json"],
    "evaluate": [f"metrics/{{judged}}.json"],
    "speed": [f"speed/{{v}}.json"],
    "table": [f"tables/{{name}}.{{e}}" for e in ("csv", "md", "tex")],
    "figure": [os.path.relpath(f"{{options.get('--out')}}/{{name}}.{{e}}", root) for e in ("pdf", "png", "csv")],
    "claims": ["claims.json"],
    "report": ["report.html"],
    "track": ["mlflow.json"],
}}[verb]
with open("calls.txt", "a") as calls, open("servers.txt", "a") as servers:
    calls.write(" ".join(arguments) + "\n")
    servers.write(os.environ.get("MAR_FORK_SERVER", "none") + "\n")
if verb == "train":
    time.sleep(float(os.environ.get("STUB_SLEEP", "0")))
for path in outputs:
    path = os.path.join(root, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(" ".join(arguments))
print(verb, "done", flush=True)
"""


class Project:
    """A copy of the project and the ways the tests call snakemake in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Snakefile", "workflow", "profiles", "slurm", "config", "mar"):
            copy = shutil.copytree if (SOURCE / name).is_dir() else shutil.copy
            copy(SOURCE / name, folder / name)
        # Parsing a workflow must not import torch.
        (folder / "torch").mkdir()
        (folder / "torch" / "__init__.py").write_text("raise AssertionError('torch was imported')")
        stub = folder / "bin" / "mar"
        stub.parent.mkdir()
        stub.write_text(STUB.format(python=sys.executable))
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
        self.environment = {
            **os.environ,
            "PATH": f"{stub.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            fork_server.ADDRESS: "",  # the jobs import nothing
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def fails(self, *arguments: str) -> str:
        status, output = forked.snakemake(arguments, self.folder, self.environment, TIMEOUT)
        assert status != 0, output
        return output

    def snakemake(self, *arguments: str) -> str:
        status, output = forked.snakemake(arguments, self.folder, self.environment, TIMEOUT)
        assert status == 0, output
        return output

    def plan(self, *arguments: str) -> dict[str, list[str]]:
        """The jobs that a call would run: wildcard values of each, by rule."""
        output = self.snakemake("-n", *arguments)
        jobs: dict[str, list[str]] = {}
        for block in re.split(r"^(?=rule )", output, flags=re.MULTILINE)[1:]:
            rule = re.match(r"rule (\w+):", block)
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            assert rule is not None
            values = re.findall(r"=([^,]+)", wildcards[1]) if wildcards else []
            jobs.setdefault(rule[1], []).append(" ".join(values))
        return {rule: sorted(values) for rule, values in jobs.items() if rule != "all"}

    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which nothing has run; for dry runs only."""
    return Project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose smoke study is complete."""
    project = Project(tmp_path_factory.mktemp("finished"))
    project.snakemake("all", "--configfile", "config/smoke.yaml")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project for one test."""
    return Project(tmp_path)


@pytest.fixture
def projects() -> type[Project]:
    """Makes a project in a folder."""
    return Project
