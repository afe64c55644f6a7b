"""The report as a browser shows it: nothing missing, nothing dead, readable on a phone and on a desk."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from chromium import Chromium

WIDTHS = (390, 1280)

# Text that is drawn and whose contrast with what is behind it is below 4.5, as WCAG AA asks for.
PALE = """
(() => {
  const light = c => { const f = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * f[0] + .7152 * f[1] + .0722 * f[2] };
  const rgb = s => s.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                        if (c.length == 3 || c[3] > 0) return c } return [255, 255, 255] };
  return [...document.querySelectorAll('body *')].filter(e => e.tagName != 'SCRIPT' && e.checkVisibility() &&
    [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())).filter(e => {
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return (a + .05) / (b + .05) < 4.5 }).map(e => e.textContent.slice(0, 40))
})()
"""


@pytest.fixture(scope="module", params=WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def page(browser: Chromium, made: SimpleNamespace, width: int) -> Chromium:
    browser.open(made.page.as_uri(), width)
    return browser


@pytest.fixture
def opened(page: Chromium) -> Chromium:
    """The page with every folded section open."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    return page


def problems(browser: Chromium) -> list[str]:
    """What a developer's console shows in red, and requests that failed."""
    said = []
    for event in browser.events:
        params: dict[str, Any] = event.get("params", {})
        if event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            said.append(params["entry"]["text"])
        if event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            said.append(str(params["args"]))
        if event["method"] == "Runtime.exceptionThrown":
            said.append(str(params["exceptionDetails"]))
        if event["method"] == "Network.loadingFailed":
            said.append(params["errorText"])
    return said


def test_console_and_network_are_silent(page: Chromium, made: SimpleNamespace) -> None:
    assert problems(page) == []
    asked = {e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"}
    assert {a for a in asked if not a.startswith("data:")} == {made.page.as_uri()}, "it loads nothing but itself"


def test_images_are_drawn(page: Chromium, made: SimpleNamespace) -> None:
    widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) > 20 and min(widths) > 0
    assert page.evaluate("[...document.images].every(i => i.alt)")


def test_the_page_is_not_wider_than_the_window(opened: Chromium, width: int) -> None:
    page = opened
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # what is wider scrolls in a box of its own, which the keyboard reaches and a screen reader can name
    assert page.evaluate("[...document.querySelectorAll('table, figure img')].every(t => t.closest('.box'))")
    boxes = page.evaluate(
        "[...document.querySelectorAll('.box')].map(b => [b.tabIndex, b.getAttribute('role'), !!b.ariaLabel,"
        " b.getBoundingClientRect().right <= innerWidth])"
    )
    assert boxes and all(box == [0, "region", True, True] for box in boxes)
    assert page.on_paper(1047) <= 1047, "A4, landscape, within margins of 10 mm"


def test_text_has_contrast_and_is_large_enough(opened: Chromium) -> None:
    page = opened
    for scheme in ("dark", "light"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert page.evaluate(PALE) == [], scheme
    sizes = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && e.innerText?.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 10


def test_links_within_the_page_have_targets(page: Chromium) -> None:
    dead = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => decodeURIComponent(a.getAttribute('href').slice(1)))"
        ".filter(id => !document.getElementById(id))"
    )
    assert dead == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_links_to_files_lead_to_files(opened: Chromium, made: SimpleNamespace) -> None:
    page = opened
    links = page.evaluate("[...document.querySelectorAll('a[href]:not([href^=\"#\"])')].map(a => a.href)")
    files = [Path(unquote(urlsplit(link).path)) for link in links if link.startswith("file:")]
    others = {link for link in links if not link.startswith("file:")}
    assert len(files) > 200 and [f for f in files if not f.is_file()] == []
    assert all(link.startswith("http://localhost:5000/#/experiments/1/runs/8888") for link in others)
    # what is not kept is named, without a link
    gone = page.evaluate("[...document.querySelectorAll('.gone')].map(e => [e.title, !!e.closest('a')])")
    assert ["statistics/inception/ar/seed0/a4.npz", False] in gone
    row = "document.getElementById('set:diff/s4/1')"
    assert "images (not kept)" in page.evaluate(
        f"(r => r.innerText + [...r.querySelectorAll('.gone')].map(e => e.innerText + getComputedStyle(e, '::after')"
        f".content.replaceAll('\"', '')).join())({row})"
    )
    assert not page.evaluate(f"!!{row}.querySelector('img')") and (made.deleted / "manifest.json").exists()


def test_the_answer_comes_first(page: Chromium, width: int) -> None:
    """Answer, bar and samples are on the first screen, and the order is answer, tables, claims, the rest folded."""
    order = page.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id)")
    assert order[0] == "answer" and order.index("table1") < order.index("verdicts") < order.index("figures")
    folded = page.evaluate("[...document.querySelectorAll('details.fold')].map(d => d.closest('section').id)")
    assert folded == order[order.index("figures") :]
    assert not page.evaluate("[...document.querySelectorAll('details.fold')].some(d => d.open)")
    place = "document.querySelector('{}').getBoundingClientRect().top"
    assert page.evaluate(place.format(".bar")) < 900
    if width > 1000:
        assert page.evaluate(place.format(".grids img")) < 900
    # a grid for each model whose samples are kept, with its FID, and a row for each pair with a dot in its interval
    assert page.evaluate("document.querySelectorAll('.grids figure').length") >= 2
    assert page.evaluate(
        "[...document.querySelectorAll('.grids figcaption')].every(c => /FID [0-9]/.test(c.innerText))"
    )
    inside = page.evaluate(
        "[...document.querySelectorAll('.effects tbody tr:not(.axis)')].map(r => { const at = c => "
        "r.querySelector(c).getBoundingClientRect(); const [i, d, p] = ['.range', '.dot', '.plot'].map(at);"
        "return p.left <= i.left && i.left < d.left && d.right < i.right && i.right <= p.right })"
    )
    assert inside and all(inside)


def test_a_link_opens_the_section_that_it_leads_into(page: Chromium) -> None:
    page.evaluate("document.querySelector('.contents a[href=\"#costs\"]').click()")
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate("document.querySelector('#costs > details').open")
    assert page.evaluate("document.querySelector('#costs table').checkVisibility()")
    assert abs(page.evaluate("document.getElementById('costs').getBoundingClientRect().top")) < 900


def test_the_first_column_stays_where_a_table_is_scrolled(opened: Chromium) -> None:
    moved = opened.evaluate(
        "[...document.querySelectorAll('#table1 .box, #metrics .box')].map(b => { b.scrollLeft = 120;"
        "const th = b.querySelector('tbody th'), at = th.getBoundingClientRect().left - b.getBoundingClientRect().left;"
        "return [b.scrollWidth > b.clientWidth, Math.abs(at) < 2] })"
    )
    assert moved and all(stays for wide, stays in moved if wide)


def test_verdicts_can_be_filtered(page: Chromium) -> None:
    rows = "[...document.querySelectorAll('.verdicts tbody tr')]"
    total = page.evaluate(f"{rows}.length")
    counts = page.evaluate("[...document.querySelectorAll('.filter label b')].map(b => Number(b.innerText))")
    assert counts[1] == total == sum(counts[2:]) and len(counts) > 3
    seen = f"{rows}.filter(r => r.checkVisibility()).map(r => r.querySelector('.verdict').innerText)"
    asked = page.evaluate(seen)
    assert len(asked) == counts[0] and not [text for text in asked if text.startswith("not run")]
    # by the keyboard alone: the arrow goes from "all" to the first verdict
    page.evaluate("document.getElementById('only-all').focus()")
    page.press("ArrowRight", 39)
    shown = page.evaluate(seen)
    assert len(shown) == counts[2] and {text.split(" (")[0].strip() for text in shown} == {"replicated"}


def test_a_number_of_ours_leads_to_its_files(page: Chromium) -> None:
    """From a cell of Table 1 to the commands of its sample sets, as a reader clicks."""
    rows = "[...document.querySelectorAll('#table1 tbody tr')]"
    found = page.evaluate(
        f"{rows}.find(r => r.innerText.includes('DiffLoss')).querySelector('td a').click();"
        "(set => ({id: set.id, files: [...set.querySelectorAll('a')].map(a => a.getAttribute('href'))}))"
        "(document.querySelector(':target'))"
    )
    assert found["id"] == "set:diff/s4"
    assert {
        "metrics/diff/seed0/s4.json",
        "features/classifier/diff/seed0/s4/manifest.json",
        "samples/diff/seed1/s4/manifest.json",
    } <= set(found["files"])
    commands = page.evaluate("document.getElementById('set:diff/s4').querySelector('pre').textContent")
    assert commands.splitlines()[-1] == (
        "mar --threads 1 evaluate --study results/small/study.json --variant diff --seed 1 --setting s4"
    )


def test_tables_are_told_to_a_screen_reader(page: Chromium) -> None:
    assert page.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent.trim())"
    )
    assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.scope)")
    assert page.evaluate("[...document.querySelectorAll('tbody tr')].every(tr => tr.children.length)")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_a_copy_elsewhere_has_no_dead_links(browser: Chromium, made: SimpleNamespace, tmp_path: Path) -> None:
    """Also in a frame whose address begins with data:, as inside of `snakemake --report`."""
    copy, framed = tmp_path / "report.html", tmp_path / "frame.html"
    copy.write_bytes(made.page.read_bytes())
    data = base64.b64encode(made.page.read_bytes()).decode()
    framed.write_text(f'<!DOCTYPE html><iframe src="data:text/html;charset=utf8;base64,{data}"></iframe>')
    for path in (copy, framed):
        browser.open(path.as_uri(), 1280)
        assert problems(browser) == []
        context = browser.frame()
        assert browser.evaluate("document.querySelectorAll('a[data-file]').length", context) > 200
        assert browser.evaluate("document.querySelectorAll('a[data-file][href]').length", context) == 0
        assert browser.evaluate("document.getElementById('elsewhere').checkVisibility()", context)
        browser.evaluate("document.querySelector('#table1 td a').click()", context)
        assert browser.evaluate("document.querySelector(':target').id", context).startswith("set:"), "it leads through"
    browser.open(made.page.as_uri(), 1280)
    assert not browser.evaluate("document.getElementById('elsewhere').checkVisibility()")
