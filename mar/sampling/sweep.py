"""Guidance scale and temperature of a setting, chosen for each model by FID on a grid (the paper, appendix B).

The lowest FID of a grid is often lowest by chance. So of the points within one standard error of it the least guided
one is chosen, and of these the one whose temperature is nearest to 1 (the rule of one standard error: Breiman et al.
1984). `python -m benchmarks.sweeping` shows how far either rule depends on chance.

The images of all points are drawn with the same random numbers, so that differences between points are paired. These
are other numbers than those of the sample sets, so that the chosen point is evaluated on images that did not choose it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.folders import begun, claim, lock, still_ours
from mar.runtime.shards import Recipe, Share, stage
from mar.study import at_once, layout
from mar.study.chosen_settings import AXES
from mar.study.parts import Sampling
from mar.study.parts import Sweep as Grid
from mar.study.real_sets import real_side
from mar.study.records import (
    RunRecord,
    SweepNumbers,
    SweepPoint,
    SweepPointRecord,
    SweepRecipe,
    SweepRecord,
)
from mar.study.stage_keys import point_key, sweep_key
from mar.study.study import Study

if TYPE_CHECKING:
    from mar.features.networks.extractors import Extractor
    from mar.metrics.real_images import Real
    from mar.sampling.sampler import Looks, Sampler


POINT = "guidance{}-temperature{}.json"  # file of a point
RESAMPLES = 200  # of the bootstrap; not the study's number, since to change that would draw every point again
Z = 1.959964  # 97.5% quantile of the normal distribution
Point = tuple[float, float]  # guidance scale, temperature
Done = Callable[[int], None]  # is told how many more images were drawn


def sweep(study: Study, root: str | Path, variant: str, setting: str, share: Share = (0, 1)) -> None:
    """Write sweeps/<variant>/<setting>.json: FID at each point of a setting's grid, with the first seed's weights.

    Each point is written to a folder beside that file as soon as it is measured, and until then the features of each
    chunk of its images. The same command goes on with what is missing, also after the grid has been extended. A point
    whose images or features are not finite is recorded with its error and cannot win.

    Args:
        study: the study.
        root: its results folder.
        variant: a trained variant.
        setting: a sampling setting with a sweep.
        share: (i, n) measures points i, i + n, i + 2 n, ... of the grid; the worker that completes the grid also
            measures what `refine` asks for, and writes the result.

    Raises:
        ValueError: the setting has no sweep, an earlier stage has not run, the features of the real images are by other
            weights, or no point has a FID.
    """
    root = Path(root)
    grid = study.sampling[setting].sweep
    if grid is None:
        raise ValueError(f"--setting {setting}: sampling.{setting} has no sweep; accepted: a setting with one")
    from mar.features.networks import extractors
    from mar.metrics import real_images
    from mar.runtime.progress import Progress
    from mar.runtime.provenance import provenance
    from mar.sampling.sampler import Sampler

    seed, main = study.variants[variant].seeds[0], study.metrics.extractors[0]
    run = read(layout.run_record(root, variant, seed), RunRecord)
    tokens = layout.token_manifest(root, study.tokenizer_of(variant, seed))
    real = real_images.real(study, root, main)
    inputs = {"checkpoint": run.checkpoint, "tokens": sha256(tokens), "weights": real.extractor.weights}
    inputs |= {"real": sha256(layout.statistics(root, main, real_side(study, main)))}
    recipe = SweepRecipe(slice=sweep_key(study, variant, setting), **inputs)
    report = layout.sweep(root, variant, setting)
    folder = report.with_suffix("")
    twin, most_guided = layout.twin(study, root, folder), study.sampling[setting].points[-1]
    of_points: Recipe = {
        "point": point_key(study, variant, setting),
        **inputs,
        **at_once.of_samples(study, variant, most_guided),
    }
    measured_already = [*folder.glob(POINT.format("*", "*")), *folder.glob("*/chunk-*.safetensors")]
    of_points = begun(folder, of_points, (at_once.DRAWN, at_once.DECODED), measured_already, twin)
    study = at_once.as_begun(study, of_points)
    coming = [(g, t) for g in grid.guidance for t in grid.temperature]
    mine = coming[share[0] :: share[1]]

    def file_of(point: Point) -> Path:
        return folder / POINT.format(*map(float, point))

    def finished() -> bool:
        return read(report, SweepRecord).recipe == recipe

    @cache
    def judge() -> tuple[Sampler, Extractor, Done]:
        sampler = Sampler(study, root, variant, seed)
        network = extractors.load(main, study, root, sampler.device)
        if network.weights != recipe.weights:
            raise ValueError(
                f"{main}: weights {network.weights[:12]}, {real.identity.name} was judged with {recipe.weights[:12]}; "
                "accepted: the same; run `mar features` and `mar statistics` again"
            )
        measured = len(list(folder.glob(POINT.format("*", "*"))))
        missing = most(grid) - measured if share[1] == 1 else sum(not file_of(point).exists() for point in mine)
        return sampler, network, Progress(f"sweep {variant} {setting}", max(missing, 0) * grid.samples).update

    def numbers_at(point: Point) -> SweepNumbers:
        path = file_of(point)
        chunks = path.with_suffix("")
        if path.exists():
            shutil.rmtree(chunks, ignore_errors=True)  # a kill came after the point was measured
            return read(path, SweepPointRecord)
        still_ours(folder, of_points)
        settings, (sampler, network, done) = study.sampling[setting].at(*point), judge()
        keep = partial(kept, chunks)
        numbers = recorded(path, lambda: measure(sampler, network, real, settings, grid.samples, done, keep))
        shutil.rmtree(chunks, ignore_errors=True)
        return numbers

    with stage(report, finished, folder=folder) as todo:
        if not todo:
            return
        claim(folder, of_points, "recipe.json", twin)
    with lock(folder / f"shard-{share[0]}-of-{share[1]}"):
        for point in mine:
            numbers_at(point)
    with lock(folder):
        still_ours(folder, of_points)
        left = [point for point in coming if not file_of(point).exists()]
        if left or (report.exists() and finished()):
            print(
                f"{report}: {len(left)} points are left to other workers" if left else f"{report}: complete", flush=True
            )
            return
        measured = search(grid, numbers_at)
        lowest = winner(measured)
        if lowest is None:
            raise ValueError(f"{report}: no point of the grid has a FID; the first says: {measured[0].error}")
        among = within(measured, lowest)
        best = plainest(among)
        assert best.fid is not None  # as all points within the error of the lowest
        record = SweepRecord(
            variant=variant,
            setting=setting,
            seed=seed,
            samples=grid.samples,
            extractor=main,
            reference=real.identity,
            grid=tuple(measured),
            best=best.place,
            edge=edge(measured, lowest),
            rule="one standard error",
            lowest=lowest.place,
            within=tuple(point.place for point in among),
            recipe=recipe,
            provenance=provenance(),
        )
        write(report, record)
        chosen = f"guidance {best.guidance:g}, temperature {best.temperature:g}"
        print(f"{report}: {len(measured)} points, {chosen}: FID {best.fid.value:.4g}, {_lowest(lowest)}", flush=True)


def kept(folder: Path, number: int, look: Callable[[], Looks]) -> Looks:
    """The features and logits of a chunk of a point, from the file that keeps them until the point is measured."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    file = folder / f"chunk-{number:05d}.safetensors"
    if file.exists():
        try:
            return load_file(file)
        except SafetensorError as error:
            print(f"{file}: {error}; drawing the chunk again", flush=True)
    looks = {key: values.contiguous() for key, values in look().items() if key != "spatial"}  # which no sweep needs
    with atomic(file) as temporary:
        save_file(looks, temporary)
    return looks


def search(grid: Grid, numbers_at: Callable[[Point], SweepNumbers]) -> list[SweepPoint]:
    """Measure the points of a grid, then `grid.refine` times the points halfway from the best one to its neighbours.

    Args:
        grid: the values of both axes.
        numbers_at: measures one point.

    Returns:
        The points in the order in which they were measured; round 0 is the grid.
    """
    coming = [(g, t) for g in grid.guidance for t in grid.temperature]
    points: list[SweepPoint] = []
    for number in range(grid.refine + 1):
        for guidance, temperature in coming:
            numbers = {key: value for key, value in numbers_at((guidance, temperature)) if value is not None}
            points.append(SweepPoint(guidance=guidance, temperature=temperature, round=number, **numbers))
        best = winner(points)
        if best is None:
            break
        coming = halfway(points, best)
    return points


def halfway(points: list[SweepPoint], best: SweepPoint) -> list[Point]:
    """The points halfway between the best one and its neighbours along each axis, at most four."""
    middles: list[Point] = []
    for axis in AXES:
        centre: float = getattr(best, axis)
        values = sorted({getattr(point, axis) for point in points})
        place = values.index(centre)
        for other in (place - 1, place + 1):
            if 0 <= other < len(values):
                middle = best.model_copy(update={axis: round((values[other] + centre) / 2, 6)})
                middles.append((middle.guidance, middle.temperature))
    return middles


def most(grid: Grid) -> int:
    """The largest number of points that a sweep of this grid can have."""
    around = sum(2 for values in (grid.guidance, grid.temperature) if len(values) > 1)
    return len(grid.guidance) * len(grid.temperature) + grid.refine * around


def winner(points: list[SweepPoint]) -> SweepPoint | None:
    """The point of lowest FID; of equals that of least guidance, then least temperature. None if no point has a FID."""
    measured = [(point.fid.value, point.guidance, point.temperature, point) for point in points if point.fid]
    return min(measured, key=lambda entry: entry[:3])[3] if measured else None


def within(points: list[SweepPoint], lowest: SweepPoint) -> list[SweepPoint]:
    """The points whose FID is at most one standard error above the lowest one, by the interval of the lowest one."""
    assert lowest.fid is not None  # a point without a FID is never the lowest
    limit = lowest.fid.value + (lowest.fid.high - lowest.fid.low) / (2.0 * Z)
    return [point for point in points if point.fid and point.fid.value <= limit]


def plainest(points: list[SweepPoint]) -> SweepPoint:
    """The least guided point; of these that of temperature nearest to 1; of equals that of lowest FID."""

    def rank(point: SweepPoint) -> tuple[float, float, float]:
        assert point.fid is not None  # as of all points within the error of the lowest
        return point.guidance, round(abs(point.temperature - 1.0), 9), point.fid.value

    return min(points, key=rank)


def _lowest(point: SweepPoint) -> str:
    assert point.fid is not None  # a point without a FID is never the lowest
    return f"lowest {point.fid.value:.4g} at guidance {point.guidance:g}, temperature {point.temperature:g}"


def edge(points: list[SweepPoint], best: SweepPoint) -> tuple[str, ...]:
    """The axes at an end of which the point of lowest FID lies: a better one may lie beyond. No scale is below 1."""
    ends = []
    for axis in AXES:
        value, values = getattr(best, axis), {getattr(point, axis) for point in points}
        low = value == min(values) and not (axis == "guidance" and value == 1.0)
        if len(values) > 1 and (low or value == max(values)):
            ends.append(axis)
    return tuple(ends)


def recorded(path: Path, measure: Callable[[], SweepNumbers]) -> SweepNumbers:
    """Measure a point and write its file: the numbers, or the error of measuring them."""
    try:
        numbers = measure()
    except ValueError as error:
        numbers = SweepNumbers(error=str(error))
        print(f"{path.stem}: {error}", flush=True)
    write(path, SweepPointRecord(**{key: value for key, value in numbers if value is not None}))
    return read(path, SweepPointRecord)


def measure(
    sampler: Sampler,
    network: Extractor,
    real: Real,
    settings: Sampling,
    samples: int,
    done: Done,
    kept: Callable[[int, Callable[[], Looks]], Looks],
) -> SweepNumbers:
    """FID, Inception score, precision and recall at one point.

    Precision and recall are against as many real images as are drawn, or all there are: they are compared along the
    sweep, not with those of the sample sets.

    Args:
        sampler: draws the images.
        network: gives their features.
        real: the real side that FID compares with.
        settings: sampling setting with the guidance scale and temperature of the point.
        samples: number of images.
        done: is told the number of images of each chunk.
        kept: gives the features of a chunk by its number, from where they are kept or by the function that it gets.

    Raises:
        ValueError: images or features are not finite.
    """
    import numpy as np

    from mar.metrics.bootstrap import Bootstrap
    from mar.sampling.sampler import chunk_labels

    study, labels = sampler.study, chunk_labels(0, samples, sampler.manifest.classes)
    # the same random numbers at all points, so that differences between points are paired
    arrays = sampler.looked_at(network, settings, labels, ("sweep", study.seed, sampler.seed), done, kept)
    draw = Bootstrap(labels.numpy(), RESAMPLES, study.seed)
    score = draw.inception_score(arrays["logits"]) if "logits" in arrays else None
    numbers: dict[str, Any] = {"fid": draw.fid(arrays["features"], real.statistics), "inception_score": score}
    if real.features is not None:
        compared = real.features[np.random.default_rng(study.seed).permutation(len(real.features))[:samples]]
        k = min(study.metrics.neighbours, len(compared) - 1, samples - 1)
        pair = draw.precision_recall(arrays["features"], compared, k)
        numbers |= dict(zip(("precision", "recall"), pair, strict=True))
    return SweepNumbers(**numbers)
