"""Texts that users write come out as they are, or escaped, on paper, on the page and on the terminal."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path

import fabricate
import pytest
from markdown_it import MarkdownIt

from mar.data.prepare import prepare
from mar.report.figures.curves import tradeoff
from mar.report.figures.draw import draw
from mar.report.figures.style import STYLE
from mar.report.page import report
from mar.report.tables import formats
from mar.report.tables.paper_tables import table
from mar.report.terminal import summary
from mar.runtime.files import read_json, write_json
from mar.runtime.text import printable
from mar.study import layout
from mar.study.products import figure_names
from mar.study.reading import resolve
from mar.study.study import Study

BYTE = "\udcff"  # an undecodable one; `mar prepare` refuses it in the name of a class
WRITTEN = "a $x_{$ [b](c) [/red] <i>d</i> =1+1 _e_ :smile: &lt; 5% #^~\\ `q` \x1b[31m | \udcff, *f*"
SHOWN = "a $x_{$ [b](c) [/red] <i>d</i> =1+1 _e_ :smile: &lt; 5% #^~\\ `q` \\x1b[31m | \\udcff, *f*"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study whose title, tables, curves and classes have this name; its results are `tmp_path`."""
    values = fabricate._values(None)
    values["title"] = WRITTEN
    for entry in values["tables"].values():
        entry["title"] = WRITTEN
    for entry in values["tradeoff"]:
        entry["label"] = WRITTEN
    study = resolve(values, "small.yaml")
    fabricate.fabricate(study, tmp_path, lambda v, s, k: 20.0)
    (layout.data(tmp_path) / layout.MANIFEST).unlink()
    prepare(study, tmp_path)
    manifest = read_json(layout.data_manifest(tmp_path))
    manifest["classes"] = [WRITTEN.replace(BYTE, str(i)) for i, _ in enumerate(manifest["classes"])]
    write_json(layout.data_manifest(tmp_path), manifest)
    return study


def test_printable() -> None:
    assert printable(WRITTEN) == SHOWN and printable(SHOWN) == SHOWN, "said once, it stays"
    assert printable("Größe, 大きさ\u3000👩‍🔬, a\nb") == "Größe, 大きさ\u3000👩‍🔬, a\nb"
    assert printable("\x9b31m\r\x7f") == "\\x9b31m\\r\\x7f"


def test_a_study_file_keeps_its_texts(study: Study) -> None:
    assert study.title == SHOWN and json.loads(study.model_dump_json())["title"] == SHOWN


@pytest.mark.parametrize("name", ["samples", "tradeoff"])
def test_figures_and_their_csv(study: Study, tmp_path: Path, name: str) -> None:
    draw(study, tmp_path, name, tmp_path)  # an odd $ is no mathematics
    with open(tmp_path / f"{name}.csv", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert (SHOWN if name == "tradeoff" else SHOWN.replace("\\udcff", "3")) in cells


def test_the_text_of_a_figure_is_no_mathematics(study: Study, tmp_path: Path) -> None:
    import matplotlib
    from matplotlib.text import Text

    with matplotlib.rc_context(STYLE):
        figure, _ = tradeoff(study, tmp_path)
    texts = [text for text in figure.findobj(Text) if text.get_text() == SHOWN]
    assert texts and not any(text.get_parse_math() for text in texts)


def test_markdown(study: Study, tmp_path: Path) -> None:
    name = next(iter(study.tables))
    table(study, tmp_path, name)
    page = layout.table(tmp_path, name, "md").read_text()
    (heading,) = [token for token in _inline(page) if token.map == [0, 1]]
    assert _rendered(heading) == SHOWN
    heads = [("", SHOWN, "l"), (SHOWN, "ours", "r"), (SHOWN, "paper", "r")]
    page = formats.markdown(
        "Title", formats.texts(heads, [[SHOWN, "1.00 [0.90, 1.10]", "-1"]]), f"{SHOWN}\n\n# {SHOWN}"
    )
    rendered = [_rendered(token) for token in _inline(page)]
    assert rendered == ["Title", SHOWN, SHOWN, "paper", SHOWN, "1.00 [0.90, 1.10]", "-1", f"{SHOWN} # {SHOWN}"]
    assert "1.00 [0.90, 1.10]" in page, "intervals are written as they are"
    words = [
        "__init__",
        "**bold** x",
        "_a b_",
        "a_b_c",
        "3*",
        "*",
        "[1](x)",
        "[1]: x",
        "<!-- x -->",
        "$`x`$",
        "~~x~~",
        "**",
        "a*b*c",
    ]
    page = formats.markdown("Title", formats.texts([("", "word", "l")], [[word] for word in words]), "Note.")
    assert [_rendered(token) for token in _inline(page)] == ["Title", "word", *words, "Note."]
    assert "| a_b_c " in page and "| 3* " in page, "what is text is written as it is"


def _inline(page: str) -> list:
    return [
        token for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page) if token.children
    ]


def _rendered(token) -> str:
    """The text that a reader sees; nothing else is allowed."""
    assert {child.type for child in token.children} <= {"text"}, [child.type for child in token.children]
    return "".join(child.content for child in token.children)


def test_latex(study: Study, tmp_path: Path) -> None:
    name = next(iter(study.tables))
    table(study, tmp_path, name)
    escaped = (
        r"a \$x\_\{\$ {[}b](c) "
        r"{[}/red] \textless{}i\textgreater{}d\textless{}/i\textgreater{} =1+1 \_e\_ :smile: \&lt; "
        r"5\% \#\textasciicircum{}\textasciitilde{}\textbackslash{} `q` \textbackslash{}x1b{[}31m \textbar{} "
        r"\textbackslash{}udcff, *f*"
    )
    assert rf"\caption{{{escaped}. " in layout.table(tmp_path, name, "tex").read_text()
    text = formats.latex(SHOWN, formats.texts([("", SHOWN, "l")], [[SHOWN]]), "Note.")
    assert text.count(escaped) == 3


def test_page_and_terminal(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim = {"id": "one", "text": SHOWN, "source": "Table 1", "decides": "any", "because": "", "verdict": "not run"}
    nothing = dict.fromkeys(("effect", "low", "high", "scale"))
    write_json(layout.claims(tmp_path), [claim | nothing | {"reason": SHOWN, "seeds": []}])
    for name in figure_names(study):
        draw(study, tmp_path, name, tmp_path)
    report(study, tmp_path, tmp_path)
    page = layout.report(tmp_path).read_text()
    assert f"<h1>{html.escape(SHOWN)}</h1>" in page and f"<h2>{html.escape(SHOWN)}</h2>" in page
    assert "<i>d</i>" not in page and "\x1b" not in page
    summary(study, tmp_path)
    out = capsys.readouterr().out
    assert out.count("[b](c) [/red] <i>d</i> =1+1 _e_ :smile: &lt; 5%") >= len(study.tables) and "\x1b" not in out
    others = {"verdict": "undecided", "reason": "\x1b[31mred\x1b]0;title\x07", "seeds": [1, 1]}  # claims.json of others
    write_json(layout.claims(tmp_path), [claim | nothing | others])
    summary(study, tmp_path, all_claims=True)
    out = capsys.readouterr().out
    assert "\\x1b[31mred" in out and "\x1b" not in out and "\x07" not in out
