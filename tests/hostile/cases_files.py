"""Damaged and foreign files in a results folder: records, arrays, weights, logs, links."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bad_inputs import Case

ROOT = Path("results/smoke")
STUDY = ("--study", "results/smoke/study.json")
RUN = ROOT / "runs/mar-diffloss/seed0"
SET = "mar-diffloss/seed0/mar-diff-4"
SAMPLES = ROOT / "samples" / SET
FEATURES = ROOT / "features/classifier"
STATISTICS = ROOT / "statistics/classifier"
METRICS = ROOT / f"metrics/{SET}.json"
CHECKPOINTS = RUN / "checkpoints"

MODEL = ("--variant", "mar-diffloss")
TRAIN = ("mar", "train", *STUDY, *MODEL, "--seed", "0")
SAMPLE = ("mar", "sample", *STUDY, *MODEL, "--seed", "0", "--setting", "mar-diff-4")
SWEEP = ("mar", "sweep", *STUDY, *MODEL, "--setting", "mar-diff-4-cfg-best")
BEST = (*SAMPLE[:-1], "mar-diff-4-cfg-best")
EVALUATE = ("mar", "evaluate", *SAMPLE[2:])
ENCODE = ("mar", "encode", *STUDY, "--tokenizer", "kl")
FEATURE = ("mar", "features", *STUDY, "--extractor", "classifier", "--set", SET)
MEANS = ("mar", "statistics", *STUDY, "--extractor", "classifier", "--set", SET)
TABLE = ("mar", "table", *STUDY, "--name", "table1")
CLAIMS = ("mar", "claims", *STUDY)
SUMMARY = ("mar", "summary", *STUDY)
REPORT = ("mar", "report", *STUDY, "--figures", "figures/smoke")
PREPARE = ("mar", "prepare", *STUDY)
TRADEOFF = ("mar", "figure", *STUDY, "--name", "tradeoff", "--out", "figures/smoke")
JOBS = ("mar", "jobs", *STUDY)
WATCH = ("mar", "watch", *STUDY)


class Payload:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned-by-pickle",)


def put(path: Path, value: Any) -> None:
    """Write text, bytes, an array, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif isinstance(value, str):
        path.write_text(value)
    elif isinstance(value, np.ndarray):
        with open(path, "wb") as file:
            np.save(file, value, allow_pickle=True)
    else:
        path.write_text(json.dumps(value))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place, or by what the function returns."""
    value = json.loads(path.read_text())
    changed = change(value)
    put(path, value if changed is None else changed)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remove(*paths: Path) -> None:
    import shutil

    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def again(*paths: Path) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Delete what a stage has made, so that it works again, and make the input."""
    return lambda make: lambda: (remove(*paths), make())


def drop(path: Path, *keys: str) -> Callable[[], object]:
    return lambda: edit(path, lambda value: [value.pop(key) for key in keys] and value)


def write(path: Path, value: Any) -> Callable[[], object]:
    return lambda: put(path, value)


def change(path: Path, **values: Any) -> Callable[[], object]:
    return lambda: edit(path, lambda value: value.update(values))


def matching(path: Path, value: Any, index: Path, *place: Any) -> Callable[[], object]:
    """Write a file, and its checksum where the record of it has it."""

    def make() -> None:
        put(path, value)

        def correct(record: Any) -> None:
            inner = record
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = digest(path)

        edit(index, correct)

    return make


def checkpoint(value: Any) -> Callable[[], object]:
    """Make every checkpoint of a training this, checksum right, and let the training go on from it."""

    def make() -> None:
        (RUN / "run.json").unlink()
        for entry in json.loads((CHECKPOINTS / "index.json").read_text()):
            path = CHECKPOINTS / entry["file"]
            if callable(value):
                value(path)
            else:
                put(path, value)
        edit(
            CHECKPOINTS / "index.json",
            lambda all: [e.update(sha256=digest(CHECKPOINTS / e["file"])) for e in all] and all,
        )

    return make


def index(value: Any) -> Callable[[], object]:
    def make() -> None:
        (RUN / "run.json").unlink()
        edit(CHECKPOINTS / "index.json", value) if callable(value) else put(CHECKPOINTS / "index.json", value)

    return make


def other_model(path: Path) -> None:
    import torch

    torch.save(
        {"model": {"x": torch.zeros(2)}, "ema": {}, "optimizer": {}, "images": 640, "seconds": 1.0, "restarts": 0}, path
    )


def old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def zip_pickle(path: Path) -> None:
    import torch

    torch.save({"model": Payload()}, path)


def state_with(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import torch

        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return make


def log_line(line: str) -> Callable[[], object]:
    """A line more in the log of a training that ends now."""

    def make() -> None:
        with open(RUN / "metrics.jsonl", "a") as file:
            file.write(line + "\n")

    return make


def ends(line: str) -> Callable[[], object]:
    def make() -> None:
        (RUN / "run.json").unlink()
        log_line(line)()

    return make


def statistics(alter: Callable[[dict[str, Any]], object], set_name: str = "train") -> Callable[[], object]:
    path = STATISTICS / f"{set_name}.npz"

    def make() -> None:
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        alter(values)
        with open(path, "wb") as file:
            np.savez(file, **values)
        METRICS.unlink()

    return make


def safetensors(
    path: Path, record: Path, key: str, tensors: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[[], object]:
    def make() -> None:
        from safetensors.torch import load_file, save_file

        save_file(tensors(load_file(path)), path)
        if record.exists():
            edit(record, lambda value: value.update({key: digest(path)}))

    return make


def metric(name: str = "fid", **values: Any) -> Callable[[], object]:
    def make() -> None:
        edit(METRICS, lambda record: record["metrics"][name].update(values))

    return make


NUMBERS = {
    "a list": "[]",
    "a list of numbers": "[1, 2]",
    "a number": "5",
    "null": "null",
    "empty": "",
    "cut off": '{"format": 1, "a',
    "binary": bytes(range(256)),
    "nested 10^5 deep": "[" * 100_000,
    "of format 2": '{"format": 2}',
    "of keys twice": '{"count": 1, "count": 2}',
    "a mapping of nothing": "{}",
}
# Every record that a stage reads, and a command that reads it.
RECORDS: dict[str, tuple[Path, tuple[str, ...], tuple[Path, ...]]] = {
    "data manifest": (ROOT / "data/manifest.json", ENCODE, (ROOT / "tokens/kl",)),
    "data recipe": (ROOT / "data/recipe.json", PREPARE, ()),
    "classifier record": (ROOT / "classifier/classifier.json", FEATURE, (FEATURES / "mar-diffloss",)),
    "tokenizer record": (ROOT / "tokenizers/kl/config.json", ENCODE, (ROOT / "tokens/kl",)),
    "rfid record": (ROOT / "tokenizers/kl/rfid.json", CLAIMS, ()),
    "token manifest": (ROOT / "tokens/kl/train/manifest.json", TRAIN, (RUN,)),
    "run record": (RUN / "run.json", SAMPLE, (SAMPLES,)),
    "checkpoint index": (CHECKPOINTS / "index.json", TRAIN, (RUN / "run.json",)),
    "training recipe": (RUN / "recipe.json", TRAIN, (RUN / "run.json",)),
    "sweep": (ROOT / "sweeps/mar-diffloss/mar-diff-4-cfg-best.json", BEST, ()),
    "sample manifest": (SAMPLES / "manifest.json", FEATURE, (FEATURES / "mar-diffloss",)),
    "feature manifest": (FEATURES / SET / "manifest.json", MEANS, (STATISTICS / "mar-diffloss",)),
    "metrics": (METRICS, TABLE, ()),
    "metrics of held-out images": (ROOT / "metrics/reference.json", TABLE, ()),
    "speed": (ROOT / "speed/mar-diffloss.json", TRADEOFF, ()),
    "claims": (ROOT / "claims.json", SUMMARY, ()),
    "tracked runs": (ROOT / "mlflow.json", REPORT, ()),
    "job": (ROOT / "jobs/x/job.json", JOBS, ()),
    "plan": (ROOT / "plan.json", ("mar", "plan", "--study", "smoke"), ()),
    "times": (ROOT / "times.json", ("mar", "plan", "--study", "smoke"), ()),
    "study.json": (ROOT / "study.json", TABLE, ()),
}
COUNTED = ("plan", "times")  # two kinds of damage are enough


def cases() -> Iterator[Case]:
    """Every case of this file."""
    for name, (path, command, made) in RECORDS.items():
        for what, value in NUMBERS.items():
            if "recipe" in name and what in ("a mapping of nothing", "of format 2", "of keys twice"):
                continue  # these are other recipes: the folder is moved aside
            if (name, what) in (("checkpoint index", "a list"), ("claims", "a list")):
                continue  # no checkpoint, no claim
            if name in COUNTED and what not in ("a list", "cut off"):
                continue
            make = write(path, value)
            yield Case(f"files: {name} {what}", again(*made)(make), command, (path.name,))
    yield from tokens()
    yield from weights()
    yield from checkpoints()
    yield from numbers()
    yield from records()
    yield from swapped()
    yield from logs_and_links()


def swapped() -> Iterator[Case]:
    """Files that are whole, in the place of others: as after a copy by hand, or of another run of the same study."""
    import shutil

    other, best = "mar-diffloss/seed0/mar-diff-4-cfg-best", ROOT / f"samples/{SET}-cfg-best"

    def instead(source: Path, target: Path, *made: Path) -> Callable[[], object]:
        def make() -> None:
            remove(*made, target)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)

        return make

    yield Case("files: samples of another setting in their place", instead(best, SAMPLES), EVALUATE, ("manifest",))
    yield Case(
        "files: features of another setting in their place",
        instead(FEATURES / other, FEATURES / SET, METRICS),
        EVALUATE,
        ("mar-diff-4",),
    )
    yield Case(
        "files: statistics of another setting in their place",
        instead(STATISTICS / f"{other}.npz", STATISTICS / f"{SET}.npz", METRICS),
        EVALUATE,
        (r"mar-diff-4\.npz",),
    )
    yield Case(
        "files: metrics of another setting in their place",
        instead(ROOT / f"metrics/{other}.json", METRICS),
        TABLE,
        (r"mar-diff-4\.json", "setting"),
    )
    yield Case(
        "files: metrics of samples in the place of the real ones",
        instead(METRICS, ROOT / "metrics/reference.json"),
        TABLE,
        (r"reference\.json",),
    )
    yield Case(
        "files: metrics of the real ones in the place of samples",
        instead(ROOT / "metrics/reference.json", METRICS),
        TABLE,
        (r"mar-diff-4\.json",),
    )
    yield Case(
        "files: features and statistics of the held-out images in the place of the real side",
        lambda: (
            instead(FEATURES / "heldout", FEATURES / "train", METRICS)(),
            instead(STATISTICS / "heldout.npz", STATISTICS / "train.npz")(),
        ),
        EVALUATE,
        ("train",),
    )
    yield Case(
        "files: features of the held-out images in the place of samples",
        instead(FEATURES / "heldout", FEATURES / SET, METRICS),
        EVALUATE,
        ("mar-diff-4",),
    )
    yield Case(
        "files: tokens of the held-out images in the place of those to train on",
        instead(ROOT / "tokens/kl/heldout", ROOT / "tokens/kl/train", RUN),
        TRAIN,
        ("tokens",),
    )
    yield Case(
        "files: a later tokenizer beside the tokens",
        lambda: (
            remove(SAMPLES),
            safetensors(
                ROOT / "tokenizers/kl/model.safetensors",
                Path("nothere"),
                "",
                lambda t: {k: v + 1 for k, v in t.items()},
            )(),
        ),
        SAMPLE,
        (r"model\.safetensors",),
    )
    yield Case(
        "files: a later classifier beside the features",
        lambda: (
            remove(FEATURES / "mar-diffloss", METRICS),
            safetensors(
                ROOT / "classifier/model.safetensors", Path("nothere"), "", lambda t: {k: v + 1 for k, v in t.items()}
            )(),
        ),
        ("bash", "-c", f"{' '.join(FEATURE)} && {' '.join(MEANS)} && {' '.join(EVALUATE)}"),
        ("classifier",),
        seconds=300,
    )
    yield Case(
        "files: data manifest of another image size",
        again(ROOT / "tokens/kl")(change(ROOT / "data/manifest.json", image_size=16)),
        ENCODE,
        ("manifest",),
    )
    yield Case(
        "files: data manifest of another kind",
        again(ROOT / "tokens/kl")(change(ROOT / "data/manifest.json", kind="imagefolder")),
        ENCODE,
        ("manifest",),
    )
    yield Case(
        "files: data manifest of other counts",
        again(ROOT / "tokens/kl")(
            lambda: edit(ROOT / "data/manifest.json", lambda m: m["splits"]["train"].update(count=5))
        ),
        ENCODE,
        ("manifest",),
    )
    yield Case(
        "files: data manifest of other classes",
        again(ROOT / "tokens/kl")(change(ROOT / "data/manifest.json", classes=["a", "b"])),
        ENCODE,
        ("manifest",),
    )
    yield Case(
        "files: classifier accuracy above 1",
        again(FEATURES / "mar-diffloss")(change(ROOT / "classifier/classifier.json", accuracy=1.5)),
        FEATURE,
        ("accuracy",),
    )
    speed = ROOT / "speed/mar-diffloss.json"
    for what, alter in (
        (
            "batches of negative seconds",
            lambda v: [p.update(batches=[-1.0, 1.0]) for p in v["points"].values()] and None,
        ),
        (
            "seconds outside their interval",
            lambda v: [p.update(seconds_per_image=1e9) for p in v["points"].values()] and None,
        ),
        ("yardsticks of zero", lambda v: v.update(yardsticks=[0.0])),
    ):
        yield Case(
            f"files: speed {what}: figure", lambda alter=alter: edit(speed, alter), TRADEOFF, (r"mar-diffloss\.json",)
        )


def tokens() -> Iterator[Case]:
    manifest, names = ROOT / "tokens/kl/train/manifest.json", ("manifest",)
    anew = again(RUN)
    for key in ("scale", "shards", "kind", "classes", "labels_sha256", "token_dim"):
        yield Case(f"files: token manifest without {key}", anew(drop(manifest, key)), TRAIN, names)
    for what, values in (
        ("scale NaN", {"scale": float("nan")}),
        ("scale zero", {"scale": 0.0}),
        ("scale negative", {"scale": -1.0}),
        ("count of another number", {"count": 5}),
        ("views 10^9", {"views": 10**9}),
        ("tokens of another number", {"tokens": 9}),
        ("classes fewer than labels", {"classes": 2}),
        ("token_dim of another number", {"token_dim": 7}),
        (
            "shard outside",
            {"shards": [{"file": "../../../../outside/precious.txt", "count": 1293, "sha256": "0" * 64}]},
        ),
        ("shard absolute", {"shards": [{"file": "/etc/passwd", "count": 1293, "sha256": "0" * 64}]}),
    ):
        yield Case(f"files: token manifest {what}", anew(change(manifest, **values)), TRAIN, ("manifest|tokens",))
    shard = ROOT / "tokens/kl/train"

    def piece(value: Any) -> Callable[[], object]:
        def make() -> None:
            record = json.loads(manifest.read_text())
            matching(shard / record["shards"][0]["file"], value, manifest, "shards", 0, "sha256")()

        return make

    yield Case(
        "files: token file pickled, checksum right", anew(piece(np.array([Payload()], dtype=object))), TRAIN, ("npy",)
    )
    yield Case(
        "files: token file of another shape, checksum right",
        anew(piece(np.zeros((1293, 3), np.float32))),
        TRAIN,
        ("npy",),
    )
    yield Case(
        "files: token file NaN, checksum right",
        anew(piece(np.full((1293, 1, 16, 32), np.nan, np.float16))),
        TRAIN,
        ("npy|tokens|nan",),
    )
    yield Case("files: token file garbage", anew(piece(b"garbage")), TRAIN, ("npy",))
    labels = shard / "labels.npy"
    for what, value in (
        ("pickled", np.array([Payload()] * 1293, dtype=object)),
        ("of another count", np.zeros(5, np.int64)),
        ("above the classes", np.full(1293, 1000, np.int64)),
        ("negative", np.full(1293, -5, np.int64)),
        ("of text", np.full(1293, "a")),
    ):
        yield Case(
            f"files: token labels {what}, checksum right",
            anew(matching(labels, value, manifest, "labels_sha256")),
            TRAIN,
            ("labels",),
        )


def weights() -> Iterator[Case]:
    import torch

    kl = ROOT / "tokenizers/kl"
    encode = again(ROOT / "tokens/kl")
    for what, value in (
        ("a pickle", pickle.dumps(Payload())),
        ("empty", b""),
        ("garbage", bytes(range(256)) * 9),
        ("a header of 10^18 bytes", b"\xff" * 7 + b"\x0f{}"),
    ):
        yield Case(
            f"files: tokenizer weights {what}",
            encode(write(kl / "model.safetensors", value)),
            ENCODE,
            ("model.safetensors",),
        )
    yield Case(
        "files: tokenizer weights missing",
        encode(lambda: remove(kl / "model.safetensors")),
        ENCODE,
        ("model.safetensors",),
    )
    fault = safetensors(
        kl / "model.safetensors",
        Path("nothere"),
        "",
        lambda t: {k: torch.full_like(v, torch.nan) for k, v in t.items()},
    )
    yield Case("files: tokenizer weights NaN", encode(fault), ENCODE, ("model.safetensors|kl",))
    fault = safetensors(kl / "model.safetensors", Path("nothere"), "", lambda t: {k: v.double() for k, v in t.items()})
    yield Case("files: tokenizer weights float64", encode(fault), ENCODE, ("model.safetensors",))
    yield Case(  # the network is built from the study; its configuration is noted for others
        "files: tokenizer record with a net of nothing",
        encode(change(kl / "config.json", net={})),
        ENCODE,
        right="works",
    )
    yield Case(
        "files: tokenizer record of another kind",
        encode(change(kl / "config.json", kind="vq")),
        ENCODE,
        ("config.json|kl",),
    )
    draw = again(SAMPLES)
    average = RUN / "ema.safetensors"
    for what, alter in (
        ("of another model", lambda t: {"x": torch.zeros(2)}),
        ("of a shape", lambda t: {k: torch.zeros(3) for k in t}),
        ("NaN", lambda t: {k: torch.full_like(v, torch.nan) for k, v in t.items()}),
        ("of whole numbers", lambda t: {k: v.long() for k, v in t.items()}),
    ):
        yield Case(
            f"files: model weights {what}, checksum right",
            draw(safetensors(average, RUN / "run.json", "checkpoint", alter)),
            SAMPLE,
            ("ema.safetensors|seed0",),
        )
    yield Case(
        "files: model weights edited",
        draw(safetensors(average, Path("nothere"), "", lambda t: {k: v + 1 for k, v in t.items()})),
        SAMPLE,
        ("ema.safetensors|run.json|seed0",),
    )
    feature = again(FEATURES / "mar-diffloss")
    judge = ROOT / "classifier/model.safetensors"
    yield Case("files: classifier weights garbage", feature(write(judge, b"garbage")), FEATURE, ("classifier",))
    yield Case(
        "files: classifier weights NaN",
        feature(safetensors(judge, Path("nothere"), "", lambda t: {k: v * torch.nan for k, v in t.items()})),
        FEATURE,
        ("classifier",),
    )
    yield Case(
        "files: classifier record without classes",
        feature(drop(ROOT / "classifier/classifier.json", "classes")),
        FEATURE,
        ("classes",),
    )
    yield Case(
        "files: classifier record of other classes",
        feature(change(ROOT / "classifier/classifier.json", classes=["a"])),
        FEATURE,
        ("class",),
    )


def checkpoints() -> Iterator[Case]:
    names = ("checkpoints",)
    for what, value in (
        ("an old pickle that runs a command", old_pickle),
        ("a zip that runs a command", zip_pickle),
        ("garbage", b"garbage" * 99),
        ("empty", b""),
        ("of another model", other_model),
        ("of another optimiser", state_with(lambda s: s["optimizer"]["state"].clear())),
        ("without the average", state_with(lambda s: s["ema"].clear())),
        ("without images", state_with(lambda s: s.pop("images"))),
        ("of images of text", state_with(lambda s: s.update(images="x"))),
        ("of images between batches", state_with(lambda s: s.update(images=650))),
        ("of negative images", state_with(lambda s: s.update(images=-64))),
        ("of more images than the recipe", state_with(lambda s: s.update(images=10**9))),
        ("of NaN", state_with(lambda s: [v.fill_(float("nan")) for v in s["model"].values() if v.is_floating_point()])),
    ):
        yield Case(f"files: checkpoint {what}, checksum right", checkpoint(value), TRAIN, names)
    for what, value in (
        ("a mapping", {"a": 1}),
        ("a list of numbers", [1, 2]),
        ("without sha256", lambda all: [e.pop("sha256") for e in all] and all),
        (
            "with a file outside",
            lambda all: [e.update(file="../../../../../outside/precious.txt") for e in all] and all,
        ),
        ("with an absolute file", lambda all: [e.update(file="/etc/passwd") for e in all] and all),
        ("with wrong checksums", lambda all: [e.update(sha256="0" * 64) for e in all] and all),
        ("with images of text", lambda all: [e.update(images="x") for e in all] and all),
        ("with negative images", lambda all: [e.update(images=-1) for e in all] and all),
    ):
        yield Case(f"files: checkpoint index {what}", index(value), TRAIN, names)
    yield Case(
        "files: checkpoints a file",
        lambda: (remove(CHECKPOINTS, RUN / "run.json"), put(CHECKPOINTS, "x")),
        TRAIN,
        names,
    )


def numbers() -> Iterator[Case]:
    manifest = SAMPLES / "manifest.json"
    feature = again(FEATURES / "mar-diffloss")

    def chunk(value: Any) -> Callable[[], object]:
        def make() -> None:
            record = json.loads(manifest.read_text())
            matching(SAMPLES / record["chunks"][0]["file"], value, manifest, "chunks", 0, "sha256")()

        return feature(make)

    for what, value in (
        ("pickled", np.array([Payload()] * 50, dtype=object)),
        ("of another shape", np.zeros((50, 7, 7, 3), np.uint8)),
        ("of floats", np.zeros((50, 32, 32, 3), np.float32)),
        ("of fewer images", np.zeros((3, 32, 32, 3), np.uint8)),
        ("a scalar", np.array(5)),
        ("garbage", b"garbage"),
        (
            "of a header of 10^18 images",
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000, 32, 32, 3), }".ljust(117)
            + b"\n",
        ),
    ):
        yield Case(f"files: sample chunk {what}, checksum right", chunk(value), FEATURE, ("chunk-",))
    labels = SAMPLES / "labels.npy"
    for what, value in (
        ("pickled", np.array([Payload()] * 100, dtype=object)),
        ("of another count", np.zeros(3, np.int64)),
        ("above the classes", np.full(100, 10**6)),
    ):
        yield Case(
            f"files: sample labels {what}, checksum right",
            feature(matching(labels, value, manifest, "labels_sha256")),
            FEATURE,
            ("labels",),
        )
    yield Case(
        "files: sample labels pickled",
        feature(write(labels, np.array([Payload()] * 100, dtype=object))),
        FEATURE,
        ("labels",),
    )
    yield Case("files: sample labels missing", feature(lambda: remove(labels)), FEATURE, ("labels",))
    for what, alter in (
        ("without chunks", lambda v: v.update(chunks=[])),
        ("of a chunk outside", lambda v: v["chunks"][0].update(file="../../../../../../outside/precious.txt")),
        ("of another checksum", lambda v: v["chunks"][0].update(sha256="0" * 64)),
        ("of another count", lambda v: v.update(count=7)),
        ("of another setting", lambda v: v.update(setting="other")),
        ("of an unknown sampling key", lambda v: v["sampling"].update(nothere=1)),
    ):
        yield Case(
            f"files: sample manifest {what}",
            feature(lambda alter=alter: edit(manifest, alter)),
            FEATURE,
            ("manifest|chunk",),
        )
    means, parts = again(STATISTICS / "mar-diffloss"), FEATURES / SET / "manifest.json"

    def part(alter: Callable[[dict[str, Any]], object] | bytes) -> Callable[[], object]:
        def make() -> None:
            record = json.loads(parts.read_text())
            path = parts.parent / record["parts"][0]["file"]
            if isinstance(alter, bytes):
                put(path, alter)
            else:
                with np.load(path) as arrays:
                    values = {name: arrays[name] for name in arrays.files}
                alter(values)
                with open(path, "wb") as file:
                    np.savez(file, allow_pickle=True, **values)
            edit(parts, lambda v: v["parts"][0].update(sha256=digest(path)))

        return means(make)

    for what, alter in (
        ("pickled", lambda v: v.update(features=np.array([Payload()] * 100, dtype=object))),
        ("NaN", lambda v: v["features"].fill(np.nan)),
        ("infinite", lambda v: v["features"].fill(np.inf)),
        ("of another width", lambda v: v.update(features=np.zeros((100, 0), np.float32))),
        ("of fewer images", lambda v: v.update(features=v["features"][:3])),
        ("of text", lambda v: v.update(features=np.full((100, 64), "a"))),
        ("without features", lambda v: v.pop("features")),
        ("garbage", b"garbage"),
        ("an empty zip", b"PK\x05\x06" + bytes(18)),
    ):
        yield Case(f"files: feature part {what}, checksum right", part(alter), MEANS, ("part-|npz|features",))
    for key in ("parts", "keys", "extractor", "source"):
        yield Case(f"files: feature manifest without {key}", means(drop(parts, key)), MEANS, (key,))
    for what, alter in (
        ("shifted", lambda v: v.update(mu=v["mu"] + 1)),
        ("scaled", lambda v: v.update(sigma=v["sigma"] * 2)),
        ("of another width", lambda v: v.update(mu=np.zeros(5), sigma=np.eye(5))),
        ("sigma not symmetric", lambda v: v["sigma"].__setitem__((0, 1), 9.0)),
        ("sigma negative", lambda v: v.update(sigma=-v["sigma"])),
        ("NaN", lambda v: v.update(mu=v["mu"] * np.nan)),
        ("sigma a vector", lambda v: v.update(sigma=np.diag(v["sigma"]))),
        ("without sigma", lambda v: v.pop("sigma")),
        ("complex", lambda v: v.update(mu=v["mu"].astype(complex))),
        ("about of another text", lambda v: v.update(about=np.array("[]"))),
        ("about cut off", lambda v: v.update(about=np.array(str(v["about"])[:40]))),
        ("without about", lambda v: v.pop("about")),
        ("pickled", lambda v: v.update(mu=np.array([Payload()], dtype=object))),
    ):
        yield Case(f"files: statistics of the real side {what}", statistics(alter), EVALUATE, (r"train\.npz",))
        yield Case(f"files: statistics of the samples {what}", statistics(alter, SET), EVALUATE, (r"mar-diff-4\.npz",))
    yield Case(
        "files: statistics garbage",
        lambda: (remove(METRICS), put(STATISTICS / "train.npz", b"garbage")),
        EVALUATE,
        (r"train\.npz",),
    )
    yield Case(
        "files: features of the real side edited",
        lambda: (
            remove(METRICS),
            [edit(FEATURES / "train/manifest.json", lambda v: v["parts"][0].update(sha256="0" * 64))],
        ),
        EVALUATE,
        ("train",),
    )


def records() -> Iterator[Case]:
    names = (r"mar-diff-4\.json",)
    for what, make in (
        ("fid of text", metric(value="x")),
        ("fid NaN", metric(value=float("nan"))),
        ("fid null", metric(value=None)),
        ("fid negative", metric(value=-3.0, low=-4.0, high=-2.0)),
        ("fid true", metric(value=True)),
        ("fid infinite", metric(value=float("inf"))),
        ("fid outside its interval", metric(value=10.0**6)),
        ("fid 10^300", metric(value=1e300, low=1e300, high=1e300)),
        ("interval inverted", metric(low=100.0, high=-100.0)),
        ("precision above 1", metric("precision", value=7.0, low=6.0, high=8.0)),
        ("Inception Score below 1", metric("inception_score", value=0.1, low=0.05, high=0.2)),
        ("without fid", lambda: edit(METRICS, lambda v: v["metrics"].pop("fid"))),
        ("without inputs", drop(METRICS, "inputs")),
        ("of another variant", change(METRICS, variant="dit")),
        ("of another seed", change(METRICS, seed=7)),
        ("samples negative", change(METRICS, samples=-5)),
    ):
        yield Case(f"files: metrics {what}: table", make, TABLE, names)
        yield Case(f"files: metrics {what}: claims", make, CLAIMS, names)
    sweep = ROOT / "sweeps/mar-diffloss/mar-diff-4-cfg-best.json"
    for what, alter in (
        ("best out of range", lambda v: v["best"].update(guidance=100.0)),
        ("best NaN", lambda v: v["best"].update(guidance=float("nan"))),
        ("best negative", lambda v: v["best"].update(temperature=-1.0)),
        ("best and its point negative", lambda v: (v["best"].update(temperature=-1.0), v["grid"][0].update(v["best"]))),
        ("without a grid", lambda v: v.update(grid=[])),
        ("of another variant", lambda v: v.update(variant="dit")),
    ):
        yield Case(
            f"files: sweep {what}: sample",
            again(ROOT / "samples/mar-diffloss/seed0/mar-diff-4-cfg-best")(lambda alter=alter: edit(sweep, alter)),
            BEST,
            ("mar-diff-4-cfg-best",),
        )
    speed = ROOT / "speed/mar-diffloss.json"
    for what, alter in (
        ("seconds negative", lambda v: [p.update(seconds_per_image=-1.0) for p in v["points"].values()] and None),
        (
            "seconds zero",
            lambda v: [p.update(seconds_per_image=0.0, low=0.0, high=0.0) for p in v["points"].values()] and None,
        ),
        ("seconds NaN", lambda v: [p.update(low=float("nan")) for p in v["points"].values()] and None),
        ("without points", lambda v: v.update(points={})),
        ("of another variant", lambda v: v.update(variant="dit")),
    ):
        yield Case(
            f"files: speed {what}: figure", lambda alter=alter: edit(speed, alter), TRADEOFF, (r"mar-diffloss\.json",)
        )
    run = RUN / "run.json"
    for what, alter in (
        ("parameters negative", lambda v: v.update(parameters=-1)),
        ("without checkpoint", lambda v: v.pop("checkpoint") and None),
        ("of another variant", lambda v: v.update(variant="dit")),
        ("seconds infinite", lambda v: v.update(seconds=float("inf"))),
    ):
        yield Case(f"files: run record {what}: summary", lambda alter=alter: edit(run, alter), CLAIMS, (r"run\.json",))
    rfid = ROOT / "tokenizers/kl/rfid.json"
    for what, alter in (
        ("negative", lambda v: v["metrics"]["rfid"].update(value=-3.0, low=-4.0, high=-2.0)),
        ("without rfid", lambda v: v["metrics"].pop("rfid") and None),
        ("count zero", lambda v: v.update(count=0)),
    ):
        yield Case(
            f"files: rfid record {what}: claims", lambda alter=alter: edit(rfid, alter), CLAIMS, (r"rfid\.json",)
        )
    claims = ROOT / "claims.json"
    for what, alter in (
        ("verdict of another word", lambda v: v[0].update(verdict="yes") or v),
        ("effect NaN", lambda v: [c.update(effect=float("nan")) for c in v] and v),
        ("without text", lambda v: [c.pop("text") for c in v] and v),
    ):
        yield Case(
            f"files: claims.json {what}: summary", lambda alter=alter: edit(claims, alter), SUMMARY, (r"claims\.json",)
        )
        yield Case(
            f"files: claims.json {what}: report", lambda alter=alter: edit(claims, alter), REPORT, (r"claims\.json",)
        )
    yield Case("files: study.json of another study", change(ROOT / "study.json", study="other"), TABLE, ("study",))
    yield Case(
        "files: study.json that extends", change(ROOT / "study.json", extends="digits.yaml"), TABLE, ("study|extends",)
    )
    yield Case(
        "files: table CSV a folder",
        lambda: (remove(ROOT / "tables/table1.csv"), (ROOT / "tables/table1.csv").mkdir()),
        TABLE,
        (r"table1\.csv",),
    )
    yield Case(  # the page has the numbers of the metrics' files, and links those tables that are there
        "files: table Markdown without inputs: report", lambda: remove(ROOT / "tables/table1.md"), REPORT, right="works"
    )
    yield Case(
        "files: picture of a figure garbage: report",
        write(Path("figures/smoke/samples.png"), b"garbage"),
        REPORT,
        (r"samples\.png",),
    )
    yield Case(
        "files: picture of a figure missing: report",
        lambda: remove(Path("figures/smoke/samples.png")),
        REPORT,
        ("samples",),
    )


def logs_and_links() -> Iterator[Case]:
    lines = {
        "Infinity": '{"images": Infinity, "loss": 1}',
        "NaN": '{"images": 64, "loss": NaN}',
        "no loss": '{"images": 1280}',
        "loss of text": '{"images": 1280, "loss": "x"}',
        "images of text": '{"images": "x", "loss": 1}',
        "images negative": '{"images": -5, "loss": 1}',
        "images 10^400": '{"images": 1' + "0" * 400 + ', "loss": 1}',
        "a list": "[1, 2]",
        "nesting": "[" * 100_000,
        "a number of 5,000 digits": '{"images": ' + "9" * 5000 + ', "loss": 1}',
        "seconds of text": '{"images": 1280, "loss": 1, "seconds": "x", "learning_rate": "y"}',
        "bytes": "\x00\xff\xfe",
        "a terminal escape": '{"images": 1280, "loss": 1, "time": "\\u001b[31m"}',
    }
    for what, line in lines.items():
        yield Case(
            f"files: metrics.jsonl with a line of {what}: watch", log_line(line), WATCH, right="works", seconds=60
        )
        yield Case(f"files: metrics.jsonl with a line of {what}: training ends", ends(line), TRAIN, right="works")
        yield Case(
            f"files: metrics.jsonl with a line of {what}: figure",
            log_line(line),
            ("mar", "figure", *STUDY, "--name", "losses", "--out", "figures/smoke"),
            right="works",
        )
    outside = Path("../outside")
    for what, lock, command in (
        ("data", ROOT / "data/.lock", PREPARE),
        ("training", RUN / ".lock", TRAIN),
        ("assets", Path("results/assets/.lock"), ("mar", "import", "official-mar", "x.pth", "--as", "x")),
    ):

        def link(lock: Path = lock) -> None:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.unlink(missing_ok=True)
            lock.symlink_to((outside / "precious.txt").resolve())
            put(Path("x.pth"), "x")

        yield Case(f"files: .lock of {what} is a link out of the tree", link, command, (r"\.lock",))
    yield Case(
        "files: .lock a folder",
        lambda: ((ROOT / "data/.lock").unlink(missing_ok=True), (ROOT / "data/.lock").mkdir()),
        PREPARE,
        (r"\.lock",),
    )
    yield Case(
        "files: .lock a FIFO",
        lambda: ((ROOT / "data/.lock").unlink(missing_ok=True), os.mkfifo(ROOT / "data/.lock")),
        PREPARE,
        (r"\.lock",),
        seconds=40,
    )
    for what, path, command, made in (
        ("manifest a FIFO", SAMPLES / "manifest.json", FEATURE, (FEATURES / "mar-diffloss",)),
        ("manifest a link to /dev/zero", SAMPLES / "manifest.json", FEATURE, (FEATURES / "mar-diffloss",)),
        ("metrics a FIFO", METRICS, TABLE, ()),
        ("weights a FIFO", RUN / "ema.safetensors", SAMPLE, (SAMPLES,)),
        ("study.json a FIFO", ROOT / "study.json", TABLE, ()),
        ("metrics.jsonl a FIFO", RUN / "metrics.jsonl", WATCH, ()),
        ("labels a FIFO", SAMPLES / "labels.npy", FEATURE, (FEATURES / "mar-diffloss",)),
    ):

        def pipe(path: Path = path, zero: bool = "zero" in what) -> None:
            path.unlink()
            path.symlink_to("/dev/zero") if zero else os.mkfifo(path)

        yield Case(f"files: {what}", again(*made)(pipe), command, (path.name,), seconds=40)
    yield Case(
        "files: a folder where a record is", again()(lambda: (remove(METRICS), METRICS.mkdir())), TABLE, (METRICS.name,)
    )
    yield Case(
        "files: digits.npz pickled: encode",
        again(ROOT / "tokens/kl")(
            lambda: data_npz(lambda v: v.update({k: np.array([Payload()], dtype=object) for k in v}))
        ),
        ENCODE,
        (r"\.npz",),
    )
    yield Case(
        "files: digits.npz of other images: encode",
        again(ROOT / "tokens/kl")(lambda: data_npz(lambda v: [v.update({k: a[::-1]}) for k, a in list(v.items())])),
        ENCODE,
        (r"\.npz|digits",),
    )
    yield Case(
        "files: digits.npz garbage: encode",
        again(ROOT / "tokens/kl")(lambda: put(data_file(), b"garbage")),
        ENCODE,
        (r"\.npz",),
    )


def data_file() -> Path:
    return next((ROOT / "data").glob("*.npz"))


def data_npz(alter: Callable[[dict[str, Any]], object]) -> None:
    path = data_file()
    with np.load(path) as arrays:
        values = {name: arrays[name] for name in arrays.files}
    alter(values)
    with open(path, "wb") as file:
        np.savez(file, **values)
