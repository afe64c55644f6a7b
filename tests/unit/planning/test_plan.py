"""The plan: parameters and operations by formula against real models, sums of jobs, budget."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from tiny import STUDY, study
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mar.cli.__main__ import main
from mar.features.networks import dinov2, inception
from mar.models.model import build_model
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.order import draw_order, mask_ratio, num_masked
from mar.planning import convolutions, costs, plan
from mar.runtime.files import write
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Backbone, Head, Recipe, Sampling, Tokenizer
from mar.study.reading import resolve
from mar.study.records import DataManifest, Split, Tokens
from mar.tokenizers.autoencoder import build
from mar.tokenizers.discriminator import discriminator

KL = Tokenizer(kind="kl", stride=4, channels=[8, 16, 24], layers=2, latent_channels=6, pretrained=True, group=2)
VQ = Tokenizer(kind="vq", stride=2, channels=[8, 16], latent_channels=4, codebook_size=20, pretrained=True)
MSVQ = VQ.model_copy(update={"kind": "msvq", "scales": (1, 2, 3, 8, 16)})
BACKBONES = {
    "masked": Backbone(kind="masked", width=48, depth=2, heads=4, buffer=5, mlp_ratio=3.0),
    "causal": Backbone(kind="causal", width=48, depth=2, heads=4),
    "scales": Backbone(kind="scales", width=48, depth=2, heads=4, gate_init=0.1),
    "scales-shared": Backbone(kind="scales", width=48, depth=2, heads=4, gate_init=0.1, shared_aln=True),
}
HEADS = {
    "diffusion": Head(kind="diffusion", width=40, depth=2, noise_draws=3),
    "mse": Head(kind="mse"),
    "mixture": Head(kind="mixture", components=3),
    "categorical": Head(kind="categorical"),
}
PAIRS = [(b, h) for b in BACKBONES for h in HEADS if b in ("masked", "causal")] + [("dit", "joint")]
PAIRS += [("scales", "categorical"), ("scales-shared", "categorical")]
DIT, JOINT = Backbone(kind="dit", width=48, depth=3, heads=4, patch=2, dropout=0.0), Head(kind="joint")


def made(backbone, head, size=64):
    """A study of one variant with that backbone and head, and what the formulas take."""
    scales = backbone.startswith("scales")
    tok = "msvq" if scales else "vq" if head == "categorical" else "kl"
    b, h = (DIT, JOINT) if backbone == "dit" else (BACKBONES[backbone], HEADS[head])
    order = "joint" if backbone == "dit" else "scales" if scales else "random"
    group = {"group": 1} if backbone == "dit" else {}
    toks = {"kl": KL.model_dump(exclude_defaults=True) | group, "vq": VQ.model_dump(exclude_defaults=True)}
    toks = {"msvq": MSVQ.model_dump(exclude_defaults=True)} if scales else toks
    built = resolve(
        STUDY
        | {
            "data": {"kind": "digits", "image_size": size if tok == "kl" else 32},
            "tokenizers": toks,
            "backbones": {"b": b.model_dump(exclude_defaults=True)},
            "heads": {"h": h.model_dump(exclude_defaults=True)},
            "variants": {
                "v": {"tokenizer": tok, "order": order, "backbone": "b", "head": "h", "recipe": "short", "sampling": []}
            },
            "tradeoff": [],
        },
        "made.yaml",
    )
    tokens = costs.Tokens.of(built, tok, classes=7)
    manifest = Tokens.model_construct(
        kind="moments" if tok == "kl" else "ids",
        tokens=tokens.count,
        grid=tokens.side,
        classes=7,
        token_dim=tokens.dim,
        codebook_size=tokens.codebook,
        group=toks[tok].get("group", 1),
        scales=tokens.scales if scales else (),
        code_width=tokens.dim,
    )
    return built, b, h, tokens, manifest


def orders(backbone, rows, tokens):
    """Orders of a batch, as the backbone takes them."""
    return draw_order("scales" if backbone.startswith("scales") else "random", rows, tokens.count, Noise("o"))


def quantizer(tokens):
    """What a scales backbone needs beside its tokens; others nothing."""
    return MultiScaleQuantizer(tokens.codebook, tokens.dim, tokens.scales).eval() if tokens.scales else None


def counted(function):
    """Operations of a function as torch counts them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_parameters_by_formula_are_those_of_the_model(backbone, head):
    built, b, h, tokens, manifest = made(backbone, head)
    with torch.device("meta"):
        model = build_model(built, "v", manifest)
    assert costs.model_parameters(b, h, tokens) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("attention", ["middle", "encoder", "both"])
@pytest.mark.parametrize("config", [KL, VQ, MSVQ], ids=["kl", "vq", "msvq"])
def test_parameters_and_operations_of_tokenizers(config, attention):
    # 32 groups of channels in the norms of imported tokenizers: widths of 32 and more
    wide = config.model_copy(update={"attention": attention, "channels": tuple(4 * c for c in config.channels)})
    with torch.device("meta"):
        tokenizer = build(wide, 32).eval()
        images = torch.empty(2, 3, 32, 32)
    cost = convolutions.tokenizer_costs(wide, 32)
    assert cost["parameters"] == sum(p.numel() for p in tokenizer.parameters())
    with torch.no_grad():
        tokens = tokenizer.encode(images)
        assert counted(lambda: tokenizer.encode(images)) == pytest.approx(2 * cost["encode"], rel=0.01)
        assert counted(lambda: tokenizer.decode(tokens)) == pytest.approx(2 * cost["decode"], rel=0.01)


def test_consistency_decoder():
    config = Tokenizer(kind="consistency", stride=8, latent_channels=4, pretrained=True)
    with torch.device("meta"):
        tokenizer = build(config, 64).eval()
        images, noisy = torch.empty(1, 3, 64, 64), torch.empty(1, 7, 64, 64)
        t = torch.zeros(1, dtype=torch.long)
    cost = convolutions.tokenizer_costs(config, 64)
    assert cost["parameters"] == sum(p.numel() for p in tokenizer.parameters())
    with torch.no_grad():
        assert counted(lambda: tokenizer.encode(images)) == pytest.approx(cost["encode"], rel=0.01)
        steps = 2 * counted(lambda: tokenizer.net.decoder_unet(noisy, t))
    assert steps == pytest.approx(cost["decode"], rel=0.01)


def test_paper_sizes():
    tokens = costs.Tokens(256, 16, None, 16, 1000)
    sizes = {"b": (768, 12, 12, 1024, 6, 208), "l": (1024, 16, 16, 1280, 8, 479), "h": (1280, 20, 16, 1536, 12, 943)}
    for width, depth, heads, head_width, head_depth, millions in sizes.values():
        backbone = Backbone(kind="masked", width=width, depth=depth, heads=heads)
        head = Head(kind="diffusion", width=head_width, depth=head_depth, noise_draws=4)
        assert costs.model_parameters(backbone, head, tokens) / 1e6 == pytest.approx(millions, abs=1)
    dit = Backbone(kind="dit", width=1152, depth=28, heads=16, patch=2)
    assert costs.model_parameters(dit, JOINT, costs.Tokens(1024, 4, None, 32, 1000)) / 1e6 == pytest.approx(
        674.8, abs=0.1
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_operations_of_training_are_those_that_torch_counts(backbone, head, checkpointing):
    built, b, h, tokens, manifest = made(backbone, head)
    torch.manual_seed(0)
    model, recipe = (
        build_model(built, "v", manifest, quantizer(tokens)),
        Recipe(images=8, batch=2, checkpoint_images=8, log_images=8),
    )
    if checkpointing:
        model.checkpoint_blocks()
    masked = num_masked(costs.mean_mask_ratio(recipe.mask_ratio_min), tokens.count)
    ids = tokens.codebook is not None
    x = torch.zeros(2, tokens.count, dtype=torch.long) if ids else torch.randn(2, tokens.count, tokens.dim)
    order, labels = orders(backbone, 2, tokens), torch.zeros(2, dtype=torch.long)
    found = counted(lambda: model.loss(x, labels, order, tokens.count - masked, Noise("l")).backward())
    recipe = recipe.model_copy(update={"gradient_checkpointing": checkpointing})
    # below it by what needs no gradient: the tokens themselves
    assert found == pytest.approx(2 * costs.training_flops(b, h, recipe, tokens), rel=0.03)


@pytest.mark.parametrize(
    ("backbone", "head", "settings"),
    [
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": 3, "guidance": 2.0}),
        ("masked", "diffusion", {"steps": 6, "diffusion_steps": 3, "solver": "dpm", "late_steps": 2}),
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
def test_operations_of_sampling_are_those_that_torch_counts(backbone, head, settings):
    built, b, h, tokens, manifest = made(backbone, head)
    settings = Sampling(**settings)
    torch.manual_seed(0)
    model = build_model(built, "v", manifest, quantizer(tokens)).eval()
    ids = tokens.codebook is not None
    blank = torch.zeros(tokens.count, dtype=torch.long) if ids else torch.zeros(tokens.count, tokens.dim)
    order, labels = orders(backbone, 8, tokens), torch.zeros(8, dtype=torch.long)
    found = counted(lambda: generate(model, labels, order, blank, settings, Noise("s")))
    # above it by the embedding of the timestep, which is one for the whole batch
    assert found == pytest.approx(8 * costs.sampling_flops(b, h, settings, tokens), rel=0.03)


def test_discriminator_and_mean_ratio():
    config = KL.model_copy(update={"pretrained": False, "images": 1, "learning_rate": 1.0, "kl_weight": 1.0})
    with torch.device("meta"):
        net, images = discriminator(), torch.empty(1, 3, 64, 64)
    judged = convolutions.tokenizer_training_flops(config.model_copy(update={"adversarial_weight": 0.5}), 64)
    judged -= convolutions.tokenizer_training_flops(config, 64)
    with torch.no_grad():
        assert judged == pytest.approx(9 * counted(lambda: net(images)), rel=0.01)
    grid = [mask_ratio((i + 0.5) / 500, 0.7) for i in range(500)]
    assert costs.mean_mask_ratio(0.7) == pytest.approx(sum(grid) / 500, abs=1e-4)
    assert costs.mean_mask_ratio(1.0) == 1.0


TWO = {name: STUDY["variants"][name] for name in ("ar-ce", "mar-diff")}


def test_jobs_of_a_study():
    found = plan.jobs(study(variants=TWO))
    assert [job.stage for job in found] == [
        *("prepare", "classifier", "tokenizer", "tokenizer", "encode", "encode", "train", "train", "sample", "sample"),
        *["features"] * 4,  # of the train split, the held-out one and both sample sets
        *["statistics"] * 4,
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


def test_an_import_is_not_trained_and_its_file_lies_in_two_places():
    variants = {"mar-diff": STUDY["variants"]["mar-diff"] | {"pretrained": True}}
    train = next(job for job in plan.jobs(study(variants=variants)) if job.stage == "train")
    assert (train.images, train.flops, train.weights) == (0, 0.0, 8 * train.parameters)


def test_variants_without_seeds_cost_nothing():
    variants = {"mar-diff": STUDY["variants"]["mar-diff"] | {"seeds": []}}
    assert {job.stage for job in plan.jobs(study(variants=variants, tradeoff=[]))} == {
        *("prepare", "classifier", "features", "statistics", "reference"),
    }


def test_published_networks_are_judges_without_a_classifier():
    metrics = STUDY["metrics"] | {"extractors": ["inception", "dinov2"], "reference": {"file": "adm-imagenet256"}}
    found = plan.jobs(study(variants=TWO, metrics=metrics, classifier=None))
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


def test_costs_of_published_networks():
    with torch.device("meta"):
        vit, images = dinov2.build(), torch.zeros(1, 3, dinov2.SIDE, dinov2.SIDE)
    found = costs.extractor_costs(study(), "dinov2", 10)
    assert found["parameters"] == sum(p.numel() for p in vit.parameters())
    with torch.no_grad():
        assert found["forward"] == pytest.approx(counted(lambda: vit(images)), rel=0.01)
    network = inception.Inception().to("meta")
    made = {}
    operations = counted(lambda: made.update(inception.extract(network, torch.zeros(1, 3, 299, 299, device="meta"))))
    found = costs.extractor_costs(study(), "inception", 10)
    assert found == costs.extractor_costs(study(), "clean", 10)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["forward"] == operations
    assert {key: value.shape[1] for key, value in made.items()} == {key: found[key] for key in made}


def test_a_sweep_counts_its_grid_and_what_it_refines():
    settings = STUDY["sampling"]["diff"] | {"sweep": {"samples": 12, "guidance": [1.0, 2.0, 3.0], "refine": 2}}
    del settings["guidance"]
    found = plan.jobs(study(variants=TWO, sampling=STUDY["sampling"] | {"diff": settings}))
    sweep = next(job for job in found if job.stage == "sweep")
    assert (sweep.name, sweep.images) == ("mar-diff/diff", 12 * (3 + 2 * 2))
    plain = next(job for job in plan.jobs(study(variants=TWO)) if job.name == "mar-diff/seed0/diff")
    swept = next(job for job in found if (job.stage, job.name) == ("sample", "mar-diff/seed0/diff"))
    assert swept.flops == plain.flops  # both are guided


def test_images_are_counted_where_prepare_has_run(tmp_path):
    own = {"kind": "imagefolder", "path": "somewhere", "image_size": 8}
    assert not plan.count_images(study(data=own), tmp_path).known
    assert plan.count_images(study(data=own | {"expect": "imagenet"}), tmp_path).train == 1_281_167
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


@pytest.mark.parametrize(("key", "unit"), [("gpu_hours", "A100 hours"), ("disk_gb", "GB")])
def test_a_study_over_its_budget_is_refused(key, unit):
    plan.check(study())
    plan.check(study(budget={key: 100.0}))
    with pytest.raises(ValueError, match=rf"study tiny: budget.{key} 1e-09: the estimate is [\d,]+ {unit}"):
        plan.check(study(budget={key: 1e-9}))


def test_a_probe_sets_the_utilisation():
    per_image = costs.training_flops(*costs.parts(study(), "mar-diff", 10))
    assert plan.utilisation_of(study(), "mar-diff=1000") == pytest.approx(1000 * per_image / 19.5e12)
    for probe in ("mar-diff", "mar-diff=fast", "mar-diff=0"):
        with pytest.raises(ValueError, match="accepted: VARIANT=IMAGES_PER_SECOND"):
            plan.utilisation_of(study(), probe)
    with pytest.raises(ValueError, match="found 'nobody'; accepted: ar-ce"):
        plan.utilisation_of(study(), "nobody=3")


def test_the_command_shows_the_table_and_writes_it(tmp_path):
    (tmp_path / "tiny.yaml").write_text(json.dumps(STUDY | {"variants": TWO, "budget": {"disk_gb": 1e-6}}))
    file = tmp_path / "plan.csv"
    arguments = ["plan", "--study", str(tmp_path / "tiny.yaml"), "--csv", str(file), "--utilisation", "0.5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "train mar-diff/seed0" in result.output and "train: 2 jobs" in result.output
    assert "over budget: study tiny: budget.disk_gb 1e-06" in result.output
    lines = list(csv.DictReader(file.open()))
    assert len(lines) == len(plan.jobs(study(variants=TWO))) and lines[0]["utilisation"] == "0.5"
    result = CliRunner().invoke(main, [*arguments, "--measured", "mar-diff=3"])
    assert result.exit_code == 1 and "--utilisation and --measured: accepted: one of both" in result.output


def test_a_plan_needs_no_torch():
    code = "import sys, mar.planning.plan, mar.planning.drill_shapes\n"
    code += "sys.exit('torch' in sys.modules or 'snakemake' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
