"""Curves of a run: metrics.jsonl is the truth, MLflow is filled from it, `mar watch` shows it live."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mar.runtime import files
from mar.runtime.files import read_json, sha256, write_json
from mar.runtime.folders import RECIPE, lock, recipe_of
from mar.runtime.provenance import git_commit
from mar.runtime.runlog import read
from mar.study import layout
from mar.study.parts import Backbone, Data, Head, Recipe, Section, Tokenizer
from mar.study.records import ClassifierRecord, DataManifest, RunRecord
from mar.study.sections import Classifier
from mar.study.study import Study

SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "tokenizer": Tokenizer,
    "backbone": Backbone,
    "head": Head,
    "recipe": Recipe,
    "classifier": Classifier,
}


def sync(study: Study, root: Path, db: Path, server: str = "") -> None:
    """Bring MLflow up to what the files of a study say; run again, it adds only what is new.

    One MLflow run per training, tokenizer and classifier, found again by its `mar.key` and `mar.recipe`: a folder made
    by another recipe is another run. Unfinished trainings are imported too. Trainings themselves only write their
    files, so nothing that happens here stops one.

    Args:
        study: the study, which is the name of the experiment.
        root: its results folder; mlflow.json there says which run of MLflow is which folder's.
        db: SQLite file of MLflow; `mlflow ui --backend-store-uri sqlite:///<db>` shows it. Artifacts lie beside it.
        server: URI of a tracking server instead.

    Raises:
        ValueError: the server does not answer.
    """
    root, db = Path(root), Path(db)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a study tells nobody that it runs
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes; the same command goes on
    artifacts = layout.mlflow_artifacts(db.resolve())
    with lock(artifacts):  # studies may sync at the same time, and the first one creates the tables
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic", "urllib3"):  # after the import, which sets its own levels
            logging.getLogger(name).setLevel(logging.ERROR if name == "urllib3" else logging.WARNING)
        client = MlflowClient(server or f"sqlite:///{db.resolve()}")
        try:
            found = client.get_experiment_by_name(study.study)
            # without a place of its own an experiment writes to ./mlruns; a server has one
            place = None if server else (artifacts / study.study).as_uri()
            experiment = found.experiment_id if found else client.create_experiment(study.study, place)
            sources = list(_sources(study, root))
            runs = {source.key: _sync_run(client, experiment, study, source) for source in sources}
        except MlflowException as error:
            if not server:
                raise
            raise ValueError(
                f"{server}: the tracking server fails ({str(error).splitlines()[0][:200]}); the results are complete "
                "without it, and the same command goes on with what it lacks. Without MLFLOW_TRACKING_URI the runs go "
                f"to {db}"
            ) from None
    write_json(layout.tracked(root), {"experiment": experiment, "runs": runs} | ({"server": server} if server else {}))
    print(f"{server or db}: experiment {study.study}, {len(sources)} runs", flush=True)


FINAL = {"seconds", "restarts", "parameters", "final_loss"}  # numbers of a finished training


@dataclass(frozen=True)
class _Source:
    """One training as its files tell it."""

    key: str  # runs/<variant>/seed<k>, tokenizers/<name>, classifier
    folder: Path
    tags: dict[str, str]
    total: int  # images of the whole training
    done: Path  # exists when it is complete
    final: dict[str, float]
    picture: tuple[str, int, str] | None = None  # variant, seed, setting of the sample grid


def _sources(study: Study, root: Path) -> Iterator[_Source]:
    """All trainings of the study that have begun."""
    from mar.report.figures.samples import shown_setting

    folder = layout.classifier(root)
    if study.classifier and (folder / RECIPE).exists():
        done = folder / layout.CLASSIFIER
        final = _numbers("", files.read(done, ClassifierRecord).model_dump() if done.exists() else {})
        yield _Source(_key(root, folder), folder, {"stage": "classifier"}, study.classifier.images, done, final)
    for name, tokenizer in study.tokenizers.items():
        folder = layout.tokenizer(root, name)
        if (folder / RECIPE).exists():
            done = folder / layout.RFID
            final = _numbers("", _optional(done).get("metrics", {}))
            tags = {"stage": "tokenizer", "tokenizer": name}
            yield _Source(_key(root, folder), folder, tags, tokenizer.images or 0, done, final)
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            folder = layout.run(root, name, seed)
            if not (folder / RECIPE).exists():
                continue
            done = folder / layout.RECORD
            run = files.read(done, RunRecord) if done.exists() else None
            final = _numbers("", run.model_dump(include=FINAL) if run else {})
            for setting in variant.sampling:
                values = _optional(layout.metrics(root, layout.sample_set(name, seed, setting)))
                if run and values.get("inputs", {}).get("checkpoint") == run.checkpoint:  # not of an older training
                    final |= _numbers(f"{setting}/", values["metrics"])
            setting = shown_setting(study, name)
            samples = layout.samples(root, layout.sample_set(name, seed, setting))
            fresh = run and _optional(samples / layout.MANIFEST).get("checkpoint") == run.checkpoint
            picture = (name, seed, setting) if fresh else None
            tags = {"stage": "train", "variant": name, "seed": str(seed), "tokenizer": variant.tokenizer}
            images = 0 if variant.pretrained else study.recipes[variant.recipe].images
            yield _Source(_key(root, folder), folder, tags, images, done, final, picture)


def _key(root: Path, folder: Path) -> str:
    """How a result is called in MLflow and in mlflow.json: by its folder."""
    return folder.relative_to(root).as_posix()


def _sync_run(client: Any, experiment: str, study: Study, source: _Source) -> str:
    """Create or find the MLflow run of a training and log what it does not have; its id."""
    from mlflow.entities import Metric, Param, RunTag

    recipe = recipe_of(source.folder)
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    lines = _settled(source)
    start = int(1000 * lines[0].get("time", 0)) if lines else int(1000 * (source.folder / RECIPE).stat().st_mtime)
    end = int(1000 * lines[-1].get("time", 0)) if lines else start
    query = f"tags.`mar.key` = '{source.key}' and tags.`mar.recipe` = '{name}'"
    known = client.search_runs([experiment], query)
    if known:
        run_id = known[0].info.run_id
    else:
        title = source.key.removeprefix("runs/")
        run_id = client.create_run(experiment, start, {"mar.key": source.key, "mar.recipe": name}, title).info.run_id
    run = client.get_run(run_id)
    provenance = _optional(source.done).get("provenance", {})
    commit = str(provenance.get("git_commit", git_commit())).removesuffix("-dirty")
    tags = source.tags | {"study": study.study, "mlflow.source.git.commit": commit}
    params = [Param(k, v) for k, v in _flatten(recipe).items() if k not in run.data.params]
    now = int(1000 * time.time())  # later than what an earlier evaluation left, so that MLflow shows this one
    metrics = [Metric(k, v, now, source.total) for k, v in source.final.items() if run.data.metrics.get(k) != v]
    for curve in {key for line in lines for key, v in line.items() if _is_number(v)} - {"images", "time", "seconds"}:
        # settled steps do not change: what MLflow has already stays, nothing doubles
        there = {m.step for m in client.get_metric_history(run_id, curve)} if curve in run.data.metrics else set()
        metrics += [
            Metric(curve, float(line[curve]), int(1000 * line.get("time", 0)), line["images"])
            for line in lines
            if curve in line and line["images"] not in there
        ]
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
    for i in range(0, len(params), 100):  # MLflow's limits of one batch
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
    """Lines of the log that no restart does again: of an unfinished run those up to its newest checkpoint.

    Steps done again are the same to the bit only on as many processes as before, and MLflow cannot take a point back.
    """
    lines = read(source.folder / layout.LOG)
    if source.done.exists() or source.tags["stage"] != "train":
        return lines
    from mar.runtime.checkpoint import checkpoints  # imports torch

    last = max((entry.images for entry in checkpoints(source.folder / layout.CHECKPOINTS)), default=0)
    return [line for line in lines if line["images"] <= last]


def _sync_picture(client: Any, run: Any, source: _Source) -> None:
    """Log the sample grid as samples/<setting>.png, unless it is there for this sample set."""
    from PIL import Image

    from mar.report.figures.samples import CLASSES, sample_grid

    assert source.picture is not None
    variant, seed, setting = source.picture
    root = source.folder.parents[2]
    manifest = sha256(layout.sample_manifest(root, layout.sample_set(variant, seed, setting)))
    if run.data.tags.get("mar.samples") == manifest:
        return
    classes = min(len(files.read(layout.data_manifest(root), DataManifest).classes), CLASSES)
    picture, _ = sample_grid(root, variant, seed, setting, classes)
    client.log_image(run.info.run_id, Image.fromarray(picture), artifact_file=f"samples/{setting}.png")
    client.set_tag(run.info.run_id, "mar.samples", manifest)


def _optional(path: Path) -> dict[str, Any]:
    """JSON of a stage that may not have run yet."""
    return read_json(path) if path.exists() else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(prefix: str, values: dict[str, Any]) -> dict[str, float]:
    """Numbers, plain or as {"value": number, ...}, under names that MLflow accepts."""
    plain = {k: v.get("value") if isinstance(v, dict) else v for k, v in values.items()}
    return {re.sub(r"[^\w./ -]", "_", prefix + k): v for k, v in plain.items() if isinstance(v, int | float)}


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """A recipe as `section.key: text`; slices (JSON in a string) are opened and their left-out defaults filled in."""
    if isinstance(value, str) and value.startswith("{"):
        return _flatten(json.loads(value))
    section = prefix.rstrip(".").rpartition(".")[2]
    if isinstance(value, dict) and section in SECTIONS:
        with contextlib.suppress(
            ValidationError
        ):  # of a recipe that an older version wrote: its own keys are the truth
            value = SECTIONS[section].model_validate(value).model_dump(mode="json")
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in _flatten(part, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value if isinstance(value, str) else json.dumps(value)}
