"""Guidance scale and temperature of a setting, chosen for each model by FID on a grid (the paper, appendix B).

Every point of the grid is drawn from the same random numbers, so that differences between points are paired; from
other ones than the sample sets, so that the chosen point is judged on images that did not choose it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mar.runtime.files import read, sha256, write
from mar.runtime.folders import claim
from mar.runtime.shards import stage
from mar.study import layout
from mar.study.chosen_settings import AXES
from mar.study.parts import Sampling
from mar.study.parts import Sweep as Grid
from mar.study.records import (
    RunRecord,
    SweepNumbers,
    SweepPlace,
    SweepPoint,
    SweepPointRecord,
    SweepRecipe,
    SweepRecord,
)
from mar.study.stage_keys import point_key, real_side, sweep_key
from mar.study.study import Study

if TYPE_CHECKING:
    from mar.features.networks.extractors import Extractor
    from mar.metrics.evaluate import Real
    from mar.sampling.sampler import Sampler


POINT = "guidance{}-temperature{}.json"
RESAMPLES = 200  # for the intervals; not the study's, of which another number would draw every point again
Point = tuple[float, float]
Done = Callable[[int], None]


def sweep(study: Study, root: str | Path, variant: str, setting: str) -> None:
    """Judge every point of a setting's grid with the first seed's weights; writes sweeps/<variant>/<setting>.json.

    Points are kept in a folder beside it as soon as they are done, and the same command goes on with the others, also
    after the grid has been extended. A point whose images or features are not finite is recorded with its error and
    cannot win.

    Raises:
        ValueError: the setting has no sweep, a stage before has not run, the real images were judged by other weights,
            or no point has a FID.
    """
    root = Path(root)
    grid = study.sampling[setting].sweep
    if grid is None:
        raise ValueError(f"--setting {setting}: sampling.{setting} has no sweep; accepted: a setting with one")
    from mar.features.networks import extractors
    from mar.metrics import evaluate
    from mar.runtime.progress import Progress
    from mar.runtime.provenance import provenance
    from mar.sampling.sampler import Sampler

    seed, main = study.variants[variant].seeds[0], study.metrics.extractors[0]
    run = read(layout.run_record(root, variant, seed), RunRecord)
    tokens = layout.token_manifest(root, study.variants[variant].tokenizer)
    real = evaluate.real(study, root, main, images=False)
    inputs = {"checkpoint": run.checkpoint, "tokens": sha256(tokens), "weights": real.extractor.weights}
    inputs |= {"real": sha256(layout.statistics(root, main, real_side(study, main)))}
    recipe = SweepRecipe(slice=sweep_key(study, variant, setting), **inputs)
    report = layout.sweep(root, variant, setting)
    folder = report.with_suffix("")
    with stage(report, lambda: read(report, SweepRecord).recipe == recipe, folder=folder) as todo:
        if not todo:
            return
        claim(
            folder,
            {"point": point_key(study, variant, setting), **inputs},
            "recipe.json",
            layout.twin(study, root, folder),
        )
        sampler = Sampler(study, root, variant, seed)
        network = extractors.load(main, study, root, sampler.device)
        if network.weights != recipe.weights:
            raise ValueError(
                f"{main}: weights {network.weights[:12]}, {real.identity.name} was judged with {recipe.weights[:12]}; "
                "accepted: the same; run `mar features` and `mar statistics` again"
            )
        left = most(grid) - len(list(folder.glob(POINT.format("*", "*"))))
        done = Progress(f"sweep {variant} {setting}", max(left, 0) * grid.samples).update

        def judge(place: Point) -> SweepNumbers:
            settings = study.sampling[setting].at(*place)
            path = folder / POINT.format(*map(float, place))
            return kept(path, lambda: measure(sampler, network, real, settings, grid.samples, done))

        points = search(grid, judge)
        best = winner(points)
        if best is None or best.fid is None:
            raise ValueError(f"{report}: no point of the grid has a FID; the first says: {points[0].error}")
        found = SweepRecord(
            variant=variant,
            setting=setting,
            seed=seed,
            samples=grid.samples,
            extractor=main,
            reference=real.identity,
            grid=tuple(points),
            best=SweepPlace(guidance=best.guidance, temperature=best.temperature),
            edge=edge(points, best),
            recipe=recipe,
            provenance=provenance(),
        )
        write(report, found)
        said = f"guidance {best.guidance:g}, temperature {best.temperature:g}"
        print(f"{report}: {len(points)} points, best {said}: FID {best.fid.value:.4g}", flush=True)


def search(grid: Grid, judge: Callable[[Point], SweepNumbers]) -> list[SweepPoint]:
    """Judge the grid, then around the best point what lies halfway to its neighbours, `refine` times.

    Args:
        grid: the values of both axes.
        judge: the numbers of a point.

    Returns:
        The points in the order in which they were judged; round 0 is the grid.
    """
    asked = [(g, t) for g in grid.guidance for t in grid.temperature]
    points: list[SweepPoint] = []
    for number in range(grid.refine + 1):
        for guidance, temperature in asked:
            found = {key: value for key, value in judge((guidance, temperature)) if value is not None}
            points.append(SweepPoint(guidance=guidance, temperature=temperature, round=number, **found))
        best = winner(points)
        if best is None:
            break
        asked = halfway(points, best)
    return points


def halfway(points: list[SweepPoint], best: SweepPoint) -> list[Point]:
    """The points between the best one and its neighbours on either axis, at most four."""
    found: list[Point] = []
    for axis in AXES:
        here: float = getattr(best, axis)
        values = sorted({getattr(point, axis) for point in points})
        place = values.index(here)
        for other in (place - 1, place + 1):
            if 0 <= other < len(values):
                middle = best.model_copy(update={axis: round((values[other] + here) / 2, 6)})
                found.append((middle.guidance, middle.temperature))
    return found


def most(grid: Grid) -> int:
    """How many points a sweep has at most."""
    around = sum(2 for values in (grid.guidance, grid.temperature) if len(values) > 1)
    return len(grid.guidance) * len(grid.temperature) + grid.refine * around


def winner(points: list[SweepPoint]) -> SweepPoint | None:
    """The point of lowest FID, of equals that with the least guidance, then temperature; None if none has a FID."""
    judged = [(point.fid.value, point.guidance, point.temperature, point) for point in points if point.fid]
    return min(judged, key=lambda entry: entry[:3])[3] if judged else None


def edge(points: list[SweepPoint], best: SweepPoint) -> tuple[str, ...]:
    """The axes at whose end the best point lies: a better one may lie beyond. A scale of 1 has nothing below."""
    found = []
    for axis in AXES:
        here, values = getattr(best, axis), {getattr(point, axis) for point in points}
        low = here == min(values) and not (axis == "guidance" and here == 1.0)
        if len(values) > 1 and (low or here == max(values)):
            found.append(axis)
    return tuple(found)


def kept(path: Path, measure: Callable[[], SweepNumbers]) -> SweepNumbers:
    """What a point's file says; measured and written if there is none. A point that cannot be measured is its error."""
    if not path.exists():
        try:
            numbers = measure()
        except ValueError as error:
            numbers = SweepNumbers(error=str(error))
            print(f"{path.stem}: {error}", flush=True)
        write(path, SweepPointRecord(**{key: value for key, value in numbers if value is not None}))
    return read(path, SweepPointRecord)


def measure(
    sampler: Sampler, network: Extractor, real: Real, settings: Sampling, samples: int, done: Done
) -> SweepNumbers:
    """FID and Inception Score at one point.

    Args:
        sampler: the model.
        network: what judges.
        real: what it compares with.
        settings: the point.
        samples: images.
        done: told of each chunk.

    Raises:
        ValueError: images or features are not finite.
    """
    import numpy as np
    import torch

    from mar.metrics.bootstrap import Bootstrap
    from mar.runtime.noise import Noise
    from mar.sampling.sampler import chunk_labels

    study, labels = sampler.study, chunk_labels(0, samples, sampler.manifest.classes)
    parts: list[dict[str, torch.Tensor]] = []
    for number, asked in enumerate(labels.split(study.metrics.chunk)):
        # named by the chunk and not by the point: differences of points are paired
        noise = Noise("sweep", study.seed, sampler.seed, number, device=sampler.device)
        parts.append(network(sampler.draw(settings, asked, noise)))
        done(len(asked))
    arrays = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0] if key != "spatial"}
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise ValueError(f"{network.name}: features are not finite")
    draw = Bootstrap(labels.numpy(), RESAMPLES, study.seed)
    score = draw.inception_score(arrays["logits"]) if "logits" in arrays else None
    return SweepNumbers(fid=draw.fid(arrays["features"], real.statistics), inception_score=score)
