"""Files as authors publish them, small, made of the golden tensors."""

import argparse
import copy
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mar.study.reading import resolve
from mar.study.study import Study

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"


def weights(*names: str) -> dict[str, torch.Tensor]:
    """The published state dict in golden files."""
    found: dict[str, torch.Tensor] = {}
    for name in names:
        found |= {k[3:]: v for k, v in load_file(GOLDEN / f"{name}.safetensors").items() if k.startswith("sd.")}
    return found


def mar_checkpoint(file: Path, zipped: bool = True, **changed: torch.Tensor | None) -> Path:
    """A checkpoint as MAR's training writes it; its plain weights are not the averaged ones."""
    average = {k: v for k, v in (weights("mar_tiny") | changed).items() if v is not None}
    content = {
        "model": {k: v + 1 for k, v in average.items()},
        "model_ema": average,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 8e-4}]},
        "epoch": 399,
        "args": argparse.Namespace(model="mar_tiny", buffer_size=8, output_dir=Path("/x").name),
    }
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def kl_weights() -> dict[str, torch.Tensor]:
    """State dict of MAR's small KL autoencoder, whose names are LDM's."""
    return weights("kl_vae_tiny", "kl_vae_tiny_decoder")


def lightning_checkpoint(file: Path, state: dict[str, torch.Tensor]) -> Path:
    """A checkpoint as Lightning writes it, with classes of Lightning and numpy that the reader need not have."""
    folder, name = "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"
    parsing = "pytorch_lightning.utilities.parsing"
    modules = {m: types.ModuleType(m) for m in ("pytorch_lightning", folder, name, parsing)}
    modules[name].ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    modules[parsing].AttributeDict = type("AttributeDict", (dict,), {"__module__": parsing})
    content = {
        "epoch": 12,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {modules[name].ModelCheckpoint: {"best_model_score": np.float64(0.5), "monitor": "val/rec_loss"}},
        "hyper_parameters": modules[parsing].AttributeDict(embed_dim=4, counts=np.zeros(2)),
        "state_dict": state
        | {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)},
    }
    sys.modules.update(modules)
    try:
        torch.save(content, file)
    finally:
        for module in modules:
            del sys.modules[module]
    return file


def ldm_names(ours: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    """The state dict of diffusers' autoencoder under LDM's names, written down the other way round."""
    renamed = {}
    for key, tensor in ours.items():
        name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", key)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("encoder.down_blocks", "encoder.down")
        name = name.replace(".resnets.", ".block.").replace(".attentions.", ".attn.").replace("conv_norm_", "norm_")
        name = name.replace("samplers.0.conv", "sample.conv").replace("conv_shortcut", "nin_shortcut")
        if ".attn" in name:
            name = name.replace("group_norm", "norm").replace("to_out.0", "proj_out")
            name = re.sub(r"to_([qkv])", r"\1", name)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        renamed[name] = tensor
    return renamed


def changed(values: dict[str, Any], section: str, name: str, over: dict[str, Any]) -> Study:
    """The study of `values`, with other keys in one part of a section; section "": as it is."""
    values = copy.deepcopy(values)
    if section:
        values[section][name] |= over
    return resolve(values, "official.yaml")
