"""A results folder with numbers that are known, for the tests of what is drawn and judged from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mar.runtime.files import sha256
from mar.study.reading import resolve
from mar.study.records import ONE_CLASS
from mar.study.stage_keys import sweep_key
from mar.study.study import Study

Z = 1.959964
PROVENANCE = {
    "git_commit": "c0ffee",
    "time": "2026-01-02T03:04:05+0000",
    "python": "3.11.7",
    "torch": "2.0",
    "machine": "A & B_CPU",
    "cores": 2,
    "device": "cpu",
    "threads": 2,
}


REFERENCE = {"name": "train split", "sha256": "a" * 64}
BEST = {"guidance": 3.0, "temperature": 0.95}  # what every fabricated sweep has chosen


def small(seeds: dict[str, tuple[int, ...]] | None = None, **more: Any) -> Study:
    """A study of three variants: `ar` (cross-entropy, causal), `ce` and `diff` (masked); `more`: keys of `metrics`."""
    values = _values(seeds)
    values["metrics"] |= more
    return resolve(values, "small.yaml")


def replicated(replicas: int, seeds: dict[str, tuple[int, ...]] | None = None) -> Study:
    """The small study in which `diff` draws setting s4 with several sampling seeds: s4, s4-r1, s4-r2, ..."""
    values = _values(seeds)
    for i in range(1, replicas):
        values["sampling"][f"s4-r{i}"] = values["sampling"]["s4"] | {"seed": i}
        values["variants"]["diff"]["sampling"].append(f"s4-r{i}")
    return resolve(values, "replicated.yaml")


def beside_given(seeds: dict[str, tuple[int, ...]] | None = None) -> Study:
    """The small study with two sets that others drew: a row of Table 4, and a second row of Table 1 of MAR's own."""
    values = _values(seeds)
    values["given"] = {"adm-g": {"file": "samples/admg.npz", "label": "ADM-G & co"}, "adm": {"file": "samples/adm.npz"}}
    values["tables"]["table1"]["rows"].append({"paper": "mar-default-diffloss", "without": "adm"})
    rows = [{"paper": "adm", "without": "adm", "guided": "adm-g"}, {"paper": "mar-b"}]
    values["tables"]["table4"] = {"paper": "mar_table4", "title": "Table 4", "rows": rows}
    return resolve(values, "given.yaml")


def swept() -> Study:
    """The small study in which the guided setting of `diff` is the best of a grid."""
    values = _values(None)
    del values["sampling"]["s4-cfg"]["guidance"]
    values["sampling"]["s4-cfg"]["sweep"] = {"samples": 20, "guidance": [2.0, 3.0], "temperature": [0.95, 1.0]}
    return resolve(values, "swept.yaml")


def large(seeds: dict[str, tuple[int, ...]] | None = None, imagenet: bool = False) -> Study:
    """The small study with all figures and tables of other columns: `dit` is trained, `published` is imported.

    On ImageNet its judge is Inception. That its 40 images a set are on the paper's scale, `Results` has to be told.
    """
    values = _values({"diff": (0, 1)} | (seeds or {}))
    diffusion = {"steps": 4, "clamp": 4.0}
    steps = {f"d{t}{cfg}": {**diffusion, "diffusion_steps": t, "guidance": g} for t in STEPS for cfg, g in GUIDED}
    heat = {
        f"t{t}{cfg}": {**diffusion, "diffusion_steps": 25, "temperature": t, "guidance": g}
        for t in HEAT
        for cfg, g in GUIDED
    }
    joint = {f"j{t}": {"steps": 1, "diffusion_steps": t, "guidance_schedule": "constant"} for t in (10, 50)}
    values["sampling"] |= steps | heat | joint
    if imagenet:
        values["data"] = {"kind": "imagefolder", "path": "/data", "image_size": 16, "expect": "imagenet"}
        values["metrics"] |= {"extractors": ["inception", "dinov2"], "reference": {"file": "adm-imagenet256"}}
    values["backbones"]["dit"] = {"kind": "dit", "width": 8, "depth": 1, "heads": 1, "patch": 1, "dropout": 0.0}
    values["heads"]["joint"] = {"kind": "joint"}
    diff = values["variants"]["diff"]
    diff["sampling"] = [*diff["sampling"], *steps, *heat]
    joined = {"order": "joint", "backbone": "dit", "head": "joint", "sampling": [*joint], "seeds": [0]}
    values["variants"]["dit"] = diff | joined | {"seeds": list((seeds or {}).get("dit", (0,)))}
    values["variants"]["published"] = diff | {"pretrained": True, "sampling": ["s4", "s4-cfg"], "seeds": [0]}
    values["tables"] |= {
        "table2": {
            "paper": "mar_table2",
            "title": "Table 2: tokenizers",
            "rows": [{"paper": "kl16", "variant": "diff", "without": "s4"}, {"paper": "kl8"}],
        },
        "table3": {
            "paper": "mar_table3",
            "title": "Table 3: the denoiser's width",
            "timed": True,
            "rows": [{"paper": "mlp-256", "variant": "diff", "without": "s4", "guided": "s4-cfg"}],
        },
        "table4": {
            "paper": "mar_table4",
            "title": "Table 4: systems",
            "rows": [
                {"paper": "adm"},
                {"paper": "dit-xl", "variant": "dit", "without": "j50"},
                {"paper": "mar-b", "variant": "published", "without": "s4", "guided": "s4-cfg"},
                {"paper": "mar-l", "variant": "diff", "without": "s4", "guided": "s4-cfg"},
            ],
        },
    }
    values["tradeoff"].append({"label": "DiT", "variant": "dit", "sampling": [*joint]})
    for figure, points in (("diffusion_steps", steps), ("temperature", heat)):
        values[figure] = [
            {"label": f"guidance {g:g}" if cfg else "no guidance", "variant": "diff", "sampling": chosen}
            for cfg, g in GUIDED
            if (chosen := [name for name, setting in points.items() if setting["guidance"] == g])
        ]
    return resolve(values, "large.yaml")


STEPS, HEAT, GUIDED = (10, 25, 50, 100, 250, 1000), (0.85, 0.9, 0.95, 1.0, 1.05), (("", 1.0), ("-cfg", 2.0))


def _values(seeds: dict[str, tuple[int, ...]] | None) -> dict[str, Any]:
    diffusion = {"diffusion_steps": 25, "clamp": 4.0}
    seeds = {"ar": (0, 1), "ce": (0, 1), "diff": (0, 1)} | (seeds or {})
    recipe = {"images": 640, "batch": 64, "checkpoint_images": 320, "log_images": 64, "ema": 0.99}
    row = {"without": "s4", "guided": "s4-cfg"}
    return {
        "study": "small",
        "title": "A small study",
        "data": {"kind": "digits", "image_size": 16},
        "tokenizers": {
            "kl": {
                "kind": "kl",
                "stride": 8,
                "channels": [8, 8, 8, 8],
                "latent_channels": 4,
                "kl_weight": 1e-6,
                "images": 640,
                "learning_rate": 1e-3,
            },
            "vq": {
                "kind": "vq",
                "stride": 8,
                "channels": [8, 8, 8, 8],
                "latent_channels": 4,
                "codebook_size": 16,
                "images": 640,
                "learning_rate": 1e-3,
            },
        },
        "backbones": {
            "causal": {"kind": "causal", "width": 8, "depth": 1, "heads": 1},
            "masked": {"kind": "masked", "width": 8, "depth": 1, "heads": 1, "buffer": 2},
        },
        "heads": {
            "ce": {"kind": "categorical"},
            "diff": {"kind": "diffusion", "width": 8, "depth": 1, "noise_draws": 1},
        },
        "recipes": {"r": recipe},
        "sampling": {
            "a4": {"steps": 4, "kv_cache": True},
            "a4-cfg": {"steps": 4, "kv_cache": True, "guidance": 2.0},
            "c4": {"steps": 4},
            "c4-cfg": {"steps": 4, "guidance": 2.0},
            "s2": {"steps": 2, **diffusion},
            "s4": {"steps": 4, **diffusion},
            "s4-cfg": {"steps": 4, "guidance": 2.0, **diffusion},
        },
        "variants": {
            name: {
                "tokenizer": "kl" if name == "diff" else "vq",
                "order": "raster" if name == "ar" else "random",
                "backbone": "causal" if name == "ar" else "masked",
                "head": "diff" if name == "diff" else "ce",
                "recipe": "r",
                "sampling": {"ar": ["a4", "a4-cfg"], "ce": ["c4", "c4-cfg"], "diff": ["s2", "s4", "s4-cfg"]}[name],
                "seeds": list(seeds[name]),
            }
            for name in ("ar", "ce", "diff")
        },
        "classifier": {"images": 640},
        "metrics": {"samples": 40, "chunk": 20, "bootstrap": 20},
        "speed": {"batch": 8},
        "tables": {
            "table1": {
                "paper": "mar_table1",
                "title": "Table 1: 100% of A_B & C",
                "rows": [
                    {"paper": "ar-raster-crossent", "variant": "ar", "without": "a4", "guided": "a4-cfg"},
                    {"paper": "mar-default-crossent", "variant": "ce", "without": "c4", "guided": "c4-cfg"},
                    {"paper": "mar-default-diffloss", "variant": "diff", **row},
                ],
            }
        },
        "tradeoff": [
            {"label": "MAR, Diffusion Loss", "variant": "diff", "sampling": ["s2", "s4"]},
            {"label": "AR, cross-entropy, kv-cache", "variant": "ar", "sampling": ["a4"]},
        ],
    }


Numbers = Callable[[str, str, int], float]


def fabricate(
    study: Study,
    root: Path,
    fid: Numbers,
    seconds: Callable[[str, str], float] = lambda variant, setting: 0.1,
    noise: float = 0.0,
    images: bool = True,
) -> None:
    """Write all files of a study under `root`.

    Args:
        study: the study.
        root: its results folder.
        fid: FID of (variant, setting, seed).
        seconds: seconds per image of (variant, setting), measured within 10%.
        noise: bootstrap standard error of every metric (of log FID).
        images: write the sampled images too, not their manifests alone.
    """
    rng = np.random.default_rng(0)
    n, names = study.metrics.samples, study.metrics.extractors
    judges = {name: {"weights": str(i) * 64, "note": "", "reference": REFERENCE} for i, name in enumerate(names)}
    judged = {"samples": n, "extractor": names[0], "extractors": judges, "reference": REFERENCE}
    write(
        root / "data" / "manifest.json",
        {
            "kind": "digits",
            "classes": [str(i) for i in range(10)],
            "splits": {"train": {"count": 1293, "per_class": []}, "heldout": {"count": 504, "per_class": []}},
            "files": "f" * 64,
            "skipped": [],
            "image_size": study.data.image_size,
            "flip": False,
            "listing": "sklearn",
        },
    )
    write(
        root / "metrics" / "reference.json",
        {
            **judged,
            "metrics": metrics(10.0, noise, n, names),
            "inputs": {},
            "recipe": {"slice": "{}", "inputs": {}},
            "provenance": PROVENANCE,
        },
    )
    for name, section in study.given.items():
        values = metrics(12.0, noise, n, names)
        values.pop("agreement", None)  # their classes are not known
        judged_set = {**judged, "given": {"kind": "npz", "name": section.file, "sha256": "9" * 64}, "metrics": values}
        judged_set |= {"notes": [ONE_CLASS], "inputs": {"samples": "9" * 64}, "provenance": PROVENANCE}
        write(root / "metrics" / "given" / f"{name}.json", judged_set | {"recipe": {"slice": "{}", "inputs": {}}})
    write(root / "study.json", {})
    judge = {"accuracy": 0.99, "split": "heldout", "count": 504, "classes": [str(i) for i in range(10)]}
    write(root / "classifier" / "classifier.json", judge | {"parameters": 12345, "provenance": PROVENANCE})
    write(root / "classifier" / "recipe.json", {"slice": "{}"})
    curve(root / "classifier" / "metrics.jsonl", 640, 64, rng)
    for name, (_, tok, _) in study.instances.items():
        folder = root / "tokenizers" / name
        values = {"rfid": cell(5.0, 0.1, n), "psnr": cell(22.0, 0.1, n)}
        if tok.kind == "vq":
            values |= {"codebook_usage": cell(0.9, 0.01, n), "perplexity": cell(12.0, 0.5, n)}
        judged_by = {"reference": REFERENCE["sha256"], "extractor": judges[names[0]]["weights"]}
        judged_by |= {"tokenizer": "1" * 64, "slice": "{}"}
        rebuilt = {"metrics": values, "split": "heldout", "count": 504, "extractor": names[0], "reference": REFERENCE}
        write(folder / "rfid.json", {**rebuilt, "inputs": judged_by, "provenance": PROVENANCE})
        write(folder / "recipe.json", {"tokenizer": json.dumps({"tokenizer": {"kind": tok.kind}})})
        curve(folder / "metrics.jsonl", 640, 64, rng)
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            run = root / "runs" / name / f"seed{seed}"
            seen = 0 if variant.pretrained else study.recipes[variant.recipe].images
            record = {"images": seen, "seconds": 0.0 if variant.pretrained else 60.0 + seed, "restarts": 0}
            source = {"file": "f", "sha256": "5" * 64, "size": 1}
            origin = {"format": "official-mar", "source": source, "asset": None, "licence": None}
            record |= {"pretrained": origin} if variant.pretrained else {"final_loss": 0.5}
            recipe = study.recipes[variant.recipe]
            if not variant.pretrained:
                curve(run / "metrics.jsonl", recipe.images, recipe.log_images, rng)
            write(run / "recipe.json", {"train": json.dumps({"recipe": {"images": recipe.images}}), "tokens": "7" * 64})
            write(
                run / "run.json",
                {
                    "variant": name,
                    "seed": seed,
                    "parameters": 1234567,
                    "head_parameters": 54321,
                    **record,
                    "checkpoint": "e" * 64,
                    "tokens": "7" * 64,
                    "provenance": PROVENANCE,
                },
            )
            for setting in variant.sampling:
                if study.sampling[setting].sweep:
                    sweep(study, root, name, setting, {**judged, "samples": study.sampling[setting].sweep.samples})
                folder = root / "samples" / name / f"seed{seed}" / setting
                folder.mkdir(parents=True, exist_ok=True)
                labels = np.arange(n) % 10
                np.save(folder / "labels.npy", labels)
                chunks = []
                for i in range(n // study.metrics.chunk):
                    part = labels[i * study.metrics.chunk : (i + 1) * study.metrics.chunk]
                    if images:
                        side = study.data.image_size
                        pixels = rng.integers(0, 60, (len(part), side, side, 3)) + 15 * part[:, None, None, None]
                        np.save(folder / f"chunk-{i:05d}.npy", pixels.astype(np.uint8))
                    chunks.append({"file": f"chunk-{i:05d}.npy", "count": len(part), "sha256": "0" * 64})
                write(
                    folder / "manifest.json",
                    {
                        "variant": name,
                        "seed": seed,
                        "setting": setting,
                        "count": n,
                        "chunks": chunks,
                        "checkpoint": "e" * 64,
                        "tokenizer": "1" * 64,
                        "sampling": {"steps": 4},
                        "seconds": 3.0,
                        "provenance": PROVENANCE,
                    },
                )
                write(
                    root / "metrics" / name / f"seed{seed}" / f"{setting}.json",
                    {
                        "variant": name,
                        "seed": seed,
                        "setting": setting,
                        **judged,
                        "metrics": metrics(fid(name, setting, seed), noise, n, names),
                        "inputs": {
                            "samples": sha256(folder / "manifest.json"),
                            "reference": "a" * 64,
                            "checkpoint": "e" * 64,
                        },
                        "recipe": {"slice": "{}", "inputs": {}},
                        "provenance": PROVENANCE,
                    },
                )
        if variant.seeds:
            points = {}
            for setting in variant.sampling:
                s = seconds(name, setting)
                points[setting] = {
                    "seconds_per_image": s,
                    "low": 0.9 * s,
                    "high": 1.1 * s,
                    "steps": study.sampling[setting].steps,
                }
            write(
                root / "speed" / f"{name}.json",
                {
                    "variant": name,
                    "protocol": {
                        "batch": study.speed.batch,
                        "batches": 3,
                        "threads": 2,
                        "dtype": "fp32",
                        "device": "cpu",
                        "machine": "A & B_CPU",
                        "torch": "2.0",
                        "decode": True,
                        "warmup_batches": 1,
                    },
                    "points": points,
                    "checkpoint": "e" * 64,
                    "recipe": {"speed": "{}", "threads": 2, "checkpoint": "e" * 64},
                    "provenance": PROVENANCE,
                },
            )


def sweep(study: Study, root: Path, variant: str, setting: str, judged: dict[str, Any]) -> None:
    """The grid of a swept setting, with the same winner in all."""
    grid = study.sampling[setting].sweep
    assert grid is not None
    points = [
        {
            "guidance": g,
            "temperature": t,
            "round": 0,
            "fid": relative(20.0 + abs(g - BEST["guidance"]) + 10 * abs(t - BEST["temperature"]), 0.02, grid.samples),
            "inception_score": cell(9.0, 0.02, grid.samples),
        }
        for g in grid.guidance
        for t in grid.temperature
    ]
    write(
        root / "sweeps" / variant / f"{setting}.json",
        {
            "variant": variant,
            "setting": setting,
            "seed": study.variants[variant].seeds[0],
            **{key: value for key, value in judged.items() if key != "extractors"},
            "grid": points,
            "best": BEST,
            "edge": [],
            "recipe": {
                "slice": sweep_key(study, variant, setting),
                "checkpoint": "e" * 64,
                "tokens": "7" * 64,
                "weights": "0" * 64,
                "real": "a" * 64,
            },
            "provenance": PROVENANCE,
        },
    )


def metrics(fid: float, noise: float, n: int, extractors: tuple[str, ...] = ("classifier",)) -> dict[str, Any]:
    """All metrics of a sample set; those beside FID follow from it, two of them below zero where it is small."""
    kinds = {"sfid": relative(2 * fid, noise, n)} if extractors[0] in ("inception", "clean") else {}
    agreement = {"agreement": cell(0.99 - fid / 1000, noise, n)} if extractors[0] == "classifier" else {}
    return {
        "fid": relative(fid, noise, n),
        "fid_infinity": cell(fid - 10, fid * noise, n, False),
        **kinds,
        "kid": cell(fid / 1000 - 0.01, fid * noise / 1000, n, False),
        "inception_score": cell(9.9 - fid / 100, noise, n),
        "precision": cell(0.9 - fid / 1000, noise, n),
        "recall": cell(0.8 - fid / 1000, noise, n),
        **agreement,
        "nearest": cell(0.05 + fid / 1000, noise, n, None),
        **{f"fid_{name}": relative(3 * fid, noise, n) for name in extractors[1:]},
    }


def relative(value: float, noise: float, n: int) -> dict[str, Any]:
    """A Frechet distance with the interval of that standard error of its logarithm."""
    return cell(value, value * noise, n, False)


def cell(value: float, noise: float, n: int, higher: bool | None = True) -> dict[str, Any]:
    """One metric with the interval of that standard error."""
    return {
        "value": value,
        "low": value - Z * noise,
        "high": value + Z * noise,
        "n": n,
        "bootstrap": 20,
        "seed": 0,
        "higher_is_better": higher,
    }


def curve(path: Path, images: int, every: int, rng: np.random.Generator) -> None:
    """A falling loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(every, images + 1, every):
        loss = 0.4 + 2 * math.exp(-3 * i / images) + float(rng.normal(0, 0.03))
        lines.append({"images": i, "loss": loss, "learning_rate": 1e-3, "grad_norm": 1.0, "time": 1.7e9 + i / 100})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write(path: Path, value: Any) -> None:
    """JSON, with folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
