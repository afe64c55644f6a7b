"""What each result of a study depends on, and which results a study has.

A stage's *slice* is the canonical JSON of exactly the keys that its result depends on. It is the `params` of the
Snakemake rule and, hashed, the guard of every folder that can be resumed, so the two cannot disagree.
"""

from __future__ import annotations

from typing import Any

from mar.study.canonical import canonical
from mar.study.parts import Data, Sampling
from mar.study.products import CURVES, speed_settings, swept
from mar.study.study import Study


def _images(study: Study) -> Data:
    """The data without its path and the totals to check: `prepare` hashes what it finds, wherever it lies."""
    return study.data.model_copy(update={"path": None, "expect": None})


def data_key(study: Study) -> str:
    """What the list of images depends on."""
    return canonical(_images(study))


def tokenizer_key(study: Study, tokenizer: str) -> str:
    """What a trained tokenizer and the tokens made with it depend on."""
    tok = study.tokenizers[tokenizer]
    named = {"weights": tok.weights or tokenizer} if tok.pretrained else {}
    return canonical({"data": _images(study), "tokenizer": tok, "seed": study.seed, **named})


def classifier_key(study: Study) -> str:
    """What the feature extractor depends on."""
    return canonical({"data": _images(study), "classifier": study.classifier, "seed": study.seed})


def features_key(study: Study, extractor: str) -> str:
    """What features depend on, beside the images: the network, and whether it also says the nearest training image.

    Weights that are fetched are told by their checksum.
    """
    judge = classifier_key(study) if extractor == "classifier" else extractor
    return canonical({"extractor": judge, "nearest": extractor == study.metrics.extractors[0]})


def real_side(study: Study, extractor: str) -> str:
    """The set that an extractor's numbers compare with: the train split, or what Inception has instead."""
    return "reference" if study.metrics.reference and extractor == "inception" else "train"


def reference_key(study: Study) -> str:
    """What the real-versus-real floor depends on, beside the classifier: as many images as a sample set has."""
    return canonical({"samples": study.metrics.samples, "judge": metrics_key(study)})


def train_key(study: Study, variant: str, seed: int) -> str:
    """What the weights of a variant depend on, beside its tokens; of an imported one, the name of the import."""
    v = study.variants[variant]
    if v.pretrained:
        architecture = {"order": v.order, "backbone": study.backbones[v.backbone], "head": study.heads[v.head]}
        return canonical(architecture | {"weights": v.weights or variant})
    return canonical(
        {
            "order": v.order,
            "backbone": study.backbones[v.backbone],
            "head": study.heads[v.head],
            # checkpointing of activations gives the same bits
            "recipe": study.recipes[v.recipe].model_copy(update={"gradient_checkpointing": False}),
            "seed": [study.seed, seed],
        }
    )


def sample_key(study: Study, variant: str, setting: str, used: Sampling | None = None) -> str:
    """What a sample set depends on, beside its checkpoint and tokenizer; `used` is what a sweep made of the setting."""
    metrics = study.metrics
    return canonical(
        {
            "order": study.variants[variant].order,
            "sampling": used or study.sampling[setting],
            "samples": metrics.samples,
            "chunk": metrics.chunk,
            "seed": study.seed,
        }
    )


def point_key(study: Study, variant: str, setting: str) -> str:
    """What any point of a sweep depends on, beside its scale and temperature, checkpoint, tokenizer and real images."""
    sampling, metrics = study.sampling[setting], study.metrics
    main = metrics.extractors[0]
    return canonical(
        {
            "order": study.variants[variant].order,
            # the sample sets of other sampling seeds are drawn at the same point
            "sampling": sampling.model_copy(update={"sweep": None, "seed": 0}),
            "samples": sampling.sweep.samples if sampling.sweep else 0,
            "chunk": metrics.chunk,
            "seed": study.seed,
            "extractor": main,
            "real": real_side(study, main),
        }
    )


def sweep_key(study: Study, variant: str, setting: str) -> str:
    """What the result of a sweep depends on: its points, and which they are. Not on what is drawn at the best one."""
    return canonical({"point": point_key(study, variant, setting), "sweep": study.sampling[setting].sweep})


def metrics_key(study: Study) -> str:
    """What a metric file depends on, beside samples and features."""
    m = study.metrics
    judge = {"neighbours": m.neighbours, "bootstrap": m.bootstrap, "seed": study.seed, "extractors": m.extractors}
    return canonical(judge | ({"reference": m.reference} if m.reference else {}))


def speed_key(study: Study, variant: str) -> str:
    """What the timing of a variant depends on."""
    settings = speed_settings(study, variant)
    return canonical({"speed": study.speed, "sampling": {s: study.sampling[s] for s in settings}})


def table_key(study: Study, table: str) -> str:
    """What a table shows, beside the metric files and the grids of sweeps."""
    if table in study.tables:
        return canonical({"table": study.tables[table], "seeds": _seeds(study)})
    modes = {"fast": study.fast} if table == "fast" else {}
    return canonical({"table": table, "seeds": _seeds(study), "variants": _sampled(study), **modes})


def figure_key(study: Study, figure: str) -> str:
    """What a figure shows, beside the files that it reads."""
    shown: dict[str, Any] = {"title": study.title, "seeds": _seeds(study)}
    if figure in CURVES:
        shown["curves"] = getattr(study, figure)
    if figure == "sweep":
        shown["sweeps"] = [[variant, setting, sweep_key(study, variant, setting)] for variant, setting in swept(study)]
    if figure == "samples":
        shown["sampling"] = {name: variant.sampling for name, variant in study.variants.items()}
    return canonical(shown)


def claims_key(study: Study) -> str:
    """Where the claims find their numbers, beside the metric and speed files."""
    curves: dict[str, Any] = {"curves": study.tradeoff}
    curves |= {k: getattr(study, k) for k in ("diffusion_steps", "temperature") if getattr(study, k)}
    return canonical({"tables": study.tables, **curves, "seeds": _seeds(study)})


def report_key(study: Study) -> str:
    """The report and the run browser show the whole study, but not what it may cost."""
    return canonical(study.model_copy(update={"budget": None}))


def _sampled(study: Study) -> dict[str, dict[str, Any]]:
    """The sampling settings of each trained variant."""
    trained = ((name, variant) for name, variant in study.variants.items() if variant.seeds)
    return {name: {s: study.sampling[s] for s in variant.sampling} for name, variant in trained}


def _seeds(study: Study) -> dict[str, tuple[int, ...]]:
    return {name: variant.seeds for name, variant in study.variants.items()}
