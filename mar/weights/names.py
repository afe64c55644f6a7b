"""Names of published tensors turned into ours, and the architecture that their shapes tell.

Nothing is dropped in silence: a tensor either gets a name of ours, or is listed with the reason why it has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mar.study.parts import CategoricalHead, DiffusionHead, DitBackbone, MaskedBackbone, ScalesBackbone
from mar.study.parts import Tokenizer as TokenizerConfig

Architecture = dict[str, Any]

EXPORTED = "exported"  # format of `mar export`, whose tensors have our names already (mar/weights/exported.py)
HEAD = 64  # numbers of a head of VAR (section 4.2: width 64 d, d heads)
SIDE = 256  # pixels; diffusers wants the side of images, on which no weight of a convolution depends


class Mapped:
    """A published file whose tensors got our names.

    Attributes:
        tensors: each tensor by our name.
        sources: the published name of each tensor, by our name.
        dropped: why a tensor was left out, by its published name.
        notes: sizes that left out constants tell, as keys of the architecture.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.sources: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.notes: Architecture = {}

    def put(self, source: str, name: str, tensor: Tensor) -> None:
        """Add a tensor.

        Raises:
            ValueError: two published tensors get the same name.
        """
        if name in self.tensors:
            raise ValueError(f"tensors {self.sources[name]} and {source} both become {name}; accepted: one of them")
        self.tensors[name], self.sources[name] = tensor, source


def from_mar(tensors: dict[str, Tensor]) -> Mapped:
    """MAR's own names: `diffloss` is our head, every other tensor is in our backbone under its own name."""
    mapped = Mapped()
    for source, tensor in tensors.items():
        in_head = source.startswith("diffloss.")
        mapped.put(source, f"head.{source.removeprefix('diffloss.')}" if in_head else f"backbone.{source}", tensor)
    return mapped


def from_ldm(tensors: dict[str, Tensor]) -> Mapped:
    """Names of latent diffusion's autoencoders (MAR's KL-16 has them too) turned into those of diffusers."""
    mapped, levels = Mapped(), count(tensors, r"decoder\.up\.(\d+)\.")
    for source, tensor in tensors.items():
        if source.startswith("loss."):
            mapped.dropped[source] = "of the training loss (discriminator, LPIPS, log variance)"
            continue
        name = _ldm_name(source, levels)
        if ".attentions." in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]  # a 1 x 1 convolution is a linear layer
        mapped.put(source, name, tensor)
    return mapped


def _ldm_name(name: str, levels: int) -> str:
    def level(match: re.Match[str]) -> str:  # diffusers counts the decoder's levels from the latent on
        return f"decoder.up_blocks.{levels - 1 - int(match[1])}."

    name = re.sub(r"^decoder\.up\.(\d+)\.", level, name)
    name = re.sub(r"^encoder\.down\.", "encoder.down_blocks.", name)
    name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", name)
    for pattern, replacement in (
        (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
        (r"\.block\.(\d+)\.", r".resnets.\1."),
        (r"\.attn\.(\d+)\.", r".attentions.\1."),
        (r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
        (r"\.norm_out\.", ".conv_norm_out."),
        (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
        (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
        (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def from_var_tokenizer(tensors: dict[str, Tensor]) -> Mapped:
    """VAR's tokenizer: LDM's names, but q, k and v of an attention are one tensor, and the quantiser convolves."""
    mapped, levels = Mapped(), count(tensors, r"decoder\.up\.(\d+)\.")
    for source, tensor in tensors.items():
        if source == "quantize.ema_vocab_hit_SV":
            mapped.dropped[source] = "how often each code was used in training"
            continue
        name = re.sub(r"^quantize\.quant_resi\.qresi_ls\.(\d+)\.", r"quantize.phi.\1.", source)
        name = re.sub(r"^quantize\.quant_resi\.qresi\.", "quantize.phi.0.", name)  # its name where there is but one
        parts = zip("qkv", tensor.chunk(3), strict=True) if ".qkv." in name else [("", tensor)]
        for letter, part in parts:
            target = _ldm_name(name.replace(".qkv.", f".{letter}."), levels)
            if ".attentions." in target and part.ndim == 4:
                part = part[:, :, 0, 0]  # a 1 x 1 convolution is a linear layer
            mapped.put(source, target, part)
    return mapped


def from_diffusers(tensors: dict[str, Tensor]) -> Mapped:
    """Names of diffusers; files of its first versions have other names for the layers of an attention."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    mapped = Mapped()
    for source, tensor in tensors.items():
        pattern = r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\."
        name = re.sub(pattern, lambda m: f"{m[1]}.{renamed[m[2]]}.", source)
        if name != source and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]
        mapped.put(source, name, tensor)
    return mapped


def from_dit(tensors: dict[str, Tensor]) -> Mapped:
    """DiT's own names; its position embedding is a constant of our model.

    Raises:
        ValueError: the position embedding is another one.
    """
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    from mar.models.dit import from_official

    mapped = Mapped()
    for source, tensor in tensors.items():
        for name, part in from_official({source: tensor}).items():
            mapped.put(source, name, part)
        if source == "pos_embed":
            side = math.isqrt(tensor.shape[1])
            table = get_2d_sincos_pos_embed(tensor.shape[2], side, base_size=side).float()
            if table.shape != tensor[0].shape or not torch.allclose(tensor[0].float(), table, atol=1e-5):
                raise ValueError("pos_embed is not the published table of sines and cosines of a square grid")
            mapped.notes["side"] = side
            mapped.dropped[source] = f"constant in our model, and equal to it: positions of {side} x {side} patches"
    return mapped


def from_var(tensors: dict[str, Tensor]) -> Mapped:
    """VAR's own names: `head` is our head, `word_embed` our `z_proj`, all else is in our backbone under its own name.

    Raises:
        ValueError: a constant of the file is not the one of our model.
    """
    mapped, level = Mapped(), tensors.get("lvl_1L", torch.empty(0)).flatten()  # number of each token's scale, (L,)
    if len(level) and not (level.diff() >= 0).all():
        raise ValueError("lvl_1L is not the scale of each token, from coarse to fine")
    for source, tensor in tensors.items():
        if source == "lvl_1L":
            mapped.notes["scales"] = _sides(level)
            mapped.dropped[source] = f"constant in our model, and equal to it: scales {mapped.notes['scales']}"
        elif source == "attn_bias_for_masking":
            if not torch.equal(tensor[0, 0].float(), torch.where(level[:, None] >= level, 0.0, -torch.inf)):
                raise ValueError(f"{source} does not let a scale attend to itself and those before alone")
            mapped.dropped[source] = "constant in our model, and equal to it: who may attend to whom"
        elif source.endswith(".zero_k_bias"):
            if tensor.any():
                raise ValueError(f"{source} is not zero")
            mapped.dropped[source] = "zero: keys have no bias"
        elif source.startswith("head."):
            mapped.put(source, f"head.logits.{source.removeprefix('head.')}", tensor)
        else:
            mapped.put(source, f"backbone.{'z_proj.' if source.startswith('word_embed.') else ''}{source}", tensor)
    return mapped


def _sides(level: Tensor) -> list[int]:
    """Sides of the square scales, from the number of each token's scale (L,)."""
    sizes = torch.bincount(level.long()).tolist()
    sides = [math.isqrt(size) for size in sizes]
    if [side**2 for side in sides] != sizes:
        raise ValueError(f"lvl_1L has scales of {sizes} tokens; accepted: squares")
    return sides


def count(names: Iterable[str], pattern: str) -> int:
    """How many levels or blocks there are: one more than the highest number that `pattern` captures in the names."""
    return 1 + max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)


def _shape(mapped: Mapped, name: str) -> torch.Size:
    if name not in mapped.tensors:
        some = ", ".join(list(mapped.sources.values())[:6])
        raise ValueError(f"found no tensor that becomes {name}, so it is no file of this format; found {some}, ...")
    return mapped.tensors[name].shape


def masked_architecture(mapped: Mapped) -> Architecture:
    """Sizes of a MAR model. The number of attention heads does not show in any shape."""
    classes, width = _shape(mapped, "backbone.class_emb.weight")
    tokens = _shape(mapped, "backbone.diffusion_pos_embed_learned")[1]
    head_width = _shape(mapped, "head.net.cond_embed.weight")[0]
    hidden = _shape(mapped, "backbone.encoder_blocks.0.mlp.fc1.weight")[0]
    return {
        "kind": "masked",
        "width": width,
        "depth": count(mapped.tensors, r"backbone\.encoder_blocks\.(\d+)\."),
        "mlp_ratio": hidden / width,
        "buffer": _shape(mapped, "backbone.encoder_pos_embed_learned")[1] - tokens,
        "tokens": tokens,
        "token_dim": _shape(mapped, "backbone.z_proj.weight")[1],
        "classes": classes,
        "head_width": head_width,
        "head_depth": count(mapped.tensors, r"head\.net\.res_blocks\.(\d+)\."),
    }


def masked_model(sizes: Architecture) -> nn.Module:
    """Our model of these sizes on the meta device: shapes without numbers."""
    from mar.models.heads.head import build_head
    from mar.models.masked import Masked
    from mar.models.model import Model

    backbone = MaskedBackbone(
        kind="masked", heads=1, dropout=0.0, **{k: sizes[k] for k in ("width", "depth", "mlp_ratio", "buffer")}
    )
    head = DiffusionHead(kind="diffusion", width=sizes["head_width"], depth=sizes["head_depth"], noise_draws=1)
    with torch.device("meta"):
        z_proj = nn.Linear(sizes["token_dim"], sizes["width"])
        body = Masked(backbone, z_proj, sizes["tokens"], sizes["classes"])
        return Model(body, build_head(head, sizes["width"], sizes["token_dim"]))


def dit_architecture(mapped: Mapped) -> Architecture:
    """Sizes of a DiT. The number of attention heads does not show in any shape."""
    width, channels, patch, _ = _shape(mapped, "net.pos_embed.proj.weight")
    if "side" not in mapped.notes:
        raise ValueError("found no tensor pos_embed, which tells the size of the image")
    return {
        "kind": "dit",
        "width": width,
        "depth": count(mapped.tensors, r"net\.transformer_blocks\.(\d+)\."),
        "patch": patch,
        "grid": mapped.notes["side"] * patch,
        "token_dim": channels,
        "classes": _shape(mapped, "embed.class_embedder.embedding_table.weight")[0] - 1,
    }


def dit_model(sizes: Architecture) -> nn.Module:
    """Our model of these sizes on the meta device: shapes without numbers."""
    from mar.models.dit import DiT

    config = DitBackbone(kind="dit", heads=1, **{k: sizes[k] for k in ("width", "depth", "patch")})
    with torch.device("meta"):
        return DiT(config, sizes["grid"], sizes["token_dim"], sizes["classes"])


def scales_architecture(mapped: Mapped) -> Architecture:
    """Sizes of a VAR. Without attention norm no tensor tells the number of heads: the paper's, one for 64 numbers.

    Raises:
        ValueError: the file has no scales, or a width that has no such number.
    """
    if "scales" not in mapped.notes:
        raise ValueError("found no tensor lvl_1L, which tells the scales")
    rows, width = _shape(mapped, "backbone.class_emb.weight")
    shared = "backbone.shared_ada_lin.1.weight" in mapped.tensors
    norm = any(name.endswith(".scale_mul_1H11") for name in mapped.tensors)
    if not norm and width % HEAD:
        raise ValueError(
            f"found width {width} and no scale_mul_1H11, which tells the number of heads; accepted without it: a "
            f"multiple of {HEAD}, the size of the paper's heads"
        )
    return {
        "kind": "scales",
        "width": width,
        "depth": count(mapped.tensors, r"backbone\.blocks\.(\d+)\."),
        "heads": _shape(mapped, "backbone.blocks.0.attn.scale_mul_1H11")[1] if norm else width // HEAD,
        "mlp_ratio": _shape(mapped, "backbone.blocks.0.ffn.fc1.weight")[0] / width,
        "shared_aln": shared,
        "attention_norm": norm,
        "scales": mapped.notes["scales"],
        "code_width": _shape(mapped, "backbone.z_proj.word_embed.weight")[1],
        "codebook_size": _shape(mapped, "head.logits.weight")[0],
        "classes": rows - 1,
    }


def scales_model(sizes: Architecture) -> nn.Module:
    """Our model of these sizes on the meta device: shapes without numbers."""
    from mar.models.heads.head import build_head
    from mar.models.model import Model
    from mar.models.scales import NextScale, Scales

    keys = ("width", "depth", "heads", "mlp_ratio", "shared_aln", "attention_norm")
    config = ScalesBackbone(kind="scales", dropout=0.0, gate_init=1.0, **{k: sizes[k] for k in keys})
    with torch.device("meta"):
        z_proj = NextScale(None, sizes["code_width"], sizes["width"])
        body = Scales(config, z_proj, tuple(sizes["scales"]), sizes["classes"])
        return Model(
            body, build_head(CategoricalHead(kind="categorical"), sizes["width"], codebook_size=sizes["codebook_size"])
        )


def autoencoder_architecture(mapped: Mapped) -> Architecture:
    """Keys of a study's tokenizer section that tensors of a KL or VQ autoencoder tell; no tensor tells its scales."""
    levels = count(mapped.tensors, r"encoder\.down_blocks\.(\d+)\.")
    convolutions = [f"encoder.down_blocks.{i}.resnets.0.conv1.weight" for i in range(max(levels, 1))]
    inner = f"encoder.down_blocks.{levels - 1}.attentions.0.to_q.weight" in mapped.tensors
    outer = "decoder.up_blocks.0.attentions.0.to_q.weight" in mapped.tensors
    vq = "quantize.embedding.weight" in mapped.tensors
    kind = "msvq" if "quantize.phi.0.weight" in mapped.tensors else "vq" if vq else "kl"
    sizes: Architecture = {
        "kind": kind,
        "stride": 2 ** max(levels - 1, 0),
        "channels": [_shape(mapped, name)[0] for name in convolutions],
        "layers": count(mapped.tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "attention": "both" if outer else "encoder" if inner else "middle",
        "latent_channels": _shape(mapped, "post_quant_conv.weight")[0],
    }
    sizes |= {"codebook_size": _shape(mapped, "quantize.embedding.weight")[0]} if vq else {}
    return sizes | ({"phis": count(mapped.tensors, r"quantize\.phi\.(\d+)\.")} if kind == "msvq" else {})


def consistency_architecture(mapped: Mapped) -> Architecture:
    """The consistency decoder was published in one size: diffusers' default."""
    _shape(mapped, "decoder_unet.conv_in.weight")
    return {"kind": "consistency", "stride": 8, "latent_channels": _shape(mapped, "quant_conv.weight")[0] // 2}


def tokenizer_model(sizes: Architecture) -> nn.Module:
    """The network of a tokenizer of these sizes on the meta device: shapes without numbers."""
    from mar.tokenizers.autoencoder import build

    scales = {"scales": (1, 2)} if sizes["kind"] == "msvq" else {}  # no tensor depends on them
    with torch.device("meta"):
        net: nn.Module = build(TokenizerConfig.of(pretrained=True, **sizes, **scales), SIDE).net
    return net


# For each format: published names to ours, the architecture that the tensors tell, and our model of an architecture.
Format = tuple[Callable[[dict[str, Tensor]], Mapped], Callable[[Mapped], Architecture], Callable[..., nn.Module]]
FORMATS: dict[str, Format] = {
    "official-mar": (from_mar, masked_architecture, masked_model),
    "dit": (from_dit, dit_architecture, dit_model),
    "var": (from_var, scales_architecture, scales_model),
    "ldm-kl": (from_ldm, autoencoder_architecture, tokenizer_model),
    "ldm-vq": (from_ldm, autoencoder_architecture, tokenizer_model),
    "var-msvq": (from_var_tokenizer, autoencoder_architecture, tokenizer_model),
    "diffusers-kl": (from_diffusers, autoencoder_architecture, tokenizer_model),
    "consistency-decoder": (from_diffusers, consistency_architecture, tokenizer_model),
}
