"""One shape of the drill, stage by stage through the code of the real stages, with seconds and peak memory."""

from __future__ import annotations

import contextlib
import gc
import importlib
import platform
import resource
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mar.data import published
from mar.data.images import open_split, to_float, to_uint8
from mar.data.prepare import prepare
from mar.data.tokens import TokenSet
from mar.features.networks import classifier, extractors
from mar.features.networks.extractors import Extractor
from mar.metrics import moments
from mar.metrics.bootstrap import Bootstrap
from mar.planning.drill_shapes import METRICS, TOKENIZER, drill_study, shape_named
from mar.planning.plan import count_images
from mar.runtime import checkpoint, runlog
from mar.runtime.files import read, sha256, write
from mar.runtime.folders import claim
from mar.runtime.noise import Noise, seed_of
from mar.runtime.provenance import provenance
from mar.sampling.sample_sets import sample
from mar.study import layout
from mar.study.records import (
    DataManifest,
    ImportCounts,
    ImportedFile,
    ImportRecord,
    ShapeRecord,
    StageCost,
    TokenizerRecord,
)
from mar.study.stage_keys import train_key
from mar.study.study import Study
from mar.tokenizers import autoencoder, perceptual
from mar.tokenizers.autoencoder import build
from mar.tokenizers.encode import encode
from mar.tokenizers.train import train as train_tokenizer
from mar.training.schedule import learning_rate
from mar.training.trainer import Trainer
from mar.weights.install import install_tokenizer

EVERY = 0.05  # seconds between looks at the memory
JUDGED = 8  # images on either side of the metrics: the least of which all have an interval, k 3


class Stages:
    """Seconds, peak memory and disk of each stage."""

    def __init__(self, work: Path) -> None:
        self.work, self.rows = work, list[StageCost]()

    @contextlib.contextmanager
    def stage(self, name: str, note: str = "") -> Iterator[None]:
        """Time a stage and watch its memory.

        Files that are mapped (a checkpoint that is read, the average of weights) count as resident while they are
        looked at, although the system takes their memory back when it needs it; `memory_gb` is without them.
        """
        done, peak = threading.Event(), [own_memory()]

        def watch() -> None:
            while not done.wait(EVERY):
                peak[0] = max(peak[0], own_memory())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start, busy = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        row = StageCost(
            stage=name,
            seconds=round(time.perf_counter() - start, 2),
            cpu_seconds=round(time.process_time() - busy, 2),
            memory_gb=round(max(peak[0], own_memory()) / 1e9, 3),
            resident_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
            disk_gb=round(sum(f.stat().st_size for f in self.work.rglob("*") if f.is_file()) / 1e9, 3),
            note=note,
        )
        self.rows.append(row)
        print(f"  {name}: {row.seconds} s, {row.memory_gb} GB", flush=True)


def own_memory() -> int:
    """Bytes that the process holds and no file stands behind; without /proc the peak of all that is resident."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def run(study: Study, root: Path, name: str) -> None:
    """Run one shape in a folder of its own, which is deleted afterwards; writes drill/shapes/<name>.json.

    Raises:
        ValueError: the study has no such shape; or what a stage has to complain about.
    """
    shape = shape_named(study, name)
    work = layout.drill(root) / f"work-{name}"
    shutil.rmtree(work, ignore_errors=True)
    inner = work / "results" / study.study
    stages = Stages(work)
    print(f"drill {name}", flush=True)
    import_libraries(study)
    try:
        small = drill_study(study, shape, work / "images")
        with stages.stage("prepare"):
            draw_images(work / "images", count_images(study, root).classes, small, inner)
        if shape.kind == METRICS:
            parameters = measure(small, inner, stages)
        elif shape.kind == TOKENIZER:
            parameters = run_tokenizer(small, inner, shape.first, stages)
            with stages.stage("decode one"):
                decode(small, inner, shape.first)
        else:
            run_tokenizer(small, inner, small.variants[shape.first].tokenizer, stages)
            parameters = run_variant(small, inner, shape.first, stages)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    made = provenance()
    found = ShapeRecord(
        shape=name,
        covers=shape.covers,
        parameters=parameters,
        stages=tuple(stages.rows),
        machine=f"{platform.processor() or platform.machine()}, {made.threads} threads, torch {made.torch}",
        provenance=made,
    )
    write(layout.drill_shape(root, name), found)


def import_libraries(study: Study) -> None:
    """Import what the stages import when they need it, so that it counts in none of them."""
    for name in ("torch._dynamo", "torch_fidelity", "diffusers.models"):  # the first is imported by optimisers
        importlib.import_module(name)
    for config in study.tokenizers.values():
        with torch.device("meta"):
            build(config, study.data.image_size)


def draw_images(folder: Path, classes: int, study: Study, root: Path) -> None:
    """Two generated pictures in train/ and one in val/, prepared; the record has the true number of classes.

    The pictures are smooth waves of colour, a function of the split alone. Two, since each has to have a neighbour.
    """
    for split, number in (("train", 2), ("val", 1)):
        rng = np.random.default_rng(seed_of("drill", split))
        size = 2 * study.data.image_size
        y, x = np.mgrid[:size, : size + size // 4] / size  # wider than high, so that the crop has something to cut
        (folder / split / "0000").mkdir(parents=True)
        for i in range(number):
            waves = [np.sin(6.3 * (a * x + b * y + c)) for a, b, c in rng.uniform(-3, 3, (3, 3))]
            pixels = np.rint(127.5 * (np.stack(waves, axis=-1) + 1)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / "0000" / f"picture{i}.png")
    prepare(study, root)
    manifest = read(layout.data_manifest(root), DataManifest)
    more = tuple(f"{i:04d}" for i in range(1, classes))
    splits = {
        name: split.model_copy(update={"per_class": (*split.per_class, *(0 for _ in more))})
        for name, split in manifest.splits.items()
    }
    record = manifest.model_copy(update={"classes": manifest.classes + more, "splits": splits})
    write(layout.data_manifest(root), record)


def run_tokenizer(study: Study, root: Path, name: str, stages: Stages) -> int:
    """Install random weights or train one step, then encode into shard files; returns the parameters."""
    config = study.tokenizers[name]
    if config.pretrained:
        with stages.stage("tokenizer"):
            install_random(study, root, name)
            install_tokenizer(study, root, name)
            shutil.rmtree(layout.assets(root))  # copied where it is needed
    else:
        lpips, note = None, ""
        if config.perceptual_weight and config.perceptual == "lpips":
            lpips, note = any_lpips(root)
        with stages.stage("tokenizer", note):
            train_tokenizer(study, root, name, lpips)
    with stages.stage("encode"):
        encode(study, root, name)
    return read(layout.tokenizer(root, name) / layout.TOKENIZER, TokenizerRecord).parameters


def install_random(study: Study, root: Path, name: str) -> None:
    """An import with random weights, as `mar import` leaves one."""
    config, folder = study.tokenizers[name], layout.assets(root)
    torch.manual_seed(study.seed)
    tokenizer = build(config, study.data.image_size)
    file = layout.import_weights(folder, config.weights or name)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tokenizer.net.state_dict().items()}, file)
    digest = sha256(file)
    record = ImportRecord(
        format="drill",
        source=ImportedFile(file="random", sha256=digest, size=file.stat().st_size),
        asset=None,
        licence=None,
        sha256=digest,
        architecture={},
        parameters=sum(p.numel() for p in tokenizer.parameters()),
        counts=ImportCounts(mapped=len(tokenizer.net.state_dict()), dropped=0),
        tensors={},
        dropped={},
        beside={},
        provenance=provenance(),
    )
    write(layout.import_record(folder, config.weights or name), record)


def any_lpips(root: Path) -> tuple[Any, str]:
    """LPIPS with its weights where they are on disk, else with random ones, and which it is."""
    try:
        return perceptual.load(published.FOLDER), ""
    except ValueError:
        pass
    import torchvision
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    hub, before = root / "hub", torch.hub.get_dir()
    files = {name: hub / "checkpoints" / url.rpartition("/")[2] for name, url in perceptual.FILES.items()}
    hub.joinpath("checkpoints").mkdir(parents=True)
    torch.save(torchvision.models.vgg16().state_dict(), files["vgg16"])
    widths = (64, 128, 256, 512, 512)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) / width for i, width in enumerate(widths)}
    torch.save(linear, files["lpips-vgg16"])
    torch.hub.set_dir(str(hub))  # torch-fidelity reads there and nowhere else
    try:
        return SampleSimilarityLPIPS("lpips"), "LPIPS with random weights: the real ones are not on disk"
    finally:
        torch.hub.set_dir(before)
        shutil.rmtree(hub)


@torch.no_grad()
def decode(study: Study, root: Path, name: str) -> None:
    """One image to tokens and back, with the installed tokenizer."""
    tokenizer = autoencoder.load(root, name, study)
    images = to_float(open_split(study, root, "heldout").batch([0]))
    rebuilt = to_uint8(tokenizer.decode(tokenizer.encode(images), Noise("drill", name)))
    if rebuilt.shape != images.shape:
        raise ValueError(f"tokenizers.{name}: decodes {tuple(images.shape)} to {tuple(rebuilt.shape)}")


def run_variant(study: Study, root: Path, name: str, stages: Stages) -> int:
    """One training step, a checkpoint, a resume from it, and two images; returns the parameters.

    Raises:
        ValueError: the resumed state differs from the one that was saved.
    """
    folder = layout.run(root, name, 0)
    tokens = TokenSet.open(layout.tokens(root, study.variants[name].tokenizer))
    claim(folder, {"train": train_key(study, name, 0), "tokens": tokens.sha256}, "run.json")
    average = root / "average"
    with stages.stage("build", "the average of weights is mapped from disk"):
        trainer = Trainer(study, name, 0, tokens, folder, ema_folder=average)
    rate = learning_rate(trainer.recipe, 0)
    with stages.stage("train step"):
        loss, norm = trainer.step(rate)
    trainer.images += trainer.recipe.batch
    line = {"images": trainer.images, "loss": loss, "learning_rate": rate, "grad_norm": norm}
    runlog.append(folder / layout.LOG, line)
    with stages.stage("checkpoint"):
        checkpoint.save(folder / layout.CHECKPOINTS, trainer.images, trainer.state())
    saved = fingerprint(trainer.state())
    del trainer
    gc.collect()
    with stages.stage("resume"):
        trainer = Trainer(study, name, 0, tokens, folder, ema_folder=average)
    resumed = fingerprint(trainer.state())
    if resumed != saved:
        differ = [key for key in saved if resumed.get(key) != saved[key]]
        raise ValueError(f"{folder}: the resumed state differs from the saved one: {differ[:5]}")
    shutil.rmtree(folder / layout.CHECKPOINTS)
    with stages.stage("finish"):
        trainer.run()  # to the end of the recipe, where it is already: writes the average and run.json
    parameters = sum(p.numel() for p in trainer.model.parameters())
    del trainer
    gc.collect()
    shutil.rmtree(average)
    causal = study.backbones[study.variants[name].backbone].single
    with stages.stage("sample", f"{study.tokens(study.variants[name].tokenizer)} steps: one a token" if causal else ""):
        sample(study, root, name, 0, "drill")
    return parameters


def fingerprint(state: Any, at: str = "") -> dict[str, Any]:
    """CRC-32 of every tensor of a training state, and its plain values, by their place in it.

    Seconds and the number of restarts are left out: a resume changes them.
    """
    if isinstance(state, Tensor):
        raw: Any = state.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return {at: zlib.crc32(raw)}
    if isinstance(state, dict):
        entries = {key: value for key, value in state.items() if key not in ("seconds", "restarts")}
    elif isinstance(state, list | tuple):
        entries = dict(enumerate(state))
    else:
        return {at: state}
    return {k: v for key, value in entries.items() for k, v in fingerprint(value, f"{at}/{key}").items()}


def measure(study: Study, root: Path, stages: Stages) -> int:
    """Each network that judges on a few images, and once what is computed of its features; parameters of the first."""
    if study.classifier:
        with stages.stage("classifier"):
            classifier.train(study, root)
    waves = open_split(study, root, "train").batch([0]).repeat(2 * JUDGED, 1, 1, 1)
    for i in range(len(waves)):  # a covariance needs images that differ
        waves[i] = waves[i].roll(17 * i, dims=2)
    draw = Bootstrap(np.zeros(JUDGED, np.int64), study.metrics.bootstrap, study.seed)
    parameters = 0
    for name in study.metrics.extractors:
        network, note = any_network(name, study, root)
        with stages.stage(f"features {name}", note):
            found = {key: value.numpy() for key, value in network(waves).items()}
        with stages.stage(f"metrics {name}"):
            drawn, real = ({key: x[part] for key, x in found.items()} for part in np.split(np.arange(2 * JUDGED), 2))
            draw.fid(drawn["features"], moments.of(real["features"]))
            if not parameters:  # a further one has the Frechet distance alone
                if "spatial" in found:
                    draw.fid(drawn["spatial"], moments.of(real["spatial"]))
                if "logits" in found:
                    draw.inception_score(drawn["logits"])
                draw.precision_recall(drawn["features"], real["features"], study.metrics.neighbours)
                draw.kid(drawn["features"], real["features"])
        parameters = parameters or sum(p.numel() for p in network.network.parameters())
    return parameters


def any_network(name: str, study: Study, root: Path) -> tuple[Extractor, str]:
    """A network with its weights where they are on disk, else with random ones, and which it is."""
    device = torch.device("cpu")
    if name == "classifier":
        return extractors.load(name, study, root, device), ""
    try:
        return extractors.load(name, None, None, device), ""
    except ValueError:
        return extractors.load(name, None, None, device, random=True), "random weights: the real ones are not on disk"
