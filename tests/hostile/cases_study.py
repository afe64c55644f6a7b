"""Study files that say what they must not: read by `mar plan` and, through Snakemake's own reader, by `snakemake -n`."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bad_inputs import Case

BAD = Path("config/bad.yaml")
PLAN = ("mar", "plan", "--study", "config/bad.yaml")
DRY = ("snakemake", "-n", "--configfile", "config/bad.yaml")
HEAD = "extends: smoke.yaml\nstudy: bad\n"


def text(content: str | bytes, path: Path = BAD) -> Callable[[], object]:
    """Write a file."""
    return lambda: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def smoke(more: str) -> Callable[[], object]:
    """The smoke study under another name, with more lines."""
    return text(HEAD + more)


def chain() -> None:
    for i in range(2000):
        Path(f"config/c{i}.yaml").write_text(f"extends: c{i + 1}.yaml\nstudy: c{i}\n")
    Path("config/c2000.yaml").write_text("extends: smoke.yaml\nstudy: c2000\n")
    BAD.write_text("extends: c0.yaml\nstudy: bad\n")


def images(classes: dict[str, int]) -> None:
    """An image folder of so many images of each class."""
    from PIL import Image

    for name, count in classes.items():
        Path("photos", name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 40), (20 * i % 256, 90, 30)).save(Path("photos", name, f"{i}.png"))


def folder_study(**classes: int) -> Callable[[], object]:
    def make() -> None:
        images(classes)
        BAD.write_text(HEAD + "data: {kind: imagefolder, path: photos, image_size: 32}\n")

    return make


# Of a key, the line that sets it to something that is refused, and what the message has to name.
VALUES = {
    "study name 300 characters": (f"study: {'x' * 300}", "study"),
    "study name a path": ("study: ../../outside/x", "study"),
    "study name a dot": ("study: '..'", "study"),
    "study name with a quote": ("""study: "a'b" """, "study"),
    "study name with a line break": ('study: "a\\nb"', "study"),
    "study name empty": ("study: ''", "study"),
    "study name a number": ("study: 5", "study"),
    "study name ends in a line break": ('study: "bad\\n"', "study"),
    "variant name 300 characters": (f"variants: {{{'v' * 300}: {{tokenizer: kl}}}}", "variants"),
    "variant name with braces": ("variants: {'a{b}': {tokenizer: kl}}", "variants"),
    "variant names differing in case only": (
        "variants: {MAR-diffloss: {tokenizer: kl, order: random, backbone: masked, head: diffloss, recipe: masked, "
        "sampling: [mar-diff-4]}}",
        "differ in case",
    ),
    "table row that the paper lacks": (
        "tables: {table1: {rows: [{paper: nothere, variant: mar-diffloss, without: mar-diff-4}]}}",
        "nothere",
    ),
    "table that the paper lacks": ("tables: {t: {paper: nothere, title: t, rows: []}}", "nothere"),
    "table name a path": ("tables: {'../x': {paper: mar_table1, title: t, rows: []}}", "tables"),
    "images of 5,000 digits": (f"recipes: {{masked: {{images: {'9' * 5000}}}}}", r"bad\.yaml"),
    "images of 30 digits": (f"recipes: {{masked: {{images: {64 * 10**28}}}}}", "images"),
    "images negative": ("recipes: {masked: {images: -64}}", "images"),
    "images infinite": ("recipes: {masked: {images: .inf}}", "images"),
    "images text": ("recipes: {masked: {images: lots}}", "images"),
    "images a date": ("recipes: {masked: {images: 2024-01-01}}", "images"),
    "a date that does not exist": ("title: 2024-02-31", "bad"),
    "batch zero": ("recipes: {masked: {batch: 0}}", "batch"),
    "batch of 10^15": (f"recipes: {{masked: {{batch: {10**15}, images: {10**15}}}}}", "batch"),
    "batch true": ("recipes: {masked: {batch: true}}", "batch"),
    "learning rate NaN": ("recipes: {masked: {base_learning_rate: .nan}}", "base_learning_rate"),
    "learning rate 10^300": ("recipes: {masked: {base_learning_rate: 1.0e+300}}", "base_learning_rate"),
    "learning rate 10^30": ("recipes: {masked: {base_learning_rate: 1.0e+30}}", "base_learning_rate"),
    "weight decay 10^30": ("recipes: {masked: {weight_decay: 1.0e+30}}", "weight_decay"),
    "betas of 1": ("recipes: {masked: {betas: [1.0, 1.0]}}", "betas"),
    "warm-up longer than the training": ("recipes: {masked: {warmup_images: 12800}}", "warmup_images"),
    "label drop 1 with guidance": ("recipes: {masked: {label_drop: 1.0}}", "label_drop"),
    "label drop 0 with guidance": ("recipes: {masked: {label_drop: 0.0}}", "label_drop"),
    "ema 1": ("recipes: {masked: {ema: 1.0}}", "ema"),
    "mask ratio at least 1": ("recipes: {masked: {mask_ratio_min: 1.0}}", "mask_ratio_min"),
    "dropout 1": ("backbones: {masked: {dropout: 1.0}}", "dropout"),
    "masks per image 10^9": (f"recipes: {{masked: {{masks_per_image: {10**9}}}}}", "masks_per_image"),
    "seed 2^70": (f"seed: {2**70}", "seed"),
    "seed negative": ("seed: -1", "seed"),
    "training seed 2^70": (f"variants: {{mar-diffloss: {{seeds: [{2**70}]}}}}", "seeds"),
    "sampling seed 2^70": (f"sampling: {{mar-diff-4: {{seed: {2**70}}}}}", "seed"),
    "seeds twice": ("variants: {mar-diffloss: {seeds: [0, 0]}}", "seeds"),
    "seeds 10^6": (f"variants: {{mar-diffloss: {{seeds: {list(range(10**5))}}}}}", "seeds"),
    "width 10^9": (f"backbones: {{masked: {{width: {10**9}}}}}", "width"),
    "depth 10^9": (f"backbones: {{masked: {{depth: {10**9}}}}}", "depth"),
    "heads 10^9": (f"backbones: {{masked: {{heads: {10**9}}}}}", "heads"),
    "mlp ratio 10^9": ("backbones: {masked: {mlp_ratio: 1.0e+9}}", "mlp_ratio"),
    "buffer 10^9": (f"backbones: {{masked: {{buffer: {10**9}}}}}", "buffer"),
    "head width 10^9": (f"heads: {{diffloss: {{width: {10**9}}}}}", "width"),
    "head depth 10^9": (f"heads: {{diffloss: {{depth: {10**9}}}}}", "depth"),
    "noise draws 10^9": (f"heads: {{diffloss: {{noise_draws: {10**9}}}}}", "noise_draws"),
    "mixture components 10^12": (f"heads: {{mixture: {{components: {10**12}}}}}", "components"),
    "codebook 10^12": (f"tokenizers: {{vq: {{codebook_size: {10**12}}}}}", "codebook_size"),
    "channels 10^9": ("tokenizers: {kl: {channels: [1000000000, 8, 16, 16]}}", "channels"),
    "layers 10^9": (f"tokenizers: {{kl: {{layers: {10**9}}}}}", "layers"),
    "latent channels 10^9": (f"tokenizers: {{kl: {{latent_channels: {10**9}}}}}", "latent_channels"),
    "image size 10^9": (f"data: {{image_size: {2**30}}}", "image_size"),
    "image size 1": ("data: {image_size: 1}", "image_size"),
    "classifier channels 10^9": ("classifier: {channels: [1000000000, 8, 8]}", "channels"),
    "classifier without channels": ("classifier: {channels: []}", "channels"),
    "classifier images 10^30": (f"classifier: {{images: {10**30}}}", "images"),
    "samples 10^15": (f"metrics: {{samples: {10**15}, chunk: {10**15}}}", "samples"),
    "samples 1": ("metrics: {samples: 1, chunk: 1}", "samples"),
    "fewer samples than classes": ("metrics: {samples: 5, chunk: 5}", "classes"),
    "fewer samples of a sweep than classes": (
        "sampling: {mar-diff-4-cfg-best: {sweep: {samples: 5}}}",
        "classes",
    ),
    "samples no multiple of chunks": ("metrics: {samples: 100, chunk: 33}", "chunk"),
    "bootstrap 10^15": (f"metrics: {{bootstrap: {10**15}}}", "bootstrap"),
    "bootstrap 1": ("metrics: {bootstrap: 1}", "bootstrap"),
    "neighbours as many as images": ("metrics: {neighbours: 100}", "neighbours"),
    "neighbours 10^12": (f"metrics: {{neighbours: {10**12}}}", "neighbours"),
    "extractor unknown": ("metrics: {extractors: [nothere]}", "extractors"),
    "extractors twice": ("metrics: {extractors: [classifier, classifier]}", "extractors"),
    "reference that is not there": (
        "metrics: {extractors: [classifier, inception], reference: {file: nothere.npz, unknown_hash: true}}",
        "nothere",
    ),
    "reference outside by a link": (
        "metrics: {extractors: [classifier, inception], reference: {file: /dev/zero, unknown_hash: true}}",
        "/dev/zero",
    ),
    "speed batch 10^12": (f"speed: {{batch: {10**12}}}", "batch"),
    "speed batches 10^12": (f"speed: {{batches: {10**12}}}", "batches"),
    "diffusion steps 1001": ("sampling: {mar-diff-4: {diffusion_steps: 1001}}", "diffusion_steps"),
    "steps more than tokens": ("sampling: {mar-diff-4: {steps: 17}}", "steps"),
    "guidance infinite": ("sampling: {ar-ce-cfg: {guidance: .inf}}", "guidance"),
    "guidance 10^300": ("sampling: {ar-ce-cfg: {guidance: 1.0e+300}}", "guidance"),
    "temperature 10^-320": ("sampling: {ar-ce: {temperature: 1.0e-320}}", "temperature"),
    "sweep of 10^6 points": (
        f"sampling: {{mar-diff-4-cfg-best: {{sweep: {{guidance: {[1 + i / 1000 for i in range(1000)]}, temperature: "
        f"{[1 + i / 1000 for i in range(1000)]}}}}}}}",
        "points",
    ),
    "sweep refined 10^9 times": (f"sampling: {{mar-diff-4-cfg-best: {{sweep: {{refine: {10**9}}}}}}}", "refine"),
    "matrix of 10^6 variants": (
        "matrix: {name: '{tokenizer}-{order}-{backbone}-{head}', "
        + ", ".join(f"{f}: {[f'{f[0]}{i}' for i in range(32)]}" for f in ("tokenizer", "order", "backbone", "head"))
        + "}",
        "matrix",
    ),
    "matrix name reaches into objects": (
        "matrix: {name: '{tokenizer.__class__.__mro__}', tokenizer: [kl]}",
        "matrix",
    ),
    "matrix name of 10^9 blanks": ("matrix: {name: '{tokenizer:1000000000}', tokenizer: [kl]}", "matrix"),
    "matrix without lists": ("matrix: {name: x}", "variants.x"),
    "matrix a list": ("matrix: [1]", "matrix"),
    "brackets 20,000 deep": (f"title: {'[' * 20000}", "bad"),
    "2,000 faults at once": (f"variants: {{{', '.join(f'v{i}: {{}}' for i in range(2000))}}}", "more mistakes"),
    "an alias of itself": ("title: &a [*a]", "bad"),
    "a mapping that is its own value": ("data: &a {kind: *a}", "bad"),
    "a billion laughs": (
        "title: [&a0 [x, x, x, x, x, x, x, x, x], "
        + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
        + "]",
        "bad",
    ),
    "a Python object": ("title: !!python/object/apply:os.system ['touch pwned']", "bad"),
    "a Python name": ("title: !!python/name:os.system", "bad"),
    "key twice": ("seed: 1\nseed: 2", "twice"),
    "key unknown": ("sead: 1", "sead"),
    "key of 10^5 characters": (f"{'k' * 100_000}: 1", "bad"),
    "keys that are lists": ("? [a, b]\n: 1", "bad"),
    "keys that are numbers": ("5: 1", "5"),
    "reuse of nothing": ("reuse: nothere", "reuse"),
    "reuse a path": ("reuse: ../../outside", "reuse"),
    "reuse of itself": ("reuse: bad", "reuse"),
    "extends itself": ("extends: bad.yaml", "extends"),
    "extends a list": ("extends: [a, b]", "extends"),
    "extends a device": ("extends: /dev/zero", "extends"),
    "extends a folder": ("extends: .", "extends"),
    "tokenizers a list": ("tokenizers: [kl]", "tokenizers"),
    "variants null": ("variants: null", "variants"),
    "sampling null": ("sampling: null", "sampling"),
    "data of an unknown kind": ("data: {kind: cifar}", "kind"),
    "data path missing": ("data: {kind: imagefolder, path: null, image_size: 32}", "path"),
    "curve of a variant that is not there": (
        "tradeoff: [{label: x, variant: nothere, sampling: [mar-diff-4]}]",
        "nothere",
    ),
    "budget infinite": ("budget: {gpu_hours: .inf}", "gpu_hours"),
    "budget of nothing": ("budget: {gpu_hours: 1.0e-9}", "over|budget"),
    "resources of 10^12 nodes": (
        f"variants: {{mar-diffloss: {{resources: {{nodes: {10**12}, hours: 1}}}}}}",
        "nodes|processes",
    ),
    "resources of endless hours": ("variants: {mar-diffloss: {resources: {hours: .inf}}}", "hours"),
    "tabs": ("data:\n\tkind: digits", "bad"),
    "a colon too many": ("title: a: b", "bad"),
    "an open quote": ('title: "a', "bad"),
    "two documents": ("---\nstudy: other", "bad"),
    "a character of control": ("title: 'a\x07b'", "bad"),
}
# What only the workflow knows or does is tried through it.
LATE = ("table row", "table that", "reference that", "reference outside", "reuse of nothing", "budget of nothing")
LEGAL = ("mask ratio at least 1",)  # all tokens are masked

FILES: dict[str, Callable[[], object]] = {
    "missing": lambda: None,
    "empty": text(""),
    "blanks": text("\n\n   \n"),
    "a comment": text("# nothing\n"),
    "a list": text("- a\n"),
    "a number": text("5\n"),
    "binary": text(bytes(range(256))),
    "zeros": text(bytes(1000)),
    "latin-1": text(HEAD.encode() + b"title: caf\xe9\n"),
    "UTF-16": text((HEAD + "sead: 1\n").encode("utf-16-be")),
    "tabs": text(HEAD + "data:\n\tkind: digits\n"),
    "gzip": text(gzip.compress(HEAD.encode())),
    "a folder": BAD.mkdir,
    "a FIFO": lambda: os.mkfifo(BAD),
    "/dev/zero": lambda: BAD.symlink_to("/dev/zero"),
    "a link to itself": lambda: BAD.symlink_to(BAD.name),
    "a link to nothing": lambda: BAD.symlink_to("nothere.yaml"),
    "without a name": text("extends: smoke.yaml\n"),
    "of 300 MB": lambda: BAD.write_text("# " + "x" * 300_000_000),
    "a chain of 2,000 that extend": chain,
}


def cases() -> Iterator[Case]:
    """Every case of this file."""
    for what, (line, names) in VALUES.items():
        if line.startswith("study:") or line.startswith("extends:"):
            rest = "study: bad" if line.startswith("extends:") else "extends: smoke.yaml"
            make = text(f"{rest}\n{line}\n")
        else:
            make = smoke(line + "\n")
        command = DRY if what.startswith(LATE) else PLAN
        right = "works" if what in LEGAL else "refused"
        yield Case(f"study: {what}", make, command, (names, r"\.yaml|study"), right)
    for what, make in FILES.items():
        names = (r"(bad|c99)\.yaml",)  # a chain of files is given up at one of them
        yield Case(f"study: {what}", make, PLAN, names, seconds=40)
        yield Case(f"snakemake: {what}", make, DRY, names, seconds=60)
    yield Case("study: BOM of UTF-8", text(b"\xef\xbb\xbf" + HEAD.encode()), PLAN, right="works")
    yield Case("study: DOS line ends", text(HEAD.replace("\n", "\r\n")), PLAN, right="works")
    yield Case("snakemake: BOM of UTF-8", text(b"\xef\xbb\xbf" + HEAD.encode()), DRY, right="works")
    twelve = {f"class{i}": 4 for i in range(12)}
    yield Case("study: fewer samples than classes of a folder", lambda: few(twelve), DRY, ("class",))
    yield Case("study: fewer samples than classes of a folder, plan", lambda: few(twelve), PLAN, ("class",))
    yield Case(
        "study: neighbours as many as a class folder has images",
        folder_study(a=2, b=2),
        ("mar", "prepare", "--study", "config/bad.yaml"),
        ("images|photos",),
    )
    yield Case(  # not of a dry run: images may lie on another machine, or be gone once they are encoded
        "study: image folder that is not there",
        smoke("data: {kind: imagefolder, path: nothere, image_size: 32}\n"),
        ("mar", "prepare", "--study", "config/bad.yaml"),
        ("nothere",),
    )
    yield from workflow()


def few(classes: dict[str, int]) -> None:
    images(classes)
    BAD.write_text(
        HEAD + "data: {kind: imagefolder, path: photos, image_size: 32}\nmetrics: {samples: 10, chunk: 10}\n"
        "sampling: {mar-diff-4-cfg-best: {sweep: {samples: 10}}}\n"
    )


def workflow() -> Iterator[Case]:
    """Options of `snakemake`."""
    dry = ("snakemake", "-n", "--configfile", "config/smoke.yaml")
    for what, options, names in (
        ("launcher unknown", ("launcher=pbs",), "pbs"),
        ("nodes of text", ("launcher=slurm", "nodes=two"), "nodes"),
        ("nodes negative", ("launcher=slurm", "nodes=-1"), "nodes"),
        ("nodes a command", ("launcher=slurm", "nodes='$(touch pwned)1'"), "nodes"),
        ("resource unknown", ("launcherr=slurm",), "launcherr"),
        ("partition with a blank", ("launcher=slurm", "slurm_partition='a b'"), "slurm_partition"),
        ("partition with a command", ("launcher=slurm", "slurm_partition='$(touch pwned)'"), "slurm_partition"),
    ):
        yield Case(f"snakemake: {what}", lambda: None, (*dry, "--default-resources", *options), (names,))
    for what, value, names in (
        ("name a path by --config", "study=../../outside/x", "study"),
        ("name empty by --config", "study=", "study"),
        ("key unknown by --config", "nothere=5", "nothere"),
        ("image size of text by --config", "data={image_size: x}", "image_size"),
    ):
        yield Case(f"snakemake: {what}", lambda: None, (*dry, "--config", value), (names,))
    yield Case(
        "snakemake: rule unknown in --set-resources",
        lambda: None,
        (*dry, "--set-resources", "nothere:nodes=2"),
        ("nothere",),
    )
    yield Case("snakemake: target unknown", lambda: None, (*dry, "nothere"), ("nothere",))
    yield Case(
        "snakemake: two study files, one broken",
        text("- a\n"),
        (*dry, "config/bad.yaml"),
        (r"bad\.yaml",),
    )
