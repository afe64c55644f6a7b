"""One GPU in at most ten minutes: are our numbers right on it, and how fast is it? Random weights, nothing is fetched.

    make gpu-check                                 # python -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --json FILE     # the same; FILE is what `mar plan --measured FILE` reads
    python -m benchmarks.gpu_check --tiny          # every section at a small size on the CPU: says that the check works

Sections, in this order; one whose package is missing says so, and one that the time does not suffice for is left out.

products    TFLOP/s of matrix products, GB/s of copies, microseconds of a kernel
parity      tensors recorded from the published code (tests/parity/golden), in fp32, fp16 and bf16
repeat      training twice, and in two parts, to the bit: with torch's deterministic algorithms; said also without
training    images a second of a step of 64 images in micro-batches of 16, eager and compiled, and peak memory
sampling    seconds an image at 64 steps of 100 diffusion steps with guidance 3, beside the published loop restated
autoencoder images a second that KL-16 encodes and decodes
judges      images a second through Inception and DINOv2

It needs torch from 2.6 on and this folder; pydantic and safetensors for all but `products`. The status is 1 if an
assertion fails, 77 with a reason where torch sees no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products; read when CUDA starts

import torch
from torch import Tensor, nn

LIMIT = 540.0  # seconds after which no section starts
GOLDEN = Path(__file__).parents[1] / "tests" / "parity" / "golden"
CONFIG = Path(__file__).parents[1] / "config"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Accepted relative error of recorded outputs, |ours - recorded| / |recorded|. Half precision has 11 and 8 bits.
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
STEP, MICRO = 64, 16  # images of a step on one GPU (2,048 on 32), and of its micro-batches
MODELS = {"mar-b": "imagenet256", "mar-l": "imagenet256", "mar-h": "imagenet256", "var-d16": "var256"}
NO_GPU = 77


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    section: str
    what: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass
class Check:
    """A check under way.

    Attributes:
        device: where it computes.
        tiny: whether everything is small.
        end: time after which no section starts.
        rows: what was measured.
        failed: assertions that failed.
        training: images a second of each model's training, for `mar plan --measured`.
        peak: measured operations a second of products in bf16.
    """

    device: torch.device
    tiny: bool
    end: float
    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    training: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0

    def add(self, section: str, what: str, value: float | str, unit: str = "", note: str = "") -> None:
        """Print a line and keep it for the table."""
        row = Row(section, what, value if isinstance(value, str) else f"{value:.4g}", unit, note)
        self.rows.append(row)
        print(f"  {row.what}: {row.value} {row.unit} {row.note}".rstrip(), flush=True)

    def holds(self, section: str, what: str, ok: bool, value: float | str, note: str = "") -> None:
        """Keep an assertion."""
        self.add(section, what, value, "", f"{'ok' if ok else 'FAILED'}{f': {note}' if note else ''}")
        if not ok:
            self.failed.append(f"{section}: {what}: {value} {note}".rstrip())

    def seconds(self, call: Callable[[], object], budget: float = 3.0) -> float:
        """Median seconds of a call, of three or more after one that does not count."""
        call()
        self.wait()
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < (1 if self.tiny else 3) or (not self.tiny and time.perf_counter() - start < budget):
            before = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - before)
        return statistics.median(times)

    def wait(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def autocast(self, name: str) -> Any:
        """The context in which a model computes in a precision."""
        return torch.autocast(self.device.type, DTYPES[name] if name != "fp32" else torch.bfloat16, name != "fp32")

    @contextlib.contextmanager
    def memory(self) -> Iterator[Callable[[], str]]:
        """Yield a function that says the peak memory since here; what was used is freed at the end."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            yield lambda: f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if cuda else ""
        finally:
            if cuda:
                torch.cuda.empty_cache()


def products(check: Check) -> None:
    """What the device gives at most: nothing but torch is needed."""
    side = 128 if check.tiny else 8192
    for name, dtype in DTYPES.items():
        a = torch.randn(side, side, device=check.device).to(dtype)
        rate = 2.0 * side**3 / check.seconds(lambda a=a: a @ a, 1.0)  # type: ignore[misc]
        check.add("products", f"{side} x {side} in {name}", rate / 1e12, "TFLOP/s")
        if name == "bf16":
            check.peak = rate
    x = torch.empty((1 << 20) if check.tiny else (1 << 30), dtype=torch.uint8, device=check.device)
    y = torch.empty_like(x)
    check.add("products", "copy", 2 * len(x) / check.seconds(lambda: y.copy_(x), 1.0) / 1e9, "GB/s")
    small = torch.zeros(1, device=check.device)
    count = 10 if check.tiny else 1000

    def many() -> None:
        for _ in range(count):
            small.add_(1.0)

    check.add("products", "smallest kernel", 1e6 * check.seconds(many, 1.0) / count, "us")


def parity(check: Check) -> None:
    """Outputs of MAR's and DiT's published code against ours; convolutions in fp32 without TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        parity_of_mar(check)
        parity_of_dit(check)


def parity_of_mar(check: Check) -> None:
    """The condition z of the masked backbone, and the rows of Diffusion Loss."""
    from safetensors.torch import load_file

    from mar.data.latents import patchify
    from mar.models.model import build
    from mar.study.parts import DiffusionHead, MaskedBackbone

    golden = {k: v.to(check.device) for k, v in load_file(GOLDEN / "mar_tiny.safetensors").items()}
    shape = tokens_of(tokens=64, token_dim=4, grid=8, classes=10)
    backbone = MaskedBackbone.of(kind="masked", width=32, depth=2, heads=4, buffer=8, dropout=0.0)
    model: Any = build(backbone, DiffusionHead.of(kind="diffusion", width=32, depth=2, noise_draws=2), shape)
    names = {k[3:]: v for k, v in golden.items() if k.startswith("sd.")}
    ours = {
        k.replace("diffloss.", "head.") if k.startswith("diffloss.") else f"backbone.{k}": v for k, v in names.items()
    }
    model.load_state_dict(ours)
    model = model.to(check.device).eval()
    tokens, order = patchify(golden["in.latents"], 1), golden["in.orders"].long().flip(1)
    mask = golden["in.mask"].bool()
    known = 64 - int(mask[0].sum())
    for name in DTYPES:
        with torch.no_grad(), check.autocast(name):
            z, _ = model.backbone(tokens, golden["in.labels"].long(), order, known)
        compare(check, f"MAR: z in {name}", z.flatten(0, 1), golden["out.z"][mask], TOLERANCE[name])
    x0, z = tokens.flatten(0, 1).repeat(2, 1), golden["out.z"].flatten(0, 1).repeat(2, 1)
    for name in DTYPES:
        with torch.no_grad(), check.autocast(name):
            mse, _ = model.head.terms(z, x0, golden["in.t"].long()[None], golden["in.noise"][None])
        compare(check, f"MAR: Diffusion Loss in {name}", mse, golden["out.loss_rows_mse"], TOLERANCE[name])


def parity_of_dit(check: Check) -> None:
    """The output of DiT."""
    from safetensors.torch import load_file

    from mar.study.parts import DitBackbone

    try:
        from mar.models.dit import DiT, from_official
    except ImportError as error:
        check.add("parity", "DiT", "left out", "", f"no package {error.name}")
        return
    golden = {k: v.to(check.device) for k, v in load_file(GOLDEN / "dit_tiny.safetensors").items()}
    dit = DiT(DitBackbone.of(kind="dit", width=48, depth=2, heads=4, patch=2), side=8, channels=4, classes=10)
    dit.load_state_dict(from_official({k[3:]: v for k, v in golden.items() if k.startswith("sd.")}))
    dit = dit.to(check.device).eval()
    labels = torch.where(golden["in.y"] == 10, -1, golden["in.y"]).long()
    for name in DTYPES:
        with torch.no_grad(), check.autocast(name):
            got = dit(golden["in.x"], golden["in.t"].long(), labels)
        compare(check, f"DiT in {name}", got, golden["out.forward"], TOLERANCE[name])


def compare(check: Check, what: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    """Assert that the relative error of a tensor is within a tolerance."""
    error = float(torch.linalg.vector_norm(got.float() - want) / torch.linalg.vector_norm(want))
    check.holds("parity", what, error <= tolerance, error, f"relative error, at most {tolerance:g}")


def repeat(check: Check) -> None:
    """Weights after four steps: twice, and with a pause after two from which a second process would go on."""
    name = "mar-b"
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for deterministic in (True, False):
            torch.use_deterministic_algorithms(deterministic)
            ends = [weights_after(check, name, pause) for pause in (False, False, True)]
            for what, other in (("again", ends[1]), ("in two parts", ends[2])):
                equal = all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))
                if deterministic:
                    check.holds(
                        "repeat", f"{name} {what}, deterministic algorithms", equal, "equal" if equal else "differs"
                    )
                else:
                    check.add("repeat", f"{name} {what}, as torch likes it", "equal" if equal else "differs")
    finally:
        torch.use_deterministic_algorithms(before)


def weights_after(check: Check, name: str, pause: bool) -> list[Tensor]:
    """All weights after four steps from the same start."""
    step = Step(check, name)
    for number in range(4):
        if pause and number == 2:
            state = copy.deepcopy((step.model.state_dict(), step.optimizer.state_dict()))
            step = Step(check, name, *state)
        step(number)
    return [p.detach().clone() for p in step.model.parameters()]


class Step:
    """A training step of a model: some micro-batches of random tokens, clipping, AdamW and the weight average."""

    def __init__(
        self, check: Check, name: str, weights: dict[str, Tensor] | None = None, moments: dict[str, Any] | None = None
    ) -> None:
        from mar.training.trainer import parameter_groups, start_average

        self.check, self.tokens = check, tokens_in(check, name)
        self.model = model_in(check, name, self.tokens).train()
        if weights is not None:
            self.model.load_state_dict(weights)
        self.average = list(start_average(self.model, None).values())
        fused = check.device.type in ("cuda", "cpu")
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.02), lr=1e-4, betas=(0.9, 0.95), fused=fused)
        if moments is not None:
            self.optimizer.load_state_dict(moments)
        self.micro, self.batch = (2, 4) if check.tiny else (MICRO, STEP)

    def __call__(self, number: int) -> None:
        """Step number `number`, of which all random numbers are functions."""
        for part in range(self.batch // self.micro):
            self.loss(number, part).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.model.parameters()), 1 - 0.9999)

    def loss(self, number: int, part: int) -> Tensor:
        """Loss of one micro-batch, at a mask ratio of its own."""
        from mar.models.order import draw_order, mask_ratio, num_masked
        from mar.runtime.noise import Noise

        noise = Noise("gpu-check", number, part, device=self.check.device)
        torch.manual_seed(100 * number + part)  # of dropout
        ids, shape = self.tokens.kind == "ids", (self.micro, self.tokens.tokens)
        x = noise.integers(self.tokens.codebook_size, *shape) if ids else noise.normal(*shape, self.tokens.token_dim)
        labels = noise.integers(self.tokens.classes, self.micro)
        order = draw_order("scales" if self.tokens.scales else "random", self.micro, self.tokens.tokens, noise)
        ratio = mask_ratio((0.5 + (7 * number + part) % 16) / 16)
        with self.check.autocast("bf16"):
            loss: Tensor = self.model.loss(
                x, labels, order, self.tokens.tokens - num_masked(ratio, self.tokens.tokens), noise
            )
        return loss * (self.micro / self.batch)


def tokens_of(**over: Any) -> SimpleNamespace:
    """The shape of a model's tokens."""
    plain = {"kind": "latents", "group": 1, "codebook_size": 0, "scales": (), "code_width": 0}
    return SimpleNamespace(**plain | over)


def tokens_in(check: Check, name: str) -> SimpleNamespace:
    """The tokens of one of MODELS: published sizes, or small ones."""
    if name.startswith("var"):
        scales = (1, 2, 3) if check.tiny else (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
        length, width = sum(side**2 for side in scales), 8 if check.tiny else 32
        return tokens_of(
            kind="ids", tokens=length, token_dim=width, grid=scales[-1], classes=1000,
            codebook_size=64 if check.tiny else 4096, scales=scales, code_width=width,
        )  # fmt: skip
    return (
        tokens_of(tokens=16, token_dim=4, grid=4, classes=10)
        if check.tiny
        else tokens_of(tokens=256, token_dim=16, grid=16, classes=1000)
    )


def model_in(check: Check, name: str, tokens: SimpleNamespace) -> Any:
    """One of MODELS with random weights, on the device: backbone and head of the shipped study, or small ones."""
    from mar.models.model import build
    from mar.models.multiscale import MultiScaleQuantizer
    from mar.study.parts import Backbone, DiffusionHead, Head

    torch.manual_seed(0)
    if check.tiny:
        kind = "scales" if tokens.scales else "masked"
        more: dict[str, Any] = {"gate_init": 0.1} if tokens.scales else {"buffer": 2}
        backbone = Backbone.of(kind=kind, width=16, depth=1, heads=2, **more)
        head = (
            Head.of(kind="categorical")
            if tokens.scales
            else DiffusionHead.of(kind="diffusion", width=16, depth=1, noise_draws=2)
        )
    else:
        from mar.study.reading import load

        study = load(CONFIG / f"{MODELS[name]}.yaml")
        variant = study.variants[name]
        backbone, head = study.backbones[variant.backbone], study.heads[variant.head]
    quantizer = None
    if tokens.scales:
        quantizer = MultiScaleQuantizer(tokens.codebook_size, tokens.token_dim, tokens.scales).to(check.device)
    model: Any = build(backbone, head, tokens, quantizer)
    for key, parameter in model.named_parameters():
        if "adaLN" in key or "final_layer.linear" in key:  # zeros at the start of a training
            nn.init.normal_(parameter, std=0.02)
    return model.to(check.device)


def training(check: Check) -> None:
    """Images a second of one step, its share of the products' rate, and memory."""
    for name in MODELS:
        for compiled in (False, True):
            what = f"{name}, {'compiled' if compiled else 'eager'}"
            if time.monotonic() > check.end:
                check.add("training", what, "left out", "", "no time")
                continue
            with check.memory() as peak:
                try:
                    measure_step(check, name, compiled, what, peak)
                except torch.OutOfMemoryError:
                    check.add("training", what, "out of memory", "", f"micro-batches of {MICRO}")
                except Exception as error:
                    if not compiled:
                        raise
                    check.add(
                        "training", what, "left out", "", f"torch.compile: {type(error).__name__}: {str(error)[:80]}"
                    )


def measure_step(check: Check, name: str, compiled: bool, what: str, peak: Callable[[], str]) -> None:
    """Time a step; the operations are counted by torch in micro-batches of all mask ratios."""
    from torch.utils.flop_counter import FlopCounterMode

    step, number = Step(check, name), iter(range(1_000_000))
    with FlopCounterMode(display=False) as counter:
        for part in range(step.batch // step.micro):
            step.loss(0, part).backward()
    step.optimizer.zero_grad(set_to_none=True)
    flops = counter.get_total_flops() / step.batch
    if compiled:
        step.model.compile_blocks()
        for part in range(16):  # every mask ratio, so that nothing is compiled while it is timed
            step.loss(0, part).backward()
        step.optimizer.zero_grad(set_to_none=True)
    rate = step.batch / check.seconds(lambda: step(next(number)), 5.0)
    note = ", ".join(
        filter(None, (f"{rate * flops / check.peak:.0%} of the products' rate" if check.peak else "", peak()))
    )
    check.add("training", what, rate, "images/s", note)
    check.training[name] = max(rate, check.training.get(name, 0.0))


def sampling(check: Check) -> None:
    """Seconds an image of the tokens alone, in bf16; the published loop on the same weights."""
    from benchmarks import baseline
    from mar.models.order import draw_order
    from mar.runtime.noise import Noise
    from mar.sampling.generate import generate
    from mar.study.parts import Sampling

    settings = Sampling(steps=64, diffusion_steps=100, guidance=3.0)
    if check.tiny:
        settings = Sampling(steps=4, diffusion_steps=3, guidance=3.0)
    batch = 2 if check.tiny else 256
    for name in ("mar-b", "mar-l"):
        tokens = tokens_in(check, name)
        with check.memory() as peak:
            model = model_in(check, name, tokens).eval()
            noise = Noise("gpu-check", device=check.device)
            labels, order = noise.integers(tokens.classes, batch), draw_order("random", batch, tokens.tokens, noise)
            blank = torch.zeros(tokens.tokens, tokens.token_dim, device=check.device)
            for loop, who in ((generate, "ours"), (baseline.generate, "published loop")):
                if time.monotonic() > check.end:
                    check.add("sampling", f"{name}, {who}", "left out", "", "no time")
                    continue
                few = settings.model_copy(update={"steps": 2, "diffusion_steps": 2})
                with check.autocast("bf16"):
                    loop(model, labels, order, blank, few, Noise("warm", device=check.device))
                    check.wait()
                    start = time.perf_counter()
                    drawn = loop(model, labels, order, blank, settings, Noise("draw", device=check.device))
                    check.wait()
                seconds = (time.perf_counter() - start) / batch
                check.add("sampling", f"{name}, {who}", seconds, "s/image", f"batches of {batch} {peak()}".strip())
                finite = bool(torch.isfinite(drawn).all())
                check.holds("sampling", f"{name}, {who}: tokens", finite, "finite" if finite else "not finite")


def autoencoder(check: Check) -> None:
    """KL-16 as it is used: in fp32, which convolutions compute in TF32 by torch's default."""
    import diffusers  # noqa: F401  # so that its absence names it

    from mar.study.parts import Tokenizer
    from mar.tokenizers.autoencoder import build

    channels, size, batch = ([128, 128, 256, 256, 512], 256, 32)
    if check.tiny:
        channels, size, batch = [8, 8, 8], 16, 2
    config = Tokenizer.of(
        kind="kl", stride=2 ** (len(channels) - 1), channels=channels, layers=1 if check.tiny else 2,
        attention="encoder", latent_channels=16, kl_weight=1e-6, images=1, learning_rate=1e-4,
    )  # fmt: skip
    torch.manual_seed(0)
    net = build(config, size).to(check.device).eval()
    images = torch.rand(batch, 3, size, size, device=check.device) * 2 - 1
    with torch.no_grad(), check.memory() as peak:
        moments = net.encode(images)
        check.add("autoencoder", "encode", batch / check.seconds(lambda: net.encode(images)), "images/s", peak())
        latents = moments.chunk(2, 1)[0]
        check.add(
            "autoencoder", "decode", batch / check.seconds(lambda: net.decode_latents(latents)), "images/s", peak()
        )


def judges(check: Check) -> None:
    """Features as the metrics take them."""
    from mar.features.networks import extractors

    size, batch = (32, 1) if check.tiny else (256, 250)
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    for name in ("inception", "dinov2"):
        try:
            if check.tiny and name == "dinov2":
                from mar.features.networks import dinov2

                network: Callable[[Tensor], object] = partial(dinov2.extract, dinov2.build(32, 1, 2))
            else:
                network = extractors.load(name, None, None, check.device, random=True)
        except ImportError as error:
            check.add("judges", name, "left out", "", f"no package {error.name}")
            continue
        check.add("judges", name, batch / check.seconds(partial(network, images)), "images/s")


SECTIONS: tuple[Callable[[Check], None], ...] = (
    products, parity, repeat, training, sampling, autoencoder, judges,
)  # fmt: skip


def run(check: Check) -> None:
    """Every section, whatever became of those before it."""
    for section in SECTIONS:
        name, start = section.__name__, time.monotonic()
        print(f"{name}", flush=True)
        if start > check.end:
            check.add(name, "all", "left out", "", "no time")
            continue
        try:
            section(check)
        except ImportError as error:
            check.add(
                name,
                "rest" if any(row.section == name for row in check.rows) else "all",
                "left out",
                "",
                f"no package {error.name or error}",
            )
        except torch.OutOfMemoryError:
            check.add(name, "rest", "out of memory")
        except Exception as error:
            traceback.print_exc()
            check.holds(name, "runs", False, type(error).__name__, str(error)[:200])
        print(f"  ({time.monotonic() - start:.0f} s)", flush=True)


def versions(device: torch.device) -> dict[str, str]:
    """What it ran with."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"device": properties.name, "memory_gib": f"{properties.total_memory / 2**30:.0f}"}
        found["cudnn"] = str(torch.backends.cudnn.version())
    else:
        found["device"] = "cpu"
    return found


def table(check: Check) -> str:
    """All rows in Markdown."""
    lines = ["| section | what | value | unit | |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r.section} | {r.what} | {r.value} | {r.unit} | {r.note} |" for r in check.rows)])


def main(arguments: list[str] | None = None) -> int:
    """Run the check; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="every section at a small size, on the CPU")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print(f"SKIP: torch {torch.__version__} sees no GPU here, and this check measures one; --tiny runs on the CPU")
        return NO_GPU
    device = torch.device("cpu") if options.tiny else torch.device("cuda", 0)
    check = Check(device, options.tiny, time.monotonic() + LIMIT)
    used = versions(device)
    print(", ".join(f"{name} {value}" for name, value in used.items()), flush=True)
    torch.backends.cudnn.benchmark = False
    if options.tiny:
        torch.compiler.set_stance("force_eager")  # compiling takes a minute and a compiler
    try:
        run(check)
    finally:
        torch.compiler.set_stance("default")
    print(f"\n{', '.join(f'{name} {value}' for name, value in used.items())}\n\n{table(check)}\n")
    if options.json:
        content = {"versions": used, "training": check.training, "rows": [asdict(row) for row in check.rows]}
        options.json.write_text(json.dumps(content | {"failed": check.failed}, indent=1) + "\n", encoding="utf-8")
    print("failed: " + "; ".join(check.failed) if check.failed else "all assertions hold")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
