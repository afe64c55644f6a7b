"""Bad command lines, jobs, published files, claims, texts, images, and machines that fail."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import resource
import socket
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bad_inputs import REPOSITORY, Case
from cases_files import (
    CLAIMS,
    ENCODE,
    EVALUATE,
    FEATURE,
    JOBS,
    MODEL,
    PREPARE,
    REPORT,
    ROOT,
    RUN,
    SAMPLE,
    SAMPLES,
    STUDY,
    SUMMARY,
    TABLE,
    TRAIN,
    Payload,
    again,
    change,
    edit,
    put,
    remove,
    write,
)


def nothing() -> None:
    """The command itself is the bad input."""


def cases() -> Iterator[Case]:
    """Every case of this file."""
    yield from command_lines()
    yield from jobs()
    yield from imports()
    yield from assets()
    yield from claims()
    yield from texts()
    yield from shell()
    yield from court()
    yield from images()
    yield from system()


def command_lines() -> Iterator[Case]:
    sample = ("mar", "sample", *STUDY)
    for what, command, names in (
        ("command unknown", ("mar", "trian"), "trian"),
        ("option unknown", (*TABLE, "--nothere"), "nothere"),
        ("study unknown", ("mar", "plan", "--study", "nothere"), "nothere"),
        ("study empty", ("mar", "plan", "--study", ""), "--study"),
        ("study a folder", ("mar", "plan", "--study", "results/smoke"), "results/smoke"),
        ("study with a zero byte", ("mar", "plan", "--study", "a\0b"), "--study|null"),
        ("study of 5,000 characters", ("mar", "plan", "--study", "x" * 5000), "name too long"),
        ("study of 5,000 characters as file", ("mar", "plan", "--study", "x" * 5000 + ".yaml"), "long"),
        ("study no UTF-8", ("mar", "plan", "--study", "caf\udce9.yaml"), "caf"),
        ("variant unknown", (*sample, "--variant", "nothere", "--seed", "0", "--setting", "mar-diff-4"), "--variant"),
        ("setting unknown", (*SAMPLE[:-1], "nothere"), "--setting"),
        ("setting a path", (*SAMPLE[:-1], "../../../outside"), "--setting"),
        ("seed that the study does not have", (*TRAIN[:-1], "7"), "--seed"),
        ("seed negative", (*TRAIN[:-1], "-1"), "--seed"),
        ("seed of text", (*TRAIN[:-1], "x"), "--seed"),
        ("seed of 5,000 digits", (*TRAIN[:-1], "9" * 5000), "--seed"),
        (
            "seed that the study does not have: sample",
            (*sample, *MODEL, "--seed", "9", "--setting", "mar-diff-4"),
            "--seed",
        ),
        ("seed that the study does not have: evaluate", (*EVALUATE[:-3], "9", *EVALUATE[-2:]), "--seed"),
        ("tokenizer unknown", (*ENCODE[:-1], "nothere"), "--tokenizer"),
        ("tokenizer a path", (*ENCODE[:-1], "../kl"), "--tokenizer"),
        ("shard 0 0", (*SAMPLE, "--shard", "0", "0"), "--shard"),
        ("shard 3 2", (*SAMPLE, "--shard", "3", "2"), "--shard"),
        ("shard -1 2", (*SAMPLE, "--shard", "-1", "2"), "--shard"),
        ("encode shard 0 0", (*ENCODE, "--shard", "0", "0"), "--shard"),
        ("features shard 0 0", (*FEATURE, "--shard", "0", "0"), "--shard"),
        ("extractor unknown", (*FEATURE[:-3], "nothere", *FEATURE[-2:]), "--extractor"),
        ("extractor a path", (*FEATURE[:-3], "../x", *FEATURE[-2:]), "--extractor"),
        ("set traversal of features", (*FEATURE[:-1], "../../../../outside/x"), "--set"),
        ("set traversal of statistics", ("mar", "statistics", *FEATURE[2:-1], "../../../../outside/x"), "--set"),
        ("set absolute", ("mar", "statistics", *FEATURE[2:-1], "/etc"), "--set"),
        ("set of an unknown variant", ("mar", "statistics", *FEATURE[2:-1], "nothere/seed0/mar-diff-4"), "--set"),
        ("set of a seed too many", ("mar", "statistics", *FEATURE[2:-1], "mar-diffloss/seed9/mar-diff-4"), "--set"),
        ("set empty", ("mar", "statistics", *FEATURE[2:-1], ""), "--set"),
        ("table unknown", (*TABLE[:-1], "nothere"), "--name"),
        ("table a path", (*TABLE[:-1], "../../../../outside/x"), "--name"),
        ("table that the study has not: variance", (*TABLE[:-1], "variance"), "variance|--name"),
        ("table that the study has not: fast", (*TABLE[:-1], "fast"), "fast"),
        ("table that the study has not: learning", (*TABLE[:-1], "learning"), "learning"),
        ("figure unknown", ("mar", "figure", *STUDY, "--name", "nothere", "--out", "x"), "--name"),
        ("figure a path", ("mar", "figure", *STUDY, "--name", "../../outside/x", "--out", "x"), "--name"),
        ("figure into a file", ("mar", "figure", *STUDY, "--name", "samples", "--out", "small.yaml"), "small.yaml"),
        ("plan measured inf", ("mar", "plan", "--study", "smoke", "--measured", "mar-diffloss=inf"), "--measured"),
        ("plan measured nan", ("mar", "plan", "--study", "smoke", "--measured", "mar-diffloss=nan"), "--measured"),
        ("plan measured zero", ("mar", "plan", "--study", "smoke", "--measured", "mar-diffloss=0"), "--measured"),
        ("plan measured unknown", ("mar", "plan", "--study", "smoke", "--measured", "nothere=5"), "nothere"),
        ("plan measured text", ("mar", "plan", "--study", "smoke", "--measured", "mar-diffloss=x"), "--measured"),
        ("plan measured a folder", ("mar", "plan", "--study", "smoke", "--measured", "config"), "config"),
        ("plan utilisation nan", ("mar", "plan", "--study", "smoke", "--utilisation", "nan"), "utilisation"),
        ("plan utilisation 5", ("mar", "plan", "--study", "smoke", "--utilisation", "5"), "utilisation"),
        ("threads negative", ("mar", "--threads", "-1", "plan", "--study", "smoke"), "threads"),
        ("threads 10^12", ("mar", "--threads", str(10**12), *TABLE[1:]), "threads"),
        ("device unknown", ("mar", "--device", "tpu", *TABLE[1:]), "device"),
        ("recipe of another study", (*SAMPLE, "--recipe", "{}"), "study.json"),
        ("format unknown", ("mar", "import", "nothere", "small.yaml"), "format"),
        ("import of nothing", ("mar", "import", "official-mar", "nothere.pth"), "nothere"),
        ("import of a folder", ("mar", "import", "official-mar", "config"), "config"),
        ("fetch unknown", ("mar", "fetch", "nothere"), "nothere"),
        ("fetch a path", ("mar", "fetch", "../../x"), r"\.\./x"),
        ("table of assets missing", ("mar", "fetch", "x", "--table", "nothere.csv"), "nothere.csv"),
        ("export of half a set", ("mar", "export-adm", *STUDY, *MODEL, "--out", "x.npz"), "export-adm|--setting"),
        (
            "export of a seed too many",
            ("mar", "export-adm", *STUDY, *MODEL, "--seed", "9", "--setting", "mar-diff-4", "--out", "x.npz"),
            "--seed",
        ),
        (
            "export into a folder",
            ("mar", "export-adm", *STUDY, *MODEL, "--setting", "mar-diff-4", "--out", "config"),
            "config",
        ),
        ("court of nothing", ("mar", "court", "--samples", "nothere.npz"), "nothere"),
        ("court count negative", ("mar", "court", "--samples", "x.npz", "--count", "-1"), "count"),
        ("claims missing", (*CLAIMS, "--claims", "nothere.yaml"), "nothere"),
        ("figures of the report missing", ("mar", "report", *STUDY, "--figures", "nothere"), "nothere"),
        ("drill of an unknown shape", ("mar", "drill", *STUDY, "--shape", "nothere"), "nothere"),
        ("drill of a path", ("mar", "drill", *STUDY, "--shape", "../../x"), "--shape"),
        ("gate of a study without one", ("mar", "gate", *STUDY), "gate"),
        ("replicate an unknown row", ("mar", "replicate", "table4:nothere"), "nothere"),
        ("replicate no cell", ("mar", "replicate", "x"), "x"),
        ("replicate a path", ("mar", "replicate", "../../x:y"), "x"),
        ("launch of nothing", ("mar", "launch", "--folder", "j"), "COMMAND|Missing"),
        ("launch of an unknown command", ("mar", "launch", "--folder", "j", "--", "nothere"), "nothere"),
        ("schema into a folder", ("mar", "schema", "--out", "config"), "config"),
        ("ship without weights", ("mar", "ship", "--study", "small.yaml", "--compare"), "ship"),
    ):
        right = "works" if what.startswith("ship") else "refused"
        yield Case(f"cli: {what}", nothing, command, (names,), right)
    cuda = ("mar", "--device", "cuda", *SAMPLE[1:])
    yield Case("cli: device cuda where there is none", again(SAMPLES)(nothing), cuda, ("cuda|GPU",))


def someone() -> subprocess.Popen[bytes]:
    """A process that no job of ours is."""
    return subprocess.Popen(["sleep", "120"])


def job(**values: Any) -> dict[str, Any]:
    record = {"state": "running", "cluster": "local", "command": "x", "hash": "0" * 16, "host": socket.gethostname()}
    return record | {"pid": 1, "submitted": "2026-01-01T00:00:00", "output": None, "job": "1", "started": 1} | values


def jobs() -> Iterator[Case]:
    place = ROOT / "jobs/x/job.json"
    slurm = {"cluster": "slurm", "job": "1", "jobs": ["1"], "shards": [0], "token": "mar-" + "0" * 16 + "-" + "0" * 8}
    for what, value in (
        ("without keys", {}),
        ("of a pid of text", job(pid="x")),
        ("of pid 0", job(pid=0)),
        ("of pid -1", job(pid=-1)),
        ("of a state unknown", job(state="sleeping")),
        ("of a time unknown", job(submitted="yesterday")),
        ("of an output outside", job(output="../../../../../outside/precious.txt")),
        ("of an id that is a path", job(job="../../x")),
        ("of a Slurm id with options", job(**(slurm | {"job": "1 --all", "jobs": ["--all"]}))),
        ("of a Slurm id of letters", job(**(slurm | {"job": "x"}))),
        ("of two jobs for one share", job(**(slurm | {"jobs": ["1", "2"]}))),
    ):
        for command in (JOBS, ("mar", "cancel", *STUDY)):
            yield Case(f"jobs: job.json {what}: {command[1]}", write(place, value), command, (r"job\.json",))

    def pickled() -> None:
        put(place, job(**slurm))
        (place.parent / "1_0_result.pkl").write_bytes(pickle.dumps(Payload()))
        put(Path("bin/squeue"), "#!/bin/sh\n")
        Path("bin/squeue").chmod(0o755)
        os.environ["PATH"] = f"{Path('bin').resolve()}:{os.environ['PATH']}"

    yield Case("jobs: a result that is a pickle", pickled, JOBS, right="works")

    def theirs() -> None:
        put(place, job(pid=someone().pid))

    yield Case(
        "jobs: job.json names a process of somebody else: cancel",
        lambda: guard(theirs),
        ("mar", "cancel", *STUDY),
        right="works",
    )
    launch = ("mar", "launch", "--folder", str(place.parent), "--", "prepare", *STUDY)
    yield Case("jobs: job.json names a process of somebody else: launch", lambda: guard(theirs), launch, right="works")
    yield Case(
        "jobs: a folder of jobs that is a link to itself",
        lambda: ((ROOT / "jobs").mkdir(exist_ok=True), (ROOT / "jobs/x").symlink_to(".")),
        JOBS,
        right="works",
    )


def guard(make: Callable[[], object]) -> None:
    """Make an input with a foreign process, and mark `pwned` if the process is ended meanwhile."""
    make()
    pid = json.loads((ROOT / "jobs/x/job.json").read_text())["pid"]

    def watch() -> None:
        os.waitpid(pid, 0)
        Path("pwned-process").touch()

    threading.Thread(target=watch, daemon=True).start()


def weights(
    change: Callable[[dict[str, Any]], object] = lambda _: None, prefix: str = "", file: str = "x.pth"
) -> Callable[[], object]:
    """A checkpoint in MAR's format."""

    def make() -> None:
        import torch
        from safetensors.torch import load_file

        golden = load_file(REPOSITORY / "tests/parity/golden/mar_tiny.safetensors")
        tensors: dict[str, Any] = {prefix + k.removeprefix("sd."): v for k, v in golden.items() if k.startswith("sd.")}
        change(tensors)
        torch.save({"model": tensors, "model_ema": tensors}, file)

    return make


def imports() -> Iterator[Case]:
    import torch

    command = ("mar", "import", "official-mar", "x.pth", "--as", "x")
    first = lambda t, f: t.update({next(iter(t)): f(next(iter(t.values())))})  # noqa: E731
    for what, make in (
        ("inf weights", weights(lambda t: first(t, lambda v: v * torch.inf))),
        ("NaN weights", weights(lambda t: first(t, lambda v: v * torch.nan))),
        ("integer weights", weights(lambda t: t.update({k: v.long() for k, v in t.items()}))),
        ("complex weights", weights(lambda t: t.update({k: v.to(torch.complex64) for k, v in t.items()}))),
        ("bool weights", weights(lambda t: first(t, lambda v: v > 0))),
        ("sparse weights", weights(lambda t: first(t, lambda v: v.to_sparse()))),
        (
            "quantised weights",
            weights(lambda t: first(t, lambda v: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8))),
        ),
        ("weights that overflow float32", weights(lambda t: first(t, lambda v: v.double() + 1e300))),
        ("a tensor of another shape", weights(lambda t: first(t, lambda v: v[..., :1]))),
        ("a tensor missing", weights(lambda t: t.pop(next(iter(t))))),
        ("a tensor too many", weights(lambda t: t.update(nothere=torch.zeros(1)))),
        ("a prefix of some tensors", weights(lambda t: t.update({"module." + k: t.pop(k) for k in list(t)[:3]}))),
        ("a list", lambda: torch.save([1, 2], "x.pth")),
        ("nothing in it", lambda: torch.save({"model_ema": {}}, "x.pth")),
        ("names that are numbers", lambda: torch.save({"model_ema": {5: torch.zeros(1)}}, "x.pth")),
        ("a pickle that runs a command", lambda: put(Path("x.pth"), pickle.dumps(Payload()))),
        ("a zip that runs a command", lambda: torch.save({"model_ema": Payload()}, "x.pth")),
        ("garbage", lambda: put(Path("x.pth"), b"garbage" * 99)),
        ("empty", lambda: put(Path("x.pth"), b"")),
        ("a web page", lambda: put(Path("x.pth"), "<html><body>Sign in</body></html>")),
        (
            "a Git LFS pointer",
            lambda: put(Path("x.pth"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        ),
        ("an empty zip", lambda: zipped({})),
        ("a zip of two checkpoints", lambda: zipped({"a.pth": b"1", "b.pth": b"2"})),
        ("a zip of a path", lambda: zipped({"../../outside/pwned.pth": b"1"})),
        ("a zip in a zip in a zip", nested),
        ("cut off", lambda: (weights()(), put(Path("x.pth"), Path("x.pth").read_bytes()[:3000]))),
        ("a FIFO", lambda: os.mkfifo("x.pth")),
        ("TorchScript", lambda: zipped({"x/constants.pkl": b"", "x/code/a.py": b"", "x/data.pkl": b""})),
    ):
        yield Case(f"import: {what}", make, command, (r"x\.pth",), seconds=60)
    yield Case("import: zip bomb, 3 GB from 3 MB", bomb, command, (r"x\.pth",))
    for what, name in (
        ("name traversal", "../../../outside/pwned"),
        ("name with a quote and $()", "a'$(touch pwned)"),
        ("name absolute", "/tmp/pwned"),
        ("name of 300 characters", "x" * 300),
        ("name of options", "--help-"),
        ("name with a line break", "a\nb"),
        ("name hidden", ".x"),
    ):
        yield Case(
            f"import: {what}",
            weights(),
            (*command[:-1], name) if name[0] != "-" else (*command[:-2], f"--as={name}"),
            ("--as|name",),
        )
    for what, make in (
        ("garbage", lambda: put(Path("x.safetensors"), b"\xff" * 99)),
        ("empty", lambda: put(Path("x.safetensors"), b"")),
        ("a header that is no JSON", lambda: put(Path("x.safetensors"), (5).to_bytes(8, "little") + b"hello")),
        ("a header of 10^17 bytes", lambda: put(Path("x.safetensors"), (10**17).to_bytes(8, "little") + b"{}")),
        (
            "offsets outside",
            lambda: put(
                Path("x.safetensors"), tensors_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**12]}})
            ),
        ),
        (
            "a shape of 10^18",
            lambda: put(
                Path("x.safetensors"), tensors_file({"a": {"dtype": "F32", "shape": [10**18], "data_offsets": [0, 8]}})
            ),
        ),
    ):
        yield Case(
            f"import: safetensors {what}",
            make,
            ("mar", "import", "official-mar", "x.safetensors", "--as", "x"),
            (r"x\.safetensors",),
        )
    for what, prefix in (
        ("DDP", "module."),
        ("torch.compile", "_orig_mod."),
        ("DDP of torch.compile", "module._orig_mod."),
    ):
        yield Case(f"import: checkpoint of {what}", weights(prefix=prefix), command, right="works")
    yield Case(
        "import: record of an import a list",
        lambda: (weights()(), put(Path("results/assets/x.json"), "[]"), put(Path("results/assets/x.safetensors"), "x")),
        command,
        right="works",
    )


def tensors_file(header: dict[str, Any]) -> bytes:
    content = json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + bytes(8)


def zipped(members: dict[str, bytes], file: str = "x.pth") -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def nested() -> None:
    for _ in range(60):
        content = Path("x.pth").read_bytes() if Path("x.pth").exists() else b"x"
        zipped({"a.pth": content})


def bomb() -> None:
    with (
        zipfile.ZipFile("x.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.pth", "w", force_zip64=True) as member,
    ):
        for _ in range(3000):
            member.write(bytes(1 << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**8, 10**8))


def assets() -> Iterator[Case]:
    fetch = ("mar", "fetch", "x", "--table", "assets.csv")
    head = "name,format,url,sha256,size,licence,source,note\n"
    for what, row in (
        ("data: address", "x,reference,data:application/octet-stream;base64aGVsbG8=,,,MIT,s,n"),
        ("no address", "x,reference,,,,MIT,s,n"),
        ("javascript: address", "x,reference,javascript:alert(1),,,MIT,s,n"),
        ("file: address", "x,reference,file:///etc/passwd,,,MIT,s,n"),
        ("ftp: address", "x,reference,ftp://x.invalid/a,,,MIT,s,n"),
        ("address without host", "x,reference,http://,,,MIT,s,n"),
        ("address of a broken host", "x,reference,http://[::1/a,,,MIT,s,n"),
        ("address of a port too high", "x,reference,http://x.invalid:99999999/a,,,MIT,s,n"),
        ("address of a port of text", "x,reference,http://x.invalid:y/a,,,MIT,s,n"),
        ("address with a line break", 'x,reference,"http://x.invalid/a\nb",,,MIT,s,n'),
        ("address with a blank", "x,reference,http://x.invalid/a b,,,MIT,s,n"),
        ("address with a password of nobody", "x,reference,http://user:secret-word@127.0.0.1:9/a,,,MIT,s,n"),
        ("address that ends in a path", "x,reference,http://127.0.0.1:9/a.b/..%2F..%2Fpwned,,,MIT,s,n"),
        ("suffix of 300 characters", f"x,reference,http://127.0.0.1:9/a.{'b' * 300},,,MIT,s,n"),
        ("name a path", "../../x,reference,http://x.invalid/a,,,MIT,s,n"),
        ("name with a command", "$(touch pwned),reference,http://x.invalid/a,,,MIT,s,n"),
        ("name twice", "x,reference,http://x.invalid/a,,,MIT,s,n\nx,reference,http://x.invalid/b,,,MIT,s,n"),
        ("size of text", "x,reference,http://x.invalid/a,,big,MIT,s,n"),
        ("size of other digits", "x,reference,http://x.invalid/a,,\u0665\u00b2,MIT,s,n"),
        ("size of 5,000 digits", f"x,reference,http://x.invalid/a,,{'9' * 5000},MIT,s,n"),
        ("sha256 of text", "x,reference,http://x.invalid/a,zz,,MIT,s,n"),
        ("too few columns", "x,reference"),
        ("too many columns", "x,reference,http://x.invalid/a,,,MIT,s,n,m,o"),
        ("a field of 200,000 characters", f"x,reference,http://x.invalid/a,,,MIT,s,{'n' * 200_000}"),
        ("a zero byte", "x,reference,http://x.invalid/a,,,M\0IT,s,n"),
        ("an open quote", 'x,reference,"http://x.invalid/a,,,MIT,s,n'),
    ):
        yield Case(f"assets: {what}", write(Path("assets.csv"), head + row + "\n"), fetch, (r"assets\.csv|a\b",))
    for what, content in (
        ("other columns", "a,b\n1,2\n"),
        ("empty", ""),
        ("latin-1", head.encode() + b"caf\xe9,,,,,,,\n"),
        ("binary", bytes(range(256))),
    ):
        yield Case(f"assets: table of {what}", write(Path("assets.csv"), content), fetch, (r"assets\.csv",))
    yield Case("assets: table a FIFO", lambda: os.mkfifo("assets.csv"), fetch, (r"assets\.csv",), seconds=30)
    for what, row, answer in (
        (
            "endless stream though the table says 10 bytes",
            "x,reference,http://127.0.0.1:{}/e.npz,,10,MIT,s,n",
            "endless",
        ),
        ("a web page", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "page"),
        ("a length that is wrong", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "short"),
        ("a length of text", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "text"),
        ("another checksum", f"x,reference,http://127.0.0.1:{{}}/e.npz,{'0' * 64},,MIT,s,n", "good"),
        ("error 500", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "error"),
        ("a way to a file", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "redirect"),
        ("ways in a circle", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "circle"),
        ("no HTTP", "x,reference,http://127.0.0.1:{}/e.npz,,,MIT,s,n", "noise"),
    ):
        yield Case(
            f"assets: server that answers with {what}",
            lambda row=row, answer=answer: put(Path("assets.csv"), head + row.format(serve(answer)) + "\n"),
            fetch,
            (r"e\.npz|\bx\b",),
        )
    lock = Path("results/assets/lock.json")
    yield Case(
        "assets: lock.json a list",
        lambda: (
            put(Path("assets.csv"), head + f"x,reference,http://127.0.0.1:{serve('good')}/e.npz,,,MIT,s,n\n"),
            put(lock, "[]"),
        ),
        fetch,
        (r"lock\.json",),
    )


def serve(kind: str) -> int:
    """A server on loopback that answers badly; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if kind == "noise":
                self.wfile.write(b"hello\r\n")
                return
            self.send_response({"error": 500, "redirect": 302, "circle": 302}.get(kind, 200))
            if kind == "redirect":
                self.send_header("Location", "file:///etc/passwd")
            if kind == "circle":
                self.send_header("Location", "/e.npz")
            if kind == "page":
                self.send_header("Content-Type", "text/html")
            if kind in ("short", "text"):
                self.send_header("Content-Length", "5000" if kind == "short" else "many")
            self.end_headers()
            try:
                while kind == "endless":
                    self.wfile.write(bytes(1 << 16))
                self.wfile.write(b"hello")
            except OSError:
                pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def claims() -> Iterator[Case]:
    command = (*CLAIMS, "--claims", "c.yaml")
    row = "claims:\n  - {id: a, text: t, source: s, check: {kind: %s}}\n"
    for what, content in (
        ("brackets 20,000 deep", "claims: " + "[" * 20000),
        ("a and b the same row", row % "cheaper, table: mar_table1, a: ar-raster-diffloss, b: ar-raster-diffloss"),
        (
            "a and b the same row: better",
            row % "better, table: mar_table1, metric: fid, guided: false, a: ar-raster-diffloss, b: ar-raster-diffloss",
        ),
        (
            "a and b the same row: faster",
            row % "faster, table: mar_table1, a: ar-raster-diffloss, b: ar-raster-diffloss",
        ),
        ("a and b the same curve", row % "dominates, metric: fid, a: MAR, b: MAR"),
        (
            "ordered rows the same",
            row
            % "ordered, table: mar_table1, metric: fid, guided: false, rows: [mar-default-diffloss, mar-default-diffloss]",
        ),
        (
            "ordered of one row",
            row % "ordered, table: mar_table1, metric: fid, guided: false, rows: [mar-default-diffloss]",
        ),
        (
            "all of the same claim",
            "claims:\n  - {id: a, text: t, source: s, check: {kind: faster, table: mar_table1, a: ar-raster-diffloss, b: mar-default-diffloss}}\n  - {id: b, text: t, source: s, check: {kind: all, claims: [a, a]}}\n",
        ),
        ("a table that the paper lacks", row % "faster, table: nothere, a: x, b: y"),
        ("a table that is a path", row % "faster, table: ../../etc, a: x, b: y"),
        ("a row that the paper lacks", row % "faster, table: mar_table1, a: nothere, b: mar-default-diffloss"),
        ("a kind unknown", row % "nicer"),
        ("below NaN", row % "share, table: mar_table1, row: mar-default-diffloss, below: .nan"),
        ("a list", "[1, 2]"),
        ("empty", ""),
        ("binary", bytes(range(256))),
        ("latin-1", b"claims: caf\xe9"),
        (
            "an id twice",
            "claims:\n"
            + "  - {id: a, text: t, source: s, check: {kind: faster, table: mar_table1, a: ar-raster-diffloss, b: mar-default-diffloss}}\n"
            * 2,
        ),
        ("an alias of itself", "claims: &a [*a]"),
        ("a Python object", "claims: !!python/object/apply:os.system ['touch pwned']"),
        ("a number of 5,000 digits", "claims: " + "9" * 5000),
        ("a key twice", "claims: []\nclaims: []\n"),
        ("2,000 faults", "claims:\n" + "  - {}\n" * 2000),
    ):
        yield Case(f"claims: {what}", write(Path("c.yaml"), content), command, (r"c\.yaml",))
    yield Case("claims: a FIFO", lambda: os.mkfifo("c.yaml"), command, (r"c\.yaml",), seconds=30)
    yield Case("claims: a folder", lambda: Path("c.yaml").mkdir(), command, (r"c\.yaml",))


def retitled(title: str) -> Callable[[], object]:
    return lambda: edit(ROOT / "study.json", lambda v: v["tables"]["table1"].update(title=title))


def relabelled(label: str) -> Callable[[], object]:
    return lambda: edit(ROOT / "study.json", lambda v: v["tradeoff"][0].update(label=label))


def renamed(name: str) -> Callable[[], object]:
    return lambda: edit(ROOT / "data/manifest.json", lambda v: v["classes"].__setitem__(3, name))


def texts() -> Iterator[Case]:
    figure = ("mar", "figure", *STUDY, "--name", "tradeoff", "--out", "figures/smoke")
    samples = ("mar", "figure", *STUDY, "--name", "samples", "--out", "figures/smoke")
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"

    for what, text in {
        "script": script,
        "rich markup": "[/red][bold]x[/]",
        "a formula": '=HYPERLINK("http://x.invalid")',
        "mathematics": "a $$ b $x_{",
        "LaTeX": "\\input{/etc/passwd} % & # _ ~ ^ {",
        "a terminal escape": "\x1b[31mred\x1b]0;title\x07",
        "a bar and line breaks": "a | b\nc\r\nd",
        "bidirectional marks": "abc\u202edef\u2066",
        "an undecodable byte": "caf\udce9",
        "letters of many scripts": "\u00e9\u4e2d\U0001f600",
        "10,000 characters": "x" * 10_000,
    }.items():
        for place, make, command in (
            ("table title, table", retitled(text), TABLE),
            ("table title, summary", retitled(text), SUMMARY),
            ("table title, report", retitled(text), REPORT),
            ("label, figure", relabelled(text), figure),
            ("class name, figure", renamed(text), samples),
            ("study title, report", change(ROOT / "study.json", title=text), REPORT),
        ):
            # A class is never called by bytes: `mar prepare` writes them out. Such a manifest is no JSON.
            right = "refused" if "byte" in what and "class" in place else "works"
            yield Case(
                f"texts: {what} as {place}", make, command, ("manifest",) if right == "refused" else (), right, clean
            )
    verdict = lambda v: [c.update(reason="[/red]\x1b[31m", text="<b>[/]") for c in v] and v  # noqa: E731
    yield Case(
        "texts: rich markup in claims.json, summary",
        lambda: edit(ROOT / "claims.json", verdict),
        SUMMARY,
        right="works",
        check=clean,
    )
    yield Case(
        "texts: rich markup in claims.json, every claim",
        lambda: edit(ROOT / "claims.json", verdict),
        (*SUMMARY, "--claims"),
        right="works",
        check=clean,
    )
    server = (("MLFLOW_TRACKING_URI", "http://user:secret-word@127.0.0.1:9"),)
    yield Case(
        "texts: password of the tracking server, terminal and files",
        nothing,
        ("mar", "track", *STUDY),
        right="works",
        check=no_secret,
        variables=server,
    )
    yield Case(
        "texts: password of the tracking server, report",
        nothing,
        REPORT,
        right="works",
        check=no_secret,
        variables=server,
    )
    yield Case(
        "texts: password in a token of the tracking server",
        nothing,
        ("mar", "track", *STUDY),
        right="works",
        check=no_secret,
        variables=(("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/?token=secret-word"),),
    )


def clean(output: str) -> str | None:
    """What is wrong with the texts that came out: an escape on the terminal, a script, a formula."""
    return "a terminal escape" if "\x1b[31m" in output or "\x1b]" in output else None


def no_secret(output: str) -> str | None:
    return "the password" if "secret-word" in output else None


def shell() -> Iterator[Case]:
    odd = "r'$(touch pwned)'.npz"

    def reference() -> None:
        Path(odd).write_bytes(b"x")
        Path("config/bad.yaml").write_text(
            "extends: smoke.yaml\nstudy: bad\nmetrics: {extractors: [classifier, inception], reference: "
            + json.dumps({"file": odd, "unknown_hash": True})
            + "}\n"
        )

    run = ("snakemake", "--configfile", "config/bad.yaml")
    yield Case(
        "shell: reference file named with a quote and a command",
        reference,
        (*run, "--", "results/bad/features/inception/reference/manifest.json"),
        seconds=200,
    )

    def cache() -> None:
        reference()
        Path(odd).rename("r.npz")
        Path("config/bad.yaml").write_text(Path("config/bad.yaml").read_text().replace(odd, "r.npz"))
        home = Path("o'brien$(touch pwned)") / "hub/checkpoints"
        home.mkdir(parents=True)
        (home / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"x")
        os.environ["TORCH_HOME"] = str(home.parents[1].resolve())

    yield Case(
        "shell: TORCH_HOME with a quote and a command",
        cache,
        (*run, "--", "results/bad/features/inception/reference/manifest.json"),
        seconds=200,
    )
    smoke = ("snakemake", "--configfile", "config/smoke.yaml")
    target = "results/smoke/tokenizers/pixels/model.safetensors"
    for what, name in (
        ("braces", "a{x}b"),
        ("a quote and blanks", "o'brien s $(touch pwned)"),
        ("a percent sign", "50%s"),
    ):

        def moved(name: str = name) -> None:
            Path(name).mkdir()
            Path(name, "config").symlink_to(Path("config").resolve())
            Path(name, "results").mkdir()
            os.chdir(name)

        names, right = (("braces",), "refused") if what == "braces" else ((), "works")  # they are Snakemake's wildcards
        yield Case(f"shell: checkout in a folder with {what}", moved, (*smoke, "--", target), names, right, seconds=200)
    yield Case(
        "shell: image folder with a quote and blanks",
        lambda: photos("o'brien s $(touch pwned)"),
        (*run, "--", "results/bad/data/manifest.json"),
        right="works",
        seconds=200,
    )


def photos(name: str, count: int = 6, classes: tuple[str, ...] = ("a", "b")) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in classes:
        Path(name, label).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(Path(name, label, f"{i}.png"))
    Path("config/bad.yaml").write_text(
        "extends: smoke.yaml\nstudy: bad\ndata: "
        + json.dumps({"kind": "imagefolder", "path": name, "image_size": 32})
        + "\n"
    )


def court() -> Iterator[Case]:
    command = ("mar", "court", "--samples", "x.npz", *STUDY)
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000, 32, 32, 3), }".ljust(117)
        + b"\n"
    )
    pixels = np.zeros((60, 32, 32, 3), np.uint8)
    for what, make in (
        ("header of 10^18 images", lambda: zipped({"arr_0.npy": header}, "x.npz")),
        ("pickled", lambda: np.savez("x.npz", arr_0=np.array([Payload()], dtype=object))),
        ("of floats", lambda: np.savez("x.npz", arr_0=pixels.astype(float))),
        ("of no images", lambda: np.savez("x.npz", arr_0=pixels[:0])),
        ("of one image", lambda: np.savez("x.npz", arr_0=pixels[:1])),
        ("of two dimensions", lambda: np.savez("x.npz", arr_0=pixels[0, :, :, 0])),
        ("of one channel", lambda: np.savez("x.npz", arr_0=pixels[..., :1])),
        ("garbage", lambda: put(Path("x.npz"), b"garbage")),
        ("cut off", lambda: (np.savez("x.npz", arr_0=pixels), put(Path("x.npz"), Path("x.npz").read_bytes()[:5000]))),
        ("a FIFO", lambda: os.mkfifo("x.npz")),
        ("an empty zip", lambda: zipped({}, "x.npz")),
        ("a bomb", lambda: bomb_npz()),
    ):
        yield Case(f"court: samples {what}", make, command, (r"x\.npz",), seconds=60)
    for what, make in (
        ("sigma not symmetric", lambda: np.savez("r.npz", mu=np.zeros(64), sigma=np.triu(np.ones((64, 64))))),
        ("of another width", lambda: np.savez("r.npz", mu=np.zeros(5), sigma=np.eye(5))),
        ("NaN", lambda: np.savez("r.npz", mu=np.full(2048, np.nan), sigma=np.eye(2048))),
    ):
        yield Case(
            f"court: reference {what}",
            make,
            ("mar", "court", "--samples", str(SAMPLES), *STUDY, "--reference", "r.npz", "--unknown-hash"),
            (r"r\.npz",),
        )


def bomb_npz() -> None:
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 64, 64, 3), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("arr_0.npy", "w") as member:
        member.write(header)
        member.write(bytes(1 << 20))


def images() -> Iterator[Case]:
    from PIL import Image

    prepare = ("mar", "prepare", "--study", "config/bad.yaml")
    skipped = lambda output: None if "skipped 1" in output else "it was taken, or all were refused"  # noqa: E731

    def one(make: Callable[[Path], object]) -> Callable[[], object]:
        return lambda: (photos("photos"), make(Path("photos/a")))

    for what, make in (
        ("empty", lambda a: put(a / "z.png", b"")),
        ("garbage", lambda a: put(a / "z.png", b"garbage")),
        ("cut off", lambda a: put(a / "z.png", (a / "0.png").read_bytes()[:900])),
        ("a pickle", lambda a: put(a / "z.png", pickle.dumps(Payload()))),
        ("a header of 60,000 x 60,000", lambda a: put(a / "z.png", huge((a / "0.png").read_bytes()))),
        ("a FIFO", lambda a: os.mkfifo(a / "z.png")),
        ("a socket", lambda a: socket.socket(socket.AF_UNIX).bind(str(a / "z.png"))),
        ("a device by a link", lambda a: (a / "z.png").symlink_to("/dev/zero")),
        ("a link to nothing", lambda a: (a / "z.png").symlink_to("nothere.png")),
        ("a link to itself", lambda a: (a / "z.png").symlink_to("z.png")),
        (
            "a PostScript that runs",
            lambda a: put(a / "z.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(touch pwned) system\n"),
        ),
        ("of one pixel", lambda a: Image.new("RGB", (1, 1)).save(a / "z.png")),
    ):
        right = what == "of one pixel"
        yield Case(
            f"data: image {what}",
            one(make),
            prepare,
            right="works",
            check=(lambda _: None) if right else skipped,
            seconds=60,
        )
    for what, mode in (("16-bit", np.uint16), ("float", np.float32)):

        def deep(a: Path, mode: Any = mode) -> None:
            ramp = np.linspace(0, 65535, 1600).reshape(40, 40)
            array = ramp.astype(np.uint16) if mode is np.uint16 else (ramp / 65535).astype(np.float32)
            Image.fromarray(array).save(a / ("z.png" if mode is np.uint16 else "z.tif"))

        yield Case(f"data: image of {what}", one(deep), prepare, right="works")
    for what, make in (
        ("without classes", lambda: (photos("photos", classes=()), Path("photos").mkdir())),
        ("of one class of nothing", lambda: (photos("photos", classes=()), Path("photos/a").mkdir(parents=True))),
        ("a file", lambda: (photos("photos", classes=()), put(Path("photos"), "x"))),
        ("a FIFO", lambda: (photos("photos", classes=()), os.mkfifo("photos"))),
        ("a link to itself", lambda: (photos("photos", classes=()), Path("photos").symlink_to("photos"))),
        ("of one image a class", lambda: photos("photos", count=1)),
        ("with a class of no images", lambda: (photos("photos"), Path("photos/c").mkdir())),
        ("with a class of garbage", lambda: (photos("photos"), put(Path("photos/c/x.png"), b"x"))),
        ("with a class that links to its folder", lambda: (photos("photos"), Path("photos/c").symlink_to("."))),
    ):
        yield Case(f"data: image folder {what}", make, prepare, ("photos|classes|images",), "either", seconds=60)


def huge(png: bytes) -> bytes:
    import zlib

    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def system() -> Iterator[Case]:
    track = ("mar", "track", *STUDY)
    db = Path("results/mlflow.db")
    works: dict[str, Any] = {"right": "works", "seconds": 120}
    yield Case("system: mlflow: database of garbage", write(db, b"garbage" * 999), track, **works)
    yield Case(
        "system: mlflow: database a folder",
        lambda: (db.unlink(missing_ok=True), db.mkdir(parents=True)),
        track,
        **works,
    )
    yield Case("system: mlflow: database a FIFO", lambda: (db.unlink(missing_ok=True), os.mkfifo(db)), track, **works)
    for what, uri in (
        ("file:///", "file:///tmp/x"),
        ("./mlruns", "./mlruns"),
        ("nobody", "http://127.0.0.1:9"),
        ("nonsense", "nonsense://x"),
        ("databricks", "databricks"),
    ):
        yield Case(
            f"system: mlflow: server that is {what}", nothing, track, variables=(("MLFLOW_TRACKING_URI", uri),), **works
        )

    def limit(size: int, *made: Path) -> Callable[[], object]:
        return lambda: (remove(*made), resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))

    big = 20_000
    for what, made, command in (
        ("prepare", ROOT / "data", PREPARE),
        ("train", RUN, TRAIN),
        ("sample", SAMPLES, SAMPLE),
        ("encode", ROOT / "tokens/kl", ENCODE),
        ("features", ROOT / "features/classifier/mar-diffloss", FEATURE),
        ("report", ROOT / "report.html", REPORT),
    ):
        right = "works" if what == "features" else "refused"  # theirs are smaller
        yield Case(f"system: no file may be larger than 20 kB: {what}", limit(big, made), command, ("large",), right)
    for what, made, command in (
        ("prepare", ROOT / "data", PREPARE),
        ("train", ROOT / "runs/mar-diffloss", TRAIN),
        ("sample", SAMPLES, SAMPLE),
        ("table", ROOT / "tables", TABLE),
        ("claims", ROOT / "claims.json", CLAIMS),
    ):

        def blocked(made: Path = made) -> None:
            remove(made)
            made.write_text("a file where a folder has to be") if not made.suffix else made.mkdir()

        yield Case(f"system: a file or folder in the way: {what}", blocked, command, (made.name,))
    yield Case(
        "system: too few open files: train",
        lambda: (remove(RUN), resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))),
        TRAIN,
        ("open files",),
    )
    yield Case("system: too little memory: train", lambda: remove(RUN), TRAIN, ("memory",), memory=900 << 20)
