"""Bundles, their check, results that are adopted, and two studies compared: all on one real study of seconds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pipeline
import pytest
import torch
from pydantic import ValidationError

from mar.bundle import adopt, checks, compare, contents, crate, record, write
from mar.bundle.record import BundleRecord, Held
from mar.features.features import features
from mar.metrics import evaluate, reconstruction
from mar.metrics.statistics import statistics
from mar.runtime import folders
from mar.runtime.files import sha256
from mar.sampling.sample_sets import sample
from mar.sampling.speed import measure
from mar.study import layout
from mar.study.parts import ImageFolder
from mar.study.reading import load
from mar.tokenizers.encode import encode
from mar.tokenizers.train import train as train_tokenizer
from mar.training.trainer import train

ROOT, SET = Path("results/pipeline"), "mar/seed0/plain"
CURVE = [{"label": "MAR", "variant": "mar", "sampling": ["plain"]}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder in which a study is finished but for its report, as the workflow finishes it."""
    folder = tmp_path_factory.mktemp("made")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        study = pipeline.study(
            metrics={"samples": 60, "chunk": 30, "bootstrap": 10}, speed={"batch": 2, "batches": 2}, tradeoff=CURVE
        )
        root = pipeline.with_classifier(layout.RESULTS, study)
        for name in ("train", "heldout"):
            features(study, root, "classifier", name)
        statistics(study, root, "classifier", "train")
        evaluate.reference(study, root)
        train_tokenizer(study, root, "kl")
        reconstruction.rfid(study, root, "kl")
        encode(study, root, "kl")
        train(study, root, "mar", 0)
        sample(study, root, "mar", 0, "plain")
        features(study, root, "classifier", SET)
        statistics(study, root, "classifier", SET)
        evaluate.evaluate(study, root, "mar", 0, "plain")
        measure(study, root, "mar")
        from mar.bundle.products import make

        assert make(study, root, layout.figures(root)) == {}
        write.bundle(study, root, Path("sound"), ())
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of that folder, which is the working directory."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    path.write_bytes(content)


def checked(folder: Path) -> list[checks.Check]:
    """Every check of a bundle, which makes its figures too: a second of the processor."""
    return list(checks.checks(folder, record.read(folder)))


def outcomes(found: list[checks.Check], file: str) -> dict[str, str]:
    return {check.number: check.outcome for check in found if check.file.endswith(file)}


def reseal(folder: Path) -> None:
    """Make a bundle of changed files whole again, as a forger would."""
    said = record.read(folder)
    files = [
        held.model_copy(update={"sha256": sha256(folder / held.file), "size": (folder / held.file).stat().st_size})
        for held in said.files
        if (folder / held.file).exists()
    ]
    record.write(folder, record.sealed(said.model_copy(update={"files": tuple(files)})))


def test_every_number_of_a_sound_bundle_is_computed_again(here):
    done = checked(here / "sound")
    assert len(done) > 30 and not [check for check in done if check.outcome == checks.DIFFERENT]
    found = outcomes(done, f"metrics/{SET}.json")
    for number in ("hash chain", "fid", "kid", "precision", "recall", "inception_score", "copied"):
        assert found[number] in (checks.SAME, checks.ROUNDING), number
    assert outcomes(done, f"statistics/classifier/{SET}.npz") == {"mu": checks.SAME, "sigma": checks.SAME}
    for file in ("tables/metrics.csv", "claims.json", "tradeoff.csv", "tradeoff.png", "losses.pdf"):
        assert outcomes(done, file) == {"": checks.SAME}, file
    assert outcomes(done, "rfid.json") == {"": checks.NOT}


def test_a_bit_that_is_flipped_in_any_kind_of_file_is_named(here):
    folder = here / "sound"
    said = record.read(folder)
    of_kind = {(held.kind, Path(held.file).suffix, Path(held.file).name[:4]): held.file for held in said.files}
    assert {kind for kind, _, _ in of_kind} == set(contents.KINDS) and len(of_kind) > 25
    for number, name in enumerate(of_kind.values()):
        path, content = folder / name, (folder / name).read_bytes()
        flip(path, 7919 * (number + 1))
        assert [wrong for wrong, _ in record.damage(folder, said)] == [name]
        path.write_bytes(content)
    assert list(record.damage(folder, said)) == []
    bundle = folder / record.BUNDLE
    content = bundle.read_bytes()
    for place in range(0, len(content), 997):
        flip(bundle, place)
        with pytest.raises(ValueError, match=re.escape(str(bundle))):
            record.read(folder)
        bundle.write_bytes(content)
    flip(folder / "DATA_CARD.md", 5)
    lines, right = checks.verify(folder)
    assert not right and "damaged: DATA_CARD.md: differs from its checksum in bundle.json" in "\n".join(lines)


def test_files_that_are_added_removed_or_linked_are_named(here):
    folder = here / "sound"
    said = record.read(folder)
    (folder / "more.txt").write_text("x")
    (folder / "MODEL_CARD.md").unlink()
    (folder / "DATA_CARD.md").unlink()
    (folder / "DATA_CARD.md").symlink_to("/etc/hostname")
    assert sorted(record.damage(folder, said)) == [
        ("DATA_CARD.md", "a link, folder or device, which is no file of a bundle"),
        ("MODEL_CARD.md", "missing"),
        ("more.txt", "bundle.json does not name it"),
    ]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "./x", ""])
def test_a_path_out_of_the_bundle_is_refused(name):
    with pytest.raises(ValidationError, match="accepted: the path of a file in the bundle"):
        Held(file=name, kind="card", size=0, sha256="0" * 64)
    with pytest.raises(ValidationError, match="accepted: the path of a file in the bundle"):
        BundleRecord(study=name, title="", time="", versions={}, files=(), digest="0" * 64)


def test_a_number_that_does_not_follow_is_found_though_all_checksums_agree(here):
    folder = here / "sound"
    path = folder / "results/pipeline/metrics" / f"{SET}.json"
    values = json.loads(path.read_text())
    values["metrics"]["fid"]["low"] *= 0.99
    path.write_text(json.dumps(values))
    reseal(folder)
    lines, right = checks.verify(folder)
    wrong = [line.split()[1] for line in lines if line.strip().startswith("DIFFERENT")]
    assert not right
    assert f"results/pipeline/metrics/{SET}.json:" in wrong and "results/pipeline/tables/metrics.csv" in wrong
    assert f"  {checks.SAME:<20} results/pipeline/metrics/{SET}.json: hash chain, inception_score" in "\n".join(lines)


def test_what_is_cut_is_named_and_what_no_longer_follows_is_said(here):
    study = load(layout.study(ROOT))
    write.bundle(study, ROOT, here / "cut", ("heldout",))
    said = record.read(here / "cut")
    assert [cut.what for cut in said.cut] == ["features/classifier/train", f"features/classifier/{SET}"]
    assert not any("features/classifier/mar" in held.file and held.kind == "features" for held in said.files)
    done = checked(here / "cut")
    found = outcomes(done, f"metrics/{SET}.json")
    assert found["fid without its interval"] in (checks.SAME, checks.ROUNDING)
    assert {found[number] for number in ("interval of fid", "precision", "recall", "kid", "copied")} == {checks.NOT}
    assert outcomes(done, "metrics/reference.json")["precision"] == checks.NOT
    with pytest.raises(ValueError, match="--sets: found 'nothing'"):
        write.bundle(study, ROOT, here / "other", ("nothing",))
    with pytest.raises(ValueError, match="exists; accepted"):
        write.bundle(study, ROOT, here / "cut", ())


def test_parts_are_joined_and_parts_that_disagree_are_refused(here):
    study = load(layout.study(ROOT))
    shutil.move(ROOT / "speed", here / "speed")
    write.bundle(study, ROOT, here / "a", ())
    shutil.move(here / "speed", ROOT / "speed")
    shutil.rmtree(ROOT / "metrics/mar")
    write.bundle(study, ROOT, here / "b", ())
    assert f"results/pipeline/metrics/{SET}.json" in record.read(here / "b").missing
    write.join([here / "a", here / "b"], here / "ab")
    done = checked(here / "ab")
    assert not [check for check in done if check.outcome == checks.DIFFERENT]
    assert outcomes(done, "tables/metrics.csv") == outcomes(done, "losses.png") == {"": checks.SAME}
    assert [one.digest for one in record.read(here / "ab").joined] == [record.read(here / n).digest for n in ("a", "b")]
    flip(here / "b/results/pipeline/runs/mar/seed0/metrics.jsonl", 9)
    with pytest.raises(ValueError, match=r"b: damaged: results/pipeline/runs/mar/seed0/metrics.jsonl"):
        write.join([here / "a", here / "b"], here / "no")
    reseal(here / "b")
    with pytest.raises(ValueError, match=r"differs in .*a and .*b; accepted: parts that share"):
        write.join([here / "a", here / "b"], here / "no")
    assert not (here / "no").exists()


def test_no_image_of_unknown_licence_is_shown(here):
    study = load(layout.study(ROOT))
    files = ImageFolder(kind="imagefolder", path="/x", image_size=study.data.image_size)
    own = study.model_copy(update={"data": files})
    layout.report(ROOT).write_text("page")
    shown, hidden = (contents.of_study(of, ROOT, ()) for of in (study, own))
    assert "results/pipeline/report.html" in shown.files and "results/pipeline/report.html" not in hidden.files
    assert [cut.what for cut in hidden.cut] == ["results/pipeline/report.html"]
    assert "figures/pipeline/samples.png" in shown.missing and "figures/pipeline/samples.png" not in hidden.missing


def test_the_crate_names_every_file_with_its_checksum(here):
    graph = {entity["@id"]: entity for entity in json.loads((here / "sound" / crate.METADATA).read_text())["@graph"]}
    said = record.read(here / "sound")
    parts = {part["@id"] for part in graph["./"]["hasPart"]}
    assert parts == {held.file for held in said.files} - {crate.METADATA} | {record.BUNDLE}
    for held in said.files:
        if held.file != crate.METADATA:
            assert graph[held.file]["sha256"] == held.sha256
    assert graph[graph["./"]["mainEntity"]["@id"]]["@type"][-1] == "ComputationalWorkflow"
    assert graph["#run"]["instrument"] == graph["./"]["mainEntity"]
    assert all(one["@id"] in graph for key in ("object", "result") for one in graph["#run"][key])


def test_results_without_their_times_are_adopted(here):
    outputs = [path for path in ROOT.rglob("*") if path.name in (layout.MANIFEST, layout.RECORD, f"{SET}.npz")]
    for number, path in enumerate(sorted(outputs)):
        os.utime(path, (1e9 + 1000 * number, 1e9 + 1000 * number))
    study = load(layout.study(ROOT))
    lines = adopt.adopt(study, ROOT)
    refused = [line for line in lines[1:] if "missing" in line or "not accepted" in line]
    assert [line.split(":")[0].strip() for line in refused] == [
        "figures/samples",
        "mlflow",
        "report",
    ]  # nobody made them
    times = {path.stat().st_mtime for path in outputs}
    assert len(times) == 1 and min(times) > 1.7e9
    assert layout.table(ROOT, "metrics", "csv").stat().st_mtime in times


@pytest.mark.parametrize(
    ("damage", "reason", "follows"),
    [
        (f"samples/{SET}/chunk-00001.npy", f"samples/{SET}: chunk-00001.npy differs", f"metrics/{SET}"),
        ("runs/mar/seed0/ema.safetensors", "runs/mar/seed0: ema.safetensors differs", f"samples/{SET}"),
        ("tokens/kl/train/shard-00000.npy", "tokens/kl: shard-00000.npy differs", "runs/mar/seed0"),
        ("classifier/model.safetensors", "classifier: model.safetensors is not the network that", "metrics/reference"),
        ("tokenizers/kl/model.safetensors", "tokenizers/kl: model.safetensors is not the tokenizer", "runs/mar/seed0"),
        ("tables/metrics.csv", "tables/metrics: it says something else", "report"),
        ("features/classifier/train/part-00000.npz", "train: part-00000.npz differs", f"metrics/{SET}"),
    ],
)
def test_what_does_not_match_is_not_adopted(here, damage, reason, follows):
    flip(ROOT / damage, -9)
    before = {path: path.stat().st_mtime_ns for path in ROOT.rglob("*") if path.is_file()}
    lines = adopt.adopt(load(layout.study(ROOT)), ROOT)
    assert any(reason in line for line in lines), lines
    assert any(line.startswith(f"  {follows}: ") for line in lines)
    name = reason.split(": ")[0]
    for step in adopt.steps(load(layout.study(ROOT)), ROOT):
        if step.name == name:
            assert all(path.stat().st_mtime_ns == before[path] for path in step.outputs)


def test_another_recipe_is_not_adopted(here):
    study = pipeline.study(recipes={"short": {**pipeline.VALUES["recipes"]["short"], "ema": 0.5}}, tradeoff=CURVE)
    text = "\n".join(adopt.adopt(study, ROOT))
    assert "runs/mar/seed0: its recipe has another train: " in text
    assert f"metrics/{SET}: was made from " in text and "tokens/kl:" not in text
    study = pipeline.study(data={"kind": "digits", "image_size": 16, "holdout": 0.5}, tradeoff=CURVE)
    folders._HELD.pop().close()  # what the command holds until its process ends
    text = "\n".join(adopt.adopt(study, ROOT))
    assert ": 0 results match" in text.replace(f"{ROOT}", "") and f"delete {layout.data(ROOT)}, so that" in text


def test_cells_that_moved_are_told_with_what_is_not_the_same(here):
    shutil.copytree(ROOT, "results/other")
    path, study = Path("results/other/metrics") / f"{SET}.json", layout.study(Path("results/other"))
    values = json.loads(path.read_text())
    for end in ("value", "low", "high"):
        values["metrics"]["fid"][end] *= 3
    values["provenance"]["torch"] = "9.9"
    path.write_text(json.dumps(values))
    code = Path("results/other/runs/mar/seed0/code.json")
    states = json.loads(code.read_text())
    states["states"][0]["modules"]["mar.models.heads.diffusion_loss"] = "0" * 64
    code.write_text(json.dumps(states))
    sides = [compare.side(layout.study(root), root) for root in (ROOT, study.parent)]
    text = "\n".join(compare.compare(*sides))
    assert "1 moved beyond their intervals" in text
    assert "1 moved; not the same: code, versions" in text
    assert "code: mar.models.heads.diffusion_loss" in text and "torch 9.9" in text
    same = "\n".join(compare.compare(sides[0], compare.side(here / "sound")))
    assert "0 moved beyond their intervals, 0 differ within them" in same and "not the same" not in same


def test_seeds_and_sections_of_the_study_are_kinds_of_difference(here):
    ours = compare.side(layout.study(ROOT), ROOT)
    study = pipeline.study(
        recipes={"short": {**pipeline.VALUES["recipes"]["short"], "ema": 0.5}},
        variants={"mar": {**pipeline.VALUES["variants"]["mar"], "seeds": [0, 1]}},
        metrics={"samples": 60, "chunk": 30, "bootstrap": 10},
    )
    theirs = compare.Side("theirs", study, ROOT, ours.results)
    found = compare._keys(ours, "mar", "plain"), compare._keys(theirs, "mar", "plain")
    assert list(compare._changed(*found)) == ["training.recipe.ema None and 0.5"]
    shutil.copytree(ROOT / "runs/mar/seed0", ROOT / "runs/mar/seed1")
    shutil.copytree(ROOT / "metrics/mar/seed0", ROOT / "metrics/mar/seed1")
    for file in (ROOT / "runs/mar/seed1/run.json", *(ROOT / "metrics/mar/seed1").glob("*.json")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": 1}))
    said = compare.differs(ours, theirs, "mar", "plain")
    assert said == {"study": "training.recipe.ema None and 0.5", "seeds": "training seeds (0,) and (0, 1)"}


def test_checks_see_statistics_of_other_features(here):
    folder = here / "sound"
    path = folder / "results/pipeline/statistics/classifier" / f"{SET}.npz"
    with np.load(path) as arrays:
        values = {name: arrays[name] for name in arrays.files}
    values["mu"] = values["mu"] + 0.1
    about = json.loads(str(values["about"]))
    del about["arrays"]
    np.savez(path, **{**values, "about": np.array(json.dumps(about))})
    reseal(folder)
    root = folder / ROOT
    done = list(checks._statistics(load(layout.study(root)), root))
    assert outcomes(done, f"statistics/classifier/{SET}.npz") == {"mu": checks.DIFFERENT, "sigma": checks.SAME}


def test_nothing_in_a_bundle_is_executed(here):
    folder = here / "sound"
    study, code = folder / layout.study(ROOT), folder / ROOT / "code/0123456789abcdef/evil.py"
    values = json.loads(study.read_text())
    values["heads"]["diffloss"] = {"kind": "evil.py:Evil"}
    study.write_text(json.dumps(values))
    code.parent.mkdir(parents=True)
    code.write_text("open('executed', 'w').write('x')\n")
    said = record.read(folder)
    new = Held(file=code.relative_to(folder).as_posix(), kind="study", size=0, sha256="0" * 64)
    record.write(folder, record.sealed(said.model_copy(update={"files": (*said.files, new)})))
    reseal(folder)
    lines, _ = checks.verify(folder)
    assert "the study needs code of its own, evil.py:Evil, results/pipeline/code/0123456789abcdef/evil.py" in "\n".join(
        lines
    )
    assert {check.outcome for check in checked(folder)} == {checks.NOT}
    for read in (lambda: compare.side(folder), lambda: write.join([folder, folder], here / "joined")):
        with pytest.raises(ValueError, match=r"its study needs code of its own, evil\.py:Evil"):
            read()
    assert not list(here.rglob("executed"))


def test_the_names_of_shipped_studies_are_no_code_of_their_own():
    for path in layout.shipped().glob("*.yaml"):
        assert path.stem == "claims" or list(record._kinds(json.loads(load(path).model_dump_json()))) == [], path
