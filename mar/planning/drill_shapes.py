"""The drill: each distinct shape of a study once at its true size, before GPU-hours are spent on it.

A *shape* is what decides about memory and time: the architecture of a tokenizer, of a variant on its tokens, or of the
metrics. Variants that differ in order, length of training or settings of sampling have one shape. Here is which shapes
a study has, the small study that each is run with, and the table; `mar/planning/drill.py` runs one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mar.planning.plan import count_images
from mar.runtime.files import read, write, write_text
from mar.study import layout
from mar.study.canonical import canonical
from mar.study.records import DrillRecord, ShapeRecord
from mar.study.study import Study

# Two images, two autoregressive and two diffusion steps: the least that has a first step and another.
SAMPLES = STEPS = 2
TOKENIZER, VARIANT = "tokenizer", "variant"  # kinds of shapes
METRICS = "metrics"  # the shape of the networks that judge, and of what is computed from their features
# What a tokenizer's weights, memory and time do not depend on.
TOKENIZER_REST = (
    *("group", "continuous", "scale", "weights", "images", "batch", "learning_rate", "adversarial_start"),
    *("per_seed", "epochs"),
)
NOTES = (
    "Random weights stand where published ones would be installed: sizes and times are true, images are noise.",
    "The data are generated pictures, one in each split; class tables have their true number of rows.",
    "Batches are one image; memory of a training grows with recipes.micro_batch. compile is left out.",
)
COLUMNS = (
    "shape",
    "covers",
    "parameters",
    "stage",
    "seconds",
    "cpu_seconds",
    "memory_gb",
    "resident_gb",
    "disk_gb",
    "note",
)


class Shape(NamedTuple):
    """What decides about memory and time: of a tokenizer, a variant or the metrics (kind), which all of `covers` have.

    The first of them is run.
    """

    kind: str  # TOKENIZER, VARIANT or METRICS
    covers: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The tokenizer or variant that is run."""
        return self.covers[0]


def shapes(study: Study) -> dict[str, Shape]:
    """The distinct shapes of a study by their names.

    Declared but unused tokenizers and variants count: who gives them a seed should know that they fit.
    """
    found: dict[str, list[str]] = {}  # tokenizers or variants by what decides
    for name in study.tokenizers:
        found.setdefault(tokenizer_shape(study, name), []).append(name)
    same = [Shape(TOKENIZER, tuple(names)) for names in found.values()]
    found = {}
    for name in study.variants:
        found.setdefault(variant_shape(study, name), []).append(name)
    same += [Shape(VARIANT, tuple(names)) for names in found.values()]
    return {**{f"{shape.kind}-{shape.first}": shape for shape in same}, METRICS: Shape(METRICS)}


def tokenizer_shape(study: Study, name: str) -> str:
    """What decides about the memory and time of a tokenizer, as text."""
    values = study.tokenizers[name].model_dump(mode="json", exclude_defaults=True)
    values = {key: value for key, value in values.items() if key not in TOKENIZER_REST}
    return canonical({"tokenizer": values, "image_size": study.data.image_size, "flip": study.data.flip})


def variant_shape(study: Study, name: str) -> str:
    """What decides about the memory and time of a variant, as text: backbone, head, arithmetic, form of its tokens."""
    v = study.variants[name]
    tok, recipe = study.tokenizers[v.tokenizer], study.recipes[v.recipe]
    tokens: dict[str, Any] = {
        "kind": tok.stored,
        "codes": tok.codes if tok.ids else None,
        "dim": tok.token_dim,
        "group": tok.group,
    }
    if tok.sides:
        tokens["scales"] = list(tok.sides)
    arithmetic: dict[str, Any] = {"dtype": recipe.dtype, "gradient_checkpointing": recipe.gradient_checkpointing}
    arithmetic |= {"head_dtype": recipe.head_dtype} if recipe.head_dtype else {}
    values = {"backbone": study.backbones[v.backbone], "head": study.heads[v.head], "tokens": tokens, **arithmetic}
    return canonical(values | {"count": study.tokens(v.tokenizer), "classes": count_images(study).classes})


def shape_named(study: Study, name: str) -> Shape:
    """The shape of a study that has this name.

    Raises:
        ValueError: the study has no such shape.
    """
    known = shapes(study)
    if name not in known:
        raise ValueError(f"--shape {name}: accepted: {', '.join(known)}")
    return known[name]


def shape_key(study: Study, shape: Shape) -> str:
    """What the result of a shape depends on: `params` of its rule."""
    if shape.kind == METRICS:
        judges = {"classifier": study.classifier, "extractors": study.metrics.extractors}
        return canonical({"image_size": study.data.image_size, **judges})
    decides = tokenizer_shape if shape.kind == TOKENIZER else variant_shape
    return decides(study, shape.first)


def drill_study(study: Study, shape: Shape, images: Path) -> Study:
    """The small study of a shape: its factors at their true size on the images at `images`, one image to train on."""
    values: dict[str, Any] = study.model_dump(mode="json", exclude_none=True, exclude={"budget", "reuse"})
    values = {key: values[key] for key in ("study", "seed", "classifier", "speed") if key in values}
    values["data"] = {"kind": "imagefolder", "path": str(images), "image_size": study.data.image_size}
    values["data"]["flip"] = study.data.flip and shape.kind == TOKENIZER  # a model sees one view of an image
    if study.classifier:
        values["classifier"] |= {"images": 1, "epochs": None, "batch": 1}
    values["metrics"] = {"samples": SAMPLES, "chunk": SAMPLES, "neighbours": SAMPLES - 1}
    values["metrics"]["extractors"] = study.metrics.extractors
    parts: dict[str, dict[str, Any]] = {
        key: {} for key in ("tokenizers", "backbones", "heads", "recipes", "sampling", "variants")
    }
    if shape.kind == TOKENIZER:
        parts["tokenizers"][shape.first] = _tokenizer(study, shape.first)
    elif shape.kind == VARIANT:
        v = study.variants[shape.first]
        parts["tokenizers"][v.tokenizer] = _tokenizer(study, v.tokenizer) | (
            # of these the tokenizer's own shape has the cost
            {"perceptual_weight": 0.0, "perceptual": "lpips", "perceptual_images": None}
            | {"adversarial_weight": 0.0, "adversarial_start": 0}
        )
        parts["backbones"][v.backbone] = _plain(study.backbones[v.backbone])
        parts["heads"][v.head] = _plain(study.heads[v.head])
        counts = dict.fromkeys(("images", "batch", "micro_batch", "checkpoint_images", "log_images"), 1)
        recipe = _plain(study.recipes[v.recipe]) | counts | {"warmup_images": 0, "compile": False}
        recipe |= {"epochs": None, "evaluate_at": ()}
        parts["recipes"][v.recipe] = recipe
        parts["sampling"]["drill"] = _setting(study, shape.first)
        chosen = _plain(v) | {"sampling": ["drill"], "seeds": [0], "pretrained": False}
        parts["variants"][shape.first] = {
            key: value for key, value in chosen.items() if key not in ("weights", "resources")
        }
    return Study.model_validate({**values, **parts})


def _plain(section: Any) -> dict[str, Any]:
    values: dict[str, Any] = section.model_dump(mode="json", exclude_defaults=True)
    return values


def _tokenizer(study: Study, name: str) -> dict[str, Any]:
    values = _plain(study.tokenizers[name]) | {"per_seed": False}
    if study.tokenizers[name].trained:
        values |= {"images": 1, "epochs": None, "batch": 1, "adversarial_start": 0}
        if study.tokenizers[name].perceptual == "own":
            values["perceptual_images"] = 1
    return values


def _setting(study: Study, variant: str) -> dict[str, Any]:
    """A sampling setting of a variant, guided if it has such a one, cut to two steps of each kind.

    Causal and scales backbones take all their steps, of one token or one scale: that is what their kv-cache is for.
    """
    v = study.variants[variant]
    backbone, head = study.backbones[v.backbone], study.heads[v.head]
    settings = [study.sampling[s].points[-1] for s in v.sampling]  # of a sweep one point
    chosen = max(settings, key=lambda s: (s.guidance != 1.0, s.kv_cache), default=None)
    values = (_plain(chosen) if chosen else {"steps": 1}) | {"compile": False}
    tokens, sides = study.tokens(v.tokenizer), study.tokenizers[v.tokenizer].sides
    values["steps"] = tokens if backbone.single else 1 if backbone.joint else len(sides) or min(STEPS, tokens)
    return values | dict.fromkeys(head.needed, STEPS)


def gather(study: Study, root: Path) -> str:
    """Write drill/{drill.json,drill.csv,drill.md} from the files of all shapes; returns the Markdown.

    Raises:
        ValueError: a shape has not run.
    """
    import pandas as pd

    found = tuple(read(layout.drill_shape(root, shape), ShapeRecord) for shape in shapes(study))
    write(layout.drill_table(root, "json"), DrillRecord(study=study.study, notes=NOTES, shapes=found))
    lines = [
        {"shape": shape.shape, "parameters": shape.parameters, "covers": " ".join(shape.covers), **dict(stage)}
        for shape in found
        for stage in shape.stages
    ]
    table = pd.DataFrame(lines, columns=COLUMNS, dtype=object)
    write_text(layout.drill_table(root, "csv"), table.to_csv(index=False, lineterminator="\n"))
    text = markdown(study, found)
    write_text(layout.drill_table(root, "md"), text)
    return text


def markdown(study: Study, found: tuple[ShapeRecord, ...]) -> str:
    """The table: a row for each shape, a column for each stage with its seconds, and the peaks."""
    import pandas as pd

    names = list(dict.fromkeys(stage.stage for shape in found for stage in shape.stages))
    titles = ["shape", "parameters", *names, "seconds", "CPU seconds", "memory GB", "resident GB", "disk GB"]
    rows = []
    for shape in found:
        of = {stage.stage: stage for stage in shape.stages}
        seconds = [f"{of[name].seconds:.1f}" if name in of else "" for name in names]
        totals = [f"{sum(getattr(stage, key) for stage in of.values()):.0f}" for key in ("seconds", "cpu_seconds")]
        peaks = [f"{max(getattr(s, key) for s in of.values()):.1f}" for key in ("memory_gb", "resident_gb", "disk_gb")]
        rows.append([shape.shape, f"{shape.parameters:,}", *seconds, *totals, *peaks])
    seconds_all = sum(stage.seconds for shape in found for stage in shape.stages)
    peak = max(stage.memory_gb for shape in found for stage in shape.stages)
    machine = found[0].machine if found else ""
    notes = list(NOTES)
    notes += sorted({f"{s.shape}, {e.stage}: {e.note}" for s in found for e in s.stages if e.note})
    also = [f"{s.shape} stands for {', '.join(s.covers)}" for s in found if len(s.covers) > 1]
    return "\n".join(
        [
            f"# Drill of {study.study}",
            "",
            f"{len(found)} shapes, {seconds_all / 60:.1f} minutes, at most {peak:.1f} GB of memory; {machine}.",
            "Seconds of each stage; memory is what the process itself held, resident counts files that it had mapped.",
            "",
            pd.DataFrame(rows, columns=titles).to_markdown(index=False, disable_numparse=True),
            "",
            *[f"- {note}" for note in (*notes, *also)],
            "",
        ]
    )
