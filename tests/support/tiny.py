"""A study small enough to train in a second, with fabricated tokens instead of a tokenizer."""

import hashlib

import numpy as np
import torch
from safetensors.torch import save_file

from mar.data.tokens import QUANTIZER, shard_dtype, shard_shape
from mar.models.multiscale import MultiScaleQuantizer
from mar.runtime.files import write
from mar.study.reading import resolve, write_resolved
from mar.study.records import Piece, TokenManifest, Tokens


class Decoder(torch.nn.Module):
    """Stands in for the tokenizer where a test asks which tokens are drawn, not how they look."""

    def decode_latents(self, x, noise=None):
        return torch.nn.functional.interpolate(x[:, :1].expand(-1, 3, -1, -1), scale_factor=2).tanh()

    def decode_ids(self, ids):
        return (ids[:, -16:].reshape(-1, 1, 4, 4).float() / 6 - 1).expand(-1, 3, -1, -1)


STUDY = {
    "study": "tiny",
    "data": {"kind": "digits", "image_size": 8},
    "tokenizers": {
        "kl": {"kind": "kl", "stride": 2, "channels": [8, 8], "latent_channels": 2, "kl_weight": 1e-6}
        | {"images": 64, "learning_rate": 1e-3},
        "vq": {"kind": "vq", "stride": 2, "channels": [8, 8], "latent_channels": 2, "codebook_size": 12}
        | {"images": 64, "learning_rate": 1e-3},
        "msvq": {"kind": "msvq", "stride": 2, "channels": [8, 8], "latent_channels": 2, "codebook_size": 12}
        | {"scales": [1, 2, 4], "images": 64, "learning_rate": 1e-3},
    },
    "backbones": {
        "causal": {"kind": "causal", "width": 16, "depth": 1, "heads": 2},
        "masked": {"kind": "masked", "width": 16, "depth": 1, "heads": 2, "buffer": 2},
        "dit": {"kind": "dit", "width": 16, "depth": 2, "heads": 2, "patch": 2},
        "scales": {"kind": "scales", "width": 16, "depth": 2, "heads": 2, "gate_init": 0.1},
    },
    "heads": {
        "crossent": {"kind": "categorical"},
        "diffloss": {"kind": "diffusion", "width": 16, "depth": 1, "noise_draws": 2},
        "joint": {"kind": "joint"},
    },
    "recipes": {
        "short": {"images": 96, "batch": 8, "micro_batch": 4, "warmup_images": 16, "checkpoint_images": 16}
        | {"log_images": 16, "ema": 0.9, "base_learning_rate": 0.05}
    },
    "sampling": {
        "ce": {"steps": 16},
        "diff": {"steps": 4, "diffusion_steps": 3, "clamp": 4.0, "guidance": 2.0},
        "var": {"steps": 3, "kv_cache": True, "guidance": 2.0, "top_k": 8, "top_p": 0.9},
        "dit": {"steps": 1, "diffusion_steps": 3, "guidance": 1.5, "guidance_schedule": "constant"},
    },
    "variants": {
        "ar-ce": {"tokenizer": "vq", "order": "random", "backbone": "causal", "head": "crossent", "recipe": "short"}
        | {"sampling": ["ce"]},
        "mar-diff": {"tokenizer": "kl", "order": "random", "backbone": "masked", "head": "diffloss", "recipe": "short"}
        | {"sampling": ["diff"]},
        "dit": {"tokenizer": "kl", "order": "joint", "backbone": "dit", "head": "joint", "recipe": "short"}
        | {"sampling": ["dit"]},
        "var": {"tokenizer": "msvq", "order": "scales", "backbone": "scales", "head": "crossent", "recipe": "short"}
        | {"sampling": ["var"]},
    },
    "classifier": {"images": 64},
    "metrics": {"samples": 24, "chunk": 6},
    "speed": {"batch": 4, "batches": 1},
    "tradeoff": [{"label": "MAR", "variant": "mar-diff", "sampling": ["diff"]}],
}


def study(**over):
    """The tiny study, with top-level sections replaced."""
    return resolve({**STUDY, **over}, "tiny.yaml")


def make_root(tmp_path, images=20):
    """results/tiny with study.json and the tokens of its tokenizers."""
    root = write_resolved(study(), tmp_path).parent
    rng = np.random.default_rng(0)
    shared = {
        "count": images,
        "classes": 10,
        "views": 2,
        "grid": 4,
        "tokens": 16,
        "group": 1,
        "tokenizer": "1" * 64,
        "data": "d" * 64,
        "class_names": tuple("0123456789"),
    }
    kinds = {
        "kl": {"kind": "moments", "token_dim": 2, "scale": 1.3},
        "vq": {"kind": "ids", "codebook_size": 12},
        "msvq": {"kind": "ids", "codebook_size": 12, "tokens": 21, "scales": (1, 2, 4), "code_width": 2},
    }
    for name, kind in kinds.items():
        folder, files = root / "tokens" / name / "train", {}
        scale = {"scale": kind.pop("scale")} if "scale" in kind else {}
        tokens = Tokens(**shared | kind)
        folder.mkdir(parents=True)
        array = (
            rng.integers(12, size=(images, *shard_shape(tokens)))
            if tokens.kind == "ids"
            else rng.normal(size=(images, *shard_shape(tokens)))
        ).astype(shard_dtype(tokens))
        np.save(folder / "shard-00000.npy", array)
        np.save(folder / "labels.npy", np.arange(images) % 10)
        if tokens.scales:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                quantizer = MultiScaleQuantizer(12, 2, (1, 2, 4))
            save_file(quantizer.state_dict(), folder / QUANTIZER)
            files["quantizer_sha256"] = digest(folder / QUANTIZER)
        files["labels_sha256"] = digest(folder / "labels.npy")
        shard = Piece(file="shard-00000.npy", count=images, sha256=digest(folder / "shard-00000.npy"))
        write(folder / "manifest.json", TokenManifest(**shared | kind | files | scale, shards=(shard,)))
    return root


def digest(path):
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
