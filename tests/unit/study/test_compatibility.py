"""Everything that a study may not say is refused when it is read, by file, key, value and what is accepted."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mar.study import reading as studies
from mar.study.products import table_names
from mar.study.study import Study


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings and lists."""
    *folders, last = path.split(".")
    node: Any = values
    for folder in folders:
        node = node[int(folder)] if isinstance(node, list) else node[folder]
    node[last] = value


def drop(values: dict[str, Any], path: str) -> None:
    *folders, last = path.split(".")
    node = values
    for folder in folders:
        node = node[folder]
    del node[last]


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(studies.StudyError) as caught:
        studies.resolve(values, "config/tiny.yaml")
    return str(caught.value)


# makes a VAR of the variant `ar`
VAR: dict[str, Any] = {
    "tokenizers.vq.kind": "msvq",
    "tokenizers.vq.scales": [1, 2, 4],
    "backbones.causal.kind": "scales",
    "backbones.causal.gate_init": 0.1,
    "variants.ar.order": "scales",
    "sampling.ar.steps": 3,
}
# what is changed in the complete study -> all of these must stand in one line of the message
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key of the study": (
        {"tokenisers": {}},
        ["unknown key 'tokenisers'", "did you mean 'tokenizers'?", "accepted: ", "variants"],
    ),
    "unknown key of a section": (
        {"backbones.masked.widht": 4},
        [
            "backbones.masked: ",
            "unknown key 'widht'",
            "did you mean 'width'?",
            "accepted: buffer, depth, dropout, heads, kind",
        ],
    ),
    "unknown key like none": ({"speed.zzz": 1}, ["speed: unknown key 'zzz'; accepted: batch, batches"]),
    "wrong type": (
        {"recipes.short.batch": "many"},
        ["recipes.short.batch: ", "accepted: a whole number", "found 'many'"],
    ),
    "a fraction of an image": (
        {"recipes.short.batch": 1.5},
        ["recipes.short.batch: ", "accepted: a whole number", "found 1.5"],
    ),
    "true is no number": ({"sampling.mar.steps": True}, ["sampling.mar.steps: found true", "accepted: "]),
    "infinite": ({"recipes.short.clip": float("inf")}, ["recipes.short.clip: ", "finite number", "found inf"]),
    "not a number": ({"sampling.mar.temperature": float("nan")}, ["sampling.mar.temperature: ", "found nan"]),
    "not positive": ({"backbones.masked.depth": 0}, ["backbones.masked.depth: found 0; accepted: above 0"]),
    "not a fraction": (
        {"backbones.masked.dropout": 1.5},
        ["backbones.masked.dropout: found 1.5; accepted: below 1.0"],
    ),
    "nothing held out": ({"data.holdout": 0.0}, ["data.holdout: found 0.0; accepted: above 0.0"]),
    "guidance below one": (
        {"sampling.mar.guidance": 0.5},
        ["sampling.mar.guidance: found 0.5; accepted: at least 1.0"],
    ),
    "unknown choice": (
        {"heads.crossent.kind": "l1"},
        ["heads.crossent.kind: ", "'categorical', 'diffusion', 'flow', 'mse', 'mixture' or 'joint'", "found 'l1'"],
    ),
    "unknown order": (
        {"variants.mar.order": "spiral"},
        ["variants.mar.order: ", "'raster', 'random', 'scales' or 'joint'", "found 'spiral'"],
    ),
    "a name that is no path": ({"study": "a/b"}, ["study: found 'a/b'; accepted: letters, digits and _ . + -"]),
    "a hidden name": (
        {"study": ".."},
        ["study: found '..'; accepted: letters, digits and _ . + -, a letter or digit first"],
    ),
    "a section that is a list": ({"speed": [1]}, ["speed: found [1]; accepted: a mapping of keys to values"]),
    # data
    "a path for digits": (
        {"data.path": "images"},
        ["data: path belongs to kind fashion-mnist, idx, imagefolder: kind digits"],
    ),
    "no path for a folder": (
        {"data.kind": "imagefolder"},
        ["data: path belongs to kind imagefolder", "needed there", "path None"],
    ),
    "a mirrored 2": ({"data.flip": True}, ["data: flip: true with kind digits", "accepted: false"]),
    # tokenizers
    "stride": ({"tokenizers.kl.stride": 6}, ["tokenizers.kl: stride 6: a power of two is accepted"]),
    "levels": (
        {"tokenizers.kl.channels": [8, 16]},
        ["tokenizers.kl: channels [8, 16]: kind kl with stride 8 has 4 levels"],
    ),
    "codebook of kl": (
        {"tokenizers.kl.codebook_size": 8},
        ["tokenizers.kl: codebook_size belongs to kind vq", "kind kl"],
    ),
    "no codebook of vq": (
        {"tokenizers.vq.codebook_size": None},
        ["tokenizers.vq.codebook_size: found null; accepted: a whole number"],
    ),
    "scales of vq": ({"tokenizers.vq.scales": [1, 4]}, ["tokenizers.vq: scales belongs to kind msvq", "kind vq"]),
    "no scales": (
        {"tokenizers.vq.kind": "msvq"},
        ["tokenizers.vq.scales: is missing"],
    ),
    "scales that shrink": (
        {"tokenizers.vq.kind": "msvq", "tokenizers.vq.scales": [2, 1, 4]},
        ["tokenizers.vq: scales [2, 1, 4]: accepted: ascending, each once"],
    ),
    "scales that end too soon": (
        {"tokenizers.vq.kind": "msvq", "tokenizers.vq.scales": [1, 2]},
        ["tokenizers.vq: scales [1, 2] end at 2", "image_size 32 with stride 8 has 4 x 4 latents", "accepted: 4"],
    ),
    "KL weight of vq": ({"tokenizers.vq.kl_weight": 1e-6}, ["tokenizers.vq: kl_weight belongs to kind kl", "kind vq"]),
    "no KL weight of kl": (
        {"tokenizers.kl.kl_weight": None},
        ["tokenizers.kl: kl_weight belongs to kind kl and is needed there"],
    ),
    "grouped ids": ({"tokenizers.vq.group": 2}, ["tokenizers.vq: group 2 with kind vq", "accepted: 1"]),
    "a grid that the stride does not divide": (
        {"data.image_size": 36},
        ["tokenizers.kl: stride 8 x group 1 = 8 does not divide data.image_size 36"],
    ),
    "a grid that the group does not divide": (
        {"tokenizers.kl.group": 3},
        ["tokenizers.kl: stride 8 x group 3 = 24 does not divide"],
    ),
    # backbones, heads, recipes, metrics
    "attention heads": ({"backbones.masked.heads": 5}, ["backbones.masked: width 32 is not a multiple of heads 5"]),
    "width of a categorical head": (
        {"heads.crossent.width": 8},
        ["heads.crossent: width belongs to kind diffusion", "kind categorical"],
    ),
    "no depth of a diffusion head": (
        {"heads.diffloss.depth": None},
        ["heads.diffloss.depth: found null; accepted: a whole number"],
    ),
    "no noise draws": (
        {"heads.diffloss.noise_draws": None},
        ["heads.diffloss.noise_draws: found null; accepted: a whole number"],
    ),
    "images and batch": ({"recipes.short.images": 650}, ["recipes.short: images 650 is not a multiple of batch 64"]),
    "checkpoints and batch": (
        {"recipes.short.checkpoint_images": 100},
        ["recipes.short: checkpoint_images 100 is not a multiple"],
    ),
    "log and batch": (
        {"recipes.short.log_images": 100},
        ["recipes.short: log_images 100 is not a multiple of batch 64"],
    ),
    "warm-up and batch": (
        {"recipes.short.warmup_images": 100},
        ["recipes.short: warmup_images 100 is not a multiple of batch 64"],
    ),
    "micro-batch": ({"recipes.short.micro_batch": 48}, ["recipes.short: batch 64 is not a multiple of micro_batch 48"]),
    "chunks": ({"metrics.chunk": 30}, ["metrics: samples 100 is not a multiple of chunk 30"]),
    # names
    "tokenizer": ({"variants.mar.tokenizer": "kl-16"}, ["variants.mar.tokenizer: found 'kl-16'; accepted: kl, vq"]),
    "backbone": ({"variants.mar.backbone": "dit"}, ["variants.mar.backbone: found 'dit'; accepted: causal, masked"]),
    "head": ({"variants.mar.head": "mse"}, ["variants.mar.head: found 'mse'; accepted: crossent, diffloss"]),
    "recipe": ({"variants.mar.recipe": "long"}, ["variants.mar.recipe: found 'long'; accepted: short"]),
    "sampling": ({"variants.mar.sampling": ["best"]}, ["variants.mar.sampling: found 'best'; accepted: ar, mar"]),
    "sampling twice": (
        {"variants.mar.sampling": ["mar", "mar"]},
        ["variants.mar: sampling ['mar', 'mar']: each entry once"],
    ),
    "seed twice": ({"variants.mar.seeds": [1, 1]}, ["variants.mar: seeds [1, 1]: each entry once"]),
    "variant of a table": (
        {"tables.table1.rows.0.variant": "x"},
        ["tables.table1.rows[0].variant: found 'x'; accepted: ar, mar"],
    ),
    "setting of a table": (
        {"tables.table1.rows.0.guided": "ar"},
        ["tables.table1.rows[0]: sampling of variant mar: found 'ar'; accepted: mar"],
    ),
    "variant of a curve": ({"tradeoff.0.variant": "x"}, ["tradeoff[0].variant: found 'x'; accepted: ar, mar"]),
    "setting of a curve": (
        {"tradeoff.0.sampling": ["ar"]},
        ["tradeoff[0]: sampling of variant mar: found 'ar'; accepted: mar"],
    ),
    # combinations
    "cross-entropy on continuous tokens": (
        {"variants.mar.head": "crossent"},
        ["variants.mar: head crossent (categorical) on tokenizer kl (kl)", "takes ids", "accepted: kind vq"],
    ),
    "Diffusion Loss on ids": (
        {"variants.ar.head": "diffloss"},
        [
            "variants.ar: head diffloss (diffusion) on tokenizer vq (vq)",
            "takes continuous tokens",
            "accepted: kl, pixels",
        ],
    ),
    "kv-cache with bidirectional attention": (
        {"sampling.mar.kv_cache": True},
        ["variants.mar: sampling.mar.kv_cache true with a masked backbone", "attends both ways; accepted: false"],
    ),
    "causal steps": (
        {"sampling.ar.steps": 8},
        ["variants.ar: sampling.ar.steps 8: a causal backbone takes one token a step; accepted: 16"],
    ),
    "more steps than tokens": (
        {"sampling.mar.steps": 17},
        ["variants.mar: sampling.mar.steps 17: 16 tokens; accepted: 1 to 16"],
    ),
    "diffusion steps of a categorical head": (
        {"sampling.ar.diffusion_steps": 4},
        ["sampling.ar.diffusion_steps 4 with a categorical head: belongs to diffusion, joint; accepted: none"],
    ),
    "clamp of a categorical head": (
        {"sampling.ar.clamp": 4.0},
        ["sampling.ar.clamp 4.0 with a categorical head: belongs to diffusion; accepted: none"],
    ),
    "no diffusion steps": (
        {"sampling.mar.diffusion_steps": None},
        ["variants.mar: sampling.mar.diffusion_steps is needed by head diffloss; published: 100"],
    ),
    "confidence of a head without probabilities": (
        {"sampling.mar.order": "confidence", "sampling.mar.confidence_noise": 1.0},
        ["variants.mar: sampling.mar.order confidence with a diffusion head", "accepted: none"],
    ),
    "confidence without its noise": (
        {"sampling.mar.order": "confidence"},
        ["sampling.mar: confidence_noise belongs to order confidence and is needed there"],
    ),
    # fast modes
    "a solver of another head": (
        {"sampling.ar.solver": "dpm"},
        ["sampling.ar.solver dpm with a categorical head: belongs to diffusion; accepted: none"],
    ),
    "a solver of a flow": (
        {"sampling.mar.solver": "heun"},
        ["sampling.mar.solver heun with a diffusion head: follows no diffusion; accepted: ancestral, ddim, dpm, or"],
    ),
    "an option of another solver": (
        {"sampling.mar.solver": {"kind": "dpm", "eta": 0.5}},
        ["sampling.mar.solver: eta belongs to kind ddim: kind dpm"],
    ),
    "a solver that there is not": (
        {"sampling.mar.solver": "dpn"},
        ["sampling.mar.solver: found 'dpn'; accepted: 'ancestral', 'ddim', 'dpm', 'euler' or 'heun'; or a class"],
    ),
    "noise of the steps twice": (
        {"sampling.mar.solver": {"kind": "ddim", "eta": 0.5}, "sampling.mar.eta": 0.5},
        ["sampling.mar: eta 0.5 with eta beside it; accepted: 0"],
    ),
    "noise of the steps of a solver without": (
        {"sampling.mar.solver": "dpm", "sampling.mar.eta": 0.5},
        ["sampling.mar: eta 0.5 with solver dpm: belongs to ddim; accepted: 0"],
    ),
    "noise of the steps of the published sampler": (
        {"sampling.mar.eta": 1.0},
        ["sampling.mar: eta 1.0 with solver ancestral: belongs to ddim; accepted: 0"],
    ),
    "kept tokens of a causal backbone": (
        {"sampling.ar.token_cache": 2},
        ["sampling.ar.token_cache 2 with a causal backbone: belongs to masked; accepted: none"],
    ),
    "the checkerboard of a causal backbone": (
        {"sampling.ar.order": "checkerboard", "variants.ar.order": "random"},
        ["sampling.ar.order checkerboard with a causal backbone: belongs to masked; accepted: none"],
    ),
    "the checkerboard in raster order": (
        {"sampling.mar.order": "checkerboard", "variants.mar.order": "raster"},
        ["sampling.mar.order checkerboard with order raster of the variant; accepted: none"],
    ),
    "a kept condition without guidance": (
        {"sampling.mar.condition_cache": 2},
        ["sampling.mar.condition_cache 2 without guidance: there is no null condition"],
    ),
    "a cache that keeps nothing": ({"sampling.mar.token_cache": 1}, ["sampling.mar.token_cache: ", "found 1"]),
    "a cache that is never anew": (
        {"sampling.mar.token_cache": 100},
        ["sampling.mar: token_cache 100, steps ", "accepted: 2 to "],
    ),
    "caches out of step": (
        {"sampling.mar.token_cache": 2, "sampling.mar.condition_cache": 3, "sampling.mar.guidance": 2.0},
        ["sampling.mar: condition_cache 3 with token_cache 2", "accepted: a multiple"],
    ),
    "only late steps": ({"sampling.mar.late_steps": 8}, ["sampling.mar: late_steps 8 of steps 8; accepted: fewer"]),
    "more steps than tokens in a half": (
        {"sampling.mar.steps": 16, "sampling.mar.late_steps": 2},
        ["sampling.mar.late_steps 2 of steps 16: each half of 16 tokens has 8; accepted: at most as many steps for"],
    ),
    "the default among the modes": (
        {"fast": {"variant": "mar", "default": "mar", "modes": ["mar"]}},
        ["fast.modes: mar is fast.default; accepted: other settings"],
    ),
    "a mode that is not drawn": (
        {"fast": {"variant": "mar", "default": "mar", "modes": ["ar"]}},
        ["fast: sampling of variant mar: found 'ar'; accepted: mar"],
    ),
    "guided channels of another head": (
        {"sampling.mar.guidance_channels": 3},
        ["variants.mar: sampling.mar.guidance_channels 3 with a diffusion head: belongs to joint; accepted: none"],
    ),
    "a sweep beside what it chooses": (
        {"sampling.mar.sweep": {"samples": 50}, "sampling.mar.guidance": 2.0},
        ["sampling.mar: guidance 2.0 with a sweep, which chooses it; accepted: one of both"],
    ),
    "a grid out of order": (
        {"sampling.mar.sweep": {"samples": 50, "guidance": [2.0, 1.5]}},
        ["sampling.mar.sweep: guidance [2.0, 1.5]: accepted: ascending, each once"],
    ),
    "a grid with a point twice": (
        {"sampling.mar.sweep": {"samples": 50, "temperature": [1.0, 1.0]}},
        ["sampling.mar.sweep: temperature [1.0, 1.0]: accepted: ascending, each once"],
    ),
    "a grid of no points": ({"sampling.mar.sweep": {"samples": 50, "guidance": []}}, ["sampling.mar.sweep.guidance: "]),
    "a grid below no guidance": (
        {"sampling.mar.sweep": {"samples": 50, "guidance": [0.5, 2.0]}},
        ["sampling.mar.sweep.guidance[0]: found 0.5; accepted: at least 1.0"],
    ),
    "samples of a sweep": (
        {"sampling.mar.sweep": {"samples": 51}},
        ["variants.mar: sampling.mar.sweep.samples 51 is not a multiple of metrics.chunk 50"],
    ),
    "a point that the head cannot honour": (
        {
            "heads.diffloss": {"kind": "mse"},
            "sampling.mar.diffusion_steps": None,
            "sampling.mar.sweep": {"samples": 50, "temperature": [0.9, 1.0]},
        },
        ["variants.mar: sampling.mar.temperature 0.9 with a mse head: belongs to", "accepted: 1.0"],
    ),
    "a sweep in the figure of temperatures": (
        {
            "sampling.mar.sweep": {"samples": 50, "temperature": [0.9, 1.0]},
            "temperature": [{"label": "a", "variant": "mar", "sampling": ["mar"]}],
        },
        ["temperature[0]: sampling.mar has a sweep, which chooses what this figure varies; accepted: settings with a"],
    ),
    "temperature of L2": (
        {"heads.diffloss": {"kind": "mse"}, "sampling.mar.diffusion_steps": None, "sampling.mar.temperature": 0.9},
        ["variants.mar: sampling.mar.temperature 0.9 with a mse head: belongs to", "accepted: 1.0"],
    ),
    "components of Diffusion Loss": (
        {"heads.diffloss.components": 4},
        ["heads.diffloss: components belongs to kind mixture: kind diffusion"],
    ),
    # DiT
    "half a DiT": (
        {"backbones.masked": {"kind": "dit", "width": 8, "depth": 1, "heads": 2, "patch": 1}},
        ["variants.mar: DiT is backbone, head and order together; found backbone masked dit: yes", "head diffloss"],
    ),
    "DiT without a patch": (
        {"backbones.masked.kind": "dit"},
        ["backbones.masked.patch: is missing"],
    ),
    # imports
    "a trained tokenizer without its length": (
        {"tokenizers.kl.images": None},
        ["tokenizers.kl: images or epochs is needed to train: kind kl, pretrained false"],
    ),
    "an imported tokenizer with a length": (
        {"tokenizers.kl.pretrained": True},
        ["tokenizers.kl: images or epochs has no meaning: nothing is trained: kind kl, pretrained true"],
    ),
    "weights that nothing imports": (
        {"variants.mar.weights": "mar-b"},
        ["variants.mar: weights mar-b: belongs to pretrained: true"],
    ),
    "two seeds of one import": (
        {"variants.mar.pretrained": True, "variants.mar.seeds": [0, 1]},
        ["variants.mar: seeds [0, 1] with pretrained: true: one set of weights; accepted: [0]"],
    ),
    "GPUs that share no whole number of micro-batches": (
        {"variants.mar.resources": {"nodes": 1, "gpus_per_node": 3, "hours": 1}},
        [
            "variants.mar.resources: 1 x 3 GPUs share the 1 micro-batches of a step",
            "accepted: nodes x gpus_per_node = 1",
        ],
    ),
    "continuous latents of kl": (
        {"tokenizers.kl.continuous": True},
        ["tokenizers.kl: continuous: true with kind kl: belongs to vq; accepted: false"],
    ),
    "totals of the digits": ({"data.expect": "imagenet"}, ["data: expect belongs to kind imagefolder: kind digits"]),
    # VAR
    "a tokenizer of scales alone": (
        {"tokenizers.vq.kind": "msvq", "tokenizers.vq.scales": [1, 2, 4]},
        ["variants.ar: VAR is tokenizer, order and backbone together", "tokenizer vq msvq: yes, order scales: no"],
    ),
    "an order of scales alone": (
        {"variants.mar.order": "scales"},
        ["variants.mar: VAR is tokenizer, order and backbone together", "backbone masked scales: no", "all or none"],
    ),
    "steps that are no scales": (
        VAR | {"sampling.ar.steps": 16},
        ["variants.ar: sampling.ar.steps 16: a step draws a scale, and tokenizer vq has 3; accepted: 3"],
    ),
    "an order of sampling with scales": (
        VAR | {"sampling.ar.order": "checkerboard"},
        ["variants.ar: sampling.ar.order checkerboard with a scales backbone: belongs to masked; accepted: none"],
    ),
    "diffusion on scales": (
        VAR | {"variants.ar.head": "diffloss", "sampling.ar.diffusion_steps": 2},
        ["variants.ar: head diffloss (diffusion) on tokenizer vq (msvq)", "takes continuous tokens"],
    ),
    "shared modulations of masked": (
        {"backbones.masked.shared_aln": True},
        ["backbones.masked: shared_aln: true with kind masked: belongs to scales; accepted: false"],
    ),
    "gates of masked": ({"backbones.masked.gate_init": 0.1}, ["backbones.masked: gate_init belongs to kind scales"]),
    "no gates of scales": (
        VAR | {"backbones.causal.gate_init": None},
        ["backbones.causal: gate_init belongs to kind scales and is needed there"],
    ),
    "plain blocks of masked": (
        {"backbones.masked.adaln": False},
        ["backbones.masked: adaln: false with kind masked: belongs to scales; accepted: true"],
    ),
    "gates without AdaLN": (
        VAR | {"backbones.causal.adaln": False},
        ["backbones.causal: gate_init", "with adaln: false: belongs to AdaLN; accepted: none"],
    ),
    "top-k of a diffusion head": (
        {"sampling.mar.top_k": 5},
        ["variants.mar: sampling.mar.top_k 5 with a diffusion head: belongs to categorical; accepted: none"],
    ),
    "more_smooth of another order": (
        {"sampling.mar.more_smooth": True},
        ["variants.mar: sampling.mar.more_smooth true with a masked backbone: belongs to scales; accepted: false"],
    ),
    "top-p of nothing": ({"sampling.ar.top_p": 0.0}, ["sampling.ar.top_p: found 0.0; accepted: above 0.0"]),
    "a final rate of a constant one": (
        {"recipes.short.final_rate": 0.1},
        ["recipes.short: final_rate belongs to schedule linear and is needed there; schedule constant"],
    ),
    "no final rate": (
        {"recipes.short.schedule": "linear"},
        ["recipes.short: final_rate belongs to schedule linear and is needed there; schedule linear"],
    ),
    # what else a study says
    "a row that is half ours": (
        {"tables.table1.rows.0.variant": None},
        ["tables.table1.rows[0]: found 'mar' without a variant; accepted: a set of `given` (none), or a variant with"],
    ),
    "a row of another set than those given": (
        {"given": {"adm": {"file": "a.npz"}}, "tables.table1.rows.0.variant": None},
        ["tables.table1.rows[0]: found 'mar' without a variant; accepted: a set of `given` (adm), or a variant with"],
    ),
    "a row of a variant without settings": (
        {"tables.table1.rows.0.without": None, "tables.table1.rows.0.guided": None},
        ["tables.table1.rows[0]: row", "variant and one of without and guided belong together"],
    ),
    "a given set without a file": ({"given": {"adm": {"label": "ADM"}}}, ["given.adm.file: is missing"]),
    "an empty file": (
        {"given": {"adm": {"file": ""}}},
        ["given.adm.file: found ''; accepted: a text that is not empty"],
    ),
    "a checksum that is none": (
        {"given": {"adm": {"file": "a.npz", "sha256": "x"}}},
        ["given.adm.sha256: found 'x'; accepted: a SHA-256, 64 of the characters 0-9 and a-f"],
    ),
    "setting of a curve of figure 4": (
        {"diffusion_steps": [{"label": "a", "variant": "mar", "sampling": ["ar"]}]},
        ["diffusion_steps[0]: sampling of variant mar: found 'ar'; accepted: mar"],
    ),
    "reuse of itself": ({"reuse": "tiny"}, ["reuse tiny: accepted: another study"]),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, values: dict[str, Any]) -> None:
    change, expected = CASES[case]
    for path, value in change.items():
        put(values, path, value)
    lines = refusal(values).splitlines()
    assert any(all(part in line for part in expected) for line in lines), "\n".join(lines)
    assert all(line.startswith("config/tiny.yaml: ") for line in lines)


@pytest.mark.parametrize(
    "path", ["study", "data", "variants", "data.image_size", "recipes.short.batch", "variants.mar.sampling"]
)
def test_required_key_is_named(path: str, values: dict[str, Any]) -> None:
    drop(values, path)
    assert f"config/tiny.yaml: {path}: is missing" in refusal(values)


def test_each_mistake_has_its_line(values: dict[str, Any]) -> None:
    put(values, "backbones.masked.depth", -1)
    put(values, "heads.crossent.kind", "l1")
    lines = refusal(values).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["backbones.masked.depth", "heads.crossent.kind"]


def test_var_is_accepted(values: dict[str, Any]) -> None:
    for path, value in (
        VAR | {"sampling.ar.top_k": 9, "sampling.ar.top_p": 0.9, "sampling.ar.more_smooth": True}
    ).items():
        put(values, path, value)
    study = studies.resolve(values, "tiny.yaml")
    assert study.tokens("vq") == 21 and study.tokenizers["vq"].ids and study.tokens("kl") == 16


def test_the_complete_study_is_accepted(values: dict[str, Any]) -> None:
    study = studies.resolve(values, "tiny.yaml")
    assert study.tokens("kl") == 16
    assert study.tokenizers["kl"].token_dim == 4
    assert study.variants["mar"].seeds == (0,)


def test_grouping_makes_fewer_and_wider_tokens(values: dict[str, Any]) -> None:
    values["tokenizers"]["kl"] |= {"stride": 4, "channels": [8, 8, 16], "group": 2}
    study = studies.resolve(values, "tiny.yaml")
    assert study.tokens("kl") == 16  # (32 / (4 x 2))^2
    assert study.tokenizers["kl"].token_dim == 16  # 4 channels x 2 x 2


def test_learning_rate_follows_the_global_batch(values: dict[str, Any]) -> None:
    put(values, "recipes.short.base_learning_rate", 1e-4)
    values["recipes"]["short"] |= {"images": 4096, "batch": 2048, "checkpoint_images": 2048, "log_images": 2048}
    assert studies.resolve(values, "tiny.yaml").recipes["short"].learning_rate == pytest.approx(8e-4)  # as published


def test_scientific_notation_without_a_point(values: dict[str, Any]) -> None:
    put(values, "recipes.short.base_learning_rate", "8e-4")  # YAML 1.1 reads 8e-4 as a string
    assert studies.resolve(values, "tiny.yaml").recipes["short"].base_learning_rate == 8e-4


def test_values_never_change_after_reading(values: dict[str, Any]) -> None:
    study = studies.resolve(values, "tiny.yaml")
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 1  # type: ignore[misc]


def test_published_defaults() -> None:
    """What a study does not say is what MAR publishes (paper, Appendix B, and the released code)."""
    from mar.study.parts import Recipe, Sampling

    recipe = Recipe(images=2048, batch=2048, checkpoint_images=2048, log_images=2048)
    assert (recipe.base_learning_rate, recipe.learning_rate) == (1e-4, 8e-4)
    assert (recipe.betas, recipe.weight_decay, recipe.clip) == ((0.9, 0.95), 0.02, 3.0)
    assert (recipe.ema, recipe.label_drop, recipe.mask_ratio_min, recipe.schedule) == (0.9999, 0.1, 0.7, "constant")
    sampling = Sampling(steps=256)
    assert (sampling.guidance, sampling.guidance_schedule, sampling.temperature) == (1.0, "linear", 1.0)
    assert sampling.clamp is None
    assert sampling.kv_cache is False


@pytest.mark.parametrize("name", ["digits", "demo", "demo-digits", "fashion", "smoke"])
def test_shipped_studies_are_accepted(name: str) -> None:
    study = studies.load(f"config/{name}.yaml")
    assert isinstance(study, Study)
    assert study.study == name
    assert {row.paper for row in study.tables["table1"].rows}


def test_a_variant_is_not_called_as_the_folder_of_given_sets(values: dict[str, Any]) -> None:
    values["variants"]["Given"] = values["variants"]["mar"]
    values["given"] = {"adm": {"file": "a.npz"}}
    assert refusal(values) == (
        "config/tiny.yaml: variants.Given: sets of `given` have folders of this name; accepted: another"
    )


def test_a_study_of_given_sets_alone_says_no_training() -> None:
    judge = {"extractors": ["inception"], "reference": {"file": "adm-imagenet256"}}
    values: dict[str, Any] = {
        "study": "theirs",
        "data": {"kind": "none", "image_size": 256, "num_classes": 1000},
        "metrics": {"samples": 50000, "chunk": 500, **judge},
        "given": {"adm-g": {"file": "~/admg.npz"}},
        "tables": {"table4": {"paper": "mar_table4", "title": "T", "rows": [{"paper": "adm", "guided": "adm-g"}]}},
    }  # fmt: skip
    study = studies.resolve(values, "config/theirs.yaml")
    assert study.variants == study.tokenizers == {} and study.given["adm-g"].file == os.path.expanduser("~/admg.npz")
    assert table_names(study) == ["table4", "metrics"]
    del values["given"]
    assert "config/tiny.yaml: variants: is missing" in refusal(values)
