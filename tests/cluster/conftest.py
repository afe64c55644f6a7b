"""A real Slurm for the tests here: slurm.sh.

`make test-slurm` runs them; without it they are skipped, because they take minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from place import Place

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of this folder unless it was asked for."""
    if os.environ.get("MAR_TEST_SLURM") != "1":
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a test cluster of Slurm: make test-slurm"))


@pytest.fixture(scope="session")
def slurm() -> Iterator[Callable[..., str]]:
    """The test cluster; calls slurm.sh with a verb. Started if it does not run, and then stopped at the end."""
    script = HERE / "slurm.sh"

    def call(*arguments: str) -> str:
        done = subprocess.run([script, *arguments], capture_output=True, text=True, timeout=120)
        if done.returncode == 77:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    match = re.search(r"SLURM_CONF=(\S+)", call("env"))
    assert match
    os.environ["SLURM_CONF"] = match[1]
    ran = Path(match[1]).exists() and subprocess.run(["timeout", "3", "scontrol", "ping"]).returncode == 0
    call("start")
    yield call
    if not ran:
        call("stop")


@pytest.fixture
def place(slurm: Callable[..., str], tmp_path: Path) -> Place:
    """A place for one job. Its name is the job's recipe, so that jobs of tests are told apart."""
    return Place(tmp_path)


# Jobs whose ends take a minute of waiting: started first, asked for last.
SLOW = {
    "deaf": (("deaf",), {"time": 1, "signal": 5, "gpus_per_node": 0}),
    # Slurm warns up to half a minute earlier than it was asked to
    "long": (("train", "450"), {"time": 2, "signal": 40, "gpus_per_node": 0}),
}


@pytest.fixture(scope="session", autouse=True)
def slow(
    slurm: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Place]]:
    """Places in which those run, if anybody will ask for them."""
    asked = any(item.path.name == "test_limits.py" for item in request.session.items)
    places = {name: Place(tmp_path_factory.mktemp(name)) for name in SLOW if asked}
    for name in places:
        command, settings = SLOW[name]
        places[name].head = places[name].start(*command, slurm=settings)
    yield places
    for place in places.values():
        if place.head and place.head.poll() is None:
            place.head.kill()
