"""The network that accepts or rejects drawn images by the probability of the class that was asked for ("-re").

It is never the one that judges. A study's own is a second classifier: other widths by default, another seed, and other
images, since it learns from held-out ones, of which the judge, trained on the train split, has seen none. Of these it
takes those that no final number looks at, where the study sets such aside (`metrics.real: heldout`). Where a study
names published weights, it is torchvision's ResNet-50, trained on ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from mar.data import published
from mar.data.images import ImageSet, open_split, sha256_of_data, to_float
from mar.features.networks.classifier import Classifier, accuracy, learned
from mar.runtime import devices
from mar.runtime.checkpoint import load_weights
from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.folders import recipe_of
from mar.runtime.provenance import provenance
from mar.runtime.shards import stage
from mar.study import layout
from mar.study.real_sets import validation
from mar.study.records import RejecterRecord
from mar.study.sections import Rejecter
from mar.study.stage_keys import rejecter_key
from mar.study.study import Study

OTHER = 1_000_003  # added to the study's seed, so that no other network starts from the same numbers
TESTED = 10_000  # training images, of which it has seen none, that its accuracy is measured on
SIDE, CROP = 256, 224  # torchvision's transforms of ResNet-50's first weights
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train(study: Study, root: Path) -> None:
    """Write rejecter/{model.safetensors,classifier.json,metrics.jsonl}.

    Raises:
        ValueError: the study has none of its own, `mar prepare` has not run, or the loss is not finite.
    """
    section = study.rejecter
    if section is None or section.weights:
        found = f"weights {section.weights}" if section else "no section `rejecter`"
        raise ValueError(f"study {study.study}: found {found}; accepted: a rejecter that is trained")
    folder, config = layout.rejecter(root), section.classifier
    report, weights = folder / layout.CLASSIFIER, folder / layout.WEIGHTS
    recipe = {"slice": rejecter_key(study), "data": sha256_of_data(root)}
    with stage(report, weights.exists, recipe, layout.twin(study, root, folder)) as unfinished:
        if not unfinished:
            return
        device, split = devices.device(), validation(study)
        images, others = open_split(study, root, split), open_split(study, root, "train")
        model = learned(config, images, study.data.flip, study.seed + OTHER, folder / layout.LOG, device)
        step = -(-len(others) // TESTED)
        some = ImageSet(others.labels[::step], others.classes, lambda rows: others.arrays(step * rows))
        share = accuracy(model, some, config.batch, device)
        with atomic(weights) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, temporary)
        record = RejecterRecord(
            accuracy=share,
            split="train",
            count=len(some),
            learned_from=split,
            classes=tuple(images.classes),
            parameters=sum(p.numel() for p in model.parameters()),
            provenance=provenance(),
        )
        write(report, record)
        print(f"{folder}: accuracy {share:.4f} on {len(some)} images of the train split", flush=True)


class Acceptance:
    """The rejecter of a study, ready for images.

    Attributes:
        name: what it is.
        weights: SHA-256 of its file of weights.
    """

    def __init__(self, study: Study, root: Path, device: torch.device) -> None:
        section, self.device = study.rejecter, device
        self.name = "rejecter"
        assert section is not None  # checked where the study is read
        if section.weights:
            file, self.weights = published.locate(section.weights, published.TABLE, layout.assets(root))
            self.name, self._logits = section.weights, _published(file, device)
        else:
            self._logits = _own(study, root, section, device)
            self.weights = sha256(layout.rejecter(root) / layout.WEIGHTS)

    @torch.no_grad()
    def probability(self, images: Tensor, labels: Tensor) -> Tensor:
        """Probability of the class of each image, float32 (B,) on the CPU.

        Args:
            images: uint8 (B, 3, H, W).
            labels: the classes that were asked for, (B,).
        """
        logits = self._logits(images.to(self.device)).float().cpu()
        return logits.softmax(1).gather(1, labels.cpu()[:, None])[:, 0]


def _own(study: Study, root: Path, section: Rejecter, device: torch.device) -> Callable[[Tensor], Tensor]:
    folder = layout.rejecter(root)
    classes = read(folder / layout.CLASSIFIER, RejecterRecord).classes
    if recipe_of(folder).get("slice") != rejecter_key(study):
        raise ValueError(f"{folder}: was trained by another recipe; run `mar rejecter` again")
    model = Classifier(section.classifier, len(classes))
    load_weights(model, folder / layout.WEIGHTS, "delete it and run `mar rejecter` again")
    model.eval().requires_grad_(False).to(device)
    return lambda images: model(to_float(images))[1]


def _published(file: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """ResNet-50 of torchvision with the weights of a file."""
    from torchvision.models import resnet50

    try:
        with torch.device("meta"):
            network = resnet50()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    except Exception as error:
        raise ValueError(f"{file}: not the weights of ResNet-50 ({type(error).__name__}); fetch it again") from None
    network.eval().requires_grad_(False).to(device)
    mean, deviation = (torch.tensor(x, device=device)[:, None, None] for x in (MEAN, DEVIATION))

    def logits(images: Tensor) -> Tensor:
        x = images.float() / 255.0
        if x.shape[-1] != SIDE:
            x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        edge = (SIDE - CROP) // 2
        found: Tensor = network((x[..., edge : edge + CROP, edge : edge + CROP] - mean) / deviation)
        return found

    return logits
