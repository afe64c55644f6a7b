"""Training a tokenizer on the study's own images, and measuring it on the held-out ones.

The objective is reconstruction (mean absolute difference) with the KL term of LDM, or with the codebook and
commitment terms of VQ-VAE. LDM's perceptual and adversarial terms are left out: they need networks trained on
natural images.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mar.config import Study, known
from mar.config import Tokenizer as TokenizerConfig
from mar.data.images import ImageSet, open_split, shuffled, to_float, to_uint8
from mar.data.tokens import sample_posterior
from mar.files import atomic, claim, lock, read_json, sha256, write_json
from mar.metrics import classifier, features, metrics, statistics
from mar.progress import Progress
from mar.provenance import record
from mar.study import metrics_slice, tokenizer_slice
from mar.tokenizers.autoencoder import Tokenizer, build, load

RENEW_EVERY = 50  # steps between looks for unused codes
RENEW_UNTIL = 0.7  # share of the training after which the codebook is left alone
VIEW_BATCH = 250  # images per forward pass when measuring


def train(study: Study, root: str | Path, name: str) -> None:
    """Train tokenizer `name`; writes tokenizers/<name>/{model.safetensors,config.json,metrics.jsonl}.

    A training that was cut short starts again. Equal study, data and thread count give equal weights.

    Raises:
        ValueError: the study has no such tokenizer, `prepare` has not run, or the loss is not finite.
    """
    known("tokenizer", name, study.tokenizers)
    root = Path(root)
    folder = root / "tokenizers" / name
    with lock(folder):
        claim(folder, {"slice": tokenizer_slice(study, name), "data": classifier.sha256_of_data(root)})
        weights, config = folder / "model.safetensors", folder / "config.json"
        if config.exists() and weights.exists():
            print(f"{folder}: complete", flush=True)
            return
        config.unlink(missing_ok=True)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(study.seed)
            tokenizer = build(study.tokenizers[name], study.data.image_size).to(device)
        images = open_split(study, root, "train")
        fit(tokenizer, study.tokenizers[name], images, study, folder / "metrics.jsonl", device)
        with atomic(weights) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in tokenizer.net.state_dict().items()}, temporary)
        parameters = sum(p.numel() for p in tokenizer.parameters())
        net = {k: v for k, v in tokenizer.net.config.items() if not k.startswith("_")}
        write_json(config, {"kind": tokenizer.kind, "parameters": parameters, "net": net, "provenance": record()})


def rfid(study: Study, root: str | Path, name: str) -> None:
    """Measure tokenizer `name` on the held-out split; writes tokenizers/<name>/rfid.json.

    A stage of its own: a new classifier or another number of resamples measures again and trains nothing again.

    Raises:
        ValueError: `tokenizer` or `reference` has not run.
    """
    root = Path(root)
    folder = root / "tokenizers" / name
    with lock(folder):
        reference, weights, report = root / "features" / "train.npz", folder / "model.safetensors", folder / "rfid.json"
        for file, stage in ((reference, "reference"), (weights, "tokenizer")):
            if not file.exists():
                raise ValueError(f"{file}: missing; run `mar {stage}` first")
        inputs = {"reference": sha256(reference), "tokenizer": sha256(weights), "slice": metrics_slice(study)}
        if report.exists() and read_json(report)["inputs"] == inputs:
            print(f"{report}: complete", flush=True)
            return
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        measured = measure(load(root, name, study).to(device), study, root, device)
        write_json(report, {**measured, "inputs": inputs, "provenance": record()})
        shown = ", ".join(f"{key} {m['value']:.4g}" for key, m in measured["metrics"].items())
        print(f"{report}: {shown} (heldout, {measured['count']} images)", flush=True)


def fit(
    tokenizer: Tokenizer, config: TokenizerConfig, images: ImageSet, study: Study, log: Path, device: torch.device
) -> None:
    """Train in place: Adam, learning rate on a cosine to zero; a line of `log` every hundredth of the run."""
    generator = torch.Generator().manual_seed(study.seed)
    tokenizer.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    steps = math.ceil(config.images / config.batch)
    codebook = Codebook(tokenizer) if tokenizer.kind == "vq" else None
    progress = Progress(f"tokenizer {tokenizer.kind}", config.images)
    with open(log, "w") as lines:
        for step, indices in enumerate(shuffled(len(images), config.batch, config.images, generator)):
            rate = config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = to_float(images.batch(indices))  # (B, 3, H, W)
            if study.data.flip:
                mirrored = torch.rand(len(batch), generator=generator) < 0.5
                batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
            batch = batch.to(device, memory_format=torch.channels_last)
            if codebook is not None:
                if step % RENEW_EVERY == 0 and step < RENEW_UNTIL * steps:
                    codebook.renew(batch, generator)
                rebuilt, penalty = codebook.forward(batch)
            else:
                rebuilt, penalty = _forward_kl(tokenizer, batch, float(config.kl_weight or 0.0), generator)
            distance = (rebuilt - batch).abs().mean()
            loss = distance + penalty
            if not torch.isfinite(loss):
                raise ValueError(f"{log}: loss {loss.item()} at image {progress.done}; a lower learning_rate may help")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
            optimizer.step()
            progress.update(len(batch), loss=loss.item())
            if step % max(1, steps // 100) == 0 or step == steps - 1:
                values = {"images": progress.done, "loss": loss.item(), "reconstruction": distance.item()}
                values |= {"learning_rate": rate, "grad_norm": norm.item(), "time": time.time()}
                lines.write(json.dumps(values) + "\n")
                lines.flush()
    tokenizer.to(memory_format=torch.contiguous_format)


def _forward_kl(
    tokenizer: Tokenizer, batch: torch.Tensor, weight: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction from a posterior sample, and the KL term.

    LDM adds both terms as sums per image: |x - x'|_1 + weight * KL(q || N(0, 1)). Here both are divided by the
    numbers in an image, which leaves their balance, and with it the meaning of the weight, as in LDM.
    """
    moments = tokenizer.encode(batch)  # (B, 2C, h, w)
    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator).to(batch.device)
    rebuilt = tokenizer.decode_latents(sample_posterior(moments, noise))
    log_variance = log_variance.clamp(-30.0, 20.0)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=(1, 2, 3)).mean()
    return rebuilt, weight * divergence / batch[0].numel()


class Codebook:
    """Training pass of a vq tokenizer that counts its codes, and gives unused codes a new place.

    A code that no latent chose since the last look is moved onto a random latent of the current batch, a usual
    remedy against dead codes. Only in training, and not in its last part, where the codes settle.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.net = tokenizer.net
        self.used = torch.zeros(self.net.quantize.n_e, dtype=torch.bool)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction (B, 3, H, W), and codebook + 0.25 * commitment loss (straight-through gradient)."""
        quantised, penalty, (_, _, ids) = self.net.quantize(self.net.encode(batch).latents)
        self.used[ids.cpu()] = True
        return self.net.decode(quantised, force_not_quantize=True).sample, penalty

    @torch.no_grad()
    def renew(self, batch: torch.Tensor, generator: torch.Generator) -> None:
        """Move the codes that were not chosen since the last call onto latents of this batch."""
        latents = self.net.encode(batch).latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B*h*w, C)
        dead = (~self.used).nonzero()[:, 0]
        chosen = torch.randint(len(latents), (len(dead),), generator=generator)
        codes = self.net.quantize.embedding.weight
        codes[dead.to(codes.device)] = latents[chosen.to(latents.device)]
        self.used.zero_()


@torch.no_grad()
def measure(tokenizer: Tokenizer, study: Study, root: Path, device: torch.device) -> dict[str, Any]:
    """rFID, PSNR and codebook usage on the held-out split; "floor" is the FID of the same images, not rebuilt."""
    heldout = open_split(study, root, "heldout")
    judge = classifier.load(root, study).to(device)
    rebuilt, errors, ids = [], [], []
    for start in range(0, len(heldout), VIEW_BATCH):
        images = heldout.batch(range(start, min(start + VIEW_BATCH, len(heldout))))
        tokens = tokenizer.encode(to_float(images).to(device))
        if tokenizer.kind == "kl":
            decoded = tokenizer.decode_latents(tokens.chunk(2, dim=1)[0])  # of the posterior mean
        else:
            ids.append(tokens.cpu())
            decoded = tokenizer.decode_ids(tokens)
        rebuilt.append(to_uint8(decoded).cpu())
        errors.append((rebuilt[-1].double() - images.double()).square().mean(dim=(1, 2, 3)))
    found = features.extract(judge, iter(rebuilt), device)
    train = statistics.of(features.read(root / "features" / "train.npz")["features"])
    same = features.read(root / "features" / "heldout.npz")["features"]
    # per image, 255 the peak; a perfect image counts as 1e-10 squared grey levels
    psnr = 10.0 * torch.log10(255.0**2 / torch.cat(errors).clamp(min=1e-10)).numpy()
    draw = metrics.Bootstrap(heldout.labels, study.metrics.bootstrap, study.seed)
    values = {
        "rfid": draw.fid(found["features"], train),
        "floor": draw.fid(same, train),
        "psnr": draw.mean(psnr, higher_is_better=True),
        "agreement": draw.mean(found["logits"].argmax(1) == heldout.labels, higher_is_better=True),
    }
    if ids:
        share = torch.bincount(torch.cat(ids).flatten(), minlength=tokenizer.net.quantize.n_e).double()
        share = share / share.sum()
        perplexity = math.exp(-(share * share.clamp(min=1e-300).log()).sum().item())
        values["codebook_usage"] = draw.single((share > 0).double().mean().item(), higher_is_better=True)
        values["perplexity"] = draw.single(perplexity, higher_is_better=True)
    return {"metrics": values, "split": "heldout", "count": len(heldout)}
