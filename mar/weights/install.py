"""Imported weights take the place of a training: checked against the study, then written as that training would.

Later stages (encode, sample, evaluate, report) see no difference but `pretrained` in config.json and run.json.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mar.models.model import build_model
from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.folders import lock
from mar.runtime.provenance import provenance
from mar.runtime.shards import unfinished
from mar.study import layout
from mar.study.records import ImportRecord, RunRecord, TokenizerRecord, TokenManifest, Tokens
from mar.study.stage_keys import tokenizer_key, train_key
from mar.study.study import Study
from mar.tokenizers.autoencoder import build
from mar.training.trainer import count_head

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
        wanted: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
        _agree(
            file,
            imported,
            {key: (f"tokenizers.{name}.{key}", wanted.get(key, "none")) for key in imported.architecture},
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
        _agree(file, imported, _wanted(study, variant, manifest))
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


def _wanted(study: Study, variant: str, tokens: Tokens) -> dict[str, tuple[str, Any]]:
    """For each key of an imported architecture: the key of the study that gives it, and the value there."""
    v = study.variants[variant]
    backbone, head = study.backbones[v.backbone], study.heads[v.head]
    at, tok = f"backbones.{v.backbone}", f"tokenizers.{v.tokenizer}"
    keys = ("kind", "width", "depth", "mlp_ratio", "buffer", "shared_aln")
    wanted = {key: (f"{at}.{key}", getattr(backbone, key, None)) for key in keys}
    for key in ("adaln", "attention_norm"):
        if not getattr(backbone, key, True):
            raise ValueError(f"{at}.{key} false: all published weights of VAR have it; accepted: true")
    if backbone.by_scale:  # VAR has a learned scale per attention head, so here a tensor tells the number
        wanted["heads"] = (f"{at}.heads", backbone.heads)
    published = HEADS.get(backbone.kind, {}).get(backbone.width, backbone.heads)
    if backbone.heads != published:
        raise ValueError(
            f"{at}.heads {backbone.heads}: the published models of width {backbone.width} have {published}"
        )
    return wanted | {
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
