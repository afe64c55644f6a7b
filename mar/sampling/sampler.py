"""A trained variant with its tokenizer, ready to draw images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mar.data.images import to_uint8
from mar.data.latents import unpatchify
from mar.features.networks.extractors import Extractor
from mar.models.order import draw_order
from mar.runtime import devices
from mar.runtime.files import read, sha256
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast, tf32
from mar.sampling.generate import Kept, generate
from mar.study import at_once, layout
from mar.study.chosen_settings import resolved
from mar.study.kinds import own_kinds
from mar.study.parts import Sampling
from mar.study.records import TokenManifest
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.training.trained import load_trained

Looks = dict[str, torch.Tensor]  # what a network says of images: features (n, F), logits (n, K), ...


class Sampler:
    """A trained variant with its tokenizer, ready to draw images.

    Attributes:
        manifest: manifest of the tokens that the variant was trained on.
        model: the model, with averaged weights.
        checkpoint: checksum of these weights.
        tokenizer: turns drawn tokens into images.
    """

    def __init__(self, study: Study, root: Path, variant: str, seed: int, images: int | None = None) -> None:
        """Load the final average, or with `images` the one that the training kept after so many images."""
        self.study, self.root, self.variant, self.seed = study, root, variant, seed
        name = study.tokenizer_of(variant, seed)
        self.manifest = read(layout.token_manifest(root, name), TokenManifest)
        self.model, self.checkpoint = load_trained(study, root, variant, seed, self.manifest, images)
        self.device = next(self.model.parameters()).device
        weights = layout.tokenizer_weights(root, name)
        if weights.exists() and sha256(weights) != self.manifest.tokenizer:
            raise ValueError(
                f"{weights}: not the weights that encoded {layout.token_manifest(root, name)}; accepted: those; run "
                "`mar encode`, `mar train` and `mar sample` again"
            )
        self.tokenizer = autoencoder.load(root, name, study).to(self.device)
        self.ready_to_compile = False

    def at_once(self, settings: Sampling, count: int) -> int:
        """Images of `count` whose tokens are drawn at once."""
        return at_once.drawn(self.study, self.variant, settings, count)

    @torch.no_grad()
    def draw(self, settings: Sampling, labels: torch.Tensor, noise: Noise, kept: Kept | None = None) -> torch.Tensor:
        """Images of classes `labels` (B,): uint8 (B, 3, H, W), decoding included; `kept` tokens are not drawn.

        Raises:
            ValueError: an image is not finite.
        """
        manifest, length = self.manifest, self.manifest.tokens
        kind, size = self.study.variants[self.variant].order, self.at_once(settings, len(labels))
        ids = manifest.kind == "ids"
        shape = (length,) if ids else (length, manifest.token_dim)
        blank = torch.zeros(shape, dtype=torch.long if ids else torch.float32, device=self.device)
        groups = noise.groups(len(labels), size)
        parts = []
        with tf32(settings.tf32), autocast(self.device, settings.dtype), self._compiled(settings.compile):
            for number, (part, classes) in enumerate(zip(groups, labels.to(self.device).split(size), strict=True)):
                order = draw_order(kind, len(classes), length, part)
                given = kept and kept.of(slice(number * size, number * size + len(classes)))
                parts.append(generate(self.model, classes, order, blank, settings, part, given))
        tokens, noise = torch.cat(parts), groups[-1]  # which has drawn as much as all of them
        with tf32(settings.tf32), autocast(self.device, settings.head_dtype or settings.dtype):
            if ids:
                images = self.tokenizer.decode_ids(tokens).float()
            else:
                channels = manifest.token_dim // manifest.group**2
                latents = unpatchify(tokens, manifest.group, channels) / manifest.scale
                images = self.tokenizer.decode_latents(latents, noise).float()
        bad = int((~torch.isfinite(images).flatten(1).all(1)).sum())
        if bad:
            own = f", and code of yours that draws finite numbers ({kinds})" if (kinds := own_kinds(self.study)) else ""
            raise ValueError(
                f"{self.variant} seed {self.seed}: {bad} of {len(labels)} images are not finite, drawn with "
                f"{settings.model_dump_json(exclude_defaults=True)}; accepted: settings that this model can draw with"
                f"{own}"
            )
        return to_uint8(images)

    def check_repeats(self, settings: Sampling) -> None:
        """Refuse code of the user's that does not draw the same images again.

        Raises:
            ValueError: two images differ the second time, with the same random numbers.
        """
        if not (kinds := own_kinds(self.study)):
            return
        labels, name = self.chunk_of(settings, 0)
        first, second = (self.draw(settings, labels[:2], Noise(*name, device=self.device)) for _ in range(2))
        if not torch.equal(first, second):
            raise ValueError(
                f"{self.variant} seed {self.seed}: the same images drawn with the same random numbers differ; "
                f"accepted: code that takes its random numbers from `noise` alone ({kinds})"
            )

    def _compiled(self, wanted: bool) -> AbstractContextManager[None]:
        """The context in which the model is compiled, if that is wanted; the first one makes it ready for that."""
        if wanted and not self.ready_to_compile:
            devices.check_compiler("sampling setting")
            self.model.compile_blocks()
            self.ready_to_compile = True
        if not self.ready_to_compile:
            return nullcontext()
        stance: AbstractContextManager[None] = torch.compiler.set_stance("default" if wanted else "force_eager")
        return stance

    def chunk(self, setting: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Chunk `number` of the sample set: images uint8 (n, H, W, 3) and their classes int64 (n,)."""
        settings = resolved(self.study, self.root, self.variant, setting)
        labels, name = self.chunk_of(settings, number)
        images = self.draw(settings, labels, Noise(*name, device=self.device))
        return images.permute(0, 2, 3, 1).cpu().numpy(), labels.numpy()

    def chunk_of(self, settings: Sampling, number: int) -> tuple[torch.Tensor, tuple[str | int, ...]]:
        """Classes (n,) of chunk `number` of a sample set, and the name of its random numbers."""
        labels = chunk_labels(number, self.study.metrics.chunk, self.manifest.classes)
        return labels, ("sample", self.study.seed, self.seed, number, *settings.named)

    def looked_at(
        self,
        network: Extractor,
        settings: Sampling,
        labels: torch.Tensor,
        stream: tuple[str | int, ...],
        done: Callable[[int], object],
        kept: Callable[[int, Callable[[], Looks]], Looks] = lambda number, look: look(),
    ) -> dict[str, np.ndarray]:
        """Features and logits by a network of one image of each class in `labels` (n,); the images are not kept.

        Args:
            network: gives the features.
            settings: sampling setting.
            labels: classes, (n,).
            stream: name of the random numbers, to which the number of the chunk is added. Sets that are drawn from the
                same stream are paired image by image.
            done: is told the number of images of each chunk.
            kept: gives the features of a chunk by its number, from where they are kept or by the function that it gets.

        Raises:
            ValueError: images or features are not finite.
        """

        def look(number: int, classes: torch.Tensor) -> Looks:
            return network(self.draw(settings, classes, Noise(*stream, number, device=self.device)))

        parts: list[Looks] = []
        for number, classes in enumerate(labels.split(self.study.metrics.chunk)):
            parts.append(kept(number, partial(look, number, classes)))
            done(len(classes))
        arrays = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0] if key != "spatial"}
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise ValueError(f"{network.name}: features are not finite")
        return arrays


def chunk_labels(number: int, size: int, classes: int) -> torch.Tensor:
    """Classes (size,) of a chunk: image i of the whole set has class i mod `classes`, so all are equally frequent."""
    return torch.arange(number * size, (number + 1) * size) % classes
