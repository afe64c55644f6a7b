"""VAR's published weights by the way that a user takes: import, install, encode, images without a training."""

import json

import published
import pytest
import torch
from safetensors.torch import load_file

from mar.data.prepare import prepare
from mar.data.tokens import TokenSet
from mar.runtime.files import sha256
from mar.sampling.sampler import Sampler
from mar.study.reading import resolve, write_resolved
from mar.tokenizers.encode import encode
from mar.training.trained import load_trained
from mar.weights.importing import import_weights
from mar.weights.install import install_run, install_tokenizer

VALUES = {
    "study": "official",
    "data": {"kind": "digits", "image_size": 16, "holdout": 0.9},
    "tokenizers": {
        "msvq": {"kind": "msvq", "stride": 4, "channels": [32, 64, 32], "attention": "both", "latent_channels": 8}
        | {"codebook_size": 64, "scales": [1, 2, 3, 4], "pretrained": True, "weights": "vae"}
    },
    "backbones": {"scales": {"kind": "scales", "width": 64, "depth": 2, "heads": 2, "gate_init": 1e-3}},
    "heads": {"crossent": {"kind": "categorical"}},
    "recipes": {"published": {"images": 64, "batch": 64, "checkpoint_images": 64, "log_images": 64}},
    "sampling": {"cfg": {"steps": 4, "kv_cache": True, "guidance": 2.5, "top_k": 20, "top_p": 0.9}},
    "variants": {
        "var": {"tokenizer": "msvq", "order": "scales", "backbone": "scales", "head": "crossent"}
        | {"recipe": "published", "sampling": ["cfg"], "pretrained": True}
    },
    "classifier": {"images": 64},
    "metrics": {"samples": 10, "chunk": 2},
    "speed": {"batch": 2},
}


def study(section="", name="", **over):
    return published.changed(VALUES, section, name, over)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Imports of tokenizer and model, the tokenizer installed, and the tokens that it makes of digits."""
    folder = tmp_path_factory.mktemp("results")
    root = write_resolved(study(), folder).parent
    for file, prefix, format in (("var_tiny_vqvae", "vqvae.", "var-msvq"), ("var_tiny", "var.", "var")):
        tensors = load_file(published.GOLDEN / f"{file}.safetensors").items()
        weights = {k.removeprefix(prefix): v for k, v in tensors if k.startswith(prefix)}
        if (bias := weights.get("attn_bias_for_masking")) is not None:  # the golden file cannot hold infinity
            weights["attn_bias_for_masking"] = bias.masked_fill(bias < -1e29, -torch.inf)
        torch.save(weights, folder / f"{prefix}pth")
        import_weights(format, folder / f"{prefix}pth", {"vqvae.": "vae", "var.": "var"}[prefix], folder / "assets")
    prepare(study(), root)
    install_tokenizer(study(), root, "msvq")
    encode(study(), root, "msvq")
    return root


def test_installed_weights_draw_images_without_training(root):
    install_run(study(), root, "var", 0)
    run = json.loads((root / "runs" / "var" / "seed0" / "run.json").read_text())
    assert run["images"] == 0 and run["pretrained"]["format"] == "var"
    assert run["checkpoint"] == sha256(root.parent / "assets" / "var.safetensors")
    sampler = Sampler(study(), root, "var", 0)
    images, _ = sampler.chunk("cfg", 0)
    assert images.shape == (2, 16, 16, 3) and images.std() > 0
    again, _ = Sampler(study(), root, "var", 0).chunk("cfg", 0)
    assert (images == again).all() and (images != sampler.chunk("cfg", 1)[0]).any()


@torch.no_grad()
def test_the_installed_model_is_the_published_one(root):
    install_run(study(), root, "var", 0)
    tokens = TokenSet.open(root / "tokens" / "msvq" / "train")
    model, _ = load_trained(study(), root, "var", 0, tokens.manifest)
    golden = load_file(published.GOLDEN / "var_tiny.safetensors")
    ids = torch.cat([golden[f"out.idx.scale{k}"].long() for k in range(4)], 1)
    z, _ = model.backbone(ids, golden["in.labels"].long(), torch.arange(30).expand(2, 30), 0)
    want = golden["out.logits"]
    assert float((model.head.logits(z) - want).norm() / want.norm()) < 1e-5


@pytest.mark.parametrize(
    ("section", "name", "over", "message"),
    [
        ("backbones", "scales", {"depth": 3}, "backbones.scales.depth 3; the file has 2"),
        ("backbones", "scales", {"heads": 4}, "backbones.scales.heads 4; the file has 2"),
        ("backbones", "scales", {"shared_aln": True}, "backbones.scales.shared_aln True; the file has False"),
        ("variants", "var", {"weights": "vae"}, "the file has msvq"),
    ],
)
def test_another_architecture_is_refused_by_the_key_of_the_study(root, section, name, over, message):
    with pytest.raises(ValueError) as error:
        install_run(study(section, name, **over), root, "var", 0)
    assert message in str(error.value)


def without_norm(folder, width=64):
    """Published weights without attention norm, of another width where asked."""
    weights = torch.load(folder / "var.pth", weights_only=True)
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("scale_mul_1H11")}
    if width != 64:
        weights["class_emb.weight"] = torch.zeros(len(weights["class_emb.weight"]), width)
    torch.save(weights, folder / "plain.pth")
    return folder / "plain.pth"


def test_weights_without_attention_norm(root):
    """No tensor tells their heads: they have the paper's size, 64."""
    import_weights("var", without_norm(root.parent), "plain", root.parent / "assets")
    named = json.loads(json.dumps(VALUES))
    named["variants"]["var"]["weights"] = "plain"
    plain = published.changed(named, "backbones", "scales", {"attention_norm": False, "heads": 1})
    install_run(plain, root, "var", 0)
    model, _ = load_trained(plain, root, "var", 0, TokenSet.open(root / "tokens" / "msvq" / "train").manifest)
    attention = model.backbone.blocks[0].attn
    assert attention.scale_mul_1H11 is None and attention.heads == 1
    for over, message in (
        ({"attention_norm": False}, "backbones.scales.heads 2; the file has 1"),
        ({"heads": 1}, "backbones.scales.attention_norm True; the file has False"),
    ):
        with pytest.raises(ValueError) as error:
            install_run(published.changed(named, "backbones", "scales", over), root, "var", 0)
        assert message in str(error.value)
    with pytest.raises(ValueError, match=r"found width 72 and no scale_mul_1H11, .*: a multiple of 64"):
        import_weights("var", without_norm(root.parent, 72), "plain", root.parent / "assets")


def test_other_scales_are_refused(root, tmp_path):
    values = json.loads(json.dumps(VALUES))
    values["tokenizers"]["msvq"]["scales"], values["sampling"]["cfg"]["steps"] = [1, 2, 4], 3
    other = resolve(values, "official.yaml")
    manifest = root / "tokens" / "msvq" / "train" / "manifest.json"
    target = tmp_path / "official" / "tokens" / "msvq" / "train" / "manifest.json"
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(json.loads(manifest.read_text()) | {"scales": [1, 2, 4], "tokens": 21}))
    (tmp_path / "assets").symlink_to(root.parent / "assets")
    with pytest.raises(ValueError, match=r"tokenizers\.msvq\.scales \[1, 2, 4\]; the file has \[1, 2, 3, 4\]"):
        install_run(other, tmp_path / "official", "var", 0)
