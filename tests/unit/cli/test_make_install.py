"""Which installer `make install` takes, with stubs of both that write down how they were called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3]
PYTHON = """#!/bin/sh
case "$*" in
*"config list") cat pip-settings ;;
*"--version") ;;
*) echo "pip $*" >>calls ;;
esac
"""
UV = '#!/bin/sh\necho "uv $*" >>calls\nexit "$(cat uv-status)"\n'


@pytest.fixture
def make(tmp_path: Path):
    """Run `make install` under some settings of pip and with a uv that ends so: what it printed, and the calls."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "installer.lock"):
        shutil.copy(SOURCE / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, text in (("python", PYTHON), ("uv", UV)):
        (tmp_path / ".venv" / "bin" / name).write_text(text)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)

    def run(settings: str, status: int = 0) -> tuple[str, list[str]]:
        (tmp_path / "pip-settings").write_text(settings)
        (tmp_path / "uv-status").write_text(str(status))
        done = subprocess.run(["make", "install", "PYTHON=true"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / ".venv" / ".installed").exists()
        return done.stdout, (tmp_path / "calls").read_text().splitlines()

    return run


def of(calls: list[str]) -> list[str]:
    return [call.partition(" ")[0] + " " + call.rpartition(" ")[2] for call in calls]


def test_uv_is_installed_first_and_installs_the_lock(make):
    told, calls = make("global.cert='/etc/ssl/certs/ca-certificates.crt'\n")
    assert of(calls) == ["pip installer.lock", "uv requirements.lock", "pip ."]
    assert all("--require-hashes" in call for call in calls[:2]) and "pip installs" not in told


@pytest.mark.parametrize(
    "settings",
    [":env:.find-links='/wheels'\n", "global.index-url='https://user:secret@mirror/simple'\n", "global.no-index='1'\n"],
)
def test_pip_installs_where_its_settings_say_where_packages_are(make, settings):
    told, calls = make(settings)
    assert of(calls) == ["pip requirements.lock", "pip ."]
    assert "--require-hashes" in calls[0] and "which uv does not read: pip installs" in told and "secret" not in told


def test_pip_installs_where_uv_fails(make):
    told, calls = make("", status=2)
    assert of(calls) == ["pip installer.lock", "uv requirements.lock", "pip requirements.lock", "pip ."]
    assert "uv could not install, as said above: pip installs" in told
