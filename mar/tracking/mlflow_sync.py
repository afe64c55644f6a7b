"""MLflow filled from the files of a study: a run of the study that groups a run of each of its trainings.

A training has its curves by images seen, what its images were, how well it used its machine, its parameters and its
final numbers, of which `fid` is that of the samples that stand for it. The study has tables, figures, verdicts and the
report.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mar.runtime import runlog
from mar.runtime.files import Record, atomic, read, remove_abandoned, sha256, write
from mar.runtime.folders import RECIPE, lock, recipe_of
from mar.runtime.provenance import Provenance, git_commit
from mar.study import layout
from mar.study.labels import label
from mar.study.records import (
    ClassifierRecord,
    DataManifest,
    Metric,
    MetricsFile,
    RfidRecord,
    RunRecord,
    SampleManifest,
    TrackedRuns,
    Verdicts,
    without_password,
    without_secrets,
)
from mar.study.study import Study

R = TypeVar("R", bound=Record | Verdicts)
STUDY = "study"  # key of the run that groups the others
# Curves that MLflow shows among the system metrics, as mar/training/meter.py measures them.
SYSTEM = ("images_per_second", "data_wait", "peak_memory", "utilisation")
UNSAID = ("checkpoint_images", "log_images", "micro_batch", "gradient_checkpointing")  # of a recipe: no parameters


def sync(study: Study, root: Path, db: Path, server: str = "", register: bool = False) -> None:
    """Bring MLflow up to what the files of a study say; run again, it adds only what is new.

    One MLflow run for the study, and inside it one per training, tokenizer and classifier, found again by its `mar.key`
    and `mar.recipe`: a folder made by another recipe is another run. Unfinished trainings are imported too. Trainings
    themselves only write their files, so nothing that happens here stops one. Nothing of the study needs MLflow either:
    where it fails, one line says so, and mlflow.json keeps the runs that are known.

    Args:
        study: the study, which is the name of the experiment.
        root: its results folder; mlflow.json there says which run of MLflow is which folder's.
        db: SQLite file of MLflow; `mlflow ui --backend-store-uri sqlite:///<db>` shows it. Artifacts lie beside it.
        server: URI of a tracking server instead.
        register: also register the model of each finished training, as `mar export` writes it.

    Raises:
        ValueError: a file of the study is damaged.
    """
    root, db = Path(root), Path(db)
    sources, earlier = list(_sources(study, root)), _optional(layout.tracked(root), TrackedRuns)
    store, experiment, runs, fails = without_secrets(server) or str(db), "", {}, False
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a study sends nobody word that it runs
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # MLflow's default of 7 takes minutes
    artifacts = layout.mlflow_artifacts(db.resolve())
    try:
        with lock(artifacts):  # several studies may sync at once, and the first creates the tables
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic", "urllib3"):  # after the import, which sets levels
                logging.getLogger(name).setLevel(logging.ERROR if name == "urllib3" else logging.WARNING)
            if not server and not db.exists():
                _create(db.resolve())
            client = MlflowClient(server or f"sqlite:///{db.resolve()}")
            experiment = _experiment(client, study.study, None if server else db.resolve())
            runs[STUDY] = parent = _sync_study(client, experiment, study, root)
            for source in sources:
                runs[source.key] = _sync_run(client, experiment, study, root, source, parent)
                if register and source.run is not None:
                    _register(client, study, root, runs[source.key], *source.run)
    except Exception as error:  # of MLflow, its server, its database, or its version
        fails = True
        reason = next(iter(_told(error, server).splitlines()), "") or type(error).__name__
        print(
            f"{store}: MLflow fails ({reason[:200]}); the results and the report are complete without it, and "
            f"`mar track --study {layout.study(root)}` goes on with what it lacks"
            + (f". Without MLFLOW_TRACKING_URI the runs go to {db}" if server else ""),
            flush=True,
        )
        if earlier and earlier.server == without_secrets(server):
            experiment, runs = experiment or earlier.experiment, earlier.runs | runs
    tracked = TrackedRuns(experiment=experiment, runs=runs, server=server)
    if tracked != earlier:  # the report is older than its links where this is written again
        write(layout.tracked(root), tracked)
    if not fails:
        from mar.report.evidence import runs_address

        opened = f"mlflow ui --backend-store-uri sqlite:///{db}, then " if not server else ""
        where = f"{opened}{runs_address(root)}"
        print(f"{store}: experiment {study.study}, {len(runs) - 1} trainings; {where}", flush=True)


def _create(db: Path) -> None:
    """Make a database with MLflow's tables, whole or not at all.

    MLflow makes them in some hundred steps, each of which would wait for the disk: seconds, several times what they
    compute. Here they are made in a temporary folder, whose loss costs nothing; the file comes to its place whole.
    """
    from mlflow.tracking import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    remove_abandoned(db.parent, f".{glob.escape(db.name)}.*.tmp")
    for rest in ("-journal", "-wal", "-shm"):  # of a database that was moved away: SQLite would bring it back into this
        db.with_name(db.name + rest).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, atomic(db) as temporary:
        made = Path(folder) / db.name  # MLflow keeps what it knows of a database by its name, and this one is new
        event.listen(Engine, "connect", hurry)
        try:
            MlflowClient(f"sqlite:///{made}")
        finally:
            event.remove(Engine, "connect", hurry)
        shutil.copyfile(made, temporary)


def _told(error: Exception, server: str) -> str:
    """The message of an error without the secrets in the address of the server, which MLflow prints in parts."""
    text, parts = without_password(str(error)), urlsplit(server)
    for secret in (parts.query, parts.fragment, parts.password):
        text = text.replace(secret, "...") if secret else text
    return text


def _experiment(client: Any, name: str, db: Path | None) -> str:
    """Create or find the experiment of a study; its id.

    MLflow keeps the folder of artifacts as an absolute path. Where the file `db` was moved or copied together with the
    artifacts beside it, the path is set to where they are now: else MLflow would make the old folder anew.

    Raises:
        ValueError: the experiment is deleted.
    """
    existing = client.get_experiment_by_name(name)
    # Without a location for artifacts MLflow writes to ./mlruns; a server has its own location.
    folder = layout.mlflow_artifacts(db) / name if db else None
    location = folder.as_uri() if folder else None
    if existing is None:
        return str(client.create_experiment(name, location))
    number, old = str(existing.experiment_id), existing.artifact_location
    if existing.lifecycle_stage != "active":
        raise ValueError(
            f"experiment {name} is deleted; `mlflow experiments restore --experiment-id {number}` brings it back"
        )
    if folder and location != old and old.endswith(f"/{folder.parent.name}/{name}"):
        with contextlib.closing(sqlite3.connect(str(db))) as connection, connection:
            connection.execute(
                "update experiments set artifact_location = ? where experiment_id = ?", (location, int(number))
            )
            connection.execute(
                "update runs set artifact_uri = ? || substr(artifact_uri, ?) where experiment_id = ? "
                "and substr(artifact_uri, 1, ?) = ?",
                (location, len(old) + 1, int(number), len(old) + 1, f"{old}/"),
            )
    return number


@dataclass(frozen=True)
class _Source:
    """The state of one training according to its files."""

    key: str  # runs/<variant>/seed<k>, tokenizers/<name>, classifier
    folder: Path
    tags: dict[str, str]
    total: int  # images that the training takes in all
    done: Path  # file that exists once the training is complete
    final: dict[str, float]  # metrics of the finished training, by their names in MLflow
    provenance: Provenance | None  # of the finished training; None while it is not complete
    picture: tuple[str, int, str] | None = None  # variant, seed and setting of the sample grid to log
    run: tuple[str, int] | None = None  # variant and seed of a finished training of our own


def _sources(study: Study, root: Path) -> Iterator[_Source]:
    """All trainings of the study that have begun."""
    folder = layout.classifier(root)
    if study.classifier and (folder / RECIPE).exists():
        done = folder / layout.CLASSIFIER
        classifier, total = _optional(done, ClassifierRecord), study.classifier.images
        final = _numbers({k: getattr(classifier, k) for k in ("accuracy", "count", "parameters")}) if classifier else {}
        tags = {"stage": "classifier"}
        yield _Source(
            _key(root, folder), folder, tags, total, done, final, classifier.provenance if classifier else None
        )
    for name, (_, tokenizer, _) in study.instances.items():
        folder = layout.tokenizer(root, name)
        if (folder / RECIPE).exists():
            done = folder / layout.RFID
            rfid = _optional(done, RfidRecord)
            final = _values("", rfid.metrics) if rfid else {}
            tags = {"stage": "tokenizer", "tokenizer": name}
            total = tokenizer.images or 0
            yield _Source(_key(root, folder), folder, tags, total, done, final, rfid.provenance if rfid else None)
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            folder = layout.run(root, name, seed)
            if not (folder / RECIPE).exists():
                continue
            done, final, picture = folder / layout.RECORD, {}, None
            if run := _optional(done, RunRecord):
                final = _numbers({k: getattr(run, k) for k in ("seconds", "restarts", "parameters", "final_loss")})
                shown = study.shown_setting(name)
                for setting in variant.sampling:
                    metrics = _optional(layout.metrics(root, layout.sample_set(name, seed, setting)), MetricsFile)
                    if metrics and metrics.inputs.get("checkpoint") == run.checkpoint:  # not those of an older training
                        final |= _values("", metrics.metrics) if setting == shown else {}
                        final |= _numbers({f"fid by setting/{setting}": _fid(metrics)})
                setting = shown
                manifest = _optional(
                    layout.sample_manifest(root, layout.sample_set(name, seed, setting)), SampleManifest
                )
                picture = (name, seed, setting) if manifest and manifest.checkpoint == run.checkpoint else None
            tags = {"stage": "train", "variant": name, "seed": str(seed), "setting": study.shown_setting(name)}
            tags["tokenizer"] = study.tokenizer_of(name, seed)
            tags["model"] = label(study, name)
            total = 0 if variant.pretrained else study.recipes[variant.recipe].images
            yield _Source(
                _key(root, folder),
                folder,
                tags,
                total,
                done,
                final,
                run.provenance if run else None,
                picture,
                (name, seed) if run and not variant.pretrained else None,
            )


def _fid(metrics: MetricsFile) -> float | None:
    return metrics.metrics["fid"].value if "fid" in metrics.metrics else None


def _key(root: Path, folder: Path) -> str:
    """The name of a result in MLflow and in mlflow.json: its folder, relative to the results folder."""
    return folder.relative_to(root).as_posix()


def _found(client: Any, experiment: str, key: str, recipe: str, name: str, start: int) -> Any:
    """The run of MLflow with this key and recipe, which is created where there is none."""
    matches = client.search_runs([experiment], f"tags.`mar.key` = '{key}' and tags.`mar.recipe` = '{recipe}'")
    if matches:
        return client.get_run(matches[0].info.run_id)
    return client.create_run(experiment, start, {"mar.key": key, "mar.recipe": recipe}, name)


def _sync_study(client: Any, experiment: str, study: Study, root: Path) -> str:
    """Create or find the run of a study, log its tables, figures, verdicts and report, and return its id."""
    from mlflow.entities import Metric

    file = layout.study(root) if layout.study(root).exists() else root
    run = _found(client, experiment, STUDY, "", study.title or study.study, int(1000 * file.stat().st_mtime))
    run_id, claims = str(run.info.run_id), _optional(layout.claims(root), Verdicts)
    client.set_tag(run_id, "stage", STUDY)
    _sync_data(client, run, study, root)
    places = [("", path) for path in (layout.study(root), layout.report(root)) if path.exists()]
    places += [("tables", path) for path in sorted(layout.table(root, "x", "csv").parent.glob("*")) if path.is_file()]
    places += [("figures", path) for path in sorted(layout.figures(root).glob("*.png"))]
    lines = [f"{place}/{path.name} {sha256(path)}\n" for place, path in places]
    lines += [claims.model_dump_json()] if claims else []
    products = hashlib.sha256("".join(lines).encode()).hexdigest()
    if run.data.tags.get("mar.products") != products:
        for place, path in places:
            client.log_artifact(run_id, str(path), place or None)
        if claims:
            client.log_text(run_id, _verdicts(claims), "verdicts.csv")
            now, tally = int(1000 * time.time()), Counter(claim.verdict for claim in claims.root)
            client.log_batch(run_id, [Metric(f"claims/{verdict}", n, now, 0) for verdict, n in tally.items()])
        client.set_tag(run_id, "mar.products", products)
    if claims and run.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED")
    return run_id


def _verdicts(claims: Verdicts) -> str:
    """The verdicts of a study as CSV, which MLflow shows as a table: decided ones first, then open ones."""
    import pandas as pd

    first = {"replicated": 0, "not replicated": 0, "undecided": 1}
    found = sorted(claims.root, key=lambda claim: first.get(claim.verdict, 2))
    rows = [{"verdict": c.shown, "claim": c.text, "reason": c.reason, "id": c.id} for c in found]
    return pd.DataFrame(rows).to_csv(index=False)


def _sync_data(client: Any, run: Any, study: Study, root: Path) -> None:
    """Log the images of a study as the data set that a run was trained on, unless MLflow has it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    manifest = _optional(layout.data_manifest(root), DataManifest)
    if manifest is None or any(one.dataset.digest == manifest.files[:8] for one in run.inputs.dataset_inputs):
        return
    profile = {"classes": len(manifest.classes)} | {name: split.count for name, split in manifest.splits.items()}
    dataset = Dataset(
        name=study.data.folder or manifest.kind,
        digest=manifest.files[:8],
        source_type="local" if study.data.folder else manifest.kind,
        source=json.dumps({"uri": study.data.folder or manifest.kind, "sha256": manifest.files}),
        profile=json.dumps(profile | {"image_size": manifest.image_size}),
    )
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])


def _register(client: Any, study: Study, root: Path, run_id: str, variant: str, seed: int) -> None:
    """Register the model of a training as a version of <study>.<variant>, unless MLflow has it."""
    from mlflow.exceptions import MlflowException

    from mar.weights.exported import export

    run, checkpoint = client.get_run(run_id), read(layout.run_record(root, variant, seed), RunRecord).checkpoint
    if run.data.tags.get("mar.model") == checkpoint:
        return
    name = f"{study.study}.{variant}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}-seed{seed}.safetensors"
        export(study, root, variant, seed, file)
        client.log_artifact(run_id, str(file), "model")
    with contextlib.suppress(MlflowException):  # it exists
        client.create_registered_model(name)
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run_id, description=f"training seed {seed}")
    client.set_tag(run_id, "mar.model", checkpoint)


def _sync_run(client: Any, experiment: str, study: Study, root: Path, source: _Source, parent: str) -> str:
    """Create or find the MLflow run of a training, log what it lacks, and return its id."""
    from mlflow.entities import Metric, Param, RunTag

    recipe = recipe_of(source.folder)
    recipe_hash = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    lines = _settled(source)
    start = int(1000 * lines[0].get("time", 0)) if lines else int(1000 * (source.folder / RECIPE).stat().st_mtime)
    end = int(1000 * lines[-1].get("time", 0)) if lines else start
    run = _found(client, experiment, source.key, recipe_hash, source.key.removeprefix("runs/"), start)
    run_id = run.info.run_id
    _sync_data(client, run, study, root)
    git_revision = source.provenance.git_commit if source.provenance else git_commit()
    commit = git_revision.removesuffix("-dirty")
    tags = source.tags | {"study": study.study, "mlflow.source.git.commit": commit, "mlflow.parentRunId": parent}
    params = [Param(k, v) for k, v in parameters(recipe).items() if k not in run.data.params]
    now = int(1000 * time.time())  # later than metrics of an earlier evaluation, so that MLflow shows these
    metrics = [Metric(k, v, now, source.total) for k, v in source.final.items() if run.data.metrics.get(k) != v]
    for curve in {key for line in lines for key in line} - {"images", "time", "seconds"}:
        # Settled steps do not change, so steps that MLflow has already are not logged again.
        named = f"system/{curve}" if curve in SYSTEM else curve
        logged_steps = (
            {m.step for m in client.get_metric_history(run_id, named)} if named in run.data.metrics else set()
        )
        metrics += [
            Metric(named, float(line[curve]), int(1000 * line.get("time", 0)), line["images"])
            for line in lines
            if curve in line and line["images"] not in logged_steps
        ]
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
    for i in range(0, len(params), 100):  # MLflow takes at most 100 parameters and 1,000 metrics in a batch
        client.log_batch(run_id, params=params[i : i + 100])
    for i in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[i : i + 1000])
    if source.picture is not None:
        _sync_picture(client, run, source)
    if source.done.exists():
        if run.info.status != "FINISHED":
            client.set_terminated(run_id, "FINISHED", end)
    elif run.info.status != "RUNNING":
        client.update_run(run_id, "RUNNING")
    return str(run_id)


def _settled(source: _Source) -> list[dict[str, Any]]:
    """Lines of the log that no restart repeats: in an unfinished run, those up to its newest checkpoint.

    Repeated steps are equal to the bit only on the same number of processes, and MLflow cannot take a point back.
    """
    lines = runlog.read(source.folder / layout.LOG)
    if source.done.exists() or source.tags["stage"] != "train":
        return lines
    from mar.runtime.checkpoint import checkpoints  # imports torch

    last = max((entry.images for entry in checkpoints(source.folder / layout.CHECKPOINTS)), default=0)
    return [line for line in lines if line["images"] <= last]


def _sync_picture(client: Any, run: Any, source: _Source) -> None:
    """Log the sample grid as samples/<setting>.png, unless MLflow has it for this sample set."""
    from PIL import Image

    from mar.report.figures.samples import CLASSES, sample_grid

    assert source.picture is not None
    variant, seed, setting = source.picture
    root = source.folder.parents[2]
    manifest = sha256(layout.sample_manifest(root, layout.sample_set(variant, seed, setting)))
    if run.data.tags.get("mar.samples") == manifest:
        return
    classes = min(len(read(layout.data_manifest(root), DataManifest).classes), CLASSES)
    picture, _ = sample_grid(root, variant, seed, setting, classes)
    client.log_image(run.info.run_id, Image.fromarray(picture), artifact_file=f"samples/{setting}.png")
    client.set_tag(run.info.run_id, "mar.samples", manifest)


def _optional(path: Path, kind: type[R]) -> R | None:
    """The record of a stage; None where the stage has not run yet."""
    return read(path, kind) if path.exists() else None


def _values(prefix: str, metrics: dict[str, Metric]) -> dict[str, float]:
    return _numbers({f"{prefix}{name}": metric.value for name, metric in metrics.items()})


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    """The values that are not None, under names that MLflow accepts."""
    return {re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items() if value is not None}


def parameters(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe.json says, as `section.key: text`: what the study has set, without checksums and default values.

    Stage keys (JSON in a string) are opened. Of the two seeds of a training the second is its own.
    """

    def flat(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str) and value.startswith("{"):
            yield from flat(json.loads(value), "")
        elif isinstance(value, dict):
            for key, part in value.items():
                yield from flat(part, f"{prefix}{key}.") if key not in UNSAID else ()
        elif not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
            yield prefix.rstrip("."), value if isinstance(value, str) else json.dumps(value)

    found = dict(flat(dict(recipe), ""))
    if (seeds := json.loads(found.get("seed", "0"))) and isinstance(seeds, list):
        found["seed"] = str(seeds[-1])
    return found
