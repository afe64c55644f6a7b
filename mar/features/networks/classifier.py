"""The study's own extractor: a small network, trained on its real images, whose features and logits the metrics use.

It takes the place that Inception has in the ADM suite: features of natural images say little about handwritten digits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from mar.data.images import ImageSet, open_split, sha256_of_data, shuffled, to_float
from mar.runtime import devices
from mar.runtime.checkpoint import load_weights
from mar.runtime.files import atomic, read, write
from mar.runtime.folders import recipe_of
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import stage
from mar.study import layout
from mar.study.records import ClassifierRecord
from mar.study.sections import Classifier as ClassifierConfig
from mar.study.stage_keys import classifier_key
from mar.study.study import Study

# Augmentation.
SHIFT = 1 / 16  # largest shift, as a share of an image's side
NOISE = 0.1  # largest standard deviation of the noise on pixels, which are in [-1, 1]


class Classifier(nn.Module):
    """Convolutions of stride 2, a pooled map of 4 x 4, a layer of `config.features` units and a linear layer on top.

    What it learns is the same for both values of `config.layer`, which chooses the features that judge: the layer
    before the logits, or the second and the third stage, each pooled to 2 x 2. A stage is a convolution, its
    normalisation and ReLU.
    """

    def __init__(self, config: ClassifierConfig, classes: int) -> None:
        super().__init__()
        self.layer = config.layer
        layers: list[nn.Module] = []
        width = 3
        for channels in config.channels:
            groups = next(n for n in (8, 4, 2, 1) if channels % n == 0)
            layers += [nn.Conv2d(width, channels, 3, stride=2, padding=1), nn.GroupNorm(groups, channels), nn.ReLU()]
            width = channels
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.features = nn.Linear(width * 16, config.features)
        self.logits = nn.Linear(config.features, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to features (B, F) and logits (B, K).

        F is `config.features`, or with `layer: stages` four times the channels of the second and the third stage.
        """
        stages, maps = [], images
        for layer in self.body:
            maps = layer(maps)
            if isinstance(layer, nn.ReLU):
                stages.append(maps)
        last = functional.relu(self.features(maps))
        logits = self.logits(last)
        if self.layer == "before-logits":
            return last, logits
        return torch.cat([functional.adaptive_avg_pool2d(x, 2).flatten(1) for x in stages[1:3]], dim=1), logits


def train(study: Study, root: str | Path) -> None:
    """Train on the train split; writes classifier/{model.safetensors,classifier.json,metrics.jsonl}.

    Raises:
        ValueError: the study has no classifier, `mar prepare` has not run, or the loss is not finite.
    """
    root, config = Path(root), section(study)
    folder = layout.classifier(root)
    report, weights = folder / layout.CLASSIFIER, folder / layout.WEIGHTS
    recipe = recipe_for(study, root)
    with stage(report, weights.exists, recipe, layout.twin(study, root, folder)) as left:
        if not left:
            return
        (folder / layout.SHIPPED).unlink(missing_ok=True)
        device = devices.device()
        images, heldout = open_split(study, root, "train"), open_split(study, root, "heldout")
        model = learned(config, images, study.data.flip, study.seed, folder / layout.LOG, device)
        heldout_accuracy = accuracy(model, heldout, config.batch, device)
        with atomic(weights) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, temporary)
        record = ClassifierRecord(
            accuracy=heldout_accuracy,
            split="heldout",
            count=len(heldout),
            classes=tuple(images.classes),
            parameters=sum(p.numel() for p in model.parameters()),
            provenance=provenance(),
        )
        write(report, record)
        print(f"{folder}: accuracy {heldout_accuracy:.4f} on {len(heldout)} held-out images", flush=True)


def recipe_for(study: Study, root: Path) -> dict[str, str | int]:
    """What the training of the classifier depends on."""
    return {"slice": classifier_key(study), "data": sha256_of_data(root)}


def section(study: Study) -> ClassifierConfig:
    """The section `classifier` of the study.

    Raises:
        ValueError: the study has none: published networks are its extractors.
    """
    if study.classifier is None:
        raise ValueError(f"study {study.study} has no classifier; metrics.extractors: {study.metrics.extractors}")
    return study.classifier


def learned(
    config: ClassifierConfig, images: ImageSet, flip: bool, seed: int, log: Path, device: torch.device
) -> Classifier:
    """A new model after `fit`, ready to judge; the seed draws its first weights too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(config, len(images.classes)).to(device)
    fit(model, config, images, flip, seed, log, device)
    return model.eval()


def fit(
    model: Classifier,
    config: ClassifierConfig,
    images: ImageSet,
    flip: bool,
    seed: int,
    log: Path,
    device: torch.device,
) -> None:
    """Train a model in place: AdamW, a learning rate that falls to zero as a cosine, small shifts and noise.

    Args:
        model: the untrained model.
        config: length, batch and learning rate.
        images: what it learns from.
        flip: whether half of the images are mirrored.
        seed: draws the batches and their augmentation.
        log: file that gets about a hundred lines.
        device: where the model is.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(images.labels)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.05)
    steps = math.ceil(config.images / config.batch)
    progress = Progress("classifier", config.images)
    with open(log, "w", encoding="utf-8") as lines:
        for step, indices in enumerate(shuffled(len(images), config.batch, config.images, generator)):
            rate = config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = augment(to_float(images.batch(indices)), flip, generator).to(device)
            loss = functional.cross_entropy(model(batch)[1], labels[indices].to(device))
            if not torch.isfinite(loss):
                raise ValueError(f"{log}: loss {loss.item()} at image {progress.done}; a lower learning_rate may help")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            progress.update(len(batch), loss=loss.item())
            if step % max(1, steps // 100) == 0 or step == steps - 1:
                values = {"images": progress.done, "loss": loss.item(), "learning_rate": rate, "time": time.time()}
                lines.write(json.dumps(values) + "\n")
                lines.flush()


def augment(images: torch.Tensor, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Shift images (B, 3, H, W) by up to SHIFT of their side and add noise; with `flip` mirror half of them."""
    batch, _, height, width = images.shape
    margin = round(SHIFT * height)  # pixels
    padded = functional.pad(images, (margin, margin, margin, margin), mode="replicate")
    offsets = torch.randint(2 * margin + 1, (batch, 2), generator=generator).tolist()
    images = torch.stack([x[:, i : i + height, j : j + width] for x, (i, j) in zip(padded, offsets, strict=True)])
    if flip:
        mirrored = torch.rand(batch, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    strength = NOISE * torch.rand((batch, 1, 1, 1), generator=generator)
    return images + strength * torch.randn(images.shape, generator=generator)


@torch.no_grad()
def accuracy(model: Classifier, images: ImageSet, batch: int, device: torch.device) -> float:
    """Share of the images to which the model gives their own class."""
    correct = 0
    for start in range(0, len(images), batch):
        indices = range(start, min(start + batch, len(images)))
        predicted = model(to_float(images.batch(indices)).to(device))[1].argmax(1).cpu()
        correct += int((predicted == torch.from_numpy(images.labels[start : indices.stop])).sum())
    return correct / len(images)


def distances(networks: Sequence[Classifier], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How far images are apart by the maps after each convolution, each position's vector at unit length, as LPIPS.

    Args:
        networks: classifiers.
        a: images (B, 3, H, W) in [-1, 1].
        b: as many others.

    Returns:
        Squared distance of unit vectors, mean over the positions of a map, then over maps and networks: (B,).
    """
    total, maps = torch.zeros(len(b), device=b.device), 0
    for network in networks:
        of_a, of_b = a, b
        for layer in network.body:
            of_a, of_b = layer(of_a), layer(of_b)
            if isinstance(layer, nn.ReLU):
                total = total + (_unit(of_a) - _unit(of_b)).square().sum(1).mean((1, 2))
                maps += 1
    return total / maps


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, C, h, w) whose vectors along C have length 1, or 0 where they are nearly 0."""
    return maps / (maps.square().sum(1, keepdim=True) + 1e-6).sqrt()


def load(root: str | Path, study: Study) -> Classifier:
    """The trained classifier of a study, in eval mode, on the CPU.

    Raises:
        ValueError: it is not trained, was trained by another recipe, or its file does not fit the section `classifier`.
    """
    folder = layout.classifier(Path(root))
    classes = read(folder / layout.CLASSIFIER, ClassifierRecord).classes
    if recipe_of(folder).get("slice") != classifier_key(study):
        raise ValueError(f"{folder}: was trained by another recipe; run `mar classifier` again")
    model = Classifier(section(study), len(classes))
    load_weights(model, folder / layout.WEIGHTS, "delete it and run `mar classifier` again")
    return model.eval().requires_grad_(False)
