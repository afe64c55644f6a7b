"""Studies with pretrained: true: installing imports, what is refused, and images drawn without a training."""

import json

import published
import pytest
import torch

from mar.runtime.files import read, sha256, write
from mar.sampling.sample_sets import sample
from mar.sampling.sampler import Sampler
from mar.study.reading import resolve, write_resolved
from mar.study.records import Piece, TokenManifest
from mar.study.stage_keys import train_key
from mar.tracking.mlflow_sync import _sources
from mar.training.trained import load_trained
from mar.weights.importing import import_weights
from mar.weights.install import install_run, install_tokenizer

VALUES = {
    "study": "official",
    "data": {"kind": "digits", "image_size": 32},
    "tokenizers": {
        "kl": {"kind": "kl", "stride": 4, "channels": [32, 64, 32], "layers": 2, "attention": "encoder"}
        | {"latent_channels": 4, "scale": 0.5, "pretrained": True, "weights": "kl16"}
    },
    "backbones": {
        "masked": {"kind": "masked", "width": 32, "depth": 2, "heads": 4, "buffer": 8},
        "dit": {"kind": "dit", "width": 48, "depth": 2, "heads": 4, "patch": 2},
    },
    "heads": {"diffloss": {"kind": "diffusion", "width": 32, "depth": 2, "noise_draws": 4}, "dit": {"kind": "joint"}},
    "recipes": {"published": {"images": 64, "batch": 64, "checkpoint_images": 64, "log_images": 64}},
    "sampling": {
        "two": {"steps": 2, "diffusion_steps": 2, "guidance": 2.0, "clamp": 3.0},
        "joint": {"steps": 1, "diffusion_steps": 2, "guidance": 2.0, "guidance_schedule": "constant"},
    },
    "variants": {
        "mar": {"tokenizer": "kl", "order": "random", "backbone": "masked", "head": "diffloss"}
        | {"recipe": "published", "sampling": ["two"], "pretrained": True, "weights": "mar-tiny"},
        "dit": {"tokenizer": "kl", "order": "joint", "backbone": "dit", "head": "dit"}
        | {"recipe": "published", "sampling": ["joint"], "pretrained": True},
    },
    "classifier": {"images": 64},
    "metrics": {"samples": 10, "chunk": 2},
    "speed": {"batch": 2},
}


def study(section="", name="", **over):
    return published.changed(VALUES, section, name, over)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Imports of a tokenizer, a MAR model and a DiT, and the words of `mar encode` that a model needs."""
    folder = tmp_path_factory.mktemp("results")
    assets, root = folder / "assets", write_resolved(study(), folder).parent
    torch.save({"model": published.kl_weights()}, folder / "kl16.ckpt")
    import_weights("ldm-kl", folder / "kl16.ckpt", "kl16", assets)
    import_weights("official-mar", published.mar_checkpoint(folder / "mar.pth"), "mar-tiny", assets)
    torch.save(published.weights("dit_tiny"), folder / "dit.pt")
    import_weights("dit", folder / "dit.pt", "dit", assets)
    manifest = TokenManifest(
        kind="moments",
        count=1,
        classes=10,
        class_names=tuple("0123456789"),
        views=1,
        grid=8,
        tokens=64,
        group=1,
        tokenizer=64 * "1",
        data=64 * "d",
        token_dim=4,
        labels_sha256=64 * "2",
        shards=(Piece(file="shard-00000.npy", count=1, sha256=64 * "3"),),
        scale=0.5,
    )
    write(root / "tokens" / "kl" / "train" / "manifest.json", manifest)
    return root


@pytest.mark.parametrize(("variant", "setting", "seen"), [("mar", "two", "mar-tiny"), ("dit", "joint", "dit")])
def test_installed_weights_draw_images_without_training(root, capsys, variant, setting, seen):
    assets, folder = root.parent / "assets", root / "runs" / variant / "seed0"
    install_tokenizer(study(), root, "kl")
    tokens = read(root / "tokens/kl/train/manifest.json", TokenManifest)  # as `mar encode` writes it by this tokenizer
    weights = sha256(root / "tokenizers/kl/model.safetensors")
    write(root / "tokens/kl/train/manifest.json", tokens.model_copy(update={"tokenizer": weights}))
    install_run(study(), root, variant, 0)
    run = json.loads((folder / "run.json").read_text())
    report = json.loads((assets / f"{seen}.json").read_text())
    assert run["images"] == 0 and run["parameters"] == report["parameters"]
    assert run["checkpoint"] == sha256(folder / "ema.safetensors") == report["sha256"]
    assert run["pretrained"]["source"] == report["source"]
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe == {"train": train_key(study(), variant, 0), "weights": report["sha256"]}
    config = json.loads((root / "tokenizers" / "kl" / "config.json").read_text())
    assert config["net"]["norm_num_groups"] == 32 and config["pretrained"]["format"] == "ldm-kl"
    sampler = Sampler(study(), root, variant, 0)
    images, _ = sampler.chunk(setting, 0)
    assert images.shape == (2, 32, 32, 3) and images.std() > 0
    sample(study(), root, variant, 0, setting)
    assert json.loads((root / "samples" / variant / "seed0" / setting / "manifest.json").read_text())["count"] == 10
    before = (folder / "run.json").stat().st_mtime_ns
    install_run(study(), root, variant, 0)
    install_tokenizer(study(), root, "kl")
    assert (folder / "run.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out.count(": complete") >= 2
    shown = {source.key: source for source in _sources(study(), root)}
    assert shown[f"runs/{variant}/seed0"].final["parameters"] == report["parameters"]
    assert shown["tokenizers/kl"].total == 0


@torch.no_grad()
def test_the_installed_model_is_the_published_one(root):
    install_run(study(), root, "mar", 0)
    manifest = read(root / "tokens" / "kl" / "train" / "manifest.json", TokenManifest)
    model, _ = load_trained(study(), root, "mar", 0, manifest)
    golden = published.load_file(published.GOLDEN / "mar_tiny.safetensors")
    tokens = golden["out.patchify"]
    known = 64 - int(golden["in.mask"][0].sum())
    z, _ = model.backbone(tokens, golden["in.labels"].long(), golden["in.orders"].long().flip(1), known)
    want = golden["out.z"][golden["in.mask"].bool()]
    assert float((z.flatten(0, 1) - want).norm() / want.norm()) < 1e-5


@pytest.mark.parametrize(
    ("section", "name", "over", "message"),
    [
        ("backbones", "masked", {"depth": 3}, "backbones.masked.depth 3; the file has 2"),
        ("backbones", "masked", {"buffer": 4}, "backbones.masked.buffer 4; the file has 8"),
        ("backbones", "masked", {"mlp_ratio": 2.0}, "backbones.masked.mlp_ratio 2.0; the file has 4.0"),
        ("heads", "diffloss", {"width": 64}, "heads.diffloss.width 64; the file has 32"),
        ("variants", "mar", {"weights": "dit"}, "backbones.masked.kind masked; the file has dit"),
        ("backbones", "masked", {"width": 768, "heads": 8}, "heads 8: the published models of width 768 have 12"),
        ("variants", "mar", {"weights": "nothing"}, "run `mar import FORMAT FILE --as nothing`"),
    ],
)
def test_another_architecture_is_refused_by_the_key_of_the_study(root, section, name, over, message):
    with pytest.raises(ValueError) as error:
        install_run(study(section, name, **over), root, "mar", 0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"channels": [32, 32, 32]}, "tokenizers.kl.channels [32, 32, 32]; the file has [32, 64, 32]"),
        ({"attention": "both"}, "tokenizers.kl.attention both; the file has encoder"),
        ({"latent_channels": 8}, "tokenizers.kl.latent_channels 8; the file has 4"),
        ({"kind": "vq", "codebook_size": 9}, "tokenizers.kl.kind vq; the file has kl"),
        ({"weights": "mar-tiny"}, "the file has masked"),
    ],
)
def test_another_tokenizer_is_refused_by_the_key_of_the_study(root, over, message):
    values = study().model_dump(mode="json", exclude_defaults=True)
    values["tokenizers"]["kl"] |= over
    values["variants"] = {}
    with pytest.raises(ValueError) as error:
        install_tokenizer(resolve(values, "official.yaml"), root, "kl")
    assert message in str(error.value)


def test_an_import_that_was_changed_or_cut_short_is_refused(root, tmp_path):
    (tmp_path / "assets").mkdir()
    other = write_resolved(study(), tmp_path).parent
    for name in ("kl16.safetensors", "kl16.json"):
        (tmp_path / "assets" / name).write_bytes((root.parent / "assets" / name).read_bytes())
    with open(tmp_path / "assets" / "kl16.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"kl16.safetensors: not the file that .*kl16.json names"):
        install_tokenizer(study(), other, "kl")
    (tmp_path / "assets" / "kl16.json").unlink()
    with pytest.raises(ValueError, match=r"kl16.json: missing, and tokenizers.kl is pretrained; run `mar import"):
        install_tokenizer(study(), other, "kl")
