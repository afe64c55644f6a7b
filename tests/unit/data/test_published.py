"""The table of published files, fetching by it, and the commands `mar fetch` and `mar import`."""

import http.server
import json
import threading
from functools import partial
from pathlib import Path

import published
import pytest
import torch
from click.testing import CliRunner

from mar.cli.__main__ import main
from mar.data.published import COLUMNS, Asset, fetch, find, locate, only, places, table
from mar.runtime.files import sha256
from mar.weights.names import FORMATS

TABLE = Path(__file__).parents[3] / "config" / "assets.csv"


def asset(url: str, digest: str = "", size: int | None = None, name: str = "thing", format: str = "dit") -> Asset:
    return Asset(name, format, url, digest, size, "MIT", "someone's page", "")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "site" / "weights.bin"
    path.parent.mkdir()
    path.write_bytes(b"weights" * 1000)
    return path


def test_the_table_of_the_project():
    rows = table(TABLE)
    assert {"mar-b", "mar-l", "mar-h", "mar-kl16", "ldm-kl-f16", "ldm-kl-f8", "ldm-vq-f16"} <= set(rows)
    assert {row.format for row in rows.values()} == {*FORMATS, "reference", "idx"}
    for row in rows.values():
        assert row.url.startswith("https://") and row.licence and ("(URL" in row.source or "its page" in row.source)
        assert bool(row.sha256) == ("sha256" in row.source), row.name
        assert row.path(Path("a")).parent == Path("a/downloads") and row.path(Path("a")).suffix
    assert rows["mar-b"].path(Path("a")).name == "mar-b.pth"
    for name in ("inception", "vgg16"):  # torch puts the first digits of the checksum into the name
        assert rows[name].sha256[:8] in rows[name].url


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,url", "a,b"], r"found columns \['name', 'url'\]; accepted: name, format, url"),
        ([",".join(COLUMNS), "a,dit,u"], "assets.csv:2: found 8 columns"),
        ([",".join(COLUMNS), *["a,dit,http://u,,,l,s,n"] * 2], "assets.csv:3: name 'a' is there twice"),
        ([",".join(COLUMNS), "a;ls,dit,http://u,,,l,s,n"], "name 'a;ls'; accepted: letters"),
        ([",".join(COLUMNS), "../a,dit,http://u,,,l,s,n"], "name '../a'; accepted: letters"),
        ([",".join(COLUMNS), "a,$(ls),http://u,,,l,s,n"], r"format '\$\(ls\)'; accepted: letters"),
        (
            [",".join(COLUMNS), "a,dit,file:///etc/passwd,,,l,s,n"],
            "url 'file:///etc/passwd'; accepted: http://host/",
        ),
        ([",".join(COLUMNS), "a,dit,u,12ab,,l,s,n"], "sha256 '12ab'; accepted: 64 hex digits"),
        ([",".join(COLUMNS), "a,dit,u,,1 GB,l,s,n"], "size '1 GB'; accepted: a number of bytes"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path, lines, message):
    (tmp_path / "assets.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "assets.csv")


def test_fetch_checks_the_published_sum_and_leaves_nothing_of_another(tmp_path, file, capsys):
    good = asset(file.as_uri(), sha256(file), file.stat().st_size)
    path = fetch(good, tmp_path / "assets")
    assert path == tmp_path / "assets" / "downloads" / "thing.bin" and path.read_bytes() == file.read_bytes()
    fetch(good, tmp_path / "assets")
    assert "there already" in capsys.readouterr().out
    assert not (tmp_path / "assets" / "lock.json").exists()
    for wrong, message in (
        (asset(file.as_uri(), "0" * 64), f"sha256 {sha256(file)}; accepted: {'0' * 64}"),
        (
            asset(file.as_uri(), size=5),
            "more than the 5 bytes that config/assets.csv says|7000 bytes; config/assets.csv says 5",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fetch(wrong, tmp_path / "other")
        assert [p.name for p in (tmp_path / "other" / "downloads").iterdir()] == [".lock"]
        with pytest.raises(ValueError, match=message):
            fetch(wrong, tmp_path / "assets")


def test_a_sum_that_nobody_published_is_locked_at_the_first_fetch(tmp_path, file):
    folder, unknown = tmp_path / "assets", asset(file.as_uri())
    path = fetch(unknown, folder)
    locked = json.loads((folder / "lock.json").read_text())
    assert locked == {"thing": {"sha256": sha256(file), "size": 7000, "url": file.as_uri()}}
    path.unlink()
    fetch(unknown, folder)
    file.write_bytes(b"others!" * 1000)
    path.unlink()
    with pytest.raises(ValueError, match=f"at the first fetch it was {locked['thing']['sha256']}"):
        fetch(unknown, folder)
    assert not path.exists()


def test_a_file_put_there_by_hand_is_checked_in_the_same_way(tmp_path, file):
    unreachable = asset("http://127.0.0.1:9/weights.bin", sha256(file))
    path = unreachable.path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(file.read_bytes())
    assert fetch(unreachable, tmp_path) == path
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="accepted: " + sha256(file)):
        fetch(unreachable, tmp_path)


def test_without_network_the_message_names_address_and_place(tmp_path):
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/a.pt: cannot be fetched .* put at .*thing.pt, where"):
        fetch(asset("http://127.0.0.1:9/a.pt"), tmp_path)


class Site(http.server.BaseHTTPRequestHandler):
    """Answers with a page, or with less than it promised."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if "page" in self.path else "application/octet-stream")
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"short")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("page.pt", None, "answered with a web page"),
        ("x.pt", None, "ended after 5 of 10"),
        ("x.pt", 4, "more than the 4 bytes that config/assets.csv says"),
    ],
)
def test_a_page_half_a_file_or_too_much_is_refused(tmp_path, path, size, message):
    server = http.server.HTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.handle_request, daemon=True).start()
    try:
        with pytest.raises(ValueError, match=message):
            fetch(asset(f"http://127.0.0.1:{server.server_port}/{path}", size=size), tmp_path)
    finally:
        server.server_close()
    assert not list(tmp_path.glob("downloads/thing*"))


def test_only_one_asset_of_a_format_needs_no_name():
    assert only("consistency-decoder", "", TABLE).name == "consistency-decoder"
    with pytest.raises(ValueError, match="official-mar without FILE: --as is needed; accepted: mar-b, mar-l, mar-h"):
        only("official-mar", "", TABLE)
    with pytest.raises(ValueError, match="mar-b is of format official-mar; found ldm-kl; accepted: official-mar"):
        only("ldm-kl", "mar-b", TABLE)
    with pytest.raises(ValueError, match="found no asset 'nothing'; accepted: mar-b"):
        find("nothing", TABLE)


@pytest.fixture
def site(tmp_path):
    """The address of a server of the files in tmp_path."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_commands_fetch_and_import(tmp_path, site):
    file = published.mar_checkpoint(tmp_path / "checkpoint-last.pth")
    row = ["mar-tiny", "official-mar", f"{site}/{file.name}", "", "", "MIT", "me", "none"]
    (tmp_path / "assets.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(row) + "\n")
    places = ["--assets", str(tmp_path / "assets"), "--table", str(tmp_path / "assets.csv")]

    def run(*arguments):
        return CliRunner().invoke(main, [*arguments, *places])

    assert run("fetch", "mar-tiny").exit_code == 0
    result = run("import", "official-mar", "--as", "mar-tiny")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "assets" / "mar-tiny.json").read_text())
    assert (report["asset"], report["licence"], report["source"]["file"]) == ("mar-tiny", "MIT", "mar-tiny.pth")
    assert run("import", "official-mar", str(file)).exit_code == 0
    mine = json.loads((tmp_path / "assets" / "checkpoint-last.json").read_text())
    assert mine["asset"] is None and mine["sha256"] == report["sha256"]
    result = run("import", "official-mar", str(file), "--as", "mar-tiny")
    assert result.exit_code == 0  # nobody published its sum: nothing to compare with
    row[3] = "0" * 64
    (tmp_path / "assets.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(row) + "\n")
    result = run("import", "official-mar", str(file), "--as", "mar-tiny")
    assert (
        result.exit_code == 1 and f"mar-tiny in {tmp_path / 'assets.csv'} has {'0' * 64}: another file" in result.stderr
    )
    result = run("import", "dit", "--as", "mar-tiny")
    assert result.exit_code == 1 and "mar-tiny is of format official-mar; found dit" in result.stderr


def test_a_file_that_has_to_be_there_is_found_where_torch_keeps_it(tmp_path, monkeypatch, file):
    monkeypatch.delenv("TORCH_HUB", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # as in a process where nothing has set torch's folder
    for name, value, cache in (
        ("TORCH_HOME", tmp_path / "home", tmp_path / "home"),
        ("XDG_CACHE_HOME", tmp_path / "cache", tmp_path / "cache" / "torch"),
        ("HOME", tmp_path, tmp_path / ".cache" / "torch"),
    ):
        for other in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, str(value))
        found = places(asset("https://somewhere/weights.bin?x=1"), tmp_path / "assets")
        assert found == [tmp_path / "assets" / "downloads" / "thing.bin", cache / "hub" / "checkpoints" / "weights.bin"]
        assert torch.hub.get_dir() == str(found[1].parents[1])
    (tmp_path / "assets.csv").write_text(f"{','.join(COLUMNS)}\nthing,dit,https://somewhere/weights.bin,,,MIT,a page,")
    with pytest.raises(ValueError, match=r"thing\.bin: missing, and .*weights\.bin too; run `mar fetch thing`"):
        locate("thing", tmp_path / "assets.csv", tmp_path / "assets")
    found[1].parent.mkdir(parents=True)
    found[1].write_bytes(file.read_bytes())
    digest = sha256(file)
    assert locate("thing", tmp_path / "assets.csv", tmp_path / "assets") == (found[1], digest)
    assert json.loads((tmp_path / "assets" / "lock.json").read_text())["thing"]["sha256"] == digest
