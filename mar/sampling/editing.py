"""In-painting, out-painting and class change with models that were not trained for it: `mar edit`.

The tokens outside a mask stay, and the model draws the others. For MAR they are simply known tokens, first in its
order; VAR and raster models meet them where they stand. Two protocols say which tokens stay:

- `published`, as VAR's notebook does it: the image is encoded whole, and the mask is resized to each scale bilinearly
  and cut at one half; scales of up to three tokens stay as they are. So what lies under the mask leaks into the tokens
  around it and into the first scale.
- `fair`: the pixels under the mask are made grey before encoding, a token stays if no pixel of it or of its neighbours
  is masked, since a tokenizer's neighbours have seen those, and the first scale is drawn. A token of a later scale of
  VAR says what the scales before it leave of the image, and part of these is drawn: so the tokens of a scale that stay
  are found when those scales are there, from the latents of the image with grey.

A mask of nothing gives what the tokenizer makes of the image; under `fair` a mask of everything gives a plain sample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mar.data.image_files import open_image
from mar.data.images import center_crop, to_float
from mar.data.latents import patchify
from mar.data.tokens import as_tokens
from mar.runtime.files import atomic
from mar.runtime.noise import Noise
from mar.sampling.generate import Kept
from mar.sampling.sampler import Sampler
from mar.study.chosen_settings import resolved
from mar.study.study import Study
from mar.tokenizers.autoencoder import MultiScale

PROTOCOLS = ("fair", "published")
FIRST_SCALES = 3  # `published`: scales of up to so many tokens stay as they are
GREY, GAP = 128, 2  # of masked pixels; pixels between the pictures


def edit(
    study: Study,
    root: Path,
    variant: str,
    seed: int,
    setting: str,
    image: Path,
    mask: str,
    label: int = -1,
    count: int = 4,
    protocol: str = "fair",
    out: Path = Path("edit.png"),
) -> None:
    """Draw the masked part of an image anew and write a picture: the image, what is kept of it, and the draws.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant with a finished run of this seed; not a DiT.
        seed: training seed.
        setting: sampling setting.
        image: an image file of any size, which is cropped as the study's images are.
        mask: an image file, white where the image is drawn anew; or x0,y0,x1,y1: a box, in shares of width and height.
        label: class of what is drawn; -1 for none.
        count: number of draws.
        protocol: one of PROTOCOLS.
        out: the picture, a PNG.

    Raises:
        ValueError: the image or the mask cannot be read, there is no such class, or the setting does not fit.
    """
    settings = resolved(study, root, variant, setting)
    if (order := study.variants[variant].order).joint:
        raise ValueError(f"{variant}: a DiT draws all tokens at once; accepted: a variant with an order of tokens")
    if settings.token_cache or settings.condition_cache:
        raise ValueError(f"sampling.{setting}: token_cache or condition_cache; accepted: a setting without them")
    if settings.reject:
        raise ValueError(f"sampling.{setting}: reject; accepted: a setting that draws once")
    side = study.data.image_size
    picture = np.asarray(center_crop(open_image(image), side))
    masked = read_mask(mask, image, side)
    sampler = Sampler(study, root, variant, seed)
    if not -1 <= label < sampler.manifest.classes:
        raise ValueError(f"class {label}; accepted: 0 to {sampler.manifest.classes - 1}, or -1 for none")
    noise = Noise("edit", study.seed, seed, *settings.named, device=sampler.device)
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).expand(count, -1, -1, -1).to(sampler.device)
    kept = keep(sampler, pixels, masked.to(sampler.device), protocol, not (order.fixed or order.by_scale))
    drawn = sampler.draw(settings, torch.full((count,), label), noise, kept).permute(0, 2, 3, 1).cpu().numpy()
    hidden = np.where(masked.numpy()[:, :, None], GREY, picture).astype(np.uint8)
    with atomic(out) as temporary:
        row([picture, hidden, *drawn]).save(temporary, format="PNG")
    share = 1 - kept.mask.float().mean().item()
    print(f"{out}: the image, what is kept of it, {count} draws; {share:.0%} of the tokens drawn ({protocol})")


def read_mask(mask: str, image: Path, side: int) -> Tensor:
    """The mask of an image file, cropped as the image: bool (side, side), true where the image is drawn anew.

    Args:
        mask: an image file of any resolution, white where it is drawn; or x0,y0,x1,y1 in shares of width and height.
        image: the image file.
        side: height and width of the study's images.

    Raises:
        ValueError: it is neither.
    """
    size = open_image(image).size
    try:
        box = [float(word) for word in mask.split(",")]
    except ValueError:
        shape = open_image(Path(mask)).convert("L").resize(size, Image.Resampling.NEAREST)
    else:
        if len(box) != 4 or not (0 <= box[0] <= box[2] <= 1 and 0 <= box[1] <= box[3] <= 1):
            raise ValueError(f"mask {mask!r}; accepted: x0,y0,x1,y1 with 0 <= x0 <= x1 <= 1, the same of y; or a file")
        shape = Image.new("L", size)
        x0, y0, x1, y1 = (round(share * n) for share, n in zip(box, (*size, *size), strict=True))
        if x1 > x0 and y1 > y0:
            ImageDraw.Draw(shape).rectangle((x0, y0, x1 - 1, y1 - 1), fill=255)
    return torch.from_numpy(np.asarray(center_crop(shape, side)) >= 128)


def keep(sampler: Sampler, pixels: Tensor, masked: Tensor, protocol: str, first: bool) -> Kept:
    """The tokens of images that stay, in all of them alike.

    Args:
        sampler: model and tokenizer.
        pixels: images, uint8 (B, 3, H, W).
        masked: bool (H, W), true where the image is drawn anew.
        protocol: one of PROTOCOLS.
        first: whether the model may take them first.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}; accepted: {', '.join(PROTOCOLS)}")
    manifest, tokenizer = sampler.manifest, sampler.tokenizer
    images = to_float(pixels)
    if protocol == "fair":
        images = torch.where(masked, 0.0, images)
    with torch.no_grad():
        encoded = tokenizer.encode(images)
    if manifest.kind == "moments":  # the mean of the posterior, so that a mask of nothing is the reconstruction
        tokens = patchify(encoded.chunk(2, dim=1)[0] * manifest.scale, manifest.group)
    else:
        tokens = as_tokens(encoded, manifest, Noise("edit", device=pixels.device))
    sides = manifest.scales or (round(manifest.tokens**0.5),)
    stays = torch.cat([staying(masked, side, protocol).flatten() for side in sides])
    if protocol == "fair" and manifest.scales and masked.any():
        stays[: sides[0] ** 2] = False
    if protocol == "fair" and isinstance(tokenizer, MultiScale):
        with torch.no_grad():
            return Kept(tokens, stays, first, tokenizer.encode_latents(images), tokenizer.net.quantize)
    return Kept(tokens, stays, first)


def staying(masked: Tensor, side: int, protocol: str) -> Tensor:
    """Which of side x side tokens stay, bool (side, side), for a mask (H, W) of pixels."""
    pixels = masked[None, None].float()
    if protocol == "published":
        if side**2 <= FIRST_SCALES:
            return torch.ones(side, side, dtype=torch.bool, device=masked.device)
        kept: Tensor = F.interpolate(1 - pixels, size=(side, side), mode="bilinear", align_corners=False)[0, 0] > 0.5
        return kept
    touched = F.adaptive_max_pool2d(pixels, side)
    return F.max_pool2d(touched, 3, stride=1, padding=1)[0, 0] == 0


def row(pictures: list[np.ndarray]) -> Image.Image:
    """Pictures (H, W, 3) of one size side by side on white."""
    height, width = pictures[0].shape[:2]
    canvas = np.full((height, len(pictures) * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        canvas[:, i * (width + GAP) : i * (width + GAP) + width] = picture
    return Image.fromarray(canvas)
