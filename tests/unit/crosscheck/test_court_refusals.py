"""`mar court` on a small study with its classifier: the table, and every input that is known to be wrong is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import judged
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mar.cli.__main__ import main
from mar.data.images import open_split
from mar.runtime.files import sha256, write
from mar.runtime.provenance import provenance
from mar.study.records import JudgedBy, Metric, MetricsFile, MetricsRecipe, RealSide
from mar.study.study import Study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    return judged.make(tmp_path_factory.mktemp("court"))


@pytest.fixture
def root(made: tuple[Study, Path], tmp_path: Path) -> Path:
    """The results, to be damaged."""
    return Path(shutil.copytree(made[1], tmp_path / made[1].name))


@pytest.fixture
def samples(root: Path) -> Path:
    return root / "samples" / "mar" / "seed0" / "plain"


@pytest.fixture
def court(root: Path) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(
            main, ["court", "--study", str(root / "study.json"), *(str(argument) for argument in arguments)]
        )

    return run


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 1, result.output
    assert message in result.stderr


def pictures(folder: Path, rows: np.ndarray, names: list[str] | None = None) -> Path:
    """Images as files, in a folder a class where classes are named."""
    for i, row in enumerate(rows):
        path = folder / (names[i] if names else "") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(path)
    return folder


def rows_of(samples: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(samples.glob("chunk-*.npy"))])


def test_the_table_of_a_sample_set(court: Callable[..., Result], root: Path, samples: Path, tmp_path: Path) -> None:
    metrics = {
        name: {
            "value": value,
            "low": value,
            "high": value,
            "n": 60,
            "bootstrap": 0,
            "seed": 0,
            "higher_is_better": None,
        }
        for name, value in (("fid", 1.5), ("nearest", 0.1))
    }
    real = RealSide(name="train split", sha256="a" * 64)
    inputs = {"samples": sha256(samples / "manifest.json")}
    record = MetricsFile(
        variant="mar",
        seed=0,
        setting="plain",
        samples=60,
        extractor="classifier",
        extractors={"classifier": JudgedBy(weights="0" * 64, note="", reference=real)},
        reference=real,
        metrics={name: Metric(**metric) for name, metric in metrics.items()},
        inputs=inputs,
        recipe=MetricsRecipe(slice="{}", inputs=inputs),
        provenance=provenance(),
    )
    file = root / "metrics" / "mar" / "seed0" / "plain.json"
    write(file, record)
    result = court("--samples", samples, "--out", tmp_path / "out", "--count", 60)
    assert result.exit_code == 0, result.output
    assert "NOT ACCOUNTED FOR" not in result.output
    for said in (
        "torch-fidelity 0.4.0",
        "clean-fid (functions)",
        "ADM suite",
        "peak memory",
        "direction: given the other",
    ):
        assert said in result.output
    assert "labels and the network's classes share" in result.output
    assert f"{file} says fid 1.5 (here " in result.output
    lines = (tmp_path / "out" / "court.csv").read_text().splitlines()
    assert lines[0].startswith("evaluator,FID,sFID,IS,precision,recall,KID,images,network,resize,")
    assert [line.split(",")[0] for line in lines[1:]] == [
        "ours",
        "torch-fidelity 0.4.0",
        "clean-fid (functions)",
        "ADM suite",
    ]
    text = re.sub(" +", " ", (tmp_path / "out" / "court.md").read_text())
    assert text.count("| ADM suite |") == 5
    assert (tmp_path / "out" / "court-reasons.csv").exists()


def test_a_file_sorted_by_class_is_refused_and_an_export_of_it_is_not(
    court: Callable[..., Result], samples: Path, tmp_path: Path
) -> None:
    rows, labels = rows_of(samples), np.arange(60) % 10
    order = np.argsort(labels, kind="stable")
    np.savez(tmp_path / "named.npz", arr_0=rows[order], arr_1=labels[order])
    refused(court("--samples", tmp_path / "named.npz"), "the set is sorted by class")
    np.savez(tmp_path / "sorted.npz", arr_0=rows[order])  # then by what the classifier sees
    refused(court("--samples", tmp_path / "sorted.npz"), "or let `mar export-adm --samples` do it")
    export = ["export-adm", "--samples", str(tmp_path / "named.npz"), "--out", str(tmp_path / "adm.npz")]
    assert CliRunner().invoke(main, export).exit_code == 0
    result = court("--samples", tmp_path / "adm.npz")
    assert result.exit_code == 0, result.output


def test_truncated_sets_are_refused(court: Callable[..., Result], samples: Path, tmp_path: Path) -> None:
    refused(court("--samples", samples, "--count", 100), "holds 60 images; accepted: at least the 100 asked for")
    np.savez(tmp_path / "cut.npz", arr_0=rows_of(samples))
    data = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    refused(court("--samples", tmp_path / "cut.npz"), "cut.npz: no valid .npz")
    chunk = samples / "chunk-00001.npy"
    chunk.write_bytes(chunk.read_bytes()[:-1000])
    refused(
        court("--samples", samples), "chunk-00001.npy: differs from its checksum in the manifest (damaged or cut off)"
    )
    chunk.unlink()
    refused(court("--samples", samples), "chunk-00001.npy: missing")
    shutil.copytree(samples, tmp_path / "elsewhere")
    refused(court("--samples", tmp_path / "elsewhere"), "chunk-00001.npy: missing")
    manifest = json.loads((samples / "manifest.json").read_text())
    manifest |= {"count": 30, "chunks": manifest["chunks"][:1]}
    (samples / "manifest.json").write_text(json.dumps(manifest))
    refused(court("--samples", samples), "manifest.json: holds 30 images; accepted: metrics.samples 60")


def test_mislabelled_sets_are_refused(court: Callable[..., Result], samples: Path, tmp_path: Path) -> None:
    rows, labels = rows_of(samples), np.arange(60) % 10
    shuffled = np.random.default_rng(1).permutation(labels)
    np.savez(tmp_path / "mixed.npz", arr_0=rows, arr_1=shuffled)
    refused(court("--samples", tmp_path / "mixed.npz"), "the labels do not belong to the images")
    np.savez(tmp_path / "renamed.npz", arr_0=rows, arr_1=(labels + 1) % 10)
    refused(court("--samples", tmp_path / "renamed.npz"), "classes carry other numbers than the network's")
    np.savez(tmp_path / "eleven.npz", arr_0=rows, arr_1=labels + 1)
    refused(court("--samples", tmp_path / "eleven.npz"), "classes 1 to 10; accepted: 0 to 9")
    named = pictures(tmp_path / "named", rows, [f"digit{label}" for label in labels])
    refused(
        court("--samples", named), "class folders digit0, digit1, digit2, digit3, digit4 and 5 more; accepted: classes"
    )
    np.save(samples / "labels.npy", shuffled)
    refused(court("--samples", samples), "labels.npy: image 0 has class")


def test_a_generator_that_ignores_its_class_is_judged(
    court: Callable[..., Result], root: Path, samples: Path, tmp_path: Path
) -> None:
    """Weak models do; the set and its export say by checksum which classes were asked for."""
    manifest, rows = json.loads((samples / "manifest.json").read_text()), rows_of(samples)
    mixed = rows[np.random.default_rng(1).permutation(60)]
    for chunk in manifest["chunks"]:
        first, mixed = mixed[: chunk["count"]], mixed[chunk["count"] :]
        np.save(samples / chunk["file"], first)
        chunk["sha256"] = sha256(samples / chunk["file"])
    manifest["labels_sha256"] = sha256(samples / "labels.npy")
    (samples / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "adm.npz"
    assert CliRunner().invoke(main, ["export-adm", "--samples", str(samples), "--out", str(out)]).exit_code == 0
    for source in (samples, out):
        result = court("--samples", source)
        assert result.exit_code == 0, result.output
        assert "this generator ignores its class" in result.output
    members = dict(np.load(out))
    np.savez(out, **(members | {"arr_1": members["arr_1"][::-1]}))
    refused(court("--samples", out), "arr_1 differs from its checksum: mislabelled")


def test_a_folder_by_class_is_judged_in_a_shuffled_order(
    court: Callable[..., Result], samples: Path, tmp_path: Path
) -> None:
    """Of fewer classes than the study too: folder names say which."""
    rows, labels = rows_of(samples), np.arange(60) % 10
    kept = labels > 2
    folder = pictures(tmp_path / "named", rows[kept], [str(label) for label in labels[kept]])
    result = court("--samples", folder)
    assert result.exit_code == 0, result.output
    assert "the order of ADM's file is that of `mar export-adm`, drawn from seed 0" in result.output


def test_swapped_sets_are_refused(
    court: Callable[..., Result], made: tuple[Study, Path], samples: Path, tmp_path: Path
) -> None:
    swapped = "Were --samples and --reference swapped?"
    train = open_split(*made, "train")
    real = pictures(tmp_path / "real", train.arrays(range(60)))
    generated = pictures(tmp_path / "generated", rows_of(samples))
    for source, reference, found in (
        ("train", samples, "--samples train: is a split of real images"),
        (samples, samples, f"--reference {samples}: holds generated images"),
        (real, "train", "60 of 60 images are bit for bit images of train split"),
        (real, generated, "60 of 60 images are bit for bit images of the study's train split"),
    ):
        result = court("--samples", source, "--reference", reference, "--unknown-hash")
        refused(result, found)
        assert swapped in result.stderr
    np.savez(tmp_path / "batch.npz", arr_0=train.arrays(range(60)), mu=np.zeros(2048))
    refused(court("--samples", tmp_path / "batch.npz"), "holds real images; accepted: generated images")
    export = ["export-adm", "--samples", str(samples), "--out", str(tmp_path / "adm.npz")]
    assert CliRunner().invoke(main, export).exit_code == 0
    refused(
        court("--samples", samples, "--reference", tmp_path / "adm.npz"), "adm.npz: holds generated images; accepted"
    )


def test_published_references_are_known_as_samples(
    court: Callable[..., Result], samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "batch.npz", arr_0=rows_of(samples))
    head = "name,format,url,sha256,size,licence,source,note\n"
    row = f"batch-of-adm,reference,https://example.org/batch.npz,{sha256(tmp_path / 'batch.npz')},,,,\n"
    (tmp_path / "assets.csv").write_text(head + row)
    monkeypatch.setattr("mar.crosscheck.inputs.TABLE", tmp_path / "assets.csv")
    refused(court("--samples", tmp_path / "batch.npz"), "holds the reference batch-of-adm; accepted: generated images")


def test_a_reference_of_unknown_hash_needs_the_option(
    court: Callable[..., Result], made: tuple[Study, Path], samples: Path, tmp_path: Path
) -> None:
    real = pictures(tmp_path / "real", open_split(*made, "train").arrays(range(200)))
    refused(court("--samples", samples, "--reference", real), "(here: --unknown-hash)")
    result = court("--samples", samples, "--reference", real, "--unknown-hash")
    assert result.exit_code == 0, result.output
    assert f"reference {real} of unknown hash" in result.output


def test_images_of_another_size_are_refused(court: Callable[..., Result], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)
    refused(court("--samples", pictures(tmp_path / "large", rows)), "images of side 20, train split: of 16")


def test_without_weights_it_says_how_to_fetch_them(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pictures(tmp_path / "real", np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["court", "--samples", str(samples), "--reference", str(real), "--unknown-hash"])
    refused(result, "mar fetch inception")
    assert "--random-weights" in result.stderr
    refused(CliRunner().invoke(main, ["court", "--samples", str(samples)]), "--reference is needed: without --study")
