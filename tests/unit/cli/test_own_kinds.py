"""Kinds of the user's: the three examples of docs/extending.md from the data to the table, and mistakes in each."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
import torch
import yaml

from mar.cli.__main__ import main
from mar.data.images import open_split
from mar.data.prepare import prepare
from mar.models.model import build
from mar.models.order import draw_order
from mar.paper import claims
from mar.planning.costs import Tokens
from mar.runtime.noise import Noise
from mar.study import json_schema, own_code, stage_keys
from mar.study.kinds import opened
from mar.study.reading import StudyError, load, write_resolved
from mar.study.study import Study
from mar.tokenizers import autoencoder

EXAMPLES = Path("docs/examples").resolve()
IDEAS = ("laplace", "halton", "fsq")


def copied(folder: Path) -> Path:
    """The study of the examples with its files in a folder of its own."""
    for file in EXAMPLES.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return folder / "study.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return copied(tmp_path)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def run(*words: object) -> None:
    main([str(word) for word in words], standalone_mode=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results folder of the examples, made stage by stage as the workflow does."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ideas")
        file = copied(folder)
        patch.chdir(folder)
        study = load(file)
        given = ("--study", write_resolved(study))
        run("prepare", *given)
        run("classifier", *given)
        for name in study.tokenizers:
            run("tokenizer", *given, "--tokenizer", name)
            run("encode", *given, "--tokenizer", name)
        sets = ["train", "heldout"]
        for name, variant in study.variants.items():
            run("train", *given, "--variant", name, "--seed", 0)
            for setting in variant.sampling:
                run("sample", *given, "--variant", name, "--seed", 0, "--setting", setting)
                sets.append(f"{name}/seed0/{setting}")
        for where in sets:
            run("features", *given, "--extractor", "classifier", "--set", where)
            run("statistics", *given, "--extractor", "classifier", "--set", where)
        for name, variant in study.variants.items():
            for setting in variant.sampling:
                run("evaluate", *given, "--variant", name, "--seed", 0, "--setting", setting)
        run("rfid", *given, "--tokenizer", "fsq")
        run("reference", *given)
        run("table", *given, "--name", "ideas")
        run("figure", *given, "--name", "losses", "--out", "figures")
        run("claims", *given)
        yield folder / "results" / "ideas"


def test_each_idea_stands_in_the_table_beside_what_it_is_compared_with(made: Path) -> None:
    with open(made / "tables" / "ideas.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert [*rows] == ["mse", *IDEAS, "real versus real"]
    for name in IDEAS:
        assert 0 < float(rows[name]["fid_low"]) <= float(rows[name]["fid"]) <= float(rows[name]["fid_high"])
    assert rows["halton"]["fid"] != rows["mse"]["fid"]
    text = (made / "tables" / "ideas.md").read_text()
    assert "paper" not in text.splitlines()[2] and "| Halton order" in text
    losses = (made.parents[1] / "figures" / "losses.csv").read_text()
    assert all(f"\n{name},0," in losses for name in IDEAS)


def test_a_claim_of_ones_own_is_judged_like_the_papers(made: Path) -> None:
    verdicts = {verdict["id"]: verdict for verdict in json.loads((made / "claims.json").read_text())}
    verdict = verdicts["laplace-beats-l2"]
    assert (
        verdict["verdict"] == "undecided" and verdict["missing"]["kind"] == "one seed"
    )  # as a claim of the paper would
    assert {side["variant"] for side in verdict["evidence"]} == {"laplace", "mse"} and len(verdicts) > 80


def test_the_plan_counts_them(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    run("plan", "--study", file, "--jobs", "--utilisation", 0.5)
    printed = capsys.readouterr().out
    assert all(f"{name}/seed0" in printed for name in IDEAS)


def test_options_are_plain_data_and_code_is_copied_under_its_digest(made: Path) -> None:
    heads = json.loads((made / "study.json").read_text())["heads"]
    digest = heads["laplace"]["own"]["code"]
    assert heads["laplace"]["floor"] == 0.05 and heads["laplace"]["own"]["told"]["label"] == "Laplace"
    assert (made / "code" / digest / "laplace.py").read_bytes() == (EXAMPLES / "laplace.py").read_bytes()
    code = (
        "import sys\nfrom mar.study import kinds, labels\nfrom mar.study.reading import load\n"
        f"study = load({str(made / 'study.json')!r})\n"
        "print([labels.label(study, name) for name in study.variants], 'torch' in sys.modules)\n"
        "print(sys.modules[type(kinds.opened(study.heads['laplace'])).__module__].__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=made)
    labels, place = done.stdout.splitlines()
    assert "MAR, Laplace" in labels and "MAR in Halton order" in labels and labels.endswith("False")
    assert place == str(made / "code" / digest / "laplace.py")


def keys(study: Study) -> dict[str, str]:
    """The stage keys of trainings, samples and tokenizers."""
    found = {f"tokenizer {name}": stage_keys.tokenizer_key(study, name) for name in study.instances}
    for name, variant in study.variants.items():
        found[f"train {name}"] = stage_keys.train_key(study, name, 0)
        found |= {f"sample {name} {s}": stage_keys.sample_key(study, name, s) for s in variant.sampling}
    return found


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("floor: 0.05", "floor: 0.1", {"train laplace"}),
        ("floor: 0.05", "floor: 0.05, link: softplus", set()),  # a default
        ("cut: 3.0", "cut: 4.0", {"sample laplace tails"}),
        ("levels: [5, 5, 5]", "levels: [5, 5, 4]", {"tokenizer fsq"}),
        (
            'order: "halton.py:Halton"',
            'order: {kind: "halton.py:Halton", bases: [3, 2]}',
            {"train halton", "sample halton plain"},
        ),
    ],
)
def test_an_option_changes_what_used_it(file: Path, old: str, new: str, changed: set[str]) -> None:
    before = keys(load(file))
    edit(file, old, new)
    after = keys(load(file))
    assert {name for name in before if before[name] != after[name]} == changed


def test_an_edit_of_the_code_changes_its_digest_and_nothing_else(file: Path) -> None:
    before = load(file)
    edit(file.with_name("laplace.py"), "import torch\n", "import torch\nimport helper\n")
    file.with_name("helper.py").write_text("NUMBER = 1\n")
    after = load(file)
    assert keys(before) == keys(after) and before.heads["laplace"].own.code != after.heads["laplace"].own.code
    place = write_resolved(after, file.parent / "results")
    assert (place.parent / "code" / after.heads["laplace"].own.code / "helper.py").exists()
    file.with_name("helper.py").write_text("NUMBER = 2\n")
    again = load(file)
    assert again.heads["laplace"].own.code != after.heads["laplace"].own.code
    assert again.heads["mse"] == after.heads["mse"] and "helper" not in sys.modules


def test_the_schema_takes_them(file: Path) -> None:
    jsonschema.Draft202012Validator(json.loads(json_schema.json_schema())).validate(yaml.safe_load(file.read_text()))


REFUSED: dict[str, tuple[str, str, str, str]] = {  # file, what is replaced, by what, and the message
    "an option that it does not have": (
        "study.yaml",
        "floor: 0.05",
        "flor: 0.05",
        "study.yaml:12: heads.laplace: unknown key 'flor' (did you mean 'floor'?)",
    ),
    "a value that it does not accept": (
        "study.yaml",
        "floor: 0.05",
        "floor: 0.0",
        "heads.laplace.floor: found 0.0; acc",
    ),
    "a setting that it does not have": (
        "study.yaml",
        "{cut: 3.0}",
        "{cutt: 3.0}",
        "unknown key 'cutt' (did you mean 'cut'?)",
    ),
    "a setting that it does not honour": (
        "study.yaml",
        "plain: {steps: 4}",
        "plain: {steps: 4, guidance: 2.0}",
        "sampling.plain.guidance 2.0 with a laplace.py:Laplace head: belongs to categorical",
    ),
    "no such file": (
        "study.yaml",
        "laplace.py:",
        "lapalce.py:",
        "study.yaml:12: heads.laplace.kind: found 'lapalce.py:Lap",
    ),
    "a file elsewhere": ("study.yaml", "laplace.py:", "../laplace.py:", "accepted: a name of letters, digits and _"),
    "no such class": ("study.yaml", "laplace.py:Laplace", "laplace.py:Laplce", "laplace.py has no 'Laplce'"),
    "a class of another part": (
        "study.yaml",
        "laplace.py:Laplace",
        "halton.py:Halton",
        "derives from mar.study.parts.Head",
    ),
    "no such package": (
        "study.yaml",
        "laplace.py:Laplace",
        "no_such_package:Laplace",
        "no_such_package: cannot be imported",
    ),
    "a line that is no Python": (
        "laplace.py",
        "class Tails(Section):",
        "class Tails(Section:",
        "laplace.py:13: SyntaxError",
    ),
    "a name that is not there": ("halton.py", "Field((2, 3))", "Fild((2, 3))", "halton.py:17: in Halton: NameError"),
    "a tokenizer with a bad option": (
        "study.yaml",
        "levels: [5, 5, 5]",
        "levels: []",
        "tokenizers.fsq.levels: found []; acc",
    ),
    "an order with a bad option": (
        "study.yaml",
        '"halton.py:Halton"',
        '{kind: "halton.py:Halton", bases: [2]}',
        "study.yaml:22: variants.halton.order",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_told_with_file_and_line(file: Path, case: str) -> None:
    name, old, new, message = REFUSED[case]
    edit(file.with_name(name), old, new)
    with pytest.raises(StudyError) as caught:
        load(file)
    assert message in str(caught.value), caught.value


def test_a_claim_on_a_row_that_is_not_there_is_refused(file: Path) -> None:
    edit(file, "b: mse}", "b: msee}")
    with pytest.raises(ValueError, match=r"claims\[0\]\.check\.b: found 'msee'; accepted: mse, laplace, halton, fsq"):
        claims.check(load(file))


def model_of(study: Study, variant: str) -> Any:
    v, tokens = study.variants[variant], Tokens("latents", 16, 4, 4, 10)
    return build(study.backbones[v.backbone], study.heads[v.head], tokens)


def test_a_head_that_lacks_a_method_is_refused(file: Path) -> None:
    edit(file.with_name("laplace.py"), "    def sample(", "    def smaple(")
    with pytest.raises(ValueError, match="LaplaceHead has no sample; accepted: draw, loss, sample"):
        model_of(load(file), "laplace")


def test_an_order_that_repeats_a_position_is_refused(file: Path) -> None:
    edit(file.with_name("halton.py"), "torch.tensor(list(positions)", "torch.tensor([0] * length")
    with pytest.raises(ValueError, match=r"halton\.py:Halton: a position comes twice or never"):
        draw_order(load(file).variants["halton"].order, 2, 16, Noise("a"))


def test_ids_beyond_the_codes_are_refused(file: Path) -> None:
    edit(file.with_name("fsq.py"), "return math.prod(self.levels)", "return math.prod(self.levels) // 100")
    tokenizer = autoencoder.build(load(file).tokenizers["fsq"], 16)
    with pytest.raises(ValueError, match=r"fsq\.py:Fsq: encode gave ids \d+ to \d+; accepted: 0 to codes - 1, 0"):
        tokenizer.encode(torch.linspace(-1, 1, 3 * 256).view(1, 3, 16, 16))


def test_what_goes_wrong_while_it_runs_is_told_with_file_and_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(file.with_name("laplace.py"), "self.config.floor", "self.config.flor")
    monkeypatch.chdir(file.parent)
    with pytest.raises(click.ClickException) as caught:
        run("plan", "--study", file)
    assert "laplace.py:64: in parameters_of: AttributeError: 'Laplace' object has no attribute 'flor'" in str(
        caught.value
    )


def test_a_copy_that_was_edited_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_resolved(load(file), file.parent / "results")
    study = load(place)
    monkeypatch.setattr(own_code, "_copies", [place.parent / "code"])
    monkeypatch.setattr(own_code, "_codes", {})
    monkeypatch.setattr(own_code, "_modules", {})
    edit(place.parent / "code" / study.heads["laplace"].own.code / "laplace.py", "0.01", "0.02")
    with pytest.raises(ValueError, match="differs from its digest; accepted: the copy as it was made"):
        opened(study.heads["laplace"])


STRIPES = """
from typing import ClassVar

import numpy as np

from mar.study.parts import Data


class Stripes(Data):
    implementation: ClassVar[str] = "stripes"
    label: ClassVar[str] = "stripes"

    count: int = 20

    @property
    def classes(self):
        return 2


def stripes(config):
    labels = np.arange(config.count) % 2
    images = np.zeros((config.count, config.image_size, config.image_size, 3), np.uint8)
    images[labels == 1, ::2] = 255
    return images, labels, ["plain", "striped"]
"""


def with_stripes(file: Path) -> Study:
    file.with_name("stripes.py").write_text(STRIPES)
    edit(file, "{kind: digits, image_size: 16}", '{kind: "stripes.py:Stripes", image_size: 16}')
    return load(file)


def test_images_of_a_source_of_ones_own(file: Path) -> None:
    study = with_stripes(file)
    root = write_resolved(study, file.parent / "results").parent
    prepare(load(root / "study.json"), root)
    train, heldout = (open_split(study, root, split) for split in ("train", "heldout"))
    assert (len(train.labels), len(heldout.labels)) == (16, 4) and train.classes == ["plain", "striped"]
    striped = int(np.flatnonzero(np.asarray(train.labels) == 1)[0])
    assert train.arrays([striped])[0, :2, 0].tolist() == [[255] * 3, [0] * 3]
    assert study.data.title == "stripes" and '"count"' not in stage_keys.data_key(study)


def test_images_of_a_wrong_size_are_refused(file: Path) -> None:
    with_stripes(file)
    edit(file.with_name("stripes.py"), "config.image_size, config.image_size, 3", "8, 8, 3")
    study = load(file)
    with pytest.raises(ValueError, match=r"gave images uint8 \(20, 8, 8, 3\) .*; accepted: uint8 \(N, 16, 16, 3\)"):
        prepare(study, write_resolved(study, file.parent / "results").parent)
