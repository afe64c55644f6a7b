"""LDM's recipe: the discriminator, its weight and its start, LPIPS and its files, and going on after a stop."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pipeline
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from mar.data.images import ImageSet, to_float
from mar.data.prepare import prepare
from mar.runtime import checkpoint
from mar.study.sections import Classifier
from mar.study.study import Study
from mar.tokenizers import discriminator, perceptual
from mar.tokenizers import train as training
from mar.tokenizers.autoencoder import Tokenizer, build

SIDE = 24
BODY = {"stride": 8, "channels": [8, 8, 8, 8], "latent_channels": 4, "images": 40, "batch": 4, "learning_rate": 1e-3}
KINDS = {"kl": {"kind": "kl", "kl_weight": 1e-6, **BODY}, "vq": {"kind": "vq", "codebook_size": 16, **BODY}}
OWN = {"perceptual": "own", "perceptual_weight": 1.0, "perceptual_images": 64}
KINDS["msvq"] = {"kind": "msvq", "codebook_size": 16, "scales": [1, 2, 3], **BODY}


def made(kind: str = "kl", **over: Any) -> Study:
    data = {"kind": "digits", "image_size": SIDE}
    return pipeline.study(data=data, tokenizers={"tok": {**KINDS[kind], **over}}, variants={})


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(256, size=(20, SIDE, SIDE, 3), dtype=np.uint8)
    return ImageSet([0, 0, 1, 1] * 5, ["a", "b"], lambda rows: pixels[rows])


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator of a quarter of the width, for speed."""
    whole = discriminator.discriminator
    monkeypatch.setattr(discriminator, "discriminator", lambda: whole(width=16))


def fit(study: Study, images: ImageSet, folder: Path, checkpoints: bool = False, lpips: Any = None) -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = build(study.tokenizers["tok"], SIDE)
    where = folder / "checkpoints" if checkpoints else None
    device = torch.device("cpu")
    training.fit(tokenizer, study.tokenizers["tok"], images, study, folder / "log.jsonl", device, where, lpips)
    return tokenizer


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def differing(one: Tokenizer, other: Tokenizer) -> list[str]:
    states = one.state_dict(), other.state_dict()
    return [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]


def test_discriminator() -> None:
    net = discriminator.discriminator()
    assert sum(p.numel() for p in net.parameters()) == 2_765_633  # of pix2pix at 3 layers, width 64, batch norm
    assert net(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    assert net(torch.zeros(2, 3, discriminator.SMALLEST, discriminator.SMALLEST)).shape == (2, 1, 1, 1)
    # one score sees 70x70 pixels
    seen = torch.zeros(1, 3, 128, 128, requires_grad=True)
    net.eval()(seen)[0, 0, 7, 7].backward()
    assert seen.grad is not None
    rows = seen.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert len(rows) == rows[-1] - rows[0] + 1 == 70
    score = torch.tensor([-2.0, 0.5, 3.0])
    assert discriminator.hinge(score, score).item() == pytest.approx(0.5 * ((3 + 0.5) / 3 + (1.5 + 4) / 3))


def test_adaptive_weight() -> None:
    layer = torch.tensor([3.0, 4.0], requires_grad=True)
    reconstruction, adversarial = 0.5 * layer.square().sum(), 2.0 * layer.sum()  # gradients of norm 5 and sqrt(8)
    weigh = discriminator.adaptive_weight
    assert weigh(reconstruction, adversarial, layer).item() == pytest.approx(5.0 / (8**0.5 + 1e-4))
    # the sum over 10 numbers has 10 times the gradient, and 10 times the weight keeps the balance of the mean
    assert weigh(reconstruction, adversarial, layer, 10).item() == pytest.approx(5.0 / (8**0.5 + 1e-4))
    assert weigh(reconstruction, 1e-9 * adversarial, layer).item() == 1e4
    assert weigh(reconstruction, 1e-9 * adversarial, layer, 10).item() == 1e3
    assert not weigh(reconstruction, adversarial, layer).requires_grad


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.usefixtures("narrow")
def test_delayed_start(kind: str, images: ImageSet, tmp_path: Path) -> None:
    """Before its start the discriminator changes nothing; from then on it takes part in every step."""
    never, late, early = (
        fit(made(kind, adversarial_weight=0.5, adversarial_start=start), images, tmp_path / str(start))
        for start in (40, 20, 0)
    )
    logs = {start: lines(tmp_path / str(start)) for start in (40, 20, 0)}
    assert [("discriminator" in line) for line in logs[20]] == [line["images"] > 20 for line in logs[20]]
    assert [line["loss"] for line in logs[20][:5]] == [line["loss"] for line in logs[40][:5]]
    assert all("discriminator" in line for line in logs[0]) and not any("discriminator" in line for line in logs[40])
    assert all(line["adaptive_weight"] > 0.0 for line in logs[0])
    for one, other in ((never, late), (late, early)):
        assert differing(one, other)
    again = fit(made(kind, adversarial_weight=0.5, adversarial_start=20), images, tmp_path / "again")
    assert not differing(late, again)


@pytest.mark.usefixtures("narrow")
def test_the_discriminator_learns() -> None:
    torch.manual_seed(0)
    adversary = discriminator.Adversary(0.5, 0, seed=0, image_size=SIDE, numbers=1, device="cpu")
    real, rebuilt = torch.rand(4, 3, SIDE, SIDE), torch.rand(4, 3, SIDE, SIDE) - 1.0
    losses = [adversary.learn(real, rebuilt, 1e-3) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    layer = rebuilt.requires_grad_()
    before = [p.clone() for p in adversary.net.parameters()]
    term, weight = adversary.generator_loss(rebuilt, rebuilt.square().mean(), layer)
    term.backward()
    # the term pulls the rebuilt images to what passes as real, and leaves the discriminator alone
    assert weight > 0.0 and all(
        p.grad is None or (p == q).all() for p, q in zip(adversary.net.parameters(), before, strict=True)
    )
    with torch.no_grad():
        moved = rebuilt - 0.1 * rebuilt.grad / rebuilt.grad.abs().mean()  # type: ignore[union-attr, operator]
        assert adversary.net(moved).mean() > adversary.net(rebuilt).mean()


def test_images_without_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.image_size 16 with adversarial_weight 0\.5: .*at least 24"):
        discriminator.Adversary(0.5, 0, seed=0, image_size=16, numbers=1, device="cpu")


@pytest.mark.parametrize("kind", ["kl", "vq", "msvq"])
@pytest.mark.parametrize(
    "terms", [{}, {"adversarial_weight": 0.5, "adversarial_start": 20}, {**OWN, "stem": 2, "channels": [8, 8, 8]}]
)
@pytest.mark.usefixtures("narrow")
def test_going_on_is_exact(
    kind: str, terms: dict[str, Any], images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two checkpoints, and started again: the same weights and the same curve, to the bit."""
    monkeypatch.setattr(training, "CHECKPOINT_IMAGES", 8)
    monkeypatch.setattr(training, "RENEW_EVERY", 3)
    study = made(kind, **terms)
    whole = fit(study, images, tmp_path / "whole")
    kept = checkpoint.save

    def stop(folder: Path, done: int, state: dict[str, Any]) -> None:
        if done == 24:
            raise KeyboardInterrupt
        kept(folder, done, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", stop)
        fit(study, images, tmp_path / "cut", checkpoints=True)
    resumed = fit(study, images, tmp_path / "cut", checkpoints=True)
    assert not differing(whole, resumed)
    curves = [{line["images"]: line["loss"] for line in lines(tmp_path / run)} for run in ("whole", "cut")]
    assert curves[0] == curves[1] and len(curves[0]) == 10


def test_a_finished_training_leaves_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_IMAGES", 8)
    written: list[int] = []
    kept: Callable[..., None] = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda folder, done, state: (written.append(done), kept(folder, done, state))
    )
    study = made()
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    training.train(study, root, "tok")
    assert written == [8, 16, 24, 32]  # not the end: the weights themselves are written there
    assert not (root / "tokenizers" / "tok" / "checkpoints").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_missing_lpips_is_told(hub: Path, tmp_path: Path) -> None:
    study = made(perceptual_weight=1.0)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    place = str(tmp_path / "assets" / "downloads" / "vgg16.pth").replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"{place}: missing.*https://.*vgg16-397923af\.pth.*perceptual_weight: 0"):
        training.train(study, root, "tok")
    (tmp_path / "assets" / "downloads").mkdir(parents=True)
    (tmp_path / "assets" / "downloads" / "vgg16.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"vgg16\.pth: its SHA-256 does not begin with 397923af"):
        training.train(study, root, "tok")


def test_lpips_from_files(hub: Path, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file from the assets, one from torch's cache; the term has a gradient and moves the training."""
    from torch_fidelity import sample_similarity_lpips as published
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    # the network itself is half a gigabyte; torch-fidelity keeps its convolutions
    monkeypatch.setattr(published, "torchvision_load_pretrained_vgg16", lambda: SimpleNamespace(features=layers))
    layers = make_layers(cfgs["D"])
    monkeypatch.setattr(perceptual, "sha256", lambda path: "397923af" * 8)
    downloads = tmp_path / "assets" / "downloads"
    for folder in (downloads, hub):
        folder.mkdir(parents=True)
    (downloads / "vgg16.pth").touch()
    widths = (64, 128, 256, 512, 512)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}
    torch.save(linear, hub / "weights-vgg16-lpips.pth")
    lpips = perceptual.load(tmp_path / "assets")
    assert torch.equal(lpips.lin3.model[1].weight, linear["lin3.model.1.weight"])
    assert not lpips.training and not any(p.requires_grad for p in lpips.parameters())

    batch = torch.rand(2, 3, SIDE, SIDE) * 2.0 - 1.0
    rebuilt = (batch + 0.1).requires_grad_()
    perceptual.distance(lpips, rebuilt, batch).backward()
    assert perceptual.distance(lpips, batch, batch) == 0.0 and rebuilt.grad is not None and rebuilt.grad.norm() > 0.0

    short = {"images": 8}
    plain = fit(made(**short), images, tmp_path / "plain")
    seen = fit(made(**short, perceptual_weight=1.0), images, tmp_path / "seen", lpips=lpips)
    assert differing(plain, seen)
    first = lines(tmp_path / "seen")[0]
    assert first["loss"] == pytest.approx(lines(tmp_path / "plain")[0]["loss"] + first["perceptual"], rel=1e-5)


def test_the_own_networks_are_no_judge_and_see_what_blurs(images: ImageSet, tmp_path: Path) -> None:
    """Distances are 0 to oneself and grow with blur; they draw from no global stream, learn, and then rest."""
    before = torch.random.get_rng_state()
    network, device = perceptual.OwnNetworks(320, 2), torch.device("cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [classifier.body[0].weight.clone() for classifier in network.classifiers]
    assert network.config.channels != Classifier(images=1).channels
    network.learn(images, False, tmp_path / "log.jsonl", device)
    weights += [classifier.body[0].weight for classifier in network.classifiers]
    assert len(weights) == 6 and not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))
    batch = to_float(images.batch(range(4)))
    blurred = [gaussian_blur(batch, 5, sigma) for sigma in (0.4, 0.8, 1.6)]
    distances = [perceptual.distance(network, x, batch).item() for x in (batch, *blurred)]
    assert distances[0] == 0.0 and distances == sorted(distances) and len(set(distances)) == 4
    rebuilt = blurred[0].requires_grad_()
    perceptual.distance(network, rebuilt, batch).backward()
    assert rebuilt.grad is not None and rebuilt.grad.norm() > 0.0
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"perceptual": "own"}, "perceptual own: belongs to a tokenizer"),
        ({**OWN, "perceptual_images": None}, "perceptual_images belongs to perceptual own"),
        ({"perceptual_weight": 1.0, "perceptual_images": 64}, "perceptual_images belongs to perceptual own"),
        ({"stem": 3}, "stem 3: a power of two"),
        ({"stem": 16}, "stem 16: a power of two up to the stride, 8"),
        ({"stem": 2}, "stride 8, stem 2 has 3 levels"),
    ],
)
def test_stem_and_perceptual_network_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**values)
