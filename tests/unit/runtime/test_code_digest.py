"""Digests of code: what they see and what not, and what is recorded of it."""

import sys

import pytest

from mar.runtime import code_digest
from mar.runtime.code_digest import accept, changed, digest_of, guard, note, of_folder, today

CODE = '''"""A head."""

import math


class Head:
    """Draws."""

    scale: float = 1.0

    def loss(self, z, x=None, *, n=2):
        """The loss."""
        return math.fsum([z * self.scale, -0.0, n], f"{z:.3f}" and "loss")
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A head."""', '"""Another head."""'),
        ("import math", "# a comment\nimport math  # another"),
        ("return math.fsum([z * self", "return math.fsum(\n            [z * self"),
        ('"""The loss."""', '"""The loss,\n\n        explained.\n        """'),
        ('    """Draws."""\n', ""),
    ],
)
def test_comments_docstrings_and_layout_are_no_change(old, new):
    assert old in CODE and digest_of(CODE.replace(old, new)) == digest_of(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("1.0", "1.5"), ("n=2", "n=3"), ("-0.0", "0.0"), ("x=None", "x=False"), ("*, n", "n"), ("math.fsum", "math.prod")]
    + [(":.3f", ":.2f"), ('"loss")', '"lass")'), ("z * self.scale", "z ** self.scale"), ("n=2", "n=2.0")],
)
def test_a_change_of_the_code_is_seen(old, new):
    assert old in CODE and digest_of(CODE.replace(old, new)) != digest_of(CODE)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules, one of which is imported, and a study's own module beside it."""
    for name in ("models/used.py", "models/unused.py", "report/page.py"):
        (tmp_path / "mar" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mar" / name).write_text(CODE)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text("x = 1\n")
    monkeypatch.setattr(code_digest, "PACKAGE", tmp_path / "mar")
    monkeypatch.setattr(code_digest, "MAKES", ("models",))
    monkeypatch.setitem(sys.modules, "mar.models.used", sys)
    own = type(sys)("whatever")
    own.__file__ = str(tmp_path / "own" / "mine.py")
    monkeypatch.setitem(sys.modules, "whatever", own)
    return tmp_path


def test_what_a_stage_imported_is_recorded_and_nothing_else(package):
    now = today(package / "own")
    assert sorted(now) == ["code/mine.py", "mar.models.unused", "mar.models.used"]
    note(package, now, package / "own")
    record = of_folder(package)
    assert sorted(record.states[0].modules) == ["code/mine.py", "mar.models.used"]
    (package / "mar/models/unused.py").write_text("y = 2\n")
    (package / "mar/models/used.py").write_text("# a comment\n" + CODE)
    guard(package, today(package / "own"), begun=True)
    (package / "own/mine.py").write_text("x = 2\n")
    (package / "mar/models/used.py").unlink()
    assert changed(record, today(package / "own")) == ["code/mine.py", "mar.models.used"]


def test_half_done_work_stops_under_other_code_until_it_is_accepted(package):
    note(package, today(package / "own"), package / "own")
    (package / "own/mine.py").write_text("x = 2\n")
    now = today(package / "own")
    with pytest.raises(
        ValueError, match=r"half done by other code than today's: code/mine.py; accepted: .*accept-code"
    ):
        guard(package, now, begun=True)
    assert accept(package, now, images=640) == ["code/mine.py"]
    guard(package, now, begun=True)
    before, after = of_folder(package).states
    assert before.digest != after.digest and after.images == 640
    note(package, now, package / "own")
    assert len(of_folder(package).states) == 2 and accept(package, now) == []


def test_work_that_is_not_begun_is_recorded_anew(package):
    note(package, today(package / "own"), package / "own")
    (package / "own/mine.py").write_text("x = 2\n")
    now = today(package / "own")
    guard(package, now, begun=False)
    note(package, now, package / "own")
    (state,) = of_folder(package).states
    assert state.modules["code/mine.py"] == now["code/mine.py"] and not state.unrecorded


def test_work_of_an_older_version_goes_on_and_says_so(package):
    now = today(package / "own")
    guard(package, now, begun=True)
    note(package, now, package / "own", begun=True)
    assert of_folder(package).states[0].unrecorded
