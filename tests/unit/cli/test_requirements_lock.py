"""The lock: every package by its version and the checksums of its files, so that pip installs nothing else."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[3]


Pins = dict[str, tuple[str, set[str]]]


def read(name: str) -> Pins:
    """Version and checksums of the packages of a lock, by name."""
    text = (PROJECT / name).read_text().replace("\\\n", " ")
    found: Pins = {}
    for line in filter(None, re.sub("(?m)^#.*", "", text).splitlines()):
        words, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(words)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and requirement.url is None, line
        assert canonicalize_name(requirement.name) not in found, line
        found[canonicalize_name(requirement.name)] = pin.version, set(hashes)
    return found


@pytest.fixture(scope="module")
def pins() -> Pins:
    return read("requirements.lock")


def test_every_package_has_checksums(pins: Pins) -> None:
    assert len(pins) > 100
    installer = read("installer.lock")
    assert installer.keys() == {"uv"}
    every = {**pins, **installer}
    without = [name for name, (_, hashes) in every.items() if not hashes]
    assert without == [], "pip then refuses the lock; CONTRIBUTING.md has the command that writes them"
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for _, hashes in every.values() for digest in hashes)


def test_the_lock_has_all_that_the_project_asks_for(pins: Pins) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    asked += [line for extra in project["project"].get("optional-dependencies", {}).values() for line in extra]
    for requirement in map(Requirement, asked):
        version, _ = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: the lock has {version}"


def test_nothing_without_checksums_is_installed_beside_it() -> None:
    (conda,) = [part["pip"] for part in yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"] if
                isinstance(part, dict)]  # fmt: skip
    assert conda == ["-r requirements.lock"]
    makefile = (PROJECT / "Makefile").read_text()
    assert re.findall(r"^(\w+) := .*pip install ", makefile, re.MULTILINE) == ["PIP", "UV"]
    assert makefile.count("pip install ") == 2 + makefile.count("--require-hashes -r docs/requirements.lock") == 3
    calls = re.findall(r"\$\((?:PIP|UV)\) (.*)", makefile.replace("$(UV)", "\n$(UV)"))
    assert len(calls) == 4
    assert all(re.match(r"--require-hashes -r (requirements|installer)\.lock|--no-deps ", call) for call in calls)
