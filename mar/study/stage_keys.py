"""What the result of each stage depends on, as text.

The *key* of a stage is the canonical JSON of exactly those values of a study on which its result depends. It is the
parameter `recipe` of the Snakemake rule, which reruns a stage whose key has changed, and it stands in the recipe.json
that guards every folder that can be resumed. So the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mar.study.canonical import canonical
from mar.study.kinds import told
from mar.study.limits import OWN_NETWORKS, REBUILT
from mar.study.parts import Data, Sampling
from mar.study.products import CURVES, learning_setting, pictured_setting, rejections, speed_settings, swept
from mar.study.real_sets import real_side, scored, validation
from mar.study.sections import Memory
from mar.study.study import Study


def _images(study: Study) -> Data:
    """The section `data` without its path and `expect`: `prepare` hashes the images themselves, wherever they are."""
    places: dict[str, Any] = {key: None for key in ("path", "expect") if key in type(study.data).model_fields}
    return study.data.model_copy(update=places)


def data_key(study: Study) -> str:
    """What the list of images depends on."""
    return canonical(_images(study))


def tokenizer_key(study: Study, tokenizer: str) -> str:
    """What a trained tokenizer and the tokens made with it depend on; `tokenizer` is its name on disk."""
    made = study.instances[tokenizer]
    tok = made.config.model_copy(update={"per_seed": False})  # the seed says what it changes
    named: dict[str, Any] = {"weights": tok.weights or tokenizer} if tok.pretrained else {}
    if tok.perceptual == "own":
        named["networks"] = list(OWN_NETWORKS)
    return canonical({"data": _images(study), "tokenizer": tok, "seed": made.seed, **named})


def gate_key(study: Study) -> str:
    """What the gate depends on beside the rFID of the tokenizers."""
    return canonical({"gate": study.gate})


def classifier_key(study: Study) -> str:
    """What the feature extractor depends on."""
    return canonical({"data": _images(study), "classifier": study.classifier, "seed": study.seed})


def rejecter_key(study: Study) -> str:
    """What the network that accepts or rejects drawn images depends on; published weights on their name."""
    rejecter = study.rejecter
    if rejecter is None or rejecter.weights:
        return canonical({"rejecter": rejecter})
    return canonical({"data": _images(study), "rejecter": rejecter, "seed": study.seed, "split": validation(study)})


def _rejecting(study: Study, settings: Iterable[Sampling]) -> dict[str, Any]:
    """What settings that reject depend on, beside the weights of the rejecter; nothing of others."""
    return {"rejecter": rejecter_key(study)} if any(one.reject for one in settings) else {}


def features_key(study: Study, extractor: str) -> str:
    """What features depend on beside the images: the network, and whether the nearest training image is searched too.

    The weights of published networks are identified by their checksum, which is not part of the key.
    """
    network = classifier_key(study) if extractor == "classifier" else extractor
    values = {"extractor": network, "nearest": extractor == study.metrics.extractors[0]}
    if values["nearest"] and study.metrics.real != "train":
        values["searched"] = scored(study)
    return canonical(values)


def reference_key(study: Study) -> str:
    """What the floor depends on beside the classifier: it takes as many real images as a sample set has."""
    return canonical({"samples": study.metrics.samples, "judge": metrics_key(study)})


def train_key(study: Study, variant: str, seed: int) -> str:
    """What the weights of a variant depend on beside its tokens; if imported, on the name of the import."""
    v = study.variants[variant]
    if v.pretrained:
        architecture = {"order": v.order, "backbone": study.backbones[v.backbone], "head": study.heads[v.head]}
        return canonical(architecture | {"weights": v.weights or variant})
    return canonical(
        {
            "order": v.order,
            "backbone": study.backbones[v.backbone],
            "head": study.heads[v.head],
            # Recomputing activations instead of keeping them gives the same bits.
            "recipe": study.recipes[v.recipe].model_copy(update={"gradient_checkpointing": False}),
            "seed": [study.seed, seed],
        }
    )


def sample_key(study: Study, variant: str, setting: str, used: Sampling | None = None) -> str:
    """What a sample set depends on beside checkpoint and tokenizer; `used` is the setting as a sweep completed it."""
    metrics = study.metrics
    return canonical(
        {
            "order": study.variants[variant].order,
            "sampling": used or study.sampling[setting],
            "samples": metrics.samples,
            "chunk": metrics.chunk,
            "seed": study.seed,
            **_rejecting(study, [study.sampling[setting]]),
        }
    )


def point_key(study: Study, variant: str, setting: str) -> str:
    """What all points of a sweep depend on beside scale and temperature, checkpoint, tokenizer and real images."""
    sampling, metrics = study.sampling[setting], study.metrics
    main = metrics.extractors[0]
    return canonical(
        {
            "order": study.variants[variant].order,
            # Settings that differ in the sampling seed alone share the points of one sweep.
            "sampling": sampling.model_copy(update={"sweep": None, "seed": 0}),
            "samples": sampling.sweep.samples if sampling.sweep else 0,
            "chunk": metrics.chunk,
            "seed": study.seed,
            "extractor": main,
            "real": real_side(study, main),
        }
    )


def sweep_key(study: Study, variant: str, setting: str) -> str:
    """What the result of a sweep depends on: what its points depend on, and the grid of the points."""
    return canonical({"point": point_key(study, variant, setting), "sweep": study.sampling[setting].sweep})


def learning_key(study: Study, variant: str) -> str:
    """What the curves of learning of a variant depend on beside the kept averages, tokens and real images."""
    values: dict[str, Any] = {"order": study.variants[variant].order, "seed": study.seed}
    values["bootstrap"] = study.metrics.bootstrap
    if study.learning and (setting := learning_setting(study, variant)):
        values |= {"sampling": study.sampling[setting], "samples": study.learning.samples}
        values |= {"chunk": study.metrics.chunk, "extractor": study.metrics.extractors[0]}
    if pictured := pictured_setting(study, variant):
        values["pictures"] = study.sampling[pictured]
    return canonical(values | ({"real": study.metrics.real} if study.metrics.real != "train" else {}))


def tasks_key(study: Study, variant: str) -> str:
    """What the zero-shot tasks of a model depend on beside its weights, tokenizer, judge and the images."""
    values: dict[str, Any] = {"edits": edits_key(study, variant), "bootstrap": study.metrics.bootstrap}
    return canonical(values | {"extractor": study.metrics.extractors[0], "real": study.metrics.real})


def edits_key(study: Study, variant: str) -> str:
    """What the pictures of the zero-shot tasks depend on."""
    tasks = study.tasks
    assert tasks is not None  # whoever asks has tasks
    values: dict[str, Any] = {"samples": tasks.samples, "box": tasks.box, "order": study.variants[variant].order}
    values |= {"sampling": study.sampling[tasks.models[variant]], "chunk": study.metrics.chunk, "seed": study.seed}
    return canonical(values | {"images": scored(study)})


def metrics_key(study: Study) -> str:
    """What a metric file depends on beside samples and features."""
    return canonical(_judged(study))


def rfid_key(study: Study) -> str:
    """What the rFID of a tokenizer depends on beside its weights and the features: also on how many images it takes."""
    rebuilt = study.metrics.rebuilt
    return canonical(_judged(study) | ({} if rebuilt == REBUILT else {"rebuilt": rebuilt}))


def _judged(study: Study) -> dict[str, Any]:
    m = study.metrics
    values: dict[str, Any] = {"neighbours": m.neighbours, "bootstrap": m.bootstrap, "seed": study.seed}
    values |= {"extractors": m.extractors} | ({"reference": m.reference} if m.reference else {})
    return values | ({"real": m.real} if m.real != "train" else {})


def speed_key(study: Study, variant: str) -> str:
    """What the timing of a variant depends on."""
    settings = {s: study.sampling[s] for s in speed_settings(study, variant)}
    return canonical({"speed": study.speed, "sampling": settings, **_rejecting(study, settings.values())})


def table_key(study: Study, table: str) -> str:
    """What a table depends on beside the metric files and the results of sweeps."""
    if table in study.tables:
        names = [name for row in study.tables[table].rows if not row.variant for name in row.sets]
        given = {"given": {name: study.given[name] for name in names}} if names else {}
        return canonical({"table": study.tables[table], "seeds": _seeds(study), **given, **_told(study)})
    modes: dict[str, Any] = {"fast": study.fast} if table == "fast" else {}
    modes |= {"given": study.given} if table == "metrics" and study.given else {}
    modes |= {"laws": study.laws} if table == "laws" else {}
    modes |= {"tasks": study.tasks} if table == "tasks" else {}
    return canonical({"table": table, "seeds": _seeds(study), "variants": _sampled(study), **modes, **_told(study)})


def figure_key(study: Study, figure: str) -> str:
    """What a figure depends on beside the files that it reads."""
    shown: dict[str, Any] = {"title": study.title, "seeds": _seeds(study), **_told(study)}
    if figure in CURVES:
        shown["curves"] = getattr(study, figure)
    if figure == "sweep":
        shown["sweeps"] = [[variant, setting, sweep_key(study, variant, setting)] for variant, setting in swept(study)]
    if figure in ("heldout_loss", "fid_images", "fid_operations"):
        shown["learning"] = study.learning
    if figure in ("laws", "laws_samples"):
        shown["laws"] = study.laws
    if figure == "rejection":
        shown["rejection"] = rejections(study)
    if figure == "tasks":
        shown["tasks"] = study.tasks
    if figure == "samples":
        shown["sampling"] = {name: variant.sampling for name, variant in study.variants.items()}
    return canonical(shown)


def claims_key(study: Study) -> str:
    """What the verdicts depend on beside metric and speed files: the tables and curves that claims look up."""
    curves: dict[str, Any] = {"curves": study.tradeoff}
    curves |= {k: getattr(study, k) for k in ("diffusion_steps", "evaluations", "temperature") if getattr(study, k)}
    curves |= {"laws": study.laws} if study.laws else {}
    curves |= {"tasks": study.tasks} if study.tasks else {}
    own = {"claims": study.claims} if study.claims else {}
    return canonical({"tables": study.tables, **curves, **own, **_told(study), "seeds": _seeds(study)})


def report_key(study: Study) -> str:
    """What the report and the runs in MLflow depend on: the whole study but budget, memory and `shipped`."""
    whole = study.model_copy(update={"budget": None, "memory": Memory(), "shipped": True})
    return canonical({"study": whole, **_told(study)} if _told(study) else whole)


def _told(study: Study) -> dict[str, Any]:
    """What own kinds say of themselves, as their labels: what is shown depends on it, not what is computed."""
    return {"told": said} if (said := told(study)) else {}


def _sampled(study: Study) -> dict[str, dict[str, Any]]:
    """The sampling settings of each trained variant, by the name of the variant."""
    trained = ((name, variant) for name, variant in study.variants.items() if variant.seeds)
    return {name: {s: study.sampling[s] for s in variant.sampling} for name, variant in trained}


def _seeds(study: Study) -> dict[str, tuple[int, ...]]:
    return {name: variant.seeds for name, variant in study.variants.items()}
