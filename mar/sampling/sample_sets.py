"""Sample sets, written in chunks.

A chunk depends on its seeds and its number alone, not on which process draws it or in which order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from mar.features.networks.rejecter import Acceptance
from mar.runtime import code_digest, devices
from mar.runtime.files import atomic, link, read, save_array, sha256, whole, write
from mar.runtime.folders import begun, lock, recipe_of
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import Recipe, fill, finish, stage
from mar.sampling import rejection
from mar.sampling.sampler import Sampler, chunk_labels
from mar.study import at_once, layout
from mar.study.chosen_settings import resolved
from mar.study.parts import Sampling
from mar.study.records import Piece, Rejection, RunRecord, SampleManifest, TokenManifest
from mar.study.stage_keys import sample_key
from mar.study.study import Study


def sample(study: Study, root: Path, variant: str, seed: int, setting: str, shard: tuple[int, int] = (0, 1)) -> None:
    """Draw a sample set, or one worker's share of its chunks; chunks on disk are kept, the manifest is written last.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant with a finished run of this seed.
        seed: training seed.
        setting: sampling setting.
        shard: (i, n) draws chunks i, i + n, i + 2 n, ...; the worker that completes the set writes the manifest.

    Raises:
        ValueError: the run is not finished, its tokens are missing, or the sweep of the setting has not run.
    """
    used = resolved(study, root, variant, setting)
    folder = layout.samples(root, layout.sample_set(variant, seed, setting))
    run = read(layout.run_record(root, variant, seed), RunRecord)
    tokens = layout.token_manifest(root, study.tokenizer_of(variant, seed))
    recipe: Recipe = {
        "sample": sample_key(study, variant, setting, used),
        "checkpoint": run.checkpoint,
        "tokens": sha256(tokens),
        **at_once.of_samples(study, variant, used),
    }
    rejecter = Acceptance(study, root, devices.device()) if used.reject else None
    if rejecter:
        recipe = {**recipe, "rejecter": rejecter.weights}
    count, report, start = study.metrics.samples // study.metrics.chunk, folder / layout.MANIFEST, time.monotonic()
    files = [folder / chunk_name(number) for number in range(count)]
    twin = layout.twin(study, root, folder)
    recipe = begun(folder, recipe, (at_once.DRAWN, at_once.DECODED), files, twin)
    study = at_once.as_begun(study, recipe)

    def intact(number: int) -> bool:
        sound = whole(files[number], (study.metrics.chunk,), "uint8")
        return sound and (rejecter is None or rejection.kept(_tries(files[number]), study.metrics.chunk))

    own, now = layout.own_code(root), dict[str, str]()

    def noted(held: bool = False) -> None:
        with lock(folder):
            code_digest.note(folder, now, own, held)

    def draw(missing: list[int]) -> Iterator[tuple[int, Callable[[Path], None]]]:
        # A sweep often chooses what another setting says: the chunks of such sets are links, never drawn twice.
        noted(held)
        if rejecter is None:
            for number, source in _drawn_already(study, root, variant, seed, setting, recipe, missing, now):
                yield number, partial(link, source)
        missing = [number for number in missing if not intact(number)]
        if not missing:
            return
        sampler = Sampler(study, root, variant, seed)
        sampler.check_repeats(used)
        noted()  # it imported the model and the tokenizer
        progress = Progress(f"sample {variant} seed {seed} {setting}", len(missing) * study.metrics.chunk)
        for number in missing:
            if rejecter:
                accepted = rejection.draw(sampler, rejecter, used, *sampler.chunk_of(used, number))
                rejection.save(_tries(files[number]), accepted)
                images = accepted.images.permute(0, 2, 3, 1).numpy()
            else:
                images, _ = sampler.chunk(setting, number)
            yield number, partial(save_array, array=images)
            progress.update(len(images))

    def write_report() -> None:
        seconds = time.monotonic() - start
        cost = rejection.record([*map(_tries, files)], used, rejecter.name, rejecter.weights) if rejecter else None
        write_manifest(study, folder, variant, seed, setting, used, run.checkpoint, tokens, seconds, cost)

    with stage(report, lambda: all(map(intact, range(count))), recipe, twin) as unfinished:
        if not unfinished:
            return
        held = any(path.exists() for path in files)
        now.update(code_digest.today(own))
        code_digest.guard(folder, now, held)
    fill(folder, recipe, files, shard, intact, draw)
    finish(report, recipe, files, intact, write_report)


def _drawn_already(
    study: Study,
    root: Path,
    variant: str,
    seed: int,
    setting: str,
    recipe: Recipe,
    numbers: list[int],
    now: code_digest.Digests,
) -> Iterator[tuple[int, Path]]:
    """Sound chunks of these numbers in a finished set of the same run whose setting differs by its name alone.

    One that other code drew than that of `now` is passed over.
    """
    for other in study.variants[variant].sampling:
        folder = layout.samples(root, layout.sample_set(variant, seed, other))
        if other == setting or not (folder / layout.MANIFEST).exists() or recipe_of(folder) != recipe:
            continue
        if (code := code_digest.of_folder(folder)) and code_digest.changed(code, now):
            continue
        pieces = read(folder / layout.MANIFEST, SampleManifest).chunks
        sound = [n for n in numbers if (file := folder / pieces[n].file).exists() and sha256(file) == pieces[n].sha256]
        if sound:
            print(f"{setting} has the values of {other}: {len(sound)} chunks are those drawn for it", flush=True)
        yield from ((number, folder / pieces[number].file) for number in sound)
        return


def chunk_name(number: int) -> str:
    """Name of a chunk's file."""
    return f"chunk-{number:05d}.npy"


def _tries(chunk: Path) -> Path:
    """File of how often the images of a chunk were drawn until they were accepted."""
    return chunk.with_name(f"{chunk.stem}-tries.npz")


def write_manifest(
    study: Study,
    folder: Path,
    variant: str,
    seed: int,
    setting: str,
    used: Sampling,
    checkpoint: str,
    tokens: Path,
    seconds: float,
    cost: Rejection | None = None,
) -> None:
    """Write labels.npy, the classes int64 (N,), and then manifest.json with the checksum of every chunk."""
    size, encoded = study.metrics.chunk, read(tokens, TokenManifest)
    count = study.metrics.samples // size
    labels = torch.cat([chunk_labels(c, size, encoded.classes) for c in range(count)])
    with atomic(folder / layout.LABELS) as temporary:
        save_array(temporary, labels.numpy())
    names = [chunk_name(c) for c in range(count)]
    manifest = SampleManifest(
        variant=variant,
        seed=seed,
        setting=setting,
        count=count * size,
        drawn_at_once=at_once.drawn(study, variant, used, size),
        decoded_at_once=at_once.decoded(study, study.variants[variant].tokenizer, size),
        chunks=tuple(Piece(file=name, count=size, sha256=sha256(folder / name)) for name in names),
        labels_sha256=sha256(folder / layout.LABELS),
        checkpoint=checkpoint,
        tokenizer=encoded.tokenizer,
        sampling=Sampling.model_validate(used.model_dump()),  # all keys given, so that all are written
        seconds=round(seconds, 3),
        rejection=cost,
        provenance=provenance(),
    )
    write(folder / layout.MANIFEST, manifest)
