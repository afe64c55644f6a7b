"""The networks that judge images: against the libraries whose numbers they have to reproduce, and what is refused."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import make_resizer
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mar.data import published
from mar.data.images import to_float
from mar.data.published import COLUMNS
from mar.features.networks import classifier, dinov2, extractors, inception
from mar.runtime.files import sha256, write
from mar.runtime.folders import claim
from mar.runtime.provenance import provenance
from mar.study.records import ClassifierRecord
from mar.study.stage_keys import classifier_key
from mar.study.study import Study

CPU = torch.device("cpu")
WIDTH, DEPTH, HEADS = 64, 2, 4  # of the small ViT


def pictures(count=3, side=256, seed=0):
    """Smooth images, uint8 (B, 3, side, side)."""
    coarse = torch.rand((count, 3, 7, 7), generator=torch.Generator().manual_seed(seed)) * 300 - 20
    return functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 255).byte()


@pytest.fixture(scope="module")
def extractor():
    return extractors.load("inception", None, None, CPU, random=True)


@pytest.fixture(scope="module")
def found(extractor):
    return extractor(pictures())


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Where the weights of an extractor are looked for: an empty folder of results, hub and table of its own."""
    lines = [
        f"{name},reference,https://somewhere/{name}.pth,,,MIT,a page (URL)," for name in ("inception", "dinov2-vitl14")
    ]
    (tmp_path / "assets.csv").write_text("\n".join([",".join(COLUMNS), *lines]))
    monkeypatch.setattr(published, "TABLE", tmp_path / "assets.csv")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "results" / "assets" / "downloads").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_inception_is_torch_fidelitys_to_the_bit(extractor, found):
    with torch.inference_mode():
        features, logits = FeatureExtractorInceptionV3.forward(extractor.network, pictures())
    assert torch.equal(found["features"], features) and features.shape == (3, 2048)
    assert torch.equal(found["logits"], logits) and logits.shape == (3, 1008)
    assert {x.dtype for x in found.values()} == {torch.float32}


def test_spatial_features_are_the_first_channels_of_the_1x1_branch_by_row_column_channel(extractor, found):
    network, kept = extractor.network, {}
    hook = network.Mixed_6c.register_forward_hook(lambda module, given, made: kept.setdefault("x", made.clone()))
    with torch.inference_mode():
        FeatureExtractorInceptionV3.forward(network, pictures())
        branch = network.Mixed_6d.branch1x1
        maps = functional.relu(branch.bn(branch.conv(kept["x"])))  # (3, 192, 17, 17)
    hook.remove()
    assert kept["x"].shape == (3, 768, 17, 17) and maps.shape == (3, 192, 17, 17)
    spatial = found["spatial"].reshape(3, 17, 17, 7)
    for row, column, channel in ((0, 0, 0), (3, 11, 2), (16, 5, 6)):
        assert torch.allclose(spatial[:, row, column, channel], maps[:, channel, row, column], atol=1e-6)
    assert not network.Mixed_6d.branch1x1._forward_hooks


def test_clean_is_clean_fids_resize_and_forward_pass(extractor):
    layers = [layer for name, layer in extractor.network.named_children() if name != "fc"]
    theirs = InceptionV3W.__new__(InceptionV3W)  # without the TorchScript file, on the same layers
    nn.Module.__init__(theirs)
    theirs.layers, theirs.resize_inside = nn.Sequential(*layers), False
    resize = make_resizer("PIL", False, "bicubic", (299, 299))
    images = pictures()
    pixels = torch.stack(
        [torch.from_numpy(resize(image.permute(1, 2, 0).numpy())).permute(2, 0, 1) for image in images]
    )
    assert (pixels != pixels.round()).any()  # not rounded to bytes
    with torch.inference_mode():
        expected = theirs(pixels)
        found = inception.extract(extractor.network, inception.clean(images))["features"]
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(extractor(images)["features"], expected, atol=1e-3)


def test_images_are_judged_alone(extractor, found):
    assert torch.allclose(extractor(pictures()[1:2])["features"], found["features"][1:2], atol=1e-5)


def test_random_weights_are_seeded_and_tell_images_apart(extractor, found):
    again = inception.random(extractors.SEED).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in extractor.network.state_dict().items())
    assert extractor.weights == "random" and "say nothing" in extractor.note
    features = found["features"]
    assert 0.1 < features.mean() < 1 and features.std(dim=0).mean() > 0.05
    share = found["logits"].double().softmax(dim=1)
    assert (share * (share / share.mean(dim=0)).log()).sum(dim=1).mean().exp() > 1.05  # the inception score
    assert (found["spatial"].std(dim=0) > 0).float().mean() > 0.5


@pytest.mark.parametrize(
    ("name", "place", "legacy"),
    [("inception", "hub/checkpoints", True), ("clean", "results/assets/downloads", False)],
)
def test_weights_of_a_file(shelf, extractor, name, place, legacy):
    path = shelf / place / "inception.pth"
    torch.save(extractor.network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    loaded = extractors.load(name, None, shelf / "results" / "study", CPU)
    assert (loaded.name, loaded.weights, loaded.note) == (name, sha256(path), "")
    images = pictures(1)
    with torch.inference_mode():
        resized = (inception.clean if name == "clean" else inception.bilinear)(images)
        expected = inception.extract(extractor.network, resized)
    assert torch.equal(loaded(images)["features"], expected["features"])


def test_missing_and_wrong_files_are_refused(shelf, monkeypatch):
    load = partial(extractors.load, "inception", None, shelf / "results" / "study", CPU)
    with pytest.raises(ValueError, match=r"inception.pth: missing, and .*hub.*mar fetch inception.*https://somewhere"):
        load()
    path = shelf / "results" / "assets" / "downloads" / "inception.pth"
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(
        ValueError, match=r"inception.pth: not the weights of inception \(RuntimeError: .*Missing key.{,200}$"
    ):
        load()
    torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"sha256 .*; at the first fetch it was"):
        load()
    (shelf / "results" / "assets" / "lock.json").unlink()
    path.write_bytes(pickle.dumps({"weights": Image.new("RGB", (2, 2))}, protocol=2))
    with pytest.raises(ValueError, match=r"not the weights of inception \(UnpicklingError"):
        load()
    monkeypatch.setattr(published, "TABLE", "config/assets.csv")
    with pytest.raises(ValueError, match=r"inception.pth: \d+ bytes; config/assets.csv says 95628359"):
        load()


def test_wrong_names_and_images_are_refused(extractor):
    with pytest.raises(ValueError, match="extractor vgg: accepted: classifier, inception, clean, dinov2"):
        extractors.load("vgg", None, None, CPU)
    with pytest.raises(ValueError, match="classifier: belongs to a study"):
        extractors.load("classifier", None, None, CPU)
    for images in (to_float(pictures()), pictures()[:, :1], pictures()[0], pictures()[:0]):
        with pytest.raises(ValueError, match=r"inception: found images .*; accepted: uint8 \(B, 3, H, W\)"):
            extractor(images)


def test_the_classifier_of_a_study(values, tmp_path):
    study = Study(**values)
    torch.manual_seed(0)
    model, folder = classifier.Classifier(study.classifier, 10).eval(), tmp_path / "classifier"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    record = ClassifierRecord(
        accuracy=0.1,
        split="heldout",
        count=1,
        classes=tuple("0123456789"),
        parameters=1,
        provenance=provenance(),
    )
    write(folder / "classifier.json", record)
    claim(folder, {"slice": classifier_key(study)})
    judge = extractors.load("classifier", study, tmp_path, CPU)
    images = pictures(side=32)
    found = judge(images)
    with torch.no_grad():
        features, logits = model(to_float(images))
    assert set(found) == {"features", "logits"} and judge.weights == sha256(folder / "model.safetensors")
    assert torch.equal(found["features"], features) and torch.equal(found["logits"], logits)
    as_rows = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # equal, and otherwise in memory
    assert torch.equal(judge(as_rows)["features"], found["features"])
    with pytest.raises(ValueError, match="classifier with random weights: the study trains it"):
        extractors.load("classifier", study, tmp_path, CPU, random=True)


def published_weights(width, depth, device="cpu"):
    """A random state dict under DINOv2's names and shapes: position embedding of 37 x 37 patches, LayerScale."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1370, width), "mask_token": (1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        block = {f"norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
        block |= {"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,), "ls1.gamma": (width,)}
        block |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,), "ls2.gamma": (width,)}
        block |= {"mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,)}
        block |= {"mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,)}
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in block.items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    generator = torch.Generator(device).manual_seed(0) if device == "cpu" else None
    return {
        key: torch.randn(shape, generator=generator, device=device) * (0.5 if len(shape) == 1 else 0.1)
        for key, shape in shapes.items()
    }


def reference_forward(weights, pixels, heads):
    """DINOv2 as its authors write it down, on published weights: pixels (B, 3, 224, 224) to class tokens (B, D)."""

    def layer(x, name):
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    x = functional.conv2d(pixels, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    batch, width = x.shape[:2]
    x = torch.cat([weights["cls_token"].expand(batch, -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    grid = weights["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    assert grid.shape[2:] == (16, 16)
    x = x + torch.cat([weights["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, width)], dim=1)
    for i in range(DEPTH):
        at = f"blocks.{i}."
        parts = layer(norm(x, at + "norm1"), at + "attn.qkv").reshape(batch, 257, 3, heads, width // heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(dim=-1)
        mixed = (attention @ v).transpose(1, 2).reshape(batch, 257, width)
        x = x + weights[at + "ls1.gamma"] * layer(mixed, at + "attn.proj")
        hidden = functional.gelu(layer(norm(x, at + "norm2"), at + "mlp.fc1"))
        x = x + weights[at + "ls2.gamma"] * layer(hidden, at + "mlp.fc2")
    return norm(x, "norm")[:, 0]


def test_dinov2_from_published_weights_is_the_published_network(shelf, monkeypatch):
    weights = published_weights(WIDTH, DEPTH)
    torch.save(weights, shelf / "results" / "assets" / "downloads" / "dinov2-vitl14.pth")
    monkeypatch.setattr(dinov2, "build", partial(dinov2.build, WIDTH, DEPTH, HEADS))
    judge = extractors.load("dinov2", None, shelf / "results" / "study", CPU)
    images = pictures()
    found = judge(images)
    expected = reference_forward(weights, dinov2.prepare(images), HEADS)
    assert set(found) == {"features"} and found["features"].shape == (3, WIDTH)
    assert torch.allclose(found["features"], expected, atol=1e-4)
    assert expected.std(dim=0).mean() > 0.01  # they differ between images by far more


def test_dinov2_names_and_sizes_are_those_of_vit_large():
    large = published_weights(1024, 24, "meta")
    assert sum(x.numel() for x in large.values()) == 304_368_640  # 1,217,474,560 bytes of a file of 1,217,586,395
    with torch.device("meta"):
        network, converted = dinov2.build(), dinov2.convert(large)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in converted.items()} == expected


def test_other_vision_transformers_are_refused(shelf, monkeypatch):
    monkeypatch.setattr(dinov2, "build", partial(dinov2.build, WIDTH, DEPTH, HEADS))
    path = shelf / "results" / "assets" / "downloads" / "dinov2-vitl14.pth"
    weights = published_weights(WIDTH, DEPTH)
    for change, message in (
        (weights | {"register_tokens": torch.zeros(1, 4, WIDTH)}, "left over: register_tokens"),
        ({key: value for key, value in weights.items() if "ls2" not in key}, "ls2.gamma"),
        (published_weights(WIDTH, DEPTH + 1), "Unexpected key.*encoder_layer_2"),
    ):
        torch.save(change, path)
        (shelf / "results" / "assets" / "lock.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=f"(?s)not the weights of dinov2.*{message}"):
            extractors.load("dinov2", None, shelf / "results" / "study", CPU)


def test_dinov2_sees_images_as_edm2_shows_them_and_nearly_as_dgm_eval_does():
    images = pictures()
    shown = dinov2.prepare(images)
    assert shown.shape == (3, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    levels = (shown.permute(0, 2, 3, 1) * std + mean) * 255
    bicubic = functional.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=True)
    assert torch.allclose(levels, bicubic.permute(0, 2, 3, 1), atol=1e-3)
    for image, found in zip(images, levels, strict=True):
        pil = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        difference = np.abs(np.asarray(pil) - found.clamp(0, 255).numpy())
        # PIL rounds after each of two passes, and the second one's negative lobes enlarge the first half level
        assert difference.max() < 1.3 and difference.mean() < 0.4
