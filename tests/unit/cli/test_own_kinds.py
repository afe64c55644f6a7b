"""Kinds of the user's: the examples of docs/extending.md from the data to the table, and mistakes in each."""

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
from mar.planning import costs
from mar.planning.costs import Tokens
from mar.runtime.noise import Noise
from mar.study import json_schema, own_code, stage_keys
from mar.study.kinds import opened
from mar.study.reading import StudyError, load, write_resolved
from mar.study.study import Study
from mar.tokenizers import autoencoder

EXAMPLES = Path("docs/examples").resolve()
IDEAS = ("laplace", "halton", "fsq", "gru")


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


def make(study: Study) -> Path:
    """The results folder of a study in the present folder, made stage by stage as the workflow does."""
    given = ("--study", write_resolved(study))
    run("prepare", *given)
    run("classifier", *given)
    for name in {variant.tokenizer for variant in study.variants.values()}:
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
    run("reference", *given)
    run("table", *given, "--name", "ideas")
    return Path("results", study.study).resolve()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results folder of the examples."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ideas")
        patch.chdir(copied(folder).parent)
        study = load(folder / "study.yaml")
        root = make(study)
        given = ("--study", root / "study.json")
        run("rfid", *given, "--tokenizer", "fsq")
        for figure in ("losses", "evaluations"):
            run("figure", *given, "--name", figure, "--out", "figures")
        run("claims", *given)
        yield root


def test_each_idea_stands_in_the_table_beside_what_it_is_compared_with(made: Path) -> None:
    with open(made / "tables" / "ideas.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert [*rows] == ["mse", *IDEAS, "heun", "midpoint", "real versus real"]
    for name in (*IDEAS, "heun", "midpoint"):
        assert 0 < float(rows[name]["fid_low"]) <= float(rows[name]["fid"]) <= float(rows[name]["fid_high"])
    assert rows["halton"]["fid"] != rows["mse"]["fid"] and rows["heun"]["fid"] != rows["midpoint"]["fid"]
    text = (made / "tables" / "ideas.md").read_text()
    assert "paper" not in text.splitlines()[2] and "| Halton order" in text
    losses = (made.parents[1] / "figures" / "losses.csv").read_text()
    assert all(f"\n{name},0," in losses for name in IDEAS)


def test_a_solver_of_ones_own_stands_in_the_figure_of_evaluations(made: Path) -> None:
    with open(made.parents[1] / "figures" / "evaluations.csv", newline="") as file:
        points = {(row["curve"], row["evaluations"]) for row in csv.DictReader(file)}
    assert points == {("flow matching, Heun", "4"), ("flow matching, midpoint", "4"), ("real versus real", "")}


def test_images_of_ones_own_source_from_the_data_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copied(tmp_path).parent)
    edit(Path("rings.yaml"), "variants: {", "variants: {mse: null, laplace: null, ")
    edit(Path("rings.yaml"), "      - {row: mse", "#")
    edit(Path("rings.yaml"), "      - {row: laplace", "#")
    edit(Path("rings.yaml"), "evaluations: null", "evaluations: null\nclaims: null")
    run("plan", "--study", "rings.yaml", "--jobs", "--utilisation", 0.5)
    assert "halton/seed0" in capsys.readouterr().out
    root = make(load(Path("rings.yaml")))
    with open(root / "tables" / "ideas.csv", newline="") as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["halton", "real versus real"]
    assert json.loads((root / "data" / "manifest.json").read_text())["classes"] == ["disc", "ring"]
    of_study = ["fsq.py", "gru.py", "halton.py", "laplace.py", "midpoint.py", "rings.py"]
    assert sorted(p.name for p in (root / "code").glob("*/*.py")) == of_study


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
        ("width: 16, depth: 1}\nheads", "width: 16, depth: 2}\nheads", {"train gru"}),
        ("head: {evaluations: 4}}\nvar", "head: {evaluations: 6}}\nvar", {"sample flow midpoint"}),
        ("solver: heun, head: {evaluations: 4}", "head: {evaluations: 4, method: heun}", set()),
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


def test_a_changed_label_draws_anew_what_shows_it_and_trains_nothing(file: Path) -> None:
    def shown(study: Study) -> list[str]:
        figures = [stage_keys.figure_key(study, name) for name in ("losses", "samples")]
        return [
            *figures,
            stage_keys.table_key(study, "ideas"),
            stage_keys.claims_key(study),
            stage_keys.report_key(study),
        ]

    before = load(file)
    edit(file.with_name("laplace.py"), '= "Laplace"', '= "Laplace distribution"')
    after = load(file)
    assert keys(before) == keys(after)
    assert not set(shown(before)) & set(shown(after))
    edit(file.with_name("laplace.py"), "import torch\n", "import torch\n\nUNUSED = 1\n")
    assert shown(load(file)) == shown(after)


def test_the_schema_takes_them(file: Path) -> None:
    jsonschema.Draft202012Validator(json.loads(json_schema.json_schema())).validate(yaml.safe_load(file.read_text()))


REFUSED: dict[str, tuple[str, str, str, str]] = {  # file, what is replaced, by what, and the message
    "an option that it does not have": (
        "study.yaml",
        "floor: 0.05",
        "flor: 0.05",
        "study.yaml:13: heads.laplace: unknown key 'flor' (did you mean 'floor'?)",
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
    "what it might honour": (
        "study.yaml",
        "plain: {steps: 4}",
        "plain: {steps: 4, guidance: 2.0}",
        "accepted: 1.0, or 'guidance' in its honours",
    ),
    "a misspelt name of what it honours": (
        "laplace.py",
        '= ("temperature",)',
        '= ("temprature",)',
        "heads.laplace.kind: laplace.py:Laplace: honours: found 'temprature' (did you mean 'temperature'?); acc",
    ),
    "no label": (
        "laplace.py",
        'label: ClassVar[str] = "Laplace"',
        'lable: ClassVar[str] = "Laplace"',
        "heads.laplace.kind: laplace.py:Laplace: label: is missing; accepted: what texts call it",
    ),
    "the implementation in place of the class that names it": (
        "study.yaml",
        "laplace.py:Laplace",
        "laplace.py:LaplaceHead",
        "found 'laplace.py:LaplaceHead' (did you mean 'Laplace'?); accepted: a class that derives from mar.study.parts",
    ),
    "a function in place of a class": (
        "study.yaml",
        "laplace.py:Laplace",
        "laplace.py:Field",
        "found 'laplace.py:Field'; accepted: a class that derives from mar.study.parts",
    ),
    "no such file": (
        "study.yaml",
        "laplace.py:",
        "lapalce.py:",
        "study.yaml:13: heads.laplace.kind: found 'lapalce.py:Lap",
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
    "a backbone with a bad option": (
        "study.yaml",
        '"gru.py:Gru", width: 16',
        '"gru.py:Gru", widht: 16',
        "study.yaml:10: backbones.gru: unknown key 'widht' (did you mean 'width'?)",
    ),
    "a solver with an option that it does not have": (
        "study.yaml",
        '"midpoint.py:Midpoint"',
        '{kind: "midpoint.py:Midpoint", eta: 1}',
        "study.yaml:23: sampling.midpoint.solver: eta belongs to kind ddim: kind Midpoint",
    ),
    "a solver of another process": (
        "study.yaml",
        "  plain: {steps: 4}",
        '  plain: {steps: 4, solver: "midpoint.py:Midpoint"}',
        "sampling.plain.solver midpoint with a mse head: belongs to flow; accepted: none",
    ),
    "evaluations that make no whole steps": (
        "study.yaml",
        "head: {evaluations: 4}}\nvar",
        "head: {evaluations: 5}}\nvar",
        "head: evaluations 5 with solver midpoint, 2 a step; accepted: a multiple of 2",
    ),
    "what a solver does not honour": (
        "study.yaml",
        'Midpoint", head',
        'Midpoint", clamp: 5.0, head',
        "sampling.midpoint.clamp 5.0 with a flow head: belongs to diffusion; accepted: none",
    ),
    "an order with a bad option": (
        "study.yaml",
        '"halton.py:Halton"',
        '{kind: "halton.py:Halton", bases: [2]}',
        "study.yaml:27: variants.halton.order",
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


def test_a_claim_on_guidance_that_no_row_has_is_refused(file: Path) -> None:
    edit(file, "guided: false, a: laplace", "guided: true, a: laplace")
    found = r"found true, and row 'mse' has a setting for 'without' alone; accepted: false, or a setting 'guided'"
    with pytest.raises(ValueError, match=rf"claims\[0\]\.check\.guided: {found}"):
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "(2 * width).log()).mean()",
            "(2 * width).log()).mean(1)",
            r"laplace\.py:LaplaceHead: loss gave torch\.float32 \(\d+,\); accepted: one floating-point number",
        ),
        (
            "(2 * width).log()).mean()",
            "(2 * width).log()).mean().detach()",
            r"laplace\.py:LaplaceHead: loss gave torch\.float32 \(\) without a gradient; accepted: one floating-point",
        ),
        (
            "(2 * width).log()).mean()",
            "(2 * width).log()).mean(), 0",
            r"laplace\.py:LaplaceHead: loss gave tuple; accepted: one floating-point number",
        ),
        (
            "return place + settings.temperature * width * u.sign() * far, None",
            "return (place + settings.temperature * width * u.sign() * far)[:, :3], None",
            r"laplace\.py:LaplaceHead: sample gave tokens torch\.float32 \(\d+, 3\); accepted: \(\d+, \d+\)",
        ),
    ],
)
def test_wrong_results_are_refused_where_operations_are_counted(file: Path, old: str, new: str, message: str) -> None:
    """That is by `mar plan`, and by the first jobs of the workflow, before anything is trained."""
    edit(file.with_name("laplace.py"), old, new)
    study = load(file)
    backbone, head, recipe, tokens = costs.parts(study, "laplace", 10)
    with pytest.raises(ValueError, match=message):
        costs.training(backbone, head, tokens, recipe)
        costs.sampling(backbone, head, tokens, study.sampling["plain"], 2)


def test_draws_that_do_not_repeat_are_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results" / made.name
    shutil.copytree(made, root)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(root / "samples")
    words = ("sample", "--study", root / "study.json", "--variant", "laplace", "--seed", 0, "--setting", "plain")
    run(*words)
    shutil.rmtree(root / "samples")
    with monkeypatch.context() as patch, pytest.raises(click.ClickException) as caught:
        patch.setattr(Noise, "uniform", lambda self, *shape: torch.rand(*shape, device=self.device))
        run(*words)
    assert str(caught.value).startswith(
        "laplace seed 0: the same images drawn with the same random numbers differ; acc"
    )
    assert str(caught.value).endswith(
        "`noise` alone (fsq.py:Fsq, gru.py:Gru, halton.py:Halton, laplace.py:Laplace, midpoint.py:Midpoint)"
    )
    assert not list(root.glob("samples/**/chunk-*.npy"))


def test_a_copy_that_was_edited_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_resolved(load(file), file.parent / "results")
    study = load(place)
    monkeypatch.setattr(own_code, "_copies", [place.parent / "code"])
    monkeypatch.setattr(own_code, "_codes", {})
    monkeypatch.setattr(own_code, "_modules", {})
    edit(place.parent / "code" / study.heads["laplace"].own.code / "laplace.py", "0.01", "0.02")
    with pytest.raises(ValueError, match="differs from its digest; accepted: the copy as it was made"):
        opened(study.heads["laplace"])


def test_images_of_a_source_of_ones_own(file: Path) -> None:
    study = load(file.with_name("rings.yaml"))
    root = write_resolved(study, file.parent / "results").parent
    prepare(load(root / "study.json"), root)
    train, heldout = (open_split(study, root, split) for split in ("train", "heldout"))
    assert (len(train.labels), len(heldout.labels)) == (320, 80) and train.classes == ["disc", "ring"]
    images = np.asarray(train.arrays(range(320)))
    centres = images[:, 6:10, 6:10].max(axis=(1, 2, 3))
    assert (centres[np.asarray(train.labels) == 0] > 0).all() and 0 < (images > 0).mean() < 0.5
    assert study.data.title == "discs and rings" and '"count":400' in stage_keys.data_key(study)
    edit(file.with_name("rings.yaml"), "count: 400", "count: 400, draws: 1")
    assert stage_keys.data_key(load(file.with_name("rings.yaml"))) != stage_keys.data_key(study)


def test_images_of_a_wrong_size_are_refused(file: Path) -> None:
    edit(file.with_name("rings.py"), "np.mgrid[:side, :side]", "np.mgrid[:side, : side - 1]")
    study = load(file.with_name("rings.yaml"))
    with pytest.raises(ValueError, match=r"gave images uint8 \(400, 16, 15, 3\) .*; accepted: uint8 \(N, 16, 16, 3\)"):
        prepare(study, write_resolved(study, file.parent / "results").parent)


def test_a_backbone_that_lacks_a_method_is_refused(file: Path) -> None:
    edit(file.with_name("gru.py"), "    def predict(", "    def perdict(")
    with pytest.raises(ValueError, match=r"gru\.py:Gru: GruBackbone has no predict; accepted: checkpointing"):
        model_of(load(file), "gru")
