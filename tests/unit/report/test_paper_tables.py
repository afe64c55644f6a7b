"""Text of the tables."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
from fabricate import beside_given, fabricate, large, small, swept, write
from safetensors.numpy import save_file

from mar.analysis.paper_columns import printed
from mar.paper.numbers import paper_lines, paper_rows
from mar.report.tables import all_metrics, formats
from mar.report.tables.inputs import inputs
from mar.report.tables.paper_tables import frame, table
from mar.runtime.files import read_json
from mar.study.reading import resolve
from mar.study.sections import Given
from mar.study.stage_keys import table_key
from mar.study.study import Study

ROOT = Path("results/wide")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = small({"ce": ()})
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0 + 5 * setting.endswith("cfg"), noise=0.1)
    table(study, tmp_path, "table1")
    return study


def test_csv_has_ours_and_the_papers(study: Study, tmp_path: Path) -> None:
    with open(tmp_path / "tables" / "table1.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ar-raster-crossent", "mar-default-crossent", "mar-default-diffloss", "real versus real"]
    ours = rows["mar-default-diffloss"]
    assert float(ours["fid"]) == pytest.approx(20.0) and float(ours["fid_guided"]) == pytest.approx(25.0)
    half = math.log(float(ours["fid_high"]) / 20.0)
    assert half == pytest.approx(1.959964 * 0.1 / math.sqrt(2), rel=1e-4)  # equal over seeds: the noise of the images
    assert (ours["paper_fid"], ours["paper_is_guided"]) == ("3.50", "290.3")
    assert (ours["seeds"], ours["n"], ours["setting_guided"]) == ("0 1", "40", "s4-cfg")
    untrained = rows["mar-default-crossent"]
    assert {untrained[k] for k in ("fid", "fid_low", "is", "is_guided", "seeds", "n")} == {"not run"}
    assert untrained["paper_fid"] == "8.79"
    floor = rows["real versus real"]
    assert (float(floor["fid"]), floor["paper_fid"], floor["n"]) == (10.0, "", "40")


def words(path: Path) -> str:
    """A table in Markdown without the spaces that align its columns."""
    return re.sub(" +", " ", path.read_text())


def test_markdown(study: Study, tmp_path: Path) -> None:
    text = words(tmp_path / "tables" / "table1.md")
    low, high = 20 * math.exp(-0.138590), 20 * math.exp(0.138590)
    steps, tokenizer = ">1 (64 steps); ours 4 steps of 4 tokens", "KL-16; ours KL-8"
    described = f"| MAR (default) | random | bidirectional | {steps} | DiffLoss | {tokenizer} |"
    assert f"{described} 20.0 [{low:.1f}, {high:.1f}] | 3.50 |" in text
    assert "| not run | 8.79 | not run | not run | 146.1 |" in text
    assert "| 1 / 2 | 1 / 1 | 0 1 |" in text and "| FID, guidance | paper | FID∞ |" in text
    assert "| real versus real |" in text
    assert "So only which is better compares with the paper's, not the sizes." in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def columns(text: str) -> set[int]:
    """How many columns the rows of a LaTeX table have."""
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
    spans = [sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row)) for row in rows]
    return {len(re.findall(r"(?<!\\)&", row)) + 1 + span for row, span in zip(rows, spans, strict=True)}


def test_latex_has_equal_columns_and_no_raw_specials(study: Study, tmp_path: Path) -> None:
    text = (tmp_path / "tables" / "table1.tex").read_text()
    assert columns(text) == {6 + 4 * 2 + 3}, "description, four pairs, what was used"
    assert text.startswith(r"% \usepackage{booktabs,graphicx,rotating}")
    assert r"\begin{tabular}[t]{@{}r@{}}20.0\\{[}" in text, "the interval stands below its number"
    assert r"\caption{100\% of A\_B \& C." in text, "LaTeX numbers the table itself"
    assert r"\textgreater{}1 (64 steps)" in text
    assert text.count("{") == text.count("}") and text.count(r"\begin") == text.count(r"\end")
    groups, heads = (line.split(" & ") for line in text[text.index(r"\toprule") :].splitlines()[1:3])
    spans = [
        rf"\multicolumn{{2}}{{c}}{{{name}, {how}}}" for how in ("no guidance", "guidance") for name in ("FID", "IS")
    ]
    assert groups == [r"\multicolumn{6}{c}{}", *spans, r"\multicolumn{3}{c}{} \\"]
    rules = " ".join(rf"\cmidrule(lr){{{i}-{i + 1}}}" for i in (7, 9, 11, 13))
    assert heads[0] == f"{rules} model" and heads[6:8] == ["ours", "paper"]
    assert text.count("\\midrule\n") == 1 and "\n\\midrule real versus real & " in text, "the floor is set off"
    end = text.index("\n\\end{tabular}")
    assert "\n\\resizebox{\\textwidth}{!}{%\n\\begin{tabular}{llllllrrrrrrrrlll}\n\\toprule\n" in text
    assert text[end:] == "\n\\end{tabular}}\n\\end{sidewaystable}\n"


@pytest.fixture
def wide(tmp_path: Path) -> Study:
    study = large()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0, lambda variant, setting: 0.25, noise=0.1)
    return study


def test_columns_are_those_of_the_papers_file(wide: Study, tmp_path: Path) -> None:
    values = frame(wide, tmp_path, "table4").set_index("row")
    for column in ("params", "precision", "recall", "precision_guided", "recall_guided"):
        assert f"paper_{column}" in values
    assert "seconds" not in values and "rfid" not in values and "source" not in values
    ours = values.loc["mar-l"]
    assert (ours["params"], ours["paper_params"]) == (1234567, "479M")
    assert ours["recall"] == pytest.approx(0.78) and ours["recall_low"] < 0.78 < ours["recall_high"]
    assert (ours["paper_recall"], ours["paper_precision_guided"]) == ("0.60", "0.81")
    assert values.loc["real versus real", "recall"] == pytest.approx(0.79)
    assert values.loc["real versus real", "params"] == ""
    for name in wide.tables:
        table(wide, tmp_path, name)
        text = words(tmp_path / "tables" / f"{name}.md")
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
        text = (tmp_path / "tables" / f"{name}.tex").read_text()
        assert r"\begin{sidewaystable}" in text and text.rstrip().endswith(r"\end{sidewaystable}")
        assert "rotating" in text.splitlines()[0] and len(columns(text)) == 1
    assert "| 1.23M | 479M |" in words(tmp_path / "tables" / "table4.md")


def test_rows_of_other_systems_and_settings_that_a_row_lacks(wide: Study, tmp_path: Path) -> None:
    values = frame(wide, tmp_path, "table4").set_index("row")
    other = values.loc["adm"]
    assert {other[k] for k in ("ours", "setting", "seeds", "n", "params", "fid", "fid_low", "is_guided")} == {"-"}
    assert (other["system"], other["paper_fid"], other["paper_recall_guided"]) == ("ADM", "10.94", "0.52")
    dit = values.loc["dit-xl"]
    assert (dit["fid_guided"], dit["setting_guided"], dit["paper_fid_guided"]) == ("-", "-", "2.27")
    assert dit["fid"] == pytest.approx(20.0)


def test_rfid_is_that_of_the_train_split(wide: Study, tmp_path: Path) -> None:
    assert frame(wide, tmp_path, "table2").set_index("row").loc["kl16", "rfid"] == "-", (
        "measured on held-out images only"
    )
    file = tmp_path / "tokenizers" / "kl" / "rfid.json"
    values = read_json(file)
    rfid = values["metrics"]["rfid"] | {"value": 1.5, "low": 1.4, "high": 1.6, "n": 1293}
    train = {"metrics": {"rfid": rfid}, "split": "train", "count": 1293}
    write(file, values | {"train": train})
    ours = frame(wide, tmp_path, "table2").set_index("row").loc["kl16"]
    assert (ours["rfid"], ours["rfid_high"], ours["paper_rfid"]) == (1.5, 1.6, "1.43")
    table(wide, tmp_path, "table2")
    assert "1.50 [1.40, 1.60] | 1.43 |" in words(tmp_path / "tables" / "table2.md")
    assert "rFID: of the reconstructed train split" in (tmp_path / "tables" / "table2.tex").read_text()


@pytest.mark.parametrize(("key", "named"), [("reference", "references"), ("extractor", "weights of classifier")])
def test_rfid_of_another_reference_or_judge_is_refused(wide: Study, tmp_path: Path, key: str, named: str) -> None:
    frame(wide, tmp_path, "table2")
    file = tmp_path / "tokenizers" / "kl" / "rfid.json"
    values = read_json(file)
    write(file, values | {"inputs": values["inputs"] | {key: "b" * 64}})
    with pytest.raises(ValueError, match=f"mixed {named} in one table: .*rfid.json has bbbbbbbbbbbb.*`mar rfid` again"):
        frame(wide, tmp_path, "table2")


def test_seconds_and_parameters_of_the_head(wide: Study, tmp_path: Path) -> None:
    ours = frame(wide, tmp_path, "table3").set_index("row").loc["mlp-256"]
    assert (ours["seconds"], ours["seconds_low"], ours["paper_seconds"]) == (0.25, 0.225, "0.286")
    assert (ours["head_params"], ours["paper_head_params"]) == (54321, "2M")


def test_time_is_relative_to_the_row_that_the_paper_sets_to_one(tmp_path: Path) -> None:
    variants = {name: tiny.STUDY["variants"][name] for name in ("ar-ce", "var")}
    variants |= {"later": variants["var"] | {"seeds": []}}
    rows = [
        {"paper": "ar-to-var", "variant": "var", "guided": "var"},
        {"paper": "ar", "variant": "ar-ce", "without": "ce"},
        {"paper": "adaln", "variant": "later", "without": "var"},
    ]
    tables = {"ladder": {"paper": "var_table3", "title": "Ladder", "timed": True, "rows": rows}}
    study = tiny.study(variants=variants, tradeoff=[], tables=tables)
    seconds = {"ar-ce": 0.5, "var": 0.02}
    fabricate(study, tmp_path, lambda v, s, k: 20.0, lambda v, s: seconds[v], noise=0.1, images=False)
    assert {path.name for path in inputs(study, ROOT, "ladder")} >= {"ar-ce.json", "var.json"}
    values = frame(study, tmp_path, "ladder").set_index("row")
    ours = values.loc["ar-to-var"]
    assert (ours["rel_time"], ours["paper_rel_time"]) == (pytest.approx(0.04), "0.013")
    # both are known to 10%
    assert (ours["rel_time_low"], ours["rel_time_high"]) == pytest.approx(
        (0.04 * (1 - 0.02**0.5), 0.04 * (1 + 0.02**0.5))
    )
    assert list(values.loc["ar", ["rel_time", "rel_time_low", "rel_time_high", "paper_rel_time"]]) == [1, 1, 1, "1"]
    assert values.loc["adaln", "rel_time"] == "not run"
    table(study, tmp_path, "ladder")
    assert "Relative time: seconds an image over those of" in words(tmp_path / "tables" / "ladder.md")


def test_older_records_do_not_say_the_parameters_of_the_head(wide: Study, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "diff" / "seed0"
    values = json.loads((run / "run.json").read_text())
    del values["head_parameters"]
    (run / "run.json").write_text(json.dumps(values))
    weights = {"head.net.weight": np.zeros((3, 4), np.float32), "backbone.weight": np.zeros((5, 5), np.float32)}
    save_file(weights, run / "ema.safetensors")
    assert frame(wide, tmp_path, "table3").set_index("row").loc["mlp-256"]["head_params"] == 12


def test_files_that_a_table_reads_beside_the_metrics(wide: Study) -> None:
    assert inputs(wide, ROOT, "table1") == []
    assert inputs(wide, ROOT, "table2") == [ROOT / "tokenizers/kl/rfid.json"]
    assert inputs(wide, ROOT, "table3") == [ROOT / "runs/diff/seed0/run.json", ROOT / "speed/diff.json"]
    runs = [ROOT / f"runs/{name}/seed0/run.json" for name in ("dit", "published", "diff")]
    assert inputs(wide, ROOT, "table4") == runs


def test_a_difference_is_printed_on_the_papers_scale_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    assert "fid_minus_paper" not in frame(study, tmp_path, "table4"), "too few images a sample set"
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    values = frame(study, tmp_path, "table4").set_index("row")
    assert values.loc["mar-l", "fid_minus_paper"] == pytest.approx(20.0 - 2.60)
    assert values.loc["adm", "fid_minus_paper"] == "" and "params_minus_paper" not in values
    table(study, tmp_path, "table4")
    assert "not comparable" not in (tmp_path / "tables" / "table4.md").read_text()


def test_seconds_of_another_device_have_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0, lambda variant, setting: 0.25)
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    assert frame(study, tmp_path, "table3").set_index("row").loc["mlp-256", "seconds_minus_paper"] == ""
    file = tmp_path / "speed" / "diff.json"
    speed = read_json(file)
    for device, batch, same in (("NVIDIA A100", 256, True), ("NVIDIA A100", 64, False), ("NVIDIA H100", 256, False)):
        write(file, speed | {"protocol": speed["protocol"] | {"device": device, "batch": batch}})
        gap = frame(study, tmp_path, "table3").set_index("row").loc["mlp-256", "seconds_minus_paper"]
        assert gap == (pytest.approx(0.25 - 0.286) if same else "")


def test_fid_at_infinitely_many_images_is_printed_where_there_is_room(tmp_path: Path) -> None:
    study = small()
    narrow = {
        "paper": "mar_table5",
        "title": "Table 5",
        "rows": [{"paper": "random-crossent", "variant": "ce", "without": "c4"}],
    }
    study = resolve(study.model_dump(exclude_defaults=True) | {"tables": {"narrow": narrow, **study.tables}}, "s.yaml")
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    for name, room in (("narrow", True), ("table1", False)):
        table(study, tmp_path, name)
        tex, text = (words(tmp_path / "tables" / f"{name}.{end}") for end in ("tex", "md"))
        assert (r"FID$\infty$" in tex) == room and "| FID∞ |" in text and "FID∞: extrapolated" in text
        with open(tmp_path / "tables" / f"{name}.csv", newline="") as file:
            assert float(next(csv.DictReader(file))["fid_infinity"]) == pytest.approx(10.0)


def test_the_difference_stands_behind_the_papers_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 2.1)
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    table(study, tmp_path, "table4")
    text = words(tmp_path / "tables" / "table4.md")
    assert "| 2.60 (-0.500) |" in text and "| 1.78 (+0.320) |" in text and "| 479M |" in text
    tex = (tmp_path / "tables" / "table4.tex").read_text()
    assert r"2.60\\(-0.500)\end" in tex and len(columns(tex)) == 1


def test_what_a_sweep_chose_is_in_the_table(tmp_path: Path) -> None:
    study = swept()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    ours = frame(study, tmp_path, "table1").set_index("row").loc["mar-default-diffloss"]
    assert (ours["guidance"], ours["temperature"]) == (1.0, 1.0)
    assert (ours["guidance_guided"], ours["temperature_guided"], ours["swept"]) == (3.0, 0.95, "s4-cfg")
    table(study, tmp_path, "table1")
    text = words(tmp_path / "tables" / "table1.md")
    assert "| 1 / 3 | 1 / 0.95 | 0 1 |" in text and "chosen for each model by FID on 20 other samples" in text
    assert inputs(study, ROOT, "table1") == inputs(study, ROOT, "metrics") == [ROOT / "sweeps/diff/s4-cfg.json"]


def test_cost_of_training(tmp_path: Path) -> None:
    study = large()
    rows = [{"paper": "mar-l", "variant": "diff", "without": "s4"}, {"paper": "ldm-4"}]
    cost = {"paper": "mar_training_cost", "title": "Cost", "rows": rows}
    study = resolve(study.model_dump(exclude_defaults=True) | {"tables": {"cost": cost}}, "cost.yaml")
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    found = frame(study, tmp_path, "cost").set_index("row")
    days = [found.loc["mar-l", f"training_days{end}"] * 24 * 60 * 60 for end in ("", "_low", "_high")]
    assert days == pytest.approx([60.5, 60, 61])
    assert (found.loc["mar-l", "paper_training_days"], found.loc["ldm-4", "training_days"]) == ("2.6", "-")
    table(study, tmp_path, "cost")
    text = words(tmp_path / "tables" / "cost.md")
    assert "real versus real |" not in text and "| guidance |" not in text, "of trainings there is no floor"
    assert inputs(study, ROOT, "cost") == [ROOT / f"runs/diff/seed{k}/run.json" for k in (0, 1)]


def test_every_number_of_every_sample_set(tmp_path: Path) -> None:
    study = swept()
    fabricate(study, tmp_path, lambda variant, setting, seed: 21.0 if seed else 20.0, noise=0.01)
    all_metrics.table(study, tmp_path)
    with open(tmp_path / "tables" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["fid", "fid_infinity", "kid", "inception_score", "precision", "recall", "agreement", "nearest"]
    sets = [(name, s) for name, v in study.variants.items() for s in v.sampling]
    # both training seeds together and each alone; then real images
    assert [r["metric"] for r in rows if r["seeds"] == "0 1"] == names * len(sets)
    assert len(rows) == 3 * len(sets) * len(names) + len(names)
    together, first, second = (r for r in rows if (r["setting"], r["metric"]) == ("s4-cfg", "fid"))
    assert float(together["value"]) == pytest.approx(math.sqrt(20 * 21)) and float(second["value"]) == 21
    assert (together["interval"], second["interval"]) == ("images and training seeds", "images")
    assert float(first["high"]) == pytest.approx(20 * (1 + 1.959964 * 0.01))
    assert (first["guidance"], first["temperature"], first["swept"], first["sampling_seed"]) == (
        "3.0",
        "0.95",
        "True",
        "0",
    )
    assert (first["n"], first["higher_is_better"], first["extractor"]) == ("40", "False", "classifier")
    assert (first["weights"], first["reference"], first["reference_sha256"]) == ("0" * 64, "train split", "a" * 64)
    assert together["files"].split() == [f"metrics/diff/seed{k}/s4-cfg.json" for k in (0, 1)]
    assert {r["variant"] for r in rows[-len(names) :]} == {"real versus real"}
    text = words(tmp_path / "tables" / "metrics.md")
    assert "| FID ↓ | FID∞ ↓ | KID ↓ | IS ↑ |" in text and "| diff | s4-cfg | 3* | 0.95* |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert len(columns((tmp_path / "tables" / "metrics.tex").read_text())) == 1


def test_sets_that_others_drew_are_rows(tmp_path: Path) -> None:
    study = beside_given()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0 + seed, noise=0.1)
    table(study, tmp_path, "table4")
    with open(tmp_path / "tables" / "table4.csv", newline="") as file:
        adm, other, floor = csv.DictReader(file)
    for end in ("", "_guided"):
        half = 1.959964 * 0.1  # of the images alone, whatever the training seeds of the study's own sets add
        expected = [12.0, 12 * math.exp(-half), 12 * math.exp(half)]
        assert [float(adm[f"fid{end}{key}"]) for key in ("", "_low", "_high")] == pytest.approx(expected, rel=1e-5)
    assert (adm["setting"], adm["setting_guided"], adm["n"], adm["params"]) == ("adm", "adm-g", "40", "-")
    assert (other["ours"], other["fid"], other["seeds"], other["n"]) == ("-", "-", "-", "-")
    assert floor["row"] == "real versus real"
    text = words(tmp_path / "tables" / "table4.md")
    assert "| given: adm / ADM-G & co |" in text and "12.0 [9.86, 14.6]" in text
    said = ("adm (samples/adm.npz, 999999999999, classes unknown)", "ADM-G & co (samples/admg.npz, 999999999999, ")
    assert f"drawn by others, with the interval of their images alone: {said[0]}; {said[1]}" in text
    assert "given: adm / ADM-G \\& co" in (tmp_path / "tables" / "table4.tex").read_text()
    table(study, tmp_path, "table1")
    with open(tmp_path / "tables" / "table1.csv", newline="") as file:
        own, beside = list(csv.DictReader(file))[2:4]
    assert own["row"] == beside["row"] and float(beside["fid"]) == pytest.approx(12.0)
    assert float(own["fid"]) == pytest.approx(math.sqrt(20 * 21)), "our row is as before"
    assert beside["fid_guided"] == "-"


def test_sets_that_others_drew_are_in_the_table_of_all(tmp_path: Path) -> None:
    study = beside_given()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0, noise=0.1)
    all_metrics.table(study, tmp_path)
    with open(tmp_path / "tables" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"].startswith("given/")]
    names = ["fid", "fid_infinity", "kid", "inception_score", "precision", "recall", "nearest"]
    assert [row["metric"] for row in rows] == 2 * names
    assert {(row["setting"], row["seeds"], row["interval"], row["n"]) for row in rows} == {("", "", "images", "40")}
    assert {row["files"] for row in rows} == {"metrics/given/adm-g.json", "metrics/given/adm.json"}
    text = words(tmp_path / "tables" / "metrics.md")
    assert "| ADM-G & co | given | | | 12.0 [9.86, 14.6] |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    (line,) = (line for line in text.splitlines() if line.startswith("| adm "))
    assert line.split("|")[11].strip() == "", "its classes are not known"


def test_the_key_of_a_table_has_the_sets_that_it_shows(tmp_path: Path) -> None:
    study, without = beside_given(), small()
    renamed = study.model_copy(update={"given": study.given | {"adm": Given(file="samples/adm.npz", label="ADM")}})
    assert table_key(study, "table4") != table_key(renamed, "table4")
    assert table_key(study, "metrics") != table_key(renamed, "metrics")
    assert "given" not in table_key(without, "table1") + table_key(without, "metrics")


def test_a_reference_of_statistics_alone_leaves_precision_out(tmp_path: Path) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0, images=False)
    for file in (tmp_path / "metrics").rglob("*.json"):
        values = read_json(file)
        gone = {"precision", "recall", "kid"}
        values["metrics"] = {key: value for key, value in values["metrics"].items() if key not in gone}
        values |= {"notes": ["the reference has no images"]}
        values["reference"] |= {"note": "unknown hash"}
        write(file, values)
    ours = frame(study, tmp_path, "table4").set_index("row").loc["mar-l"]
    assert (ours["precision"], ours["recall_guided"], ours["paper_recall"]) == ("-", "-", "0.60")
    all_metrics.table(study, tmp_path)
    text = (tmp_path / "tables" / "metrics.md").read_text()
    assert (
        "the reference has no images." in text and "unknown hash" in text and "precision" not in text.split("\n\n")[1]
    )


def test_random_weights_are_said(tmp_path: Path) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    for file in (tmp_path / "metrics").rglob("*.json"):
        values = read_json(file)
        values["extractors"]["dinov2"] |= {"weights": "random", "note": "random weights"}
        write(file, values)
    all_metrics.table(study, tmp_path)
    table(study, tmp_path, "table4")
    for name in ("metrics", "table4"):
        assert "Random weights: dinov2" in (tmp_path / "tables" / f"{name}.md").read_text()
    with open(tmp_path / "tables" / "metrics.csv", newline="") as file:
        weights = {(r["metric"], r["weights"]) for r in csv.DictReader(file)}
    assert ("fid_dinov2", "random") in weights and ("fid", "0" * 64) in weights


def test_a_long_table_goes_over_pages() -> None:
    rows = [[str(i), f"{i}.5 [1.00, 2.00]"] for i in range(50)]
    text = formats.latex("Many", formats.texts([("", "a", "l"), ("", "b", "r")], rows), "Note.", floor=True)
    assert text.startswith(r"% \usepackage{booktabs,longtable,pdflscape}") and r"\endhead" in text
    assert columns(text) == {2} and text.count("{") == text.count("}") and text.count("\na & b \\\\\n") == 2
    body = text[text.index(r"\endlastfoot") :].splitlines()[1:]
    assert [line.startswith(r"\midrule ") for line in body[:50]] == [False] * 49 + [True], "above the last row"
    assert body[50:] == [r"\end{longtable}", r"\end{landscape}"]


@pytest.mark.parametrize(
    ("text", "metric", "said"),
    [("3.5", "fid", "3.50"), ("290.30", "inception_score", "290.3"), ("", "fid", ""), ("2B", "parameters", "2B")],
)
def test_the_papers_numbers_are_printed_as_in_the_paper(text: str, metric: str, said: str) -> None:
    assert printed(text, metric) == said


def test_special_characters_of_titles_headings_cells_and_notes() -> None:
    raw = r"[a_b & 5% #1 $x$ {y} ~ ^ \z <3> ∞ ↑ ↓"
    text = formats.latex(raw, formats.texts([(raw, raw, "l"), (raw, f"2 {raw}", "r")], [[raw, f"1.00 {raw}"]]), raw)
    escaped = (
        r"{[}a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z "
        r"\textless{}3\textgreater{} $\infty$ $\uparrow$ $\downarrow$"
    )
    assert rf"\caption{{{escaped}. {escaped}}}" in text
    assert rf"\multicolumn{{2}}{{c}}{{{escaped}}} \\" in text
    assert rf"\cmidrule(lr){{1-2}} {escaped} & 2 {escaped} \\" in text
    assert rf"{escaped} & \begin{{tabular}}[t]{{@{{}}r@{{}}}}1.00\\{escaped}\end{{tabular}} \\" in text


def test_a_bar_in_a_cell_is_no_column_and_numbers_keep_their_digits() -> None:
    heads = [("", "a", "l"), ("FID", "ours", "r"), ("FID", "paper", "r")]
    text = formats.markdown("Title", formats.texts(heads, [["x | y", "1.00", "1e3"]]), "Note | [1].")
    title, _, head, align, row, *rest = re.sub(" +", " ", text).splitlines()
    assert (title, head, row) == ("### Title", "| a | FID | paper |", r"| x \| y | 1.00 | 1e3 |")
    assert re.fullmatch(r"\|:-+\|-+:\|-+:\|", align) and rest == ["", "Note | [1]."]


def test_unknown_names_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table 'nope': not in tables; accepted: table1, metrics, variance"):
        table(study, tmp_path, "nope")
    with pytest.raises(ValueError, match=r"paper table 'nope'.*accepted: .*mar_table1"):
        paper_rows("nope")
    with pytest.raises(ValueError, match=r"mar_recipe.csv: found columns section, .*; accepted: row among them"):
        paper_rows("mar_recipe")
    assert paper_lines("mar_recipe")[0]["section"] == "data"


def test_missing_metrics_are_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / "metrics" / "ar" / "seed0" / "a4.json").unlink()
    with pytest.raises(ValueError, match=r"metrics/ar/seed0/a4.json: missing"):
        table(study, tmp_path, "table1")


def test_the_papers_numbers_are_read_in_its_order() -> None:
    rows = paper_rows("mar_table1")
    assert len(rows) == 8
    assert (rows["mar-one-diffloss"]["fid_cfg"], rows["ar-raster-crossent"]["is_nocfg"]) == ("1.84", "60.8")
