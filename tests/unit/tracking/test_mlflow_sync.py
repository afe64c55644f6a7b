"""metrics.jsonl, the way to MLflow and the live table."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from fabricate import fabricate, small

from mar.runtime.files import read as read_record
from mar.runtime.files import write
from mar.runtime.runlog import append, read
from mar.study.records import TrackedRuns, without_secrets
from mar.tracking.mlflow_sync import _told, parameters, sync
from mar.tracking.watch import _clock, _measured, _rate, watch
from mar.training.trainer import train
from mar.weights import exported


def test_append_and_read(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "metrics.jsonl"
    assert read(path) == []
    for images, loss in ((64, 3.0), (128, 2.0), (192, 1.5)):
        append(path, {"images": images, "loss": loss})
    append(path, {"images": 128, "loss": 2.5})  # done again after a restart
    assert [(line["images"], line["loss"]) for line in read(path)] == [(64, 3.0), (128, 2.5), (192, 1.5)]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, {"images": 64, "loss": 3.0})
    with open(path, "a") as file:
        file.write('{"images": 128, "lo')
    assert [line["images"] for line in read(path)] == [64]
    append(path, {"images": 192, "loss": 1.0})
    assert [line["images"] for line in read(path)] == [64, 192]


def test_import_is_cheap() -> None:
    heavy = "mlflow", "pandas", "rich", "torch", "matplotlib", "numpy"
    code = f"import sys, mar.tracking.mlflow_sync; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_parameters_are_what_the_study_says() -> None:
    recipe = {"images": 640, "batch": 64, "checkpoint_images": 64, "log_images": 64}
    slice_ = json.dumps({"recipe": recipe, "head": {"kind": "diffusion", "width": 8}, "seed": [0, 1]})
    assert parameters({"train": slice_, "tokens": "a" * 64, "weights": "kl16"}) == {
        **{"recipe.images": "640", "recipe.batch": "64", "head.kind": "diffusion", "head.width": "8"},
        **{"seed": "1", "weights": "kl16"},
    }
    assert parameters({"train": '{"recipe":{"gone":1}}'}) == {"recipe.gone": "1"}, "of an older version: as it is"


def checkpoint(folder: Path, images: int) -> None:
    """As of a training that saved after so many images."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "index.json").write_text(
        json.dumps([{"file": "x.pt", "images": images, "sha256": "0" * 64}])
    )


def counts(db: Path) -> dict[str, int]:
    with sqlite3.connect(db) as connection:
        tables = ("runs", "metrics", "params", "tags")
        return {t: connection.execute(f"select count(*) from {t}").fetchone()[0] for t in tables}


def sync_elsewhere(root: Path, db: Path) -> str:
    """What is printed by a sync in a process of its own: in one process, MLflow remembers databases and folders."""
    code = (
        "import sys; from pathlib import Path; from fabricate import small; from mar.tracking.mlflow_sync import sync\n"
        "sync(small({'ce': ()}), *map(Path, sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(db)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One test for all: mlflow takes seconds to import and to make its tables."""
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    study, root, db = small({"ce": ()}), tmp_path / "results" / "small", tmp_path / "results" / "mlflow.db"
    fabricate(study, root, lambda v, s, k: 20.0)
    unfinished = root / "runs" / "diff" / "seed1"
    (unfinished / "run.json").unlink()
    checkpoint(unfinished, 512)
    sync(study, root, db)
    assert not (tmp_path / "mlruns").exists()
    assert "INFO" not in capfd.readouterr().err, "MLflow's own log lines are off"
    first = counts(db)
    assert first["runs"] == 8  # the study, two seeds of two variants, two tokenizers, the classifier
    sync(study, root, db)
    assert counts(db) == first

    client = MlflowClient(f"sqlite:///{db}")
    experiment = client.get_experiment_by_name("small")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run = runs["diff/seed0"]
    assert run.info.status == "FINISHED" and runs["diff/seed1"].info.status == "RUNNING"
    assert run.data.metrics["fid"] == 20.0 and run.data.metrics["final_loss"] == 0.5, "a column to sort by"
    assert run.data.tags["setting"] == "s4-cfg" and run.data.metrics["fid by setting/s4"] == 20.0
    expected = {
        "study": "small",
        "variant": "diff",
        "seed": "0",
        "stage": "train",
        "mlflow.source.git.commit": "c0ffee",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.params["recipe.images"] == "640"
    assert runs["tokenizers/kl"].data.metrics["rfid"] == 5.0
    assert [a.path for a in client.list_artifacts(run.info.run_id, "samples")] == ["samples/s4-cfg.png"]
    assert (tmp_path / "results" / "mlflow-artifacts" / "small" / run.info.run_id).is_dir()
    said = json.loads((root / "mlflow.json").read_text())
    assert said["experiment"] == experiment.experiment_id and len(said["runs"]) == 8
    assert said["runs"]["runs/diff/seed0"] == run.info.run_id, "the report links to it"
    assert not client.list_artifacts(runs["diff/seed1"].info.run_id)

    # the unfinished run was requeued: what came after its checkpoint is done again, on fewer processes not to the bit
    history = client.get_metric_history(runs["diff/seed1"].info.run_id, "loss")
    assert [m.step for m in history] == list(range(64, 513, 64)), "steps that may be done again wait"
    for images, loss in ((576, 0.45), (640, 0.4), (704, 0.3)):
        append(unfinished / "metrics.jsonl", {"images": images, "loss": loss, "time": 1.8e9})
    checkpoint(unfinished, 640)
    for _ in range(2):
        sync(study, root, db)
    history = client.get_metric_history(runs["diff/seed1"].info.run_id, "loss")
    assert [m.step for m in history] == list(range(64, 641, 64)), "no point twice"
    assert [m.value for m in history[-2:]] == [0.45, 0.4], "the last time counts"
    # another recipe in the same folder is another run, the old one stays
    (unfinished / "recipe.json").write_text(json.dumps({"train": '{"recipe":{"images":320}}'}))
    sync(study, root, db)
    assert counts(db)["runs"] == 9


def test_a_study_groups_its_trainings_and_has_its_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    study, root, db = small({"ce": ()}), tmp_path / "results" / "small", tmp_path / "results" / "mlflow.db"
    fabricate(study, root, lambda v, s, k: 20.0)
    curve = root / "runs" / "diff" / "seed0" / "metrics.jsonl"
    more = {"images_per_second": 9.0, "peak_memory": 1e9}
    lines = [json.loads(line) | more for line in curve.read_text().splitlines()]
    curve.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sync(study, root, db)
    client = MlflowClient(f"sqlite:///{db}")
    experiment = client.get_experiment_by_name("small").experiment_id
    by_fid = "orderByKey=metrics.%60fid%60&orderByAsc=true"
    address = f"http://localhost:5000/#/experiments/{experiment}/runs?workflowType=machine_learning&{by_fid}"
    assert capsys.readouterr().out.endswith(
        f"7 trainings; mlflow ui --backend-store-uri sqlite:///{db}, then {address}\n"
    )
    known = read_record(root / "mlflow.json", TrackedRuns).runs
    parent = client.get_run(known["study"])
    assert not client.list_artifacts(parent.info.run_id, "tables") and parent.info.status == "RUNNING"

    write_products(root)
    written = (root / "mlflow.json").stat().st_mtime_ns
    sync(study, root, db)
    assert (root / "mlflow.json").stat().st_mtime_ns == written, "it is older than the report, which links to runs"
    assert {a.path for a in client.list_artifacts(parent.info.run_id, "tables")} == {"tables/table1.csv"}
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"study.json", "tables", "report.html", "verdicts.csv"}
    parent = client.get_run(parent.info.run_id)
    assert parent.data.metrics == {"claims/replicated": 1} and parent.info.status == "FINISHED"
    verdicts = Path(client.download_artifacts(parent.info.run_id, "verdicts.csv")).read_text()
    assert verdicts.splitlines()[1] == "replicated,t,r,c1"

    runs = [run for run in client.search_runs([experiment]) if run.info.run_id != parent.info.run_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    run = client.get_run(known["runs/diff/seed0"])
    assert run.data.metrics["system/images_per_second"] == 9.0 and "images_per_second" not in run.data.metrics
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")][:2] == [64, 128], "images seen"
    assert len(run.data.params) < 20 and not any(len(value) == 64 for value in run.data.params.values())
    for one in (*runs, parent):
        (data,) = client.get_run(one.info.run_id).inputs.dataset_inputs
        assert data.dataset.name == "digits" and json.loads(data.dataset.profile)["classes"] > 1
    before = counts(db)
    sync(study, root, db)
    assert counts(db) == before


def write_products(root: Path) -> None:
    """A table, a report and the verdict on one claim."""
    (root / "tables").mkdir()
    (root / "tables" / "table1.csv").write_text("a,b\n1,2\n")
    (root / "report.html").write_text("<p>report</p>")
    said = {"id": "c1", "text": "t", "source": "s", "decides": "any", "because": "", "verdict": "replicated"}
    said |= {"effect": 1.0, "low": 0.5, "high": 1.5, "scale": None, "reason": "r", "seeds": [1, 1]}
    (root / "claims.json").write_text(json.dumps([said]))


def test_models_are_registered_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    root = tiny.make_root(tmp_path / "results")
    study, db = tiny.study(), tmp_path / "results" / "mlflow.db"
    train(study, root, "mar-diff", 0)
    monkeypatch.setattr(exported, "export", lambda study, root, variant, seed, out: out.write_text(f"{variant} {seed}"))
    sync(study, root, db)
    client = MlflowClient(f"sqlite:///{db}")
    assert not client.search_registered_models()
    for _ in range(2):
        sync(study, root, db, register=True)
    (model,) = client.search_registered_models()
    (version,) = client.search_model_versions(f"name='{model.name}'")
    assert model.name == "tiny.mar-diff" and version.description == "training seed 0"
    (file,) = client.list_artifacts(version.run_id, "model")
    assert file.path == "model/tiny.mar-diff-seed0.safetensors"


def test_a_dead_server_is_told_in_one_line_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    study, root = small({"ce": ()}), tmp_path / "results" / "small"
    fabricate(study, root, lambda v, s, k: 20.0)
    server, db = "http://me:s3cret@127.0.0.1:9", tmp_path / "results" / "mlflow.db"
    sync(study, root, db, server)
    out, err = capfd.readouterr()
    assert re.fullmatch(r"http://127\.0\.0\.1:9: MLflow fails \(.*Without MLFLOW_TRACKING_URI the runs go to .*\n", out)
    assert "s3cret" not in out + err + (root / "mlflow.json").read_text() and not db.exists()
    assert read_record(root / "mlflow.json", TrackedRuns).server == "http://127.0.0.1:9"
    # what an earlier call of the same server has made is kept
    known = TrackedRuns(experiment="7", runs={"classifier": "f" * 32}, server=server)
    write(root / "mlflow.json", known)
    sync(study, root, db, server)
    assert read_record(root / "mlflow.json", TrackedRuns) == known
    sync(study, root, db, "http://127.0.0.1:19")
    assert not read_record(root / "mlflow.json", TrackedRuns).runs, "runs of another server are not runs of this one"


def test_a_token_in_the_address_of_a_server_is_told_nowhere() -> None:
    server = "https://me:word@host/mlflow?token=s3cret#s3cret"
    assert without_secrets(server) == "https://host/mlflow"
    assert TrackedRuns(experiment="", runs={}, server=server).server == "https://host/mlflow"
    told = _told(OSError("Max retries exceeded with url: /mlflow?token=s3cret#s3cret/api; word"), server)
    assert "s3cret" not in told and "word" not in told and told.startswith("Max retries")


def test_a_deleted_experiment_and_a_moved_checkout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mlflow.tracking import MlflowClient

    study, old, new = small({"ce": ()}), tmp_path / "old" / "results", tmp_path / "new" / "results"
    fabricate(study, old / "small", lambda v, s, k: 20.0)
    sync_elsewhere(old / "small", old / "mlflow.db")
    os.rename(tmp_path / "old", tmp_path / "new")
    manifest = next((new / "small" / "samples").glob("diff/seed0/s4-cfg/manifest.json"))
    manifest.write_text(manifest.read_text() + " ")  # its picture is drawn anew
    sync(study, new / "small", new / "mlflow.db")
    assert not (tmp_path / "old").exists(), "no folder is made where the checkout was"
    client = MlflowClient(f"sqlite:///{new}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.artifact_uri == f"{(new / 'mlflow-artifacts' / 'small').as_uri()}/{run.info.run_id}/artifacts"
    runs = read_record(new / "small" / "mlflow.json", TrackedRuns).runs
    assert [a.path for a in client.list_artifacts(runs["runs/diff/seed0"], "samples")] == ["samples/s4-cfg.png"]
    capfd.readouterr()
    client.delete_experiment(experiment.experiment_id)
    sync(study, new / "small", new / "mlflow.db")
    out, _ = capfd.readouterr()
    assert out.startswith(f"{new}/mlflow.db: MLflow fails (experiment small is deleted; `mlflow experiments restore")
    assert out.count("\n") == 1 and (new / "small" / "mlflow.json").exists()


@pytest.mark.parametrize("uri", ["./mlruns", "file:///{}/mlruns", "nothing://at/all", "sqlite:////dev/null/x.db"])
def test_a_variable_left_from_another_project_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    study, root = small({"ce": ()}), tmp_path / "results" / "small"
    fabricate(study, root, lambda v, s, k: 20.0)
    sync(study, root, tmp_path / "results" / "mlflow.db", uri.format(tmp_path))
    out, err = capfd.readouterr()
    assert ": MLflow fails (" in out and out.count("\n") == 1 and "Traceback" not in err
    assert read_record(root / "mlflow.json", TrackedRuns).runs == {}


def test_a_database_of_another_version_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study, root, db = small({"ce": ()}), tmp_path / "results" / "small", tmp_path / "results" / "mlflow.db"
    fabricate(study, root, lambda v, s, k: 20.0)
    sync(study, root, db)
    before = read_record(root / "mlflow.json", TrackedRuns)
    with sqlite3.connect(db) as connection:
        connection.execute("update alembic_version set version_num = 'ffffffffffff'")
    capfd.readouterr()
    said = sync_elsewhere(root, db)
    assert "MLflow fails (" in said and "Traceback" not in said
    assert read_record(root / "mlflow.json", TrackedRuns) == before, "the runs that were known stay"


def test_a_database_is_made_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy import create_engine

    study, root, db = small({"ce": ()}), tmp_path / "results" / "small", tmp_path / "results" / "mlflow.db"
    fabricate(study, root, lambda v, s, k: 20.0)
    half = db.with_name(".mlflow.db.elsewhere.1.tmp")
    half.write_text("of a sync that was killed")
    os.utime(half, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.db.utils._upgrade_db", lambda engine: 1 / 0)
        sync(study, root, db)
    assert "MLflow fails (division by zero)" in capfd.readouterr().out
    assert {path.name for path in db.parent.iterdir()} == {"small", "mlflow-artifacts"}
    for rest in ("-journal", "-wal", "-shm"):  # of a database that was moved away after a kill
        Path(f"{db}{rest}").write_bytes(b"left")
    sync(study, root, db)
    assert counts(db)["runs"] == 8 and not list(db.parent.glob("mlflow.db-*"))
    with create_engine("sqlite://").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "other databases wait for the disk"


def test_a_training_does_not_ask_the_server(tmp_path: Path) -> None:
    root = tiny.make_root(tmp_path)
    code = "import sys; from mar.cli.__main__ import main; main(standalone_mode=False); print('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--study", str(root / "study.json"), "--variant", "ar-ce", "--seed", "0"],
        env={**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert (root / "runs" / "ar-ce" / "seed0" / "run.json").exists()


def test_watch_prints_once_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small({"ce": ()})
    fabricate(study, tmp_path, lambda v, s, k: 20.0)
    (tmp_path / "runs" / "diff" / "seed1" / "run.json").unlink()
    curve = tmp_path / "runs" / "diff" / "seed1" / "metrics.jsonl"
    curve.write_text("".join(curve.read_text().splitlines(keepends=True)[:5]))  # 320 of 640 images, 100 a second
    watch(study, tmp_path)
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if "/" in line}
    assert lines["diff/seed0"][1] == "640" and lines["diff/seed0"][-1] == "done"
    assert lines["diff/seed1"][:2] == ["320", "640"] and lines["diff/seed1"][-2:] == ["100", "0:00:03"]


def test_brackets_in_the_live_table_are_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    watch(small(), Path("[red]:smile:"))
    assert "small: [red]:smile:" in capsys.readouterr().out


def test_what_a_training_measured() -> None:
    assert _measured({"data_wait": 0.123, "peak_memory": 41.26e9, "utilisation": 0.4}) == ["12%", "41.3", "40%"]
    assert _measured({"data_wait": 0.0}) == ["0%", "", ""]


def test_rate_and_clock() -> None:
    assert _rate([{"images": 0, "time": 0.0}, {"images": 50, "time": 2.0}]) == 25.0
    assert _rate([{"images": 0}]) == 0.0
    assert _clock(3725) == "1:02:05"
