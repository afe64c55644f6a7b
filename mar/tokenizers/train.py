"""Training a tokenizer on the study's own images, or installing an imported one.

The loss is the reconstruction (mean absolute difference) plus the KL term of LDM, or plus the codebook and commitment
terms of VQ-VAE. LDM's perceptual and adversarial terms are added where the study gives them a weight.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mar.data.images import ImageSet, draw_indices, open_split, sha256_of_data, to_float
from mar.data.latents import sample_posterior
from mar.runtime import checkpoint, code_digest, devices, runlog
from mar.runtime.files import atomic, write
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import stage
from mar.study import layout
from mar.study.compatibility import known
from mar.study.parts import Kl
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.study.records import TokenizerRecord
from mar.study.stage_keys import tokenizer_key
from mar.study.study import Study
from mar.tokenizers import perceptual
from mar.tokenizers.autoencoder import OwnTokenizer, Quantised, Tokenizer, build
from mar.tokenizers.discriminator import BETAS, Adversary
from mar.tokenizers.perceptual import OwnNetworks

RENEW_EVERY = 50  # steps between searches for unused codes
RENEW_UNTIL = 0.7  # share of the training after which the codebook is left alone
CHECKPOINTS = 100  # number of checkpoints in a training, unless they would be closer than CHECKPOINT_IMAGES
CHECKPOINT_IMAGES = 10_000


def train(study: Study, root: str | Path, name: str, lpips: Any = None) -> None:
    """Train tokenizer `name`, or install it; writes tokenizers/<name>/{model.safetensors,config.json,metrics.jsonl}.

    A training that was stopped goes on from its last checkpoint. The same study, data and number of threads give the
    same weights, with or without a stop. Pixels have no weights: their file is empty.

    Args:
        study: the study.
        root: its results folder.
        name: of the tokenizer on disk.
        lpips: the perceptual network, by default that of `perceptual.load`.

    Raises:
        ValueError: the study has no such tokenizer, `prepare` has not run, a weight file that the recipe needs is
            missing, or the loss is not finite.
    """
    _, choice, seed = known("tokenizer", name, study.instances)
    root = Path(root)
    folder = layout.tokenizer(root, name)
    weights, config = folder / layout.WEIGHTS, folder / layout.TOKENIZER
    recipe = recipe_for(study, root, name)
    with stage(config, weights.exists, recipe, layout.twin(study, root, folder)) as left:
        if not left:
            return
        own, begun = layout.own_code(root), bool(checkpoint.checkpoints(folder / layout.CHECKPOINTS))
        now = code_digest.today(own)
        code_digest.guard(folder, now, begun)
        config.unlink(missing_ok=True)
        (folder / layout.SHIPPED).unlink(missing_ok=True)
        device = devices.device()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = build(choice, study.data.image_size).to(device)
        code_digest.note(folder, now, own, begun)
        if choice.trained:
            images = open_split(study, root, "train")
            if choice.perceptual_weight and choice.perceptual == "lpips" and lpips is None:
                lpips = perceptual.load(layout.assets(root)).to(device)
            seeded = study.model_copy(update={"seed": seed})
            fit(tokenizer, choice, images, seeded, folder / layout.LOG, device, folder / layout.CHECKPOINTS, lpips)
        with atomic(weights) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in tokenizer.net.state_dict().items()}, temporary)
        parameters = sum(p.numel() for p in tokenizer.parameters())
        said = {} if isinstance(tokenizer, OwnTokenizer) else getattr(tokenizer.net, "config", {})  # diffusers' own
        net = {k: v for k, v in said.items() if not k.startswith("_")}
        record = TokenizerRecord(kind=tokenizer.kind, parameters=parameters, net=net, provenance=provenance())
        code_digest.note(folder, now, own)  # what was imported on the way
        write(config, record)
        shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)  # two checkpoints, each with weights and moments


def recipe_for(study: Study, root: Path, name: str) -> dict[str, str | int]:
    """What the training of a tokenizer depends on: the recipe.json of its folder."""
    return {"slice": tokenizer_key(study, name), "data": sha256_of_data(root)}


def fit(
    tokenizer: Tokenizer,
    config: TokenizerConfig,
    images: ImageSet,
    study: Study,
    log: Path,
    device: torch.device,
    checkpoints: Path | None = None,
    lpips: Any = None,
) -> None:
    """Train in place with Adam; the learning rate follows a cosine to zero, and `log` gets about a hundred lines.

    Args:
        tokenizer: the untrained tokenizer.
        config: its section of the study.
        images: the train split.
        study: the study.
        log: file of the log.
        device: where the tokenizer is.
        checkpoints: folder to resume from and to write to; without one a stopped training starts again.
        lpips: LPIPS; needed where the perceptual term is by it.

    Raises:
        ValueError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(study.seed)
    tokenizer.train().to(memory_format=torch.channels_last)
    betas = BETAS if config.adversarial_weight else (0.9, 0.99)
    peak = float(config.learning_rate or 0.0)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=peak, betas=betas)
    codebook = Codebook(tokenizer) if isinstance(tokenizer, Quantised) else None
    adversary = _adversary(config, study, device) if config.adversarial_weight else None
    parts = {"net": tokenizer.net, "optimizer": optimizer, "codebook": codebook, "adversary": adversary}
    own = None
    if config.perceptual_images:
        own = OwnNetworks(config.perceptual_images, len(images.classes)).to(device)
    parts["perceptual"] = own
    done, order = 0, torch.empty(0, dtype=torch.int64)  # images so far; indices that remain of the present epoch
    with checkpoint.latest(checkpoints) if checkpoints else nullcontext() as state:
        if state:
            done, order = state["images"], state["order"]
            generator.set_state(state["generator"])
            for name, part in parts.items():
                if part is not None:
                    part.load_state_dict(state[name])
            print(f"{checkpoints}: going on after {done} images", flush=True)
        else:
            log.unlink(missing_ok=True)
            if own is not None:
                own.learn(images, study.data.flip, log.with_name("perceptual.jsonl"), device)
    network = own or lpips
    total = int(config.images or 0)
    steps = math.ceil(total / config.batch)
    every = max(total // CHECKPOINTS, CHECKPOINT_IMAGES)
    progress = Progress(f"tokenizer {tokenizer.kind}", total, done)
    writer = checkpoint.Writer(checkpoints) if checkpoints else None
    for step in range(done // config.batch, steps):
        rate = peak * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        indices, order = draw_indices(order, min(config.batch, total - progress.done), len(images), generator)
        batch = to_float(images.batch(indices))  # (B, 3, H, W)
        if study.data.flip:
            mirrored = torch.rand(len(batch), generator=generator) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        batch = batch.to(device, memory_format=torch.channels_last)
        if codebook is not None:
            if step % RENEW_EVERY == 0 and step < RENEW_UNTIL * steps:
                codebook.renew(batch, generator)
            rebuilt, penalty = codebook.forward(batch)
        elif isinstance(tokenizer, OwnTokenizer):
            rebuilt, added = tokenizer.learned(batch, generator)
            penalty = torch.as_tensor(added)
        else:
            assert isinstance(config, Kl)  # the other kinds are not trained here
            rebuilt, penalty = _forward_kl(tokenizer, batch, float(config.kl_weight or 0.0), generator)
        distance = reconstruction = (rebuilt - batch).abs().mean()
        logged: dict[str, float] = {}
        if config.perceptual_weight:
            perceived = perceptual.distance(network, rebuilt, batch)
            reconstruction = distance + config.perceptual_weight * perceived
            logged["perceptual"] = perceived.item()
        loss = reconstruction + penalty
        adversarial = adversary is not None and progress.done >= config.adversarial_start
        if adversary is not None and adversarial:
            term, logged["adaptive_weight"] = adversary.generator_loss(rebuilt, reconstruction, tokenizer.last_layer())
            loss = loss + term
        if not torch.isfinite(loss):
            raise ValueError(f"{log}: loss {loss.item()} at image {progress.done}; a lower learning_rate may help")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        if adversary is not None and adversarial:
            logged["discriminator"] = adversary.learn(batch, rebuilt, rate)
        images_before = progress.done
        progress.update(len(batch), loss=loss.item())
        if step % max(1, steps // 100) == 0 or step == steps - 1:
            values = {"images": progress.done, "loss": loss.item(), "reconstruction": distance.item(), **logged}
            runlog.append(log, values | {"learning_rate": rate, "grad_norm": norm.item(), "time": time.time()})
        if writer and progress.done // every > images_before // every and step < steps - 1:
            state_now: dict[str, Any] = {name: part.state_dict() for name, part in parts.items() if part is not None}
            state_now |= {"images": progress.done, "order": order.clone(), "generator": generator.get_state()}
            writer.save(progress.done, checkpoint.copied(state_now))
    if writer:
        writer.wait()
    tokenizer.to(memory_format=torch.contiguous_format)


def _adversary(config: TokenizerConfig, study: Study, device: torch.device) -> Adversary:
    numbers = 3 * study.data.image_size**2 if isinstance(config, Kl) else 1
    start = config.adversarial_start
    return Adversary(config.adversarial_weight, start, study.seed, study.data.image_size, numbers, device)


def _forward_kl(
    tokenizer: Tokenizer, batch: torch.Tensor, weight: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction from a posterior sample, and the KL term.

    LDM adds sums over an image: |x - x'|_1 + weight * KL(q || N(0, 1)). Here both terms are divided by the number of
    numbers in an image, which leaves their balance, and so the meaning of the weight, as in LDM.
    """
    moments = tokenizer.encode(batch)  # (B, 2C, h, w)
    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator).to(batch.device)
    rebuilt = tokenizer.decode_latents(sample_posterior(moments, noise))
    log_variance = log_variance.clamp(-30.0, 20.0)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=(1, 2, 3)).mean()
    return rebuilt, weight * divergence / batch[0].numel()


class Codebook:
    """Training pass of a vq or msvq tokenizer that notes which codes are used, and moves unused codes.

    A code that no latent chose since the last search is moved onto a random latent of the current batch (msvq: onto a
    residual of a random scale), a usual remedy against dead codes. In the last part of a training, no code is moved, so
    that they settle.
    """

    def __init__(self, tokenizer: Quantised) -> None:
        self.tokenizer = tokenizer
        self.net = tokenizer.net
        self.used = torch.zeros(self.net.quantize.n_e, dtype=torch.bool)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction (B, 3, H, W) with a straight-through gradient, and codebook + 0.25 * commitment loss."""
        quantised, penalty, (_, _, ids) = self.net.quantize(self.tokenizer.encode_latents(batch))
        self.used[ids.cpu()] = True
        return self.tokenizer.decode_codes(quantised), penalty

    @torch.no_grad()
    def renew(self, batch: torch.Tensor, generator: torch.Generator) -> None:
        """Move the codes that were not chosen since the last call onto latents of this batch (B, 3, H, W)."""
        latents = self.tokenizer.encode_latents(batch)
        latents = self.tokenizer.candidates(latents)  # (n, C)
        dead = (~self.used).nonzero()[:, 0]
        chosen = torch.randint(len(latents), (len(dead),), generator=generator)
        codes = self.net.quantize.embedding.weight
        codes[dead.to(codes.device)] = latents[chosen.to(latents.device)]
        self.used.zero_()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Which codes were used since the last search, for a checkpoint."""
        return {"used": self.used}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the state of a checkpoint."""
        self.used = state["used"]
