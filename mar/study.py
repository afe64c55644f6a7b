"""Reading a study: `extends`, `matrix`, validation with messages a person can act on, and the slice of each stage.

A stage's *slice* is the canonical JSON of exactly the keys that its result depends on. It is the `params` of the
Snakemake rule and, hashed, the guard of every folder that can be resumed, so the two cannot disagree.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mar.config import Data, Sampling, Study
from mar.files import write_if_changed

FACTORS = ("tokenizer", "order", "backbone", "head")
CURVES = ("tradeoff", "diffusion_steps", "temperature")  # figures made of curves that a study names


class StudyError(ValueError):
    """A study file that cannot be used: names the file, the key, what was found and what is accepted."""


def load(path: str | Path) -> Study:
    """Read a study file (YAML, or the resolved study.json).

    Raises:
        StudyError: the file is missing, is no YAML mapping, or says something that is not accepted.
    """
    path = Path(path)
    return resolve(read(path), path)


def resolve(values: dict[str, Any], source: str | Path) -> Study:
    """Turn the mapping of a study file into a checked study; `extends` is relative to the file's folder."""
    source = Path(source)
    values = _expand_matrix(_extend(values, source), source)
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise StudyError("\n".join(_describe(source, e) for e in error.errors())) from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key said twice in one mapping is an error: YAML itself keeps the last in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        said: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and str(key.value) in said:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            said.add(str(key.value))
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    """The mapping of a study file as it stands.

    Raises:
        StudyError: it cannot be read, is no YAML mapping, or says a key twice.
    """
    try:
        values = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise StudyError(f"{path}: found {type(values).__name__}; accepted: a mapping with the keys of a study")
    return values


def _extend(values: dict[str, Any], source: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    values = dict(values)
    if "extends" not in values:
        return values
    name = values.pop("extends")
    if not isinstance(name, str):
        raise StudyError(f"{source}: extends: found {name!r}; accepted: the path of one study file")
    base = Path(os.path.normpath(source.parent / name))
    if base in seen:
        raise StudyError(f"{source}: extends: {base.name} extends itself through {[p.name for p in seen]}")
    if not base.is_file():
        raise StudyError(f"{source}: extends: found {name!r}, and there is no file {base}; accepted: a study file")
    return _merge(_extend(read(base), base, (*seen, base)), values)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, everything else is replaced, null takes a key away."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _expand_matrix(values: dict[str, Any], source: Path) -> dict[str, Any]:
    """Variants from a cross product: lists under `matrix` are crossed, `exclude` drops partial matches."""
    matrix = values.get("matrix")
    if matrix is None:
        return values
    if not isinstance(matrix, dict) or not isinstance(matrix.get("name"), str):
        raise StudyError(f"{source}: matrix: needs name (a template as '{{backbone}}-{{head}}') and lists of factors")
    variants = values.get("variants", {})
    if not isinstance(variants, dict):
        raise StudyError(f"{source}: variants: found {type(variants).__name__}; accepted: a mapping of variants")
    name, exclude = matrix["name"], matrix.get("exclude", [])
    rest = {k: v for k, v in matrix.items() if k not in ("name", "exclude")}
    crossed = {k: v for k, v in rest.items() if k in FACTORS and isinstance(v, list)}
    shared = {k: v for k, v in rest.items() if k not in crossed}
    if not isinstance(exclude, list):
        raise StudyError(f"{source}: matrix.exclude: found {exclude!r}; accepted: a list of mappings factor: value")
    for rule in exclude:
        if not isinstance(rule, dict) or not rule or not set(rule) <= set(crossed):
            accepted = f"a mapping of crossed factors ({', '.join(crossed)})"
            raise StudyError(f"{source}: matrix.exclude: found {rule!r}; accepted: {accepted}")
    made: dict[str, Any] = {}
    for combination in itertools.product(*crossed.values()):
        factors = dict(zip(crossed, combination, strict=True))
        if any(all(factors[k] == v for k, v in rule.items()) for rule in exclude):
            continue
        try:
            variant = name.format(**factors)
        except (KeyError, IndexError, AttributeError, ValueError) as error:
            accepted = ", ".join(f"{{{factor}}}" for factor in crossed)
            raise StudyError(f"{source}: matrix.name: {error} in {name!r}; accepted: {accepted}") from None
        if variant in made:
            raise StudyError(f"{source}: matrix.name: {name!r} calls two combinations {variant!r}; name every factor")
        made[variant] = {**shared, **factors}
    # an explicit variant of the same name is laid over the made one, null takes it away
    return {**{k: v for k, v in values.items() if k != "matrix"}, "variants": _merge(made, variants)}


def _describe(source: Path, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] in ("value_error", "missing") else f"; found {error['input']!r}"
    return f"{source}: {key + ': ' if key else ''}{message}{found}"


def canonical(value: Any) -> str:
    """Sorted JSON without default values: equal text means the same question."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _images(study: Study) -> Data:
    """The data without its path and the totals to check: `prepare` hashes what it finds, wherever it lies."""
    return study.data.model_copy(update={"path": None, "expect": None})


def data_slice(study: Study) -> str:
    """What the list of images depends on."""
    return canonical(_images(study))


def tokenizer_slice(study: Study, tokenizer: str) -> str:
    """What a trained tokenizer and the tokens made with it depend on."""
    tok = study.tokenizers[tokenizer]
    named = {"weights": tok.weights or tokenizer} if tok.pretrained else {}
    return canonical({"data": _images(study), "tokenizer": tok, "seed": study.seed, **named})


def classifier_slice(study: Study) -> str:
    """What the feature extractor depends on."""
    return canonical({"data": _images(study), "classifier": study.classifier, "seed": study.seed})


def features_slice(study: Study, extractor: str) -> str:
    """What features depend on, beside the images: the network, and whether it also says the nearest training image.

    Weights that are fetched are told by their checksum.
    """
    judge = classifier_slice(study) if extractor == "classifier" else extractor
    return canonical({"extractor": judge, "nearest": extractor == study.metrics.extractors[0]})


def real_side(study: Study, extractor: str) -> str:
    """The set that an extractor's numbers compare with: the train split, or what Inception has instead."""
    return "reference" if study.metrics.reference and extractor == "inception" else "train"


def reference_slice(study: Study) -> str:
    """What the real-versus-real floor depends on, beside the classifier: as many images as a sample set has."""
    return canonical({"samples": study.metrics.samples, "judge": metrics_slice(study)})


def train_slice(study: Study, variant: str, seed: int) -> str:
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


def sample_slice(study: Study, variant: str, setting: str, used: Sampling | None = None) -> str:
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


def point_slice(study: Study, variant: str, setting: str) -> str:
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


def sweep_slice(study: Study, variant: str, setting: str) -> str:
    """What the result of a sweep depends on: its points, and which they are. Not on what is drawn at the best one."""
    return canonical({"point": point_slice(study, variant, setting), "sweep": study.sampling[setting].sweep})


def swept(study: Study) -> list[tuple[str, str]]:
    """Every trained variant with each of its settings that a sweep completes."""
    trained = ((name, variant) for name, variant in study.variants.items() if variant.seeds)
    return [(name, s) for name, variant in trained for s in variant.sampling if study.sampling[s].sweep]


def metrics_slice(study: Study) -> str:
    """What a metric file depends on, beside samples and features."""
    m = study.metrics
    judge = {"neighbours": m.neighbours, "bootstrap": m.bootstrap, "seed": study.seed, "extractors": m.extractors}
    return canonical(judge | ({"reference": m.reference} if m.reference else {}))


def speed_settings(study: Study, variant: str) -> list[str]:
    """Sampling settings of a variant that are timed: those of the trade-off figure, and of timed tables the guided."""
    found = [s for curve in study.tradeoff if curve.variant == variant for s in curve.sampling]
    rows = [row for table in study.tables.values() if table.timed for row in table.rows if row.variant == variant]
    return list(dict.fromkeys(found + [setting for row in rows if (setting := row.guided or row.without)]))


def replicas(study: Study, variant: str) -> list[list[str]]:
    """Sampling settings of a variant in groups that differ in the sampling seed alone, in the study's order."""
    groups: dict[str, dict[int, str]] = {}
    for name in study.variants[variant].sampling:
        setting = study.sampling[name]
        groups.setdefault(canonical(setting.model_copy(update={"seed": 0})), {}).setdefault(setting.seed, name)
    return [list(group.values()) for group in groups.values()]


def table_names(study: Study) -> list[str]:
    """Tables that a study has: its own, every number of its sample sets, and the variance where seeds show any."""
    trained = [name for name, variant in study.variants.items() if variant.seeds]
    seeds = any(len(study.variants[name].seeds) > 1 for name in trained)
    several = seeds or any(len(group) > 1 for name in trained for group in replicas(study, name))
    return [*study.tables, "metrics", *(["variance"] if several else [])]


def figure_names(study: Study) -> list[str]:
    """Figures that a study has: those of curves where it names some, its sweeps, samples and losses always."""
    curves = [name for name in CURVES if getattr(study, name)]
    return [*curves, *(["sweep"] if swept(study) else []), "samples", "losses"]


def speed_slice(study: Study, variant: str) -> str:
    """What the timing of a variant depends on."""
    settings = speed_settings(study, variant)
    return canonical({"speed": study.speed, "sampling": {s: study.sampling[s] for s in settings}})


def json_schema() -> str:
    """JSON schema of a study *file*, for editors: the text of `workflow/schemas/study.schema.json`.

    A file may be a part of a study (`extends`), so no key is required, and each may be null, which takes the
    key of the base away. Completeness, names and combinations are judged where the whole study is read.
    """
    schema = Study.model_json_schema()
    for name, section in {"Study": schema, **schema["$defs"]}.items():
        if name not in ("TableRow", "Curve"):  # items of lists, which are replaced and never merged
            section.pop("required", None)
            section["properties"] = {key: _or_null(rule) for key, rule in section["properties"].items()}
    variant = {key: rule for key, rule in schema["$defs"]["Variant"]["properties"].items() if key not in FACTORS}
    name_or_list = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    matrix = {
        "name": {"type": "string", "description": "name of a variant, as {tokenizer}-{head}"},
        **{key: {**name_or_list, "description": "a list is crossed, one name is shared"} for key in FACTORS},
        "exclude": {
            "type": "array",
            "items": {"type": "object", "properties": {key: {"type": "string"} for key in FACTORS}, "minProperties": 1},
            "description": "combinations to leave out: those that agree with all factors of an entry",
        },
        **variant,
    }
    schema["properties"] |= {
        "extends": {"type": "string", "description": "study file that this one changes, relative to this file"},
        "matrix": _or_null(
            {
                "type": "object",
                "description": "variants from a cross product of factors; entries of `variants` change or drop them",
                "properties": matrix,
                "additionalProperties": False,
            }
        ),
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Study file"}
    return json.dumps({**head, **{k: v for k, v in schema.items() if k != "title"}}, indent=1) + "\n"


def _or_null(rule: dict[str, Any]) -> dict[str, Any]:
    """The same rule, or null; of a mapping, also for each entry."""
    if {"type": "null"} in rule.get("anyOf", []):
        return rule
    told: dict[str, Any] = {key: rule[key] for key in ("description", "default") if key in rule}
    rule = {key: value for key, value in rule.items() if key not in (*told, "title")}
    if "patternProperties" in rule:
        rule["patternProperties"] = {k: _or_null(v) for k, v in rule["patternProperties"].items()}
    return {**told, "anyOf": [rule, {"type": "null"}]}


def table_slice(study: Study, table: str) -> str:
    """What a table shows, beside the metric files and the grids of sweeps."""
    if table in study.tables:
        return canonical({"table": study.tables[table], "seeds": _seeds(study)})
    return canonical({"table": table, "seeds": _seeds(study), "variants": _sampled(study)})


def figure_slice(study: Study, figure: str) -> str:
    """What a figure shows, beside the files that it reads."""
    shown: dict[str, Any] = {"title": study.title, "seeds": _seeds(study)}
    if figure in CURVES:
        shown["curves"] = getattr(study, figure)
    if figure == "sweep":
        shown["sweeps"] = [
            [variant, setting, sweep_slice(study, variant, setting)] for variant, setting in swept(study)
        ]
    if figure == "samples":
        shown["sampling"] = {name: variant.sampling for name, variant in study.variants.items()}
    return canonical(shown)


def claims_slice(study: Study) -> str:
    """Where the claims find their numbers, beside the metric and speed files."""
    curves: dict[str, Any] = {"curves": study.tradeoff}
    curves |= {k: getattr(study, k) for k in ("diffusion_steps", "temperature") if getattr(study, k)}
    return canonical({"tables": study.tables, **curves, "seeds": _seeds(study)})


def report_slice(study: Study) -> str:
    """The report and the run browser show the whole study, but not what it may cost."""
    return canonical(study.model_copy(update={"budget": None}))


def _sampled(study: Study) -> dict[str, dict[str, Any]]:
    """The sampling settings of each trained variant."""
    trained = ((name, variant) for name, variant in study.variants.items() if variant.seeds)
    return {name: {s: study.sampling[s] for s in variant.sampling} for name, variant in trained}


def _seeds(study: Study) -> dict[str, tuple[int, ...]]:
    return {name: variant.seeds for name, variant in study.variants.items()}


def twin(study: Study, root: Path, folder: Path) -> Path | None:
    """The folder of the study to `reuse` that answers to `folder` under this study's root."""
    return root.parent / study.reuse / folder.relative_to(root) if study.reuse else None


def write_resolved(study: Study, root: str | Path = "results") -> Path:
    """Write results/<study>/study.json when it differs: what every command of `mar` reads."""
    path = Path(root) / study.study / "study.json"
    write_if_changed(path, study.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    return path
