"""A model that was trained here, with its tokenizer and its config, in one safetensors file.

`mar export` writes it, `mar import exported` takes it apart elsewhere. Its tensors are `model.*` and `tokenizer.*`,
under our names. Its metadata are texts: `format`, `version`, `commit`, the `study` of this variant alone (JSON), and
the kind and number of its `tokens`. Nothing in it is executed: a model with kinds of one's own (`my_head.py:Head`) is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mar import __version__
from mar.data.tokens import TokenManifest
from mar.models.model import build_model
from mar.runtime import files
from mar.runtime.files import atomic, sha256, write_text
from mar.runtime.folders import lock
from mar.runtime.provenance import git_commit
from mar.study import layout
from mar.study.alone import alone, plain
from mar.study.chosen_settings import resolved
from mar.study.kinds import Kind
from mar.study.mistakes import MistakesError, of_validation
from mar.study.records import ImportedFile, Origin, TokenizerRecord, Tokens
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.training.trained import load_trained
from mar.weights.importing import check_finite, check_kinds, check_name, compare, put
from mar.weights.install import of_import, tokenizer_of_import, wanted
from mar.weights.names import EXPORTED, Mapped

MODEL, TOKENIZER = "model.", "tokenizer."  # before the names of tensors
# Keys of a tokenizer's section that say how it is trained.
TRAINING = (
    *("images", "epochs", "batch", "learning_rate", "per_seed", "perceptual", "perceptual_images"),
    *("perceptual_weight", "adversarial_weight", "adversarial_start", "kl_weight"),
)


def export(study: Study, root: Path, variant: str, seed: int, out: Path) -> None:
    """Write the averaged weights of a finished training, its tokenizer and its config into one file.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant that is trained there.
        seed: training seed.
        out: the safetensors file.

    Raises:
        ValueError: the run or its tokenizer is not finished or not what its record says; the weights are published
            ones; or a part is of an own kind.
    """
    v, name = study.variants[variant], study.tokenizer_of(variant, seed)
    if v.pretrained:
        raise ValueError(f"variants.{variant}: has published weights; accepted: a variant that is trained here")
    parts: dict[str, Kind] = {
        f"variants.{variant}.order": v.order,
        f"backbones.{v.backbone}": study.backbones[v.backbone],
        f"heads.{v.head}": study.heads[v.head],
        f"tokenizers.{v.tokenizer}": study.tokenizers[v.tokenizer],
    }
    parts |= {f"sampling.{s}.solver": x for s in v.sampling if (x := study.sampling[s].solver) is not None}
    if own := [f"{key}: {part.kind}" for key, part in parts.items() if hasattr(part, "own")]:
        raise ValueError(f"{'; '.join(own)}: of your own code, which no file of weights carries; accepted: our kinds")
    manifest = files.read(layout.token_manifest(root, name), TokenManifest)
    load_trained(study, root, variant, seed, manifest)  # refuses what is not the finished training
    network = autoencoder.load(root, name, study).net
    weights = layout.tokenizer_weights(root, name)
    if sha256(weights) != manifest.tokenizer:
        raise ValueError(
            f"{weights}: not the weights that encoded {layout.token_manifest(root, name)}; accepted: those"
        )
    tensors = {MODEL + k: t for k, t in load_file(layout.run(root, variant, seed) / layout.AVERAGE).items()}
    tensors |= {TOKENIZER + k: t for k, t in load_file(weights).items()}
    origin = files.read(layout.tokenizer(root, name) / layout.TOKENIZER, TokenizerRecord).pretrained
    groups = getattr(getattr(network, "config", None), "norm_num_groups", None)
    metadata = {
        "format": EXPORTED,
        "version": __version__,
        "commit": git_commit(),
        "study": json.dumps(_study(study, root, variant, manifest, groups)),
        "tokens": Tokens(**{key: getattr(manifest, key) for key in Tokens.model_fields}).model_dump_json(),
    }
    if origin and origin.licence:
        metadata["licence"] = f"tokenizer: {origin.licence}"
    with atomic(out) as temporary:
        save_file(tensors, temporary, metadata)
    print(f"{out}: {variant} of {study.study}, seed {seed}, with its tokenizer; {len(tensors)} tensors, {sha256(out)}")


def _study(study: Study, root: Path, variant: str, tokens: TokenManifest, groups: int | None) -> dict[str, Any]:
    """The study of a trained variant alone: without images, its weights to be imported."""
    v = study.variants[variant]
    settings = {name: resolved(study, root, variant, name) for name in v.sampling or study.sampling}
    values = alone(study.model_copy(update={"sampling": settings}), variant, settings, drawn=False)
    tok = values["tokenizers"][v.tokenizer]
    for key in TRAINING:
        tok.pop(key, None)
    if study.tokenizers[v.tokenizer].trained:
        tok |= {"pretrained": True, "norm_groups": groups}
    if tokens.scale:
        tok["scale"] = tokens.scale
    values["variants"][variant] |= {"pretrained": True}
    values["variants"][variant].pop("resources", None)
    return values | {
        "study": study.study,
        "title": f"{variant} of {study.study}",
        "data": {"kind": "none", "image_size": study.data.image_size, "num_classes": tokens.classes},
        "metrics": {"samples": tokens.classes, "chunk": tokens.classes, "extractors": ["inception"]},
        "speed": plain(study.speed),
    }


def import_exported(file: Path, name: str, folder: Path) -> None:
    """Take a file of `mar export` apart: NAME and NAME-tokenizer as other imports, and their study NAME.yaml.

    Args:
        file: the safetensors file.
        name: name of the import.
        folder: folder of the assets, results/assets.

    Raises:
        ValueError: it is no such file, its config is no study of our kinds, or its tensors are not those of that study.
    """
    check_name(name)
    if not file.is_file():
        raise ValueError(f"{file}: no such file; accepted: a file that `mar export` wrote")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: found {error}; accepted: a file that `mar export` wrote") from None
    study = _read_study(file, metadata, name)
    ((variant, v),) = study.variants.items()
    tokens = files.parse(file, metadata["tokens"], Tokens)
    check_kinds(tensors, file)
    check_finite(tensors, file)
    with torch.device("meta"):
        networks = {MODEL: build_model(study, variant, tokens)}
        networks[TOKENIZER] = autoencoder.build(study.tokenizers[v.tokenizer], study.data.image_size).net
    if unknown := [key for key in tensors if not key.startswith((MODEL, TOKENIZER))]:
        raise ValueError(f"{file}: found tensors {unknown[:10]}; accepted: those of a model and its tokenizer")
    values = wanted(study, variant, tokens)
    keys = ("backbone", "head", "order", "tokens", "grid", "token_dim", "codebook_size", "classes")
    config = study.tokenizers[v.tokenizer].model_dump(mode="json", exclude_none=True)
    kept: dict[str, tuple[str, dict[str, Any]]] = {
        MODEL: (name, {key: values[key][1] for key in keys}),
        TOKENIZER: (tokenizer_of_import(name), {k: x for k, x in config.items() if k not in ("pretrained", "weights")}),
    }
    source = ImportedFile(file=file.name, sha256=sha256(file), size=file.stat().st_size)
    origin = Origin(format=EXPORTED, source=source, asset=None, licence=metadata.get("licence"))
    rest = {key: metadata[key][:100] for key in ("version", "commit") if key in metadata}
    with lock(folder):
        for part, (as_name, architecture) in kept.items():
            mapped = Mapped()
            for key, tensor in tensors.items():
                if key.startswith(part):
                    mapped.put(key, key.removeprefix(part), tensor)
            compare(networks[part].state_dict(), mapped, f"{file}: {part.removesuffix('.')}")
            dtypes = {source: str(tensors[source].dtype).removeprefix("torch.") for source in mapped.sources.values()}
            result, report = layout.import_weights(folder, as_name), layout.import_record(folder, as_name)
            record = put(mapped, dtypes, architecture, rest, origin, result, report)
            print(f"{result}: {record.counts.mapped} tensors, {record.parameters:,} parameters; sha256 {record.sha256}")
        text = yaml.safe_dump(study.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
        write_text(layout.import_study(folder, name), f"# {file.name}, by `mar import {EXPORTED}`\n{text}")
    print(f"{layout.import_study(folder, name)}: variant {variant}, settings {', '.join(study.sampling)}", flush=True)


def _read_study(file: Path, metadata: dict[str, str], name: str) -> Study:
    """The study in a file of `mar export`, whose weights are the imports of this name.

    Raises:
        ValueError: there is none, or it has what no such file has.
    """
    if metadata.get("format") != EXPORTED or "study" not in metadata or "tokens" not in metadata:
        raise ValueError(
            f"{file}: found metadata {', '.join(metadata) or 'none'}; accepted: a file that `mar export` wrote"
        )
    try:
        values = json.loads(metadata["study"])
        (of_variant,) = values["variants"].values()
        tok = values["tokenizers"][of_variant["tokenizer"]]
        none = values["data"]["kind"] == "none"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file}: study: found {found}; accepted: that of one variant") from None
    # Before it is read, since a kind of somebody's own names code; that is imported for a study in a file alone.
    if own := list(_own(values)):
        raise ValueError(f"{file}: study: found {', '.join(own)}; accepted: our kinds")
    if not none:
        raise ValueError(f"{file}: study: found data.kind {values['data']['kind']!r}; accepted: none")
    values["study"] = of_import(name)
    of_variant["weights"] = name
    if tok.get("pretrained"):
        tok["weights"] = tokenizer_of_import(name)
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{file}: study: {MistakesError(of_validation(error, values))}; accepted: our kinds") from None


def _own(values: Any, key: str = "") -> Iterator[str]:
    """What in the mapping of a study names code: kinds with a colon, and what a study keeps of their classes."""
    if isinstance(values, dict):
        if "own" in values:
            yield f"{key} {values.get('kind')!r}"
        for name, part in values.items():
            yield from _own(part, name)
    elif isinstance(values, list):
        for part in values:
            yield from _own(part, key)
    elif key in ("kind", "order", "solver") and ":" in str(values):
        yield f"{key} {values!r}"
