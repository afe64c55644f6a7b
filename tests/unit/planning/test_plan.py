"""The plan: counts against whole models and published numbers, where they are kept, sums of jobs, budget."""

import csv
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
import torchvision
from click.testing import CliRunner
from tiny import STUDY, study
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mar.cli.__main__ import main
from mar.models.model import build
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.order import draw_order
from mar.planning import costs, kept_costs, minutes, plan
from mar.runtime.files import read, write
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study import lengths
from mar.study.parts import Backbone, Head, Recipe, Sampling, Tokenizer
from mar.study.reading import write_resolved
from mar.study.records import DataManifest, JudgeCosts, PlanRecord, Split
from mar.tokenizers import autoencoder
from mar.tokenizers.discriminator import discriminator

KL = Tokenizer.of(kind="kl", stride=4, channels=[8, 16, 24], layers=2, latent_channels=6, pretrained=True, group=2)
VQ = Tokenizer.of(kind="vq", stride=2, channels=[8, 16], latent_channels=4, codebook_size=20, pretrained=True)
MSVQ = Tokenizer.of(**VQ.model_dump(exclude_unset=True) | {"kind": "msvq", "scales": (1, 2, 3, 8, 16)})
BACKBONES = {
    "masked": Backbone.of(kind="masked", width=48, depth=3, heads=4, buffer=5, mlp_ratio=3.0),
    "causal": Backbone.of(kind="causal", width=48, depth=3, heads=4),
    "scales": Backbone.of(kind="scales", width=48, depth=3, heads=4, gate_init=0.1),
    "scales-shared": Backbone.of(kind="scales", width=48, depth=3, heads=4, gate_init=0.1, shared_aln=True),
}
HEADS = {
    "diffusion": Head.of(kind="diffusion", width=40, depth=2, noise_draws=3),
    "flow": Head.of(kind="flow", width=40, depth=2, noise_draws=3),
    "mse": Head.of(kind="mse"),
    "mixture": Head.of(kind="mixture", components=3),
    "categorical": Head.of(kind="categorical"),
}
PAIRS = [(b, h) for b in BACKBONES for h in HEADS if b in ("masked", "causal")] + [("dit", "joint")]
PAIRS += [("scales", "categorical"), ("scales-shared", "categorical")]
ANNEALED = {"first": 5, "last": 2, "schedule": "cosine"}
DIT, JOINT = Backbone.of(kind="dit", width=48, depth=3, heads=4, patch=2, dropout=0.0), Head.of(kind="joint")


def tokens_of(tok, size):
    """The tokens of a tokenizer, of images of that many pixels a side."""
    data = {"kind": "digits", "image_size": size}
    tokenizers = {"t": tok.model_dump(exclude_defaults=True)}
    return costs.Tokens.of(study(data=data, tokenizers=tokenizers, variants={}, tradeoff=[]), "t", classes=7)


def made(backbone, head, side=8):
    """Backbone, head and tokens that fit: those of a square, or of scales."""
    if backbone == "dit":
        return DIT, JOINT, tokens_of(KL.model_copy(update={"group": 1}), 4 * side)
    if backbone.startswith("scales"):
        return BACKBONES[backbone], HEADS[head], tokens_of(MSVQ, 32)
    tokens = tokens_of(VQ, 2 * side) if head == "categorical" else tokens_of(KL, 8 * side)
    return BACKBONES[backbone], HEADS[head], tokens


def real(backbone, head, tokens):
    """The whole model on the CPU."""
    torch.manual_seed(0)
    scales = tokens.scales and MultiScaleQuantizer(tokens.codebook_size, tokens.token_dim, tokens.scales).eval()
    return build(backbone, head, tokens, scales or None)


def drawn(backbone, rows, tokens):
    """Tokens, labels and orders of a batch, as the backbone takes them."""
    ids = tokens.kind == "ids"
    shape = (rows, tokens.tokens) if ids else (rows, tokens.tokens, tokens.token_dim)
    order = draw_order("scales" if backbone.startswith("scales") else "random", rows, tokens.tokens, Noise("o"))
    return torch.zeros(shape, dtype=torch.long if ids else torch.float32), torch.zeros(rows, dtype=torch.long), order


def test_compute_of_the_laws_counts_no_block_twice() -> None:
    """The plan counts what gradient checkpointing does again; models are compared by what they learn from."""
    recipes = {name: recipe | {"gradient_checkpointing": True} for name, recipe in STUDY["recipes"].items()}
    plain, lean = study(), study(recipes=recipes)
    once, twice = (
        costs.training(backbone, head, tokens, recipe)
        for backbone, head, recipe, tokens in (costs.parts(of, "var", 10) for of in (plain, lean))
    )
    assert costs.compute(lean, "var", 10) == costs.compute(plain, "var", 10) == once < twice


def test_operations_are_those_that_torch_counts():
    """A convolution, what torch knows by smaller operations alone, attention, and their gradients; with no_grad too."""
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.nn.Bilinear(8, 8, 5)

    def call():
        x = layers[0](torch.zeros(2, 3, 6, 6)).flatten(2).mT
        return layers[2](x, layers[1](x, x, x)[0]).matmul(torch.ones(5)).sum()

    for run in (lambda: call().backward(), torch.no_grad()(call), torch.inference_mode()(call)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as torch_counts:
            run()
        assert costs.operations(run) == torch_counts.get_total_flops() > 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_a_training_is_that_of_the_whole_model_on_average(backbone, head, checkpointing):
    b, h, tokens = made(backbone, head, side=4)
    recipe = Recipe(images=8, batch=2, checkpoint_images=8, log_images=8, gradient_checkpointing=checkpointing)
    model, inputs = real(b, h, tokens), drawn(backbone, 2, tokens)
    if checkpointing:
        model.checkpoint_blocks()

    def step(known):
        return costs.operations(lambda: model.loss(*inputs, known, Noise("l")).backward()) / 2

    # how often each number of known tokens comes: as published, of a normal (1, 0.25) cut off at 0.7
    normal, low, length = NormalDist(1.0, 0.25), recipe.mask_ratio_min, tokens.tokens
    edges = [max(low, masked / length) for masked in range(length + 1)]
    shares = [(normal.cdf(b) - normal.cdf(a)) / (0.5 - normal.cdf(low)) for a, b in pairwise(edges)]
    law = {length - masked: share for masked, share in enumerate(shares, 1) if share}
    mean = sum(share * step(known) for known, share in law.items()) if b.kind == "masked" else step(0)
    assert costs.training(b, h, tokens, recipe) == pytest.approx(mean, rel=1e-4)


def test_a_training_counts_all_masks_and_their_law():
    """Twice the masks cost twice as much; a uniform law shows the encoder more tokens than the published one."""
    b, h, tokens = made("masked", "diffusion", side=4)
    lengths = {"images": 8, "batch": 2, "checkpoint_images": 8, "log_images": 8, "mask_ratio_min": 0.0}
    one, two, uniform = (
        costs.training(b, h, tokens, Recipe(**lengths, **more))
        for more in ({}, {"masks_per_image": 2}, {"mask_ratio": "uniform"})
    )
    assert two == 2 * one
    model, inputs = real(b, h, tokens), drawn("masked", 2, tokens)
    steps = [costs.operations(lambda k=k: model.loss(*inputs, k, Noise("l")).backward()) / 2 for k in range(16)]
    assert uniform == pytest.approx(sum(steps) / 16, rel=1e-4) and uniform != pytest.approx(one, rel=0.01)


@pytest.mark.parametrize(
    ("backbone", "head", "settings"),
    [
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": 3, "guidance": 2.0}),
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": 3, "solver": "dpm", "late_steps": 2}),
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": {"first": 7, "last": 2}}),
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": ANNEALED, "guidance": 2.0, "token_cache": 2}),
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": ANNEALED, "solver": "dpm", "late_steps": 2}),
        ("masked", "flow", {"steps": 6, "solver": "heun", "head": {"evaluations": {"first": 8, "last": 2}}}),
        ("masked", "mse", {"steps": 16, "token_cache": 4}),
        ("masked", "mse", {"steps": 16, "guidance": 2.0, "condition_cache": 3}),
        ("masked", "mse", {"steps": 24, "guidance": 2.0, "token_cache": 2, "condition_cache": 6, "late_steps": 8}),
        ("masked", "categorical", {"steps": 6, "order": "confidence", "confidence_noise": 1.0}),
        ("masked", "mse", {"steps": 6}),
        ("causal", "diffusion", {"steps": 64, "diffusion_steps": 2, "kv_cache": True}),
        ("causal", "mse", {"steps": 64, "guidance": 2.0}),
        ("scales", "categorical", {"steps": 5, "kv_cache": True, "guidance": 2.0, "top_k": 5}),
        ("scales", "categorical", {"steps": 5}),
        ("scales-shared", "categorical", {"steps": 5, "kv_cache": True}),
        ("dit", "joint", {"steps": 1, "diffusion_steps": 3, "guidance": 2.0, "guidance_schedule": "constant"}),
    ],
)
def test_sampling_is_that_of_the_whole_loop(backbone, head, settings):
    b, h, tokens = made(backbone, head)
    settings = Sampling(**settings)
    model, (x, labels, order) = real(b, h, tokens).eval(), drawn(backbone, 8, tokens)
    whole = costs.operations(lambda: generate(model, labels, order, x[0], settings, Noise("s")))
    assert 8 * sum(costs.sampling(b, h, tokens, settings, 8)) == pytest.approx(whole, rel=1e-12)


SIZES = {"b": ("base", 768, 12, 12, 1024, 6, 208), "l": ("large", 1024, 16, 16, 1280, 8, 479)}
SIZES |= {"h": ("huge", 1280, 20, 16, 1536, 12, 943)}


@pytest.mark.parametrize(("size", "width", "depth", "heads", "head_width", "head_depth", "millions"), SIZES.values())
def test_published_parameters(size, width, depth, heads, head_width, head_depth, millions):
    published = json.loads((Path(__file__).parents[2] / "parity" / "golden" / "mar_param_counts.json").read_text())
    backbone = Backbone.of(kind="masked", width=width, depth=depth, heads=heads)
    head = Head.of(kind="diffusion", width=head_width, depth=head_depth, noise_draws=4)
    count = costs.count_parameters(costs.model_of(backbone, head, LATENTS))
    assert count == published["counts"][f"mar_{size}"][f"d{head_depth}_w{head_width}"]["total"]
    assert count / 1e6 == pytest.approx(millions, abs=1)  # the paper


def test_a_forward_pass_of_mar_b():
    """By hand: linear layers 2 i o a row, attention 4 n^2 W; 64 of 256 tokens known, z of the 192 others."""
    backbone, w = Backbone.of(kind="masked", width=768, depth=12, heads=12), 768

    def block(queries, keys):
        return 2 * (2 * keys * w**2 + queries * 10 * w**2) + 4 * queries * keys * w

    encoder, decoder = 12 * block(64 + 64, 64 + 64), 11 * block(64 + 256, 64 + 256) + block(192, 64 + 256)
    around = 2 * 64 * 16 * w + 2 * (64 + 64) * w**2  # z_proj, decoder_embed
    assert costs.predict(backbone, LATENTS, 64, 256) == encoder + decoder + around == 78_997_094_400


LATENTS = costs.Tokens("latents", 256, 16, 16, 1000)


def test_dit_has_its_published_parameters():
    dit = Backbone.of(kind="dit", width=1152, depth=28, heads=16, patch=2)
    count = costs.count_parameters(costs.model_of(dit, JOINT, costs.Tokens("latents", 1024, 4, 32, 1000)))
    assert count / 1e6 == pytest.approx(674.8, abs=0.1)


@pytest.mark.parametrize("config", [KL, VQ, MSVQ], ids=["kl", "vq", "msvq"])
def test_tokenizers_are_those_on_the_cpu(config):
    # 32 groups of channels in the norms of imported tokenizers: widths of 32 and more
    wide = config.model_copy(update={"channels": tuple(4 * c for c in config.channels)})
    cost, tokenizer, images = costs.tokenizer(wide, 32), autoencoder.build(wide, 32).eval(), torch.rand(1, 3, 32, 32)
    assert cost.parameters == sum(p.numel() for p in tokenizer.parameters())
    with torch.no_grad():
        tokens = tokenizer.encode(images)
        assert costs.operations(lambda: tokenizer.encode(images)) == cost.encode
        assert costs.operations(lambda: tokenizer.decode(tokens)) == cost.decode


def test_training_a_tokenizer_asks_for_every_network_that_takes_part():
    trained = {"pretrained": False, "images": 1, "learning_rate": 1.0, "kl_weight": 1.0}
    plain, size = KL.model_copy(update={**trained, "channels": (32, 32, 32)}), 32
    cost = costs.tokenizer(plain, size)
    # a backward has two products where a forward has one; the first layer's input needs no gradient
    assert cost.training == 3 * (cost.encode + cost.decode) - 2 * 9 * 3 * 32 * size**2
    with torch.no_grad():
        critic, vgg = discriminator(), torchvision.models.vgg16().features[:30]
        images = torch.rand(2, 3, size, size)
        judged, seen = (costs.operations(lambda net=net: net(images)) / 2 for net in (critic, vgg))
    assert seen == 2 * 15_346_630_656 * size**2 / 224**2  # 15.3e9 multiply-adds (Simonyan & Zisserman)

    def more(**weights):
        return costs.tokenizer(plain.model_copy(update=weights), size).training - cost.training

    # Image and reconstruction forward, the latter's gradient backward.
    assert more(perceptual_weight=1.0) == pytest.approx(3 * seen)
    # The critic: a forward and two gradients for the autoencoder, 6 forwards to learn, less what images do not need;
    # the adaptive weight takes the gradients of the decoder's last layer twice more.
    first, last = 2 * 16 * 3 * 64 * (size // 2) ** 2, 2 * 9 * 3 * 32 * size**2
    assert more(adversarial_weight=0.5) == pytest.approx(9 * judged - 2 * first + 2 * last)


def test_consistency_decoder():
    cost = costs.tokenizer(Tokenizer.of(kind="consistency", stride=8, latent_channels=4, pretrained=True), 64)
    assert cost.parameters == 655_441_366 and cost.training == 0
    assert cost.decode == pytest.approx(2 * 128.3e6 * 64**2, rel=0.01)  # two steps of its network, for each pixel
    kl8 = Tokenizer.of(kind="kl", stride=8, channels=[128, 256, 512, 512], layers=2, latent_channels=4, pretrained=True)
    assert cost.encode == costs.tokenizer(kl8, 64).encode


def test_published_networks_that_judge():
    found = costs.judge("inception", None, 8, 10)
    assert found == costs.judge("clean", None, 256, 1000)
    assert found == JudgeCosts(parameters=23_850_960, forward=11_426_464_960, features=2048, logits=1008, spatial=2023)
    vit, w, n = costs.judge("dinov2", None, 8, 10), 1024, 257  # ViT-L/14: 16 x 16 patches and a class token
    assert (vit.parameters, vit.features, vit.logits, vit.spatial) == (303_178_752, w, 0, 0)
    assert vit.forward == 24 * (2 * n * 12 * w**2 + 4 * n**2 * w) + 2 * 256 * 14**2 * 3 * w


def test_published_networks_that_reject():
    """ResNet-50 keeps nothing of an image: 25.6 million parameters, 4.09e9 multiply-adds (torchvision's table)."""
    metrics = STUDY["metrics"] | {"extractors": ["inception"], "reference": {"file": "adm-imagenet256"}}
    of = study(variants=TWO, metrics=metrics, classifier=None, rejecter={"weights": "resnet50"})
    found = costs.rejecter(of, 1000)
    assert found.parameters == 25_557_032 and found.forward == pytest.approx(2 * 4.09e9, rel=0.01)
    assert (found.features, found.logits) == (0, 0) and costs.rejecter(study(), 10) is None


def jobs(of, root=None):
    """The jobs of a study, counted now."""
    images = plan.count_images(of, root)
    return plan.jobs(of, images, costs.count(of, images.classes, "0" * 64))


TWO = {name: STUDY["variants"][name] for name in ("ar-ce", "mar-diff")}


def test_jobs_of_a_study():
    found = jobs(study(variants=TWO))
    assert [job.stage for job in found] == [
        *("prepare", "classifier", "tokenizer", "tokenizer", "encode", "encode", "train", "train", "sample", "sample"),
        *["features"] * 4,  # of the train split, the held-out one and both sample sets
        *["statistics"] * 3,  # not of the held-out split
        *("reference", "rfid", "rfid", "evaluate", "evaluate", "speed"),
    ]
    by_name = {(job.stage, job.name): job for job in found}
    encode, train = by_name["encode", "kl"], by_name["train", "mar-diff/seed0"]
    assert encode.tokens == 1797 * 16 * 2 * 2 * 4  # images, tokens, mean and log variance of two numbers, bytes
    assert by_name["encode", "vq"].tokens == 1797 * 16 * 4
    assert train.images == 96 and train.weights == (2 * 16 + 4) * train.parameters
    assert by_name["sample", "ar-ce/seed0/ce"].samples == 24 * 8 * 8 * 3
    kept = by_name["features", "classifier/ar-ce/seed0/ce"]
    assert kept.samples == 24 * (64 + 10) * 4  # features, logits
    assert kept.flops > 24 * 2 * 1438 * 3 * 8 * 8  # with the distances to the training images
    assert by_name["statistics", "classifier/train"].samples == 64 * 64 * 8
    assert plan.total(found).disk == sum(job.disk for job in found)
    assert train.hours(0.5) == pytest.approx(train.flops / 19.5e12 / 0.5 / 3600)


def test_sets_that_others_drew_are_judged_and_nothing_else():
    own, found = jobs(study(variants=TWO)), jobs(study(variants=TWO, given={"adm": {"file": "adm.npz"}}))
    more = {(job.stage, job.name): job for job in found if job not in own}
    assert list(more) == [
        ("features", "classifier/given/adm"),
        ("statistics", "classifier/given/adm"),
        ("evaluate", "given/adm"),
    ]
    assert set(own) <= set(found)
    by_name = {(job.stage, job.name): job for job in own}
    for (stage, name), job in more.items():
        ours = by_name[stage, name.replace("given/adm", "ar-ce/seed0/ce")]
        assert (job.images, job.flops, job.disk) == (ours.images, ours.flops, ours.disk) and job.images == 24
        assert minutes.OUTPUTS[stage](Path("r"), name).as_posix() in (
            "r/features/classifier/given/adm/manifest.json",
            "r/statistics/classifier/given/adm.npz",
            "r/metrics/given/adm.json",
        )


def test_an_import_is_not_trained_and_its_file_lies_in_two_places():
    variants = {"mar-diff": STUDY["variants"]["mar-diff"] | {"pretrained": True}}
    train = next(job for job in jobs(study(variants=variants)) if job.stage == "train")
    assert (train.images, train.flops, train.weights) == (0, 0.0, 8 * train.parameters)


def test_variants_without_seeds_cost_nothing():
    variants = {"mar-diff": STUDY["variants"]["mar-diff"] | {"seeds": []}}
    assert {job.stage for job in jobs(study(variants=variants, tradeoff=[]))} == {
        *("prepare", "classifier", "features", "statistics", "reference"),
    }


def test_published_networks_are_judges_without_a_classifier():
    metrics = STUDY["metrics"] | {"extractors": ["inception", "dinov2"], "reference": {"file": "adm-imagenet256"}}
    found = jobs(study(variants=TWO, metrics=metrics, classifier=None))
    assert not [job for job in found if job.stage == "classifier"]
    features = {job.name: job for job in found if job.stage == "features"}
    # Inception compares with the reference and looks at none of the train split, DINOv2 has no other side
    sets = ("ar-ce/seed0/ce", "heldout", "mar-diff/seed0/diff")
    assert sorted(features) == sorted(
        [f"{name}/{key}" for name in ("inception", "dinov2") for key in sets] + ["inception/reference", "dinov2/train"]
    )
    assert features["inception/reference"].images == 10_000
    assert features["inception/reference"].samples == 10_000 * (2048 + 1008 + 2023) * 4
    assert features["dinov2/heldout"].samples == 359 * 1024 * 4
    assert features["dinov2/train"].flops == pytest.approx(1438 * 162e9, rel=0.01)


def test_a_sweep_counts_its_grid_and_what_it_refines():
    settings = STUDY["sampling"]["diff"] | {"sweep": {"samples": 12, "guidance": [1.0, 2.0, 3.0], "refine": 2}}
    del settings["guidance"]
    found = jobs(study(variants=TWO, sampling=STUDY["sampling"] | {"diff": settings}))
    sweep = next(job for job in found if job.stage == "sweep")
    assert (sweep.name, sweep.images) == ("mar-diff/diff", 12 * (3 + 2 * 2))
    plain = next(job for job in jobs(study(variants=TWO)) if job.name == "mar-diff/seed0/diff")
    swept = next(job for job in found if (job.stage, job.name) == ("sample", "mar-diff/seed0/diff"))
    assert swept.flops == plain.flops  # both are guided


def test_images_are_counted_where_prepare_has_run(tmp_path):
    own = {"kind": "imagefolder", "path": "somewhere", "image_size": 8}
    assert not plan.count_images(study(data=own), tmp_path).known
    assert plan.count_images(study(data=own | {"expect": "imagenet"}), tmp_path).train == 1_281_167
    for name, count in (("a", 10), ("b", 15)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "photos" / name / f"{i}.png").touch()
    (tmp_path / "photos" / "a" / "notes.txt").touch()
    listed = study(data=own | {"path": str(tmp_path / "photos"), "set_aside": 5})
    assert plan.count_images(listed, tmp_path) == plan.Images(15, 10, 2), "by their names, a fifth held out, and five"
    assert not plan.count_images(listed).known, "no folder is looked for where the workflow is read"
    manifest = DataManifest(
        kind="imagefolder",
        classes=("a", "b"),
        splits={"train": Split(count=30, per_class=(15, 15)), "heldout": Split(count=10, per_class=(5, 5))},
        files=64 * "f",
        skipped=(),
        image_size=8,
        flip=False,
        listing=64 * "1",
    )
    write(tmp_path / "data" / "manifest.json", manifest)
    assert plan.count_images(study(data=own), tmp_path) == plan.Images(30, 10, 2)


def test_lengths_in_epochs_are_planned_where_images_are_counted():
    recipes = {name: recipe | {"images": 0, "epochs": 2} for name, recipe in STUDY["recipes"].items()}
    of = study(variants=TWO, recipes=recipes)
    images = plan.count_images(of)
    counts = costs.count(of, images.classes, 64 * "0")
    found = plan.jobs(lengths.count(of, images.train), images, counts)
    trained = {job.images for job in found if job.stage == "train"}
    batch = next(iter(of.recipes.values())).batch
    assert trained == {round(2 * images.train / batch) * batch}
    assert "epochs: the images are not counted" in plan.text(of, found, plan.Images(0, 0, 10, known=False), counts, 0.2)


@pytest.mark.parametrize(("key", "unit"), [("gpu_hours", "A100 hours"), ("disk_gb", "GB")])
def test_a_study_over_its_budget_is_refused(key, unit, tmp_path):
    def check(**budget):
        write_resolved(of := study(variants=TWO, **budget), tmp_path)
        kept_costs.count(of, tmp_path / "tiny", plan.count_images(of).classes)
        plan.check(of, tmp_path / "tiny")

    check()
    check(budget={key: 100.0})
    with pytest.raises(ValueError, match=rf"study tiny: budget.{key} 1e-09: the estimate is [\d,]+ {unit}"):
        check(budget={key: 1e-9})


# What the workflow does when it is read: the study's check, in a process that then says whether it imported torch.
READ = """
import subprocess, sys
from pathlib import Path
from mar.planning import plan
from mar.study.reading import load
calls, run = [], subprocess.run
subprocess.run = lambda command, **kwargs: calls.append(command) or run(command, **kwargs)
plan.check(load(sys.argv[1]), Path(sys.argv[1]).parent)
print(len(calls), "torch" in sys.modules or "snakemake" in sys.modules)
"""


def test_reading_the_workflow_counts_once_where_there_is_a_budget(tmp_path):
    def read(of):
        file = write_resolved(of, tmp_path)
        told = subprocess.run([sys.executable, "-c", READ, str(file)], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()

    def small(**over):
        return study(variants={"ar-ce": STUDY["variants"]["ar-ce"]}, tradeoff=[], **over)

    assert read(small()) == "0 False"
    assert not (tmp_path / "tiny" / "plan.json").exists()
    capped = small(budget={"disk_gb": 1.0})
    assert read(capped) == "1 False"
    assert read(capped) == "0 False"
    # neither the cap nor the length of what is drawn changes a count; a width does
    assert read(small(budget={"disk_gb": 2.0}, title="Same", speed={"batch": 8})) == "0 False"
    wider = {**STUDY["backbones"], "causal": STUDY["backbones"]["causal"] | {"width": 32}}
    assert read(small(budget={"disk_gb": 1.0}, backbones=wider)) == "1 False"


def test_counts_of_other_code_are_made_again(tmp_path, monkeypatch):
    of = study(variants=TWO)
    first = kept_costs.count(of, tmp_path, 10)
    assert kept_costs.find(of, tmp_path, 10) == first
    edited = tmp_path / "masked.py"
    edited.write_text("# edited")
    monkeypatch.setattr(kept_costs, "COUNTED", (*kept_costs.COUNTED, edited))
    assert kept_costs.find(of, tmp_path, 10) is None


def test_memory_is_counted_where_it_is_asked_for_and_kept(tmp_path, monkeypatch):
    of = study(variants=TWO)
    plain = kept_costs.count(of, tmp_path, 10)
    assert plain.memory is None and kept_costs.find(of, tmp_path, 10, memory=True) is None
    monkeypatch.setattr(costs, "count", None)  # operations are not counted again
    whole = kept_costs.count(of, tmp_path, 10, memory=True)
    assert whole.memory and whole.model_copy(update={"memory": None}) == plain
    assert kept_costs.count(of, tmp_path, 10) == kept_costs.find(of, tmp_path, 10, memory=True) == whole


def test_a_plan_that_fails_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"plan.json: `mar plan .*` wrote no counts: Error: .*cannot be read"):
        plan.check(study(budget={"disk_gb": 1.0}), tmp_path)


def test_a_probe_sets_the_utilisation():
    backbone, head, recipe, tokens = costs.parts(study(), "mar-diff", 10)
    per_image = costs.training(backbone, head, tokens, recipe)
    assert plan.utilisation_of(study(), "mar-diff=1000") == pytest.approx(1000 * per_image / 19.5e12)
    for probe in ("mar-diff", "mar-diff=fast", "mar-diff=0"):
        with pytest.raises(ValueError, match="accepted: VARIANT=IMAGES_PER_SECOND"):
            plan.utilisation_of(study(), probe)
    with pytest.raises(ValueError, match="found 'nobody'; accepted: ar-ce"):
        plan.utilisation_of(study(), "nobody=3")


def test_the_command_shows_the_table_and_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heads = STUDY["heads"] | {"diffloss": STUDY["heads"]["diffloss"] | {"width": 1}}
    (tmp_path / "tiny.yaml").write_text(
        json.dumps(STUDY | {"variants": TWO, "heads": heads, "budget": {"disk_gb": 1e-6}})
    )
    file = tmp_path / "plan.csv"
    arguments = ["plan", "--study", str(tmp_path / "tiny.yaml"), "--csv", str(file), "--utilisation", "0.5", "--jobs"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "train mar-diff/seed0" in result.output and "train: 2 jobs" in result.output
    assert "mar-diff: heads.diffloss.width is 1 and a token of kl has 2 numbers" in result.output
    assert "the workflow refuses it: study tiny: budget.disk_gb 1e-06" in result.output
    lines = list(csv.DictReader(file.open()))
    assert len(lines) == len(jobs(study(variants=TWO))) and lines[0]["utilisation"] == "0.5"
    assert read(tmp_path / "results" / "tiny" / "plan.json", PlanRecord).variants.keys() == TWO.keys()
    result = CliRunner().invoke(main, [*arguments, "--measured", "mar-diff=3"])
    assert result.exit_code == 1 and "--utilisation and --measured: accepted: one of both" in result.output
