"""Imported weights take the place of a training: checked against the study, then written as that training would.

Later stages (encode, sample, evaluate, report) see no difference but `pretrained` in config.json and run.json.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mar.data.prepare import prepare
from mar.models.model import build_model
from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.folders import lock
from mar.runtime.provenance import provenance
from mar.runtime.shards import unfinished
from mar.study import layout
from mar.study.alone import alone, plain
from mar.study.canonical import canonical
from mar.study.reading import load, resolve, write_resolved
from mar.study.records import ImportRecord, RunRecord, TokenizerRecord, TokenManifest, Tokens
from mar.study.stage_keys import tokenizer_key, train_key
from mar.study.study import Study
from mar.tokenizers.autoencoder import build
from mar.tokenizers.encode import encode
from mar.tokenizers.train import train
from mar.training.trainer import count_head
from mar.weights.names import EXPORTED

# Attention heads of the published models by kind and width; no tensor tells their number.
HEADS = {"masked": {768: 12, 1024: 16, 1280: 16}, "dit": {384: 6, 768: 12, 1024: 16, 1152: 16}}


def install_tokenizer(study: Study, root: Path, name: str) -> None:
    """Write tokenizers/<name>/{model.safetensors,config.json} from the import that the study names.

    Raises:
        ValueError: there is no such import, or its architecture is not the study's; the message names the key.
    """
    config, folder = study.tokenizers[name], layout.tokenizer(root, name)
    with lock(folder):
        file, imported = _imported(root, config.weights or name, f"tokenizers.{name}")
        values: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
        _agree(
            file,
            imported,
            {key: (f"tokenizers.{name}.{key}", values.get(key, "none")) for key in imported.architecture},
        )
        with torch.device("meta"):
            tokenizer = build(config, study.data.image_size)
        _same_shapes(file, tokenizer.net.state_dict(), f"tokenizers.{name}")
        weights, report = folder / layout.WEIGHTS, folder / layout.TOKENIZER
        recipe = {"slice": tokenizer_key(study, name), "weights": imported.sha256}
        if not unfinished(report, lambda: weights.exists() and sha256(weights) == imported.sha256, recipe):
            return
        _copy(file, weights)
        net = {k: v for k, v in tokenizer.net.config.items() if not k.startswith("_")}
        record = TokenizerRecord(
            kind=config.kind,
            parameters=imported.parameters,
            net=net,
            pretrained=imported.origin,
            provenance=provenance(),
        )
        write(report, record)
        print(f"{folder}: weights of {file}", flush=True)


def install_run(study: Study, root: Path, variant: str, seed: int) -> None:
    """Write runs/<variant>/seed<k>/{ema.safetensors,run.json} from the import that the study names.

    Raises:
        ValueError: the tokens or the import are missing, or its architecture is not the study's; the message names the
            key.
    """
    v, folder = study.variants[variant], layout.run(root, variant, seed)
    manifest = read(layout.token_manifest(root, study.tokenizer_of(variant, seed)), TokenManifest)
    with lock(folder):
        file, imported = _imported(root, v.weights or variant, f"variants.{variant}")
        if imported.format != EXPORTED:
            _check_published(study, variant)
        _agree(file, imported, wanted(study, variant, manifest))
        with torch.device("meta"):
            model = build_model(study, variant, manifest)
        _same_shapes(file, model.state_dict(), f"variants.{variant}")
        weights, report = folder / layout.AVERAGE, folder / layout.RECORD
        recipe = {"train": train_key(study, variant, seed), "weights": imported.sha256}
        if not unfinished(report, lambda: weights.exists() and sha256(weights) == imported.sha256, recipe):
            return
        _copy(file, weights)
        run = RunRecord(
            variant=variant,
            seed=seed,
            parameters=imported.parameters,
            head_parameters=count_head(model),
            images=0,
            seconds=0.0,
            restarts=0,
            checkpoint=imported.sha256,
            tokens=sha256(layout.token_manifest(root, study.tokenizer_of(variant, seed))),
            pretrained=imported.origin,
            provenance=provenance(),
        )
        write(report, run)
        print(f"{folder}: weights of {file}", flush=True)


def of_import(name: str) -> str:
    """Name of the study in which the weights of an import alone are drawn from."""
    return f"import-{name}"


def tokenizer_of_import(name: str) -> str:
    """Name of the import of the tokenizer that came along with the import of a model."""
    return f"{name}-tokenizer"


def install_alone(name: str, file: Path | None, assets: Path) -> tuple[Study, Path, str]:
    """Install imported weights and their tokenizer into a study of their own, without images, to draw from them.

    Args:
        name: name of the import.
        file: the study that describes it; None for the one that came with it, or the shipped ones.
        assets: folder of the assets, results/assets.

    Returns:
        The study, its results folder, and the variant.

    Raises:
        ValueError: no study describes these weights, or they or their tokenizer are not imported.
    """
    described, variant = _describing(name, file, assets)
    v = described.variants[variant]
    record = layout.import_record(assets, name)
    if not record.exists():
        raise ValueError(
            f"{record}: missing; run `mar import FORMAT --as {name}` first, and for its tokenizer `mar import FORMAT "
            f"--as {described.tokenizers[v.tokenizer].weights or v.tokenizer}` (config/assets.csv)"
        )
    classes = read(record, ImportRecord).architecture.get("classes")
    values = alone(described, variant, v.sampling or described.sampling, drawn=False) | {
        "study": of_import(name),
        "data": {"kind": "none", "image_size": described.data.image_size, "num_classes": classes},
        "metrics": {"samples": classes, "chunk": classes, "extractors": ["inception"]},
        "speed": plain(described.speed),
    }
    study = resolve(values, file or layout.import_study(assets, name))
    root = write_resolved(study, assets.parent).parent
    prepare(study, root)
    tokenizer = v.tokenizer
    if study.tokenizers[tokenizer].pretrained:
        install_tokenizer(study, root, tokenizer)
    else:  # pixels, which are not trained either
        train(study, root, tokenizer)
    encode(study, root, tokenizer)
    install_run(study, root, variant, 0)
    return study, root, variant


def _describing(name: str, file: Path | None, assets: Path) -> tuple[Study, str]:
    """The study that describes the weights of an import, and their variant there.

    Raises:
        ValueError: there is none.
    """
    own = layout.import_study(assets, name)
    places = [file] if file else [own] if own.exists() else sorted(layout.shipped().glob("*.yaml"))
    known = set()
    for path in places:
        if path.stem == "claims":
            continue
        study = load(path)
        for variant, v in study.variants.items():
            if v.pretrained and (v.weights or variant) == name:
                return study, variant
            known |= {v.weights or variant} if v.pretrained else set()
    where = file or "the shipped studies"
    raise ValueError(f"--import: found {name!r}; accepted: weights of {where}: {', '.join(sorted(known)) or 'none'}")


def _imported(root: Path, weights: str, where: str) -> tuple[Path, ImportRecord]:
    """The imported file, checked by its checksum, and the report of its import."""
    file = layout.import_weights(layout.assets(root), weights)
    report = layout.import_record(layout.assets(root), weights)
    if not (file.exists() and report.exists()):
        raise ValueError(
            f"{file if report.exists() else report}: missing, and {where} is pretrained; run `mar import FORMAT FILE "
            f"--as {weights}` (config/assets.csv lists what is fetched without FILE)"
        )
    imported = read(report, ImportRecord)
    if sha256(file) != imported.sha256:
        raise ValueError(f"{file}: not the file that {report} names; run `mar import` again")
    return file, imported


def _check_published(study: Study, variant: str) -> None:
    """Refuse a backbone that no published weights have, in what no tensor tells."""
    at = f"backbones.{study.variants[variant].backbone}"
    backbone = study.backbones[study.variants[variant].backbone]
    if not getattr(backbone, "adaln", True):
        raise ValueError(f"{at}.adaln false: all published weights of VAR have it; accepted: true")
    published = HEADS.get(backbone.kind, {}).get(backbone.width, backbone.heads)
    if backbone.heads != published:
        raise ValueError(
            f"{at}.heads {backbone.heads}: the published models of width {backbone.width} have {published}"
        )


def wanted(study: Study, variant: str, tokens: Tokens) -> dict[str, tuple[str, Any]]:
    """For each key of an imported architecture: the key of the study that gives it, and the value there.

    Tensors of published files tell numbers; a file of `mar export` has the sections `backbone`, `head` and `order`
    themselves.
    """
    v = study.variants[variant]
    backbone, head = study.backbones[v.backbone], study.heads[v.head]
    at, tok = f"backbones.{v.backbone}", f"tokenizers.{v.tokenizer}"
    keys = ("kind", "width", "depth", "mlp_ratio", "buffer", "shared_aln", "attention_norm", "heads")
    return {key: (f"{at}.{key}", getattr(backbone, key, None)) for key in keys} | {
        "backbone": (at, canonical(backbone)),
        "head": (f"heads.{v.head}", canonical(head)),
        "order": (f"variants.{variant}.order", canonical(v.order)),
        "patch": (f"{at}.patch", getattr(backbone, "patch", None)),
        "head_width": (f"heads.{v.head}.width", getattr(head, "width", None)),
        "head_depth": (f"heads.{v.head}.depth", getattr(head, "depth", None)),
        "tokens": (f"data.image_size and {tok}.stride, group: tokens", tokens.tokens),
        "grid": (f"data.image_size and {tok}.stride: side of the latents", tokens.grid),
        "token_dim": (f"{tok}.latent_channels and group: numbers per token", tokens.token_dim or "ids"),
        "scales": (f"{tok}.scales", list(tokens.scales)),
        "code_width": (f"{tok}.latent_channels", tokens.code_width),
        "codebook_size": (f"{tok}.codebook_size", tokens.codebook_size),
        "classes": ("data: classes", tokens.classes),
    }


def _agree(file: Path, imported: ImportRecord, wanted: dict[str, tuple[str, Any]]) -> None:
    """Refuse an import whose architecture differs from what the study wants."""
    faults = [
        f"{where} {'none' if key not in wanted else value}; the file has {size}"
        for key, size in imported.architecture.items()
        for where, value in [wanted.get(key, (key, None))]
        if value != size
    ]
    if faults:
        raise ValueError(f"{file} ({imported.format}): not the architecture of the study\n  " + "\n  ".join(faults))


def _same_shapes(file: Path, state: dict[str, torch.Tensor], where: str) -> None:
    """Refuse an import whose tensors have other names or shapes than the study's model `state`."""
    with safe_open(file, framework="pt") as tensors:
        shapes = {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    wanted = {name: list(tensor.shape) for name, tensor in state.items()}
    faults = [name for name in sorted(shapes.keys() | wanted.keys()) if shapes.get(name) != wanted.get(name)]
    if faults:
        lines = [f"{name}: file {shapes.get(name, 'none')}, {where} {wanted.get(name, 'none')}" for name in faults[:40]]
        raise ValueError(f"{file}: {len(faults)} tensors do not fit {where}\n  " + "\n  ".join(lines))


def _copy(file: Path, target: Path) -> None:
    # A copy, not a link: the workflow sets the modification times of its outputs, and the import is none of them.
    with atomic(target) as temporary:
        shutil.copyfile(file, temporary)
