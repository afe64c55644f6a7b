"""The report page and the summary."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import beside_given, fabricate, large, small, swept
from PIL import Image

from mar.analysis.estimates import Results
from mar.analysis.verdicts import decide
from mar.paper.deviations import deviations
from mar.report.evidence import variants
from mar.report.page import report
from mar.report.terminal import summary
from mar.runtime.files import write
from mar.study import layout
from mar.study.products import figure_names
from mar.study.reading import load
from mar.study.records import GpuHours, GpuHoursRecord
from mar.study.sections import OwnClaim
from mar.study.study import Study

CLAIMS = Path(__file__).parents[3] / "config" / "claims.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "results" / "small"
    return root


def build(root: Path, **metrics: Any) -> Study:
    study = small({"ce": ()}, **metrics)
    fabricate(
        study, root, lambda v, s, k: 20.0 if v == "diff" else 40.0, lambda v, s: 0.05 if v == "diff" else 0.1, 0.05
    )
    decide(study, root, CLAIMS)
    for name in ("claims", "tradeoff", "samples", "losses"):
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    return study


def test_report_is_one_page_with_everything(root: Path) -> None:
    study = build(root)
    report(study, root, root)
    html = (root / "report.html").read_text()
    loaded = re.findall(r'<(?:img|script|iframe|link)\b[^>]*?(?:src|href)="([^"]*)"', html)
    assert len(loaded) > 3 and all(address.startswith("data:") for address in loaded), "it loads nothing"
    assert not re.findall(r"@import|url\(", html)
    assert html.count("data:image/png;base64,") == 4
    titles = (
        "Table 1",
        "Claims of the paper",
        "Figures",
        "All metrics",
        "Tokenizers",
        "Seconds",
        "What it cost",
        "Runs and sample",
    )
    order = [html.index(f"<h2>{title}") for title in titles]
    assert order == sorted(order)
    assert "100% of A_B &amp; C" in html, "texts of the study are escaped"
    for text in ("not run", "real versus real", "sqrt(alpha_bar), 5e-5", "A &amp; B_CPU", "c0ffee", "codebook used"):
        assert text in html
    assert "do not agree" not in html and "all 4 trainings" in html
    size = re.search(r"one file of ([\d.]+) MB", html)
    assert size and abs(float(size[1]) - len(html.encode()) / 1e6) <= 0.06


def test_own_claims_have_a_heading_of_their_own(root: Path) -> None:
    check = {"kind": "better", "table": "mar_table1", "metric": "fid", "guided": False}
    rows = {"a": "mar-default-diffloss", "b": "mar-default-crossent"}
    ours = OwnClaim(id="ours", text="Ours is better.", check=check | rows)
    study = small({"ce": ()}).model_copy(update={"claims": (ours,)})
    build(root)
    decide(study, root, CLAIMS)
    report(study, root, root)
    html = (root / "report.html").read_text()
    theirs, own = html.index("<h2>Claims of the paper</h2>"), html.index("<h2>Claims of the study&#39;s own</h2>")
    assert (
        theirs
        < html.index('id="claim:diffloss-ar-raster"')
        < own
        < html.index('id="claim:ours"')
        < html.index("<h2>Figures")
    )


def test_verdicts_are_counted_and_lead_to_their_evidence(root: Path) -> None:
    study = build(root)
    found = json.loads((root / "claims.json").read_text())
    evidence = {"variant": "diff", "setting": "s4", "metric": "fid", "seeds": [0, 1]}
    for claim in found:
        claim.pop("evidence", None)
    found[3]["evidence"] = [evidence | {"files": ["metrics/diff/seed0/s4.json", "metrics/gone/seed1/s4.json"]}]
    found[4]["evidence"] = [evidence | {"setting": None, "metric": "parameters", "files": ["runs/diff/seed0/run.json"]}]
    (root / "claims.json").write_text(json.dumps(found))
    report(study, root, root)
    html = (root / "report.html").read_text()
    counts = [int(n) for n in re.findall(r"<label[^>]*>.*?<b>(\d+)</b>", html)]
    assert counts[1] == len(found) == sum(counts[2:])
    assert counts[0] == sum(claim["verdict"] in ("replicated", "not replicated", "undecided") for claim in found)
    label = "MAR, Diffusion Loss"
    file = '<a data-file href="metrics/diff/seed0/s4.json">seed 0</a>'
    assert f'<a href="#set:diff/s4">{label} at 4 steps, 25 diffusion steps</a> FID ({file}, ' in html
    assert '<span class="gone" title="metrics/gone/seed1/s4.json">seed 1</span>' in html
    file = '<a data-file href="runs/diff/seed0/run.json">seed 0</a>'
    assert f'<a href="#variant:diff">{label}</a> parameters ({file})' in html


def test_all_tables_and_figures_of_a_study_are_shown(root: Path) -> None:
    study = large()
    fabricate(study, root, lambda v, s, k: 20.0, noise=0.05)
    decide(study, root, CLAIMS)
    for name in figure_names(study):
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    report(study, root, root)
    html = (root / "report.html").read_text()
    places = [html.index(f"<h2>Table {i}") for i in (1, 2, 3, 4)]
    places += [
        html.index(f'<figure id="{n}"') for n in ("tradeoff", "diffusion_steps", "temperature", "samples", "losses")
    ]
    assert places == sorted(places)
    for text in (
        "not decidable here",
        "weights imported",
        "<td>ADM</td>",
        "parameters of the head",
        "seconds an image",
    ):
        assert text in html
    assert "at 100 steps: FID 2.85 without guidance, 1.97 with guidance." in html
    assert "all 7 trainings" in html, "what is imported is not trained"
    for i in range(4):
        table = re.search(r"<thead>.*?</table>", html[places[i] :], re.S)
        assert table
        widths = [
            sum(int(n or 1) for n in re.findall(r"<t[hd]\b(?:[^>]*?colspan=\"(\d+)\")?[^>]*>", row))
            for row in re.findall(r"<tr.*?</tr>", table[0], re.S)
        ]
        assert len(set(widths)) == 1, f"every row of Table {i + 1} spans all columns"


def test_a_swept_setting_shows_its_grid_and_what_it_chose(root: Path) -> None:
    study = swept()
    fabricate(study, root, lambda v, s, k: 20.0, noise=0.05)
    grid = root / "sweeps" / "diff" / "s4-cfg.json"
    values = json.loads(grid.read_text())
    values["grid"][0] = {"guidance": 2.0, "temperature": 0.95, "round": 0, "error": "features are not <finite>"}
    grid.write_text(json.dumps(values | {"edge": ["guidance"]}))
    decide(study, root, CLAIMS)
    for name in figure_names(study):
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    report(study, root, root)
    html = (root / "report.html").read_text()
    of = "MAR, Diffusion Loss at 4 steps, 25 diffusion steps, swept"
    assert f"{of}: guidance 3, temperature 0.95, of 4 points; at the end of guidance" in html
    assert "features are not &lt;finite&gt;" in html
    assert html.count('<tr class="chosen">') == 1
    assert "steps 4, guidance 3, temperature 0.95" in html, "the sample sets say what they were drawn with"
    assert "mar --threads 1 sweep --study results/small/study.json --variant diff --setting s4-cfg" in html


def test_sets_that_others_drew_stand_beside_ours_and_decide_nothing(root: Path, tmp_path: Path) -> None:
    study, alone, verdicts = beside_given({"ce": ()}), small({"ce": ()}), []
    for of, place in ((study, root), (alone, tmp_path / "alone")):
        fabricate(of, place, lambda v, s, k: 20.0 if v == "diff" else 40.0, noise=0.05)
        decide(of, place, CLAIMS)
        verdicts.append((place / "claims.json").read_text())
    assert verdicts[0] == verdicts[1]
    for name in ("claims", "tradeoff", "samples", "losses"):
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    report(study, root, root)
    html = (root / "report.html").read_text()
    (row,) = re.findall(r'<tr id="given:adm-g">.*', html)
    assert "ADM-G &amp; co" in row and 'href="metrics/given/adm-g.json"' in row and "12.0 <small>[" in row
    assert html.count('href="#given:adm"') > html.count('href="#given:adm-g"') > 0, "numbers of tables lead to the row"
    assert '<span class="sub">given: adm / ADM-G &amp; co</span>' in html
    assert "ADM-G &amp; co (samples/admg.npz, 999999999999, classes unknown)" in html
    summary(study, root)


def test_random_weights_and_the_reference_are_said(root: Path) -> None:
    study = build(root, extractors=("classifier", "inception"))
    for path in (root / "metrics").rglob("*.json"):
        values = json.loads(path.read_text())
        mine = {"name": "my <folder>", "sha256": "5e1f" * 16}
        values["extractors"]["inception"] |= {"weights": "random", "note": "random weights", "reference": mine}
        path.write_text(json.dumps(values))
    report(study, root, root)
    html = (root / "report.html").read_text()
    assert '<p class="warning">Inception with random weights: ' in html
    said = 'FID also by Inception, <strong>random weights</strong>, against my &lt;folder&gt; (<code title="5e1f5e1f'
    assert said in html


def test_a_broken_chain_and_a_dirty_checkout_are_said(root: Path) -> None:
    study = build(root)
    judged = root / "metrics" / "ar" / "seed0" / "a4.json"
    judged.write_text(json.dumps(json.loads(judged.read_text()) | {"notes": ["no images of the real side"]}))
    run = root / "runs" / "diff" / "seed0" / "run.json"
    values = json.loads(run.read_text())
    values |= {"checkpoint": "0" * 64, "provenance": values["provenance"] | {"git_commit": "c0ffee-dirty"}}
    run.write_text(json.dumps(values))
    report(study, root, root)
    html = (root / "report.html").read_text()
    assert html.count('<span class="dirty">differ</span>') == 3  # its three settings
    assert "<strong>" not in html and "No images of the real side." in html, "notes of the metric files are shown"
    of = "MAR, Diffusion Loss at "
    assert f"Of {of}s2 seed 0, {of}s4 seed 0, {of}s4-cfg seed 0 the hashes do not agree with the files" in html
    assert "1 files were made from a checkout with changes" in html
    assert '<code>c0ffee</code> <span class="dirty">dirty</span>' in html


def test_runs_on_a_tracking_server_are_linked_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, server, run = build(root), "http://tracking:5000", "8f14e45f" * 4
    tracked = {"experiment": "1", "runs": {"runs/diff/seed0": run}, "server": server}
    (root / "mlflow.json").write_text(json.dumps(tracked))
    report(study, root, root)
    html = (root / "report.html").read_text()
    assert (
        f'href="{server}/#/experiments/1/runs/{run}?workflowType=machine_learning"' in html and "mlflow ui" not in html
    )
    summary(study, root)
    address = f"{server}/#/experiments/1/runs?workflowType=machine_learning&orderByKey="
    assert f"Runs          {address}" in capsys.readouterr().out
    # a password that an earlier version wrote is not shown, and only http addresses are links
    for uri, shown in (
        ("http://me:s3cret@tracking:5000", server),
        ("postgresql://me:s3cret@db/x", "postgresql://db/x"),
    ):
        (root / "mlflow.json").write_text(json.dumps(tracked | {"server": uri}))
        report(study, root, root)
        html = (root / "report.html").read_text()
        assert "s3cret" not in html and f"tracking server {shown}." in html
        assert (f'href="{shown}/' in html) == shown.startswith("http")
    # where MLflow failed, mlflow.json has no runs
    (root / "mlflow.json").write_text(json.dumps({"experiment": "", "runs": {}, "server": server}))
    report(study, root, root)
    assert "No MLflow runs: <code>mar track" in (root / "report.html").read_text()


def test_from_a_sample_set_to_its_files(root: Path) -> None:
    study = build(root)
    samples = root / "samples" / "diff" / "seed0" / "s4"
    (samples / "chunk-00001.npy").unlink()
    (root / "mlflow.json").write_text(json.dumps({"experiment": "1", "runs": {"runs/diff/seed0": "8f14e45f" * 4}}))
    found = {v["name"]: v for v in variants(study, root, Results(study, root))}
    assert list(found) == ["ar", "diff"], "what is not trained has nothing to show"
    run, other = found["diff"]["runs"]
    assert run["mlflow"] == {"id": "8f14e45f" * 4, "experiment": "1"} and other["mlflow"] is None
    assert run["recipe"].exists and not run["weights"].exists, "links only to what is there"
    first, second = found["diff"]["settings"][1]["seeds"]
    assert not first["images"] and first["strip"] is None and first["manifest"].exists
    assert second["images"] and second["agree"]
    image = Image.open(io.BytesIO(base64.b64decode(second["strip"].partition(",")[2])))
    assert image.size == (10 * 17, 17), "an image of each class, each with a line between"
    brightness = [image.convert("L").getpixel((17 * i + 8, 8)) for i in range(10)]
    assert sorted(brightness[::3]) == brightness[::3], "fabricated classes are the brighter the later"
    assert found["diff"]["settings"][1]["commands"][:6] == [
        "snakemake results/small/metrics/diff/seed0/s4.json results/small/metrics/diff/seed1/s4.json "
        "--configfile results/small/study.json",
        "mar --threads 1 train --study results/small/study.json --variant diff --seed 0",
        "mar --threads 1 sample --study results/small/study.json --variant diff --seed 0 --setting s4",
        "mar --threads 1 features --study results/small/study.json --extractor classifier --set diff/seed0/s4",
        "mar --threads 1 statistics --study results/small/study.json --extractor classifier --set diff/seed0/s4",
        "mar --threads 1 evaluate --study results/small/study.json --variant diff --seed 0 --setting s4",
    ]


def test_gpu_hours_of_a_cluster_are_shown_beside_those_of_the_plan(root: Path) -> None:
    study = build(root)
    report(study, root, root)
    assert "GPU hours" not in (root / "report.html").read_text()
    stages = {"train": GpuHours(spent=1234.5, planned=2000.0), "speed": GpuHours(planned=16.0)}
    write(layout.gpu_hours(root), GpuHoursRecord(accounted=True, stages=stages))
    report(study, root, root)
    section = (root / "report.html").read_text().split("GPU hours that Slurm", 1)[1].split("</table>", 1)[0]
    cells = re.findall(r'<td class="number">([^<]*)</td>', section)
    assert cells == ["1,234.5", "2,000.0", "", "16.0"]


def test_report_imports_no_torch(root: Path) -> None:
    study = build(root)
    study_file = root / "study.json"
    study_file.write_text(study.model_dump_json(exclude_defaults=True))
    code = (
        "import sys; from pathlib import Path; from mar.study.reading import load; from mar.report.page import report\n"
        "report(load(sys.argv[1]), Path(sys.argv[1]).parent, Path(sys.argv[1]).parent)\n"
        "print([m for m in ('torch', 'mlflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, study_file], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_large_figure_is_embedded_smaller(root: Path) -> None:
    study = build(root)
    noise = np.random.default_rng(0).integers(0, 256, (500, 2000, 3), np.uint8)
    Image.fromarray(noise).save(root / "samples.png", dpi=(200, 200))
    report(study, root, root)
    html = (root / "report.html").read_text()
    figure = html[html.index('<figure id="samples"') :]
    data = re.search(r'src="data:image/webp;base64,([^"]+)"', figure)
    assert data and 'width="1200"' in figure[: figure.index("</figure>")], "its text is as large as the page's"
    image = Image.open(io.BytesIO(base64.b64decode(data[1])))
    assert image.size == (1600, 400)
    assert len(data[1]) < (root / "samples.png").stat().st_size / 2


def test_missing_figure_is_named(root: Path) -> None:
    study = build(root)
    (root / "losses.png").unlink()
    with pytest.raises(ValueError, match=r"losses.png: missing; draw it"):
        report(study, root, root)


def test_a_figure_that_is_no_picture_is_named(root: Path) -> None:
    study = build(root)
    (root / "losses.png").write_bytes((root / "losses.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"losses\.png: no PNG \(.*\); delete it and run `mar figure` again"):
        report(study, root, root)


def test_deviations_are_those_of_trained_variants() -> None:
    found = {(d["where"], d["key"]): d for d in deviations(small({"ce": (), "ar": ()}))}
    clamp = found["sampling: s2, s4, s4-cfg", "clamp"]
    assert (clamp["ours"], clamp["published"]) == ("4", "none") and "2.4e-9" in clamp["why"]
    assert found["recipes: r", "ema"]["published"] == "0.9999"
    assert found["sampling", "guidance, temperature"]["ours"] == "2 and 1, not swept"
    assert found["metrics", "feature extractor"]["published"] == "Inception"
    assert not any("a4" in where or "vq" in where for where, _ in found), "only ar uses these"
    assert not any(key in ("label_drop", "betas", "weight_decay", "guidance_schedule") for _, key in found)


def test_imported_weights_and_dit_have_no_recipe_to_depart_from() -> None:
    found = deviations(large({"ce": (), "ar": (), "diff": ()}))
    assert not any(where.startswith("recipes") for where, _ in ((d["where"], d["key"]) for d in found))
    assert any(d["where"] == "sampling: s4, s4-cfg" and d["key"] == "clamp" for d in found), "published is sampled here"
    assert not any("j50" in d["where"] for d in found)
    assert "data set" not in {d["key"] for d in deviations(large(imagenet=True))}


def test_var_does_not_depart_from_the_recipe_of_mar() -> None:
    found = {d["where"] for d in deviations(load(Path(__file__).parents[3] / "config" / "var256.yaml"))}
    # MAR-L, which does the zero-shot tasks, has a larger head than Table 3's; batch of timings; guidance not swept
    assert found == {"heads: mar-l", "speed", "sampling"}
