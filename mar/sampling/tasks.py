"""In-painting, out-painting and class change of held-out images, with numbers: `mar tasks`.

Each model of the study's section `tasks` does the three tasks on the same held-out images, once each, under the
protocol `fair` of `mar/sampling/editing.py`. In- and out-painting ask for no class; class change asks for the class
that follows the image's own.

*Inside.* `fid` is that of pictures that have the drawn pixels under the mask and the image's own outside, against the
real images of all FIDs. Beside it: `fid_real`, of the images themselves; `fid_rebuilt`, with what the tokenizer makes
of the image under the mask; and `fid_exchanged`, with what the model drew for another image that shows the same class.
The last has the same insides and the same outsides, but not together: a model that looks at the surroundings is below
it. `agreement` is the share of the pictures that the study's classifier gives the class that they should show.

*Outside.* `psnr` (dB) and `distance` compare what the model returns with the image there; `psnr_rebuilt` and
`distance_rebuilt` what the tokenizer alone loses, since decoders reach across the mask. The distance is that of LPIPS:
by LPIPS itself, or where the study's own classifier judges by the maps of that one; pixels under the mask are the
image's in both pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mar.data.images import ImageSet, open_split, sha256_of_data, to_float, to_uint8
from mar.features.networks import extractors
from mar.features.networks.classifier import distances
from mar.features.networks.extractors import Extractor
from mar.metrics import evaluate, jackknife, real_images
from mar.metrics.bootstrap import Bootstrap
from mar.metrics.real_images import Real
from mar.runtime import devices
from mar.runtime.files import atomic, read, save_array, sha256, whole, write
from mar.runtime.noise import Noise
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import Recipe, fill, stage
from mar.sampling.editing import keep
from mar.sampling.generate import Kept
from mar.sampling.learning import within_classes
from mar.sampling.sampler import Sampler
from mar.study import at_once, layout
from mar.study.chosen_settings import resolved
from mar.study.parts import Sampling
from mar.study.products import edited
from mar.study.real_sets import scored
from mar.study.records import Change, Piece, RunRecord, TaskDone, TasksRecord
from mar.study.sections import CLASS_CHANGE, OUTPAINTING, TASKS, Tasks
from mar.study.stage_keys import edits_key, tasks_key
from mar.study.study import Study
from mar.tokenizers import perceptual

SHOWN, DRAWS = 4, 4  # images of the figure, and draws of each, of which the first is measured
PROTOCOL = "fair"


class Images:
    """The held-out images that the tasks are done on.

    Attributes:
        pixels: uint8 (n, 3, H, W).
        labels: their classes, int64 (n,).
        classes: number of classes.
        shown: rows of the images of the figure, each of another class where there are enough.
    """

    def __init__(self, study: Study, root: Path, tasks: Tasks) -> None:
        split: ImageSet = open_split(study, root, scored(study))
        chosen = evaluate.balanced(split.labels, tasks.samples, study.seed)
        if len(chosen) < tasks.samples:
            raise ValueError(
                f"tasks.samples: found {tasks.samples} of {len(split)} held-out images, equally of each class; "
                f"accepted: at most {len(chosen)}"
            )
        self.pixels, self.labels, self.classes = split.batch(chosen), split.labels[chosen], len(split.classes)
        first = np.unique(self.labels, return_index=True)[1]
        self.shown = np.sort(first)[:SHOWN]

    def asked(self, task: str) -> np.ndarray:
        """The class that the model is asked for of each image, (n,); -1 for none."""
        return self.wanted(task) if task == CLASS_CHANGE else np.full_like(self.labels, -1)

    def wanted(self, task: str) -> np.ndarray:
        """The class that each picture should show, (n,)."""
        return (self.labels + 1) % self.classes if task == CLASS_CHANGE else self.labels


def mask_of(tasks: Tasks, task: str, side: int) -> Tensor:
    """The pixels that a task draws anew, bool (side, side)."""
    left, top, right, bottom = tasks.pixels(side)
    box = torch.zeros(side, side, dtype=torch.bool)
    box[top:bottom, left:right] = True
    return ~box if task == OUTPAINTING else box


def tasks(study: Study, root: Path, variant: str, seed: int) -> None:
    """Write tasks/<variant>/seed<k>/: the pictures of each task in chunks, each image's numbers, and tasks.json last.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant of the study's section `tasks`, with a finished run of this seed.
        seed: its first training seed.

    Raises:
        ValueError: the study does not ask for it, an earlier stage has not run, or there are too few images.
    """
    section = study.tasks
    if section is None or (variant, seed) not in edited(study):
        accepted = ", ".join(f"{name} {k}" for name, k in edited(study)) or "a study with a section `tasks`"
        raise ValueError(f"--variant {variant} --seed {seed}: does no tasks; accepted: {accepted}")
    setting, main = section.models[variant], study.metrics.extractors[0]
    used, real = resolved(study, root, variant, setting), real_images.real(study, root, main, images=False)
    report, run = layout.tasks(root, variant, seed), read(layout.run_record(root, variant, seed), RunRecord)
    tokens = layout.token_manifest(root, study.tokenizer_of(variant, seed))
    recipe: Recipe = {
        "edits": edits_key(study, variant),
        "sampling": used.model_dump_json(exclude_defaults=True),
        "checkpoint": run.checkpoint,
        "tokens": sha256(tokens),
        "data": sha256_of_data(root),
        **at_once.of_samples(study, variant, used),
    }
    inputs = {"real": real.identity.sha256, "judge": real.extractor.weights}
    files, size = _files(report.parent, section, study.metrics.chunk), study.data.image_size

    def intact(number: int) -> bool:
        return whole(files[number][2], _shape(files[number][1], size), "uint8")

    def sound() -> bool:
        record = read(report, TasksRecord)
        measured = record.slice == tasks_key(study, variant) and record.inputs == inputs
        return measured and all(map(intact, range(len(files)))) and report.with_name(layout.MEASURES).exists()

    with stage(report, sound, recipe) as unfinished:
        if not unfinished:
            return
        images, sampler = Images(study, root, section), Sampler(study, root, variant, seed)

        def draw(missing: list[int]) -> Iterator[tuple[int, Callable[[Path], None]]]:
            progress = Progress(f"tasks {variant} seed {seed}", sum(len(files[n][1]) for n in missing))
            for number in missing:
                task, rows, path = files[number]
                more = path.stem.endswith("more")
                drawn = _drawn(sampler, used, images, section, task, images.shown[rows % SHOWN] if more else rows, more)
                yield number, partial(save_array, array=drawn)
                progress.update(len(rows))

        fill(report.parent, recipe, [path for _, _, path in files], (0, 1), intact, draw)
        drawn = {task: _read(files, task) for task in TASKS}
        done, measures = _measured(sampler, section, images, drawn, real, root)
        with atomic(report.with_name(layout.MEASURES)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **measures)  # type: ignore[arg-type]
        record = TasksRecord(
            variant=variant,
            seed=seed,
            setting=setting,
            sampling=used,
            protocol=PROTOCOL,
            split=scored(study),
            count=section.samples,
            box=section.box,
            extractor=real.extractor,
            reference=real.identity,
            tasks=done,
            files=tuple(Piece(file=path.name, count=len(rows), sha256=sha256(path)) for _, rows, path in files),
            measures=sha256(report.with_name(layout.MEASURES)),
            slice=tasks_key(study, variant),
            inputs=inputs,
            provenance=provenance(),
        )
        write(report, record)
        for task in done:
            shown = ", ".join(f"{name} {metric.value:.4g}" for name, metric in task.metrics.items())
            print(f"{report}: {task.task}: {shown}", flush=True)


def _files(folder: Path, section: Tasks, chunk: int) -> list[tuple[str, np.ndarray, Path]]:
    """The files of all tasks: the task, the rows of its images, and the path; of the figure all further draws."""
    found = []
    for task in TASKS:
        for number in range(section.samples // chunk):
            rows = np.arange(number * chunk, (number + 1) * chunk)
            found.append((task, rows, folder / f"{task}-{number:05d}.npy"))
        found.append((task, np.arange((DRAWS - 1) * SHOWN), folder / f"{task}-more.npy"))
    return found


def _shape(rows: np.ndarray, size: int) -> tuple[int, ...]:
    return len(rows), size, size, 3


def _read(files: list[tuple[str, np.ndarray, Path]], task: str) -> Tensor:
    """The measured draws of a task, uint8 (n, 3, H, W)."""
    parts = [np.load(path) for name, _, path in files if name == task and not path.stem.endswith("more")]
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).contiguous()


def _drawn(
    sampler: Sampler, settings: Sampling, images: Images, section: Tasks, task: str, rows: np.ndarray, more: bool
) -> np.ndarray:
    """What the model makes of some images, uint8 (n, H, W, 3)."""
    study = sampler.study
    mask = mask_of(section, task, study.data.image_size).to(sampler.device)
    name = ("tasks", study.seed, sampler.seed, task, "more" if more else int(rows[0]))
    noise = Noise(*name, *settings.named, device=sampler.device)
    first = study.variants[sampler.variant].order.free
    kept: Kept = keep(sampler, images.pixels[rows].to(sampler.device), mask, PROTOCOL, first)
    drawn = sampler.draw(settings, torch.from_numpy(images.asked(task)[rows]), noise, kept)
    return drawn.permute(0, 2, 3, 1).cpu().numpy()


def _measured(
    sampler: Sampler, section: Tasks, images: Images, drawn: dict[str, Tensor], real: Real, root: Path
) -> tuple[tuple[TaskDone, ...], dict[str, np.ndarray]]:
    """The numbers of each task, and those of each image, by `<task>.<measure>`."""
    study, chunk = sampler.study, sampler.study.metrics.chunk
    network = extractors.load(study.metrics.extractors[0], study, root, devices.device())
    if network.weights != real.extractor.weights:
        raise ValueError(f"{network.name}: other weights than those of the real images; run `mar features` again")
    distance = _distance(network, root)
    rebuilt = torch.cat([_rebuilt(sampler, part, i) for i, part in enumerate(images.pixels.split(chunk))])
    draw = Bootstrap(images.labels, study.metrics.bootstrap, study.seed)
    own = _judged(network, images.pixels, chunk)
    seen: dict[bytes, dict[str, np.ndarray]] = {}  # class change has the mask of in-painting
    done, measures = list[TaskDone](), dict[str, np.ndarray]()
    for task in TASKS:
        mask, wanted = mask_of(section, task, study.data.image_size), images.wanted(task)
        inside, exchanged = drawn[task], drawn[task][exchange(wanted)]
        if (key := mask.numpy().tobytes()) not in seen:
            seen[key] = _judged(network, torch.where(mask, rebuilt, images.pixels), chunk)
        judged = {
            "fid": _judged(network, torch.where(mask, inside, images.pixels), chunk),
            "fid_exchanged": _judged(network, torch.where(mask, exchanged, images.pixels), chunk),
            "fid_rebuilt": seen[key],
            "fid_real": own,
        }
        metrics = {name: draw.fid(looks["features"], real.statistics) for name, looks in judged.items()}
        for name, pictures in (("", inside), ("_rebuilt", rebuilt)):
            values = _outside(pictures, images.pixels, mask, distance, chunk)
            metrics |= {f"{key}{name}": draw.mean(v, higher_is_better=key == "psnr") for key, v in values.items()}
            measures |= {f"{task}.{key}{name}": v for key, v in values.items()}
        if network.name == "classifier":
            for name, looks, classes in (("", judged["fid"], wanted), ("_real", own, images.labels)):
                agrees = looks["logits"].argmax(1) == classes
                metrics[f"agreement{name}"] = draw.share(agrees, higher_is_better=True)
                measures[f"{task}.agreement{name}"] = agrees.astype(np.float64)
        logs, moves = [], []  # log FID, and what each image moves it
        for name in ("fid", "fid_exchanged"):
            value, moved = jackknife.fid(judged[name]["features"], real.statistics)
            logs.append(math.log(value))
            moves.append(moved / value)
        measures[f"{task}.fid"] = within_classes(moves[0], images.labels)
        fits = Change(effect=logs[0] - logs[1], error=exchange_error(moves[0] - moves[1], wanted))
        side = sampler.manifest.grid
        share = section.drawn(side, study.data.image_size, task == OUTPAINTING) / side**2
        done.append(TaskDone(task=task, drawn=share, metrics=metrics, fits=fits))
    return tuple(done), measures


def exchange(wanted: np.ndarray) -> np.ndarray:
    """For each image another one (n,) that shows the same class; itself where it is alone.

    Neighbours swap; the last three of a class with an odd number go round.
    """
    other = np.arange(len(wanted))
    for label in np.unique(wanted):
        rows = np.flatnonzero(wanted == label)
        last = max(0, len(rows) - 3 * (len(rows) % 2))  # where the three begin
        for group in [*rows[:last].reshape(-1, 2), rows[last:]]:
            other[group] = np.roll(group, 1)
    return other


def exchange_error(moves: np.ndarray, wanted: np.ndarray) -> float:
    """Standard error of log(FID / FID exchanged).

    A picture and the one it exchanges its part with have the same two insides and the same two outsides on both sides
    of the ratio, so what they move it is one observation: pairs are independent, their images are not.

    Args:
        moves: what each image moves the log ratio, (n,).
        wanted: the class that each picture should show, (n,); a set has equally many of each.
    """
    other = exchange(wanted)
    first = np.minimum.reduce([np.arange(len(other)), other, other[other]])  # of its pair or three
    variance = 0.0
    for label in np.unique(wanted):
        rows = wanted == label
        _, pair, sizes = np.unique(first[rows], return_inverse=True, return_counts=True)
        sums = np.bincount(pair, moves[rows])
        if (n := len(sums)) > 1:  # without the mean of the class
            sums = (sums - sizes * moves[rows].mean()) * math.sqrt(n / (n - 1))
        variance += float(sums @ sums)
    return math.sqrt(variance) / len(moves)


@torch.no_grad()
def _rebuilt(sampler: Sampler, images: Tensor, number: int) -> Tensor:
    """What the tokenizer makes of whole images, uint8 (B, 3, H, W)."""
    tokens = sampler.tokenizer.encode(to_float(images).to(sampler.device))
    noise = Noise("tasks", sampler.study.seed, "rebuilt", number, device=sampler.device)
    return to_uint8(sampler.tokenizer.decode(tokens, noise)).cpu()


def _judged(network: Extractor, pictures: Tensor, chunk: int) -> dict[str, np.ndarray]:
    """Features (n, F) and, where the network has them, logits (n, K)."""
    parts = [network(part) for part in pictures.split(chunk)]
    return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0] if key != "spatial"}


def _distance(network: Extractor, root: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """Function from two batches of images (B, 3, H, W) in [-1, 1] to their distances (B,)."""
    judge: Any = network.network
    if network.name == "classifier":
        return lambda a, b: distances([judge], a.to(network.device), b.to(network.device))
    lpips = perceptual.load(layout.assets(root)).to(network.device)
    return lambda a, b: lpips(*((x.to(network.device) + 1.0) * 127.5 for x in (a, b)))


@torch.no_grad()
def _outside(
    pictures: Tensor, images: Tensor, mask: Tensor, distance: Callable[[Tensor, Tensor], Tensor], chunk: int
) -> dict[str, np.ndarray]:
    """PSNR in dB and distance of pictures and images outside the mask, (n,) each."""
    errors = (pictures.double() - images.double()).square()[:, :, ~mask].mean((1, 2))
    same = torch.where(mask, images, pictures)
    parts = zip(same.split(chunk), images.split(chunk), strict=True)
    far = torch.cat([distance(to_float(a), to_float(b)).cpu() for a, b in parts])
    psnr = 10.0 * torch.log10(255.0**2 / errors.clamp(min=1e-10))
    return {"psnr": psnr.numpy(), "distance": far.double().numpy()}
