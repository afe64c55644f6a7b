"""Import of published weights: read safely, map names, compare every shape, write safetensors under our names.

`mar import FORMAT FILE` writes results/assets/NAME.safetensors and, last, NAME.json with the whole report. What the
names become is in `mar/weights/names.py`, how a study takes them in `mar/weights/install.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mar.data.published import NAME, Asset
from mar.runtime import files
from mar.runtime.files import atomic, sha256
from mar.runtime.folders import lock
from mar.runtime.provenance import provenance
from mar.study import layout
from mar.study.mistakes import of_validation
from mar.study.records import ImportCounts, ImportedFile, ImportRecord, Origin
from mar.weights.names import EXPORTED, FORMATS, Mapped

# Keys under which a checkpoint of a format keeps the tensors that are imported, a point between one and the key inside
# it; the first that exists is taken. Files that hold nothing but tensors have none of these keys.
HOLDERS = {
    "official-mar": ("model_ema",),
    "dit": ("ema",),
    "var": (
        "trainer.var_wo_ddp",
        "state_dict",
        "model",
    ),  # of VAR's own training; the released files hold tensors alone
    "var-msvq": ("trainer.vae_local", "state_dict", "model"),
}
PREFIXES = ("module.", "_orig_mod.")  # that DDP and torch.compile put before the names of a model, one or both
SHOWN = 10  # tensors that one message names
NESTED = 3  # zips in each other, at most
PACKED = 100  # bytes of a checkpoint for each byte of it in a zip, at most
ARCHIVES = (".ckpt", ".pt", ".pth", ".safetensors")  # endings of the checkpoint inside a plain zip

# Packages whose objects published checkpoints carry beside tensors: parsed arguments, callbacks of Lightning,
# dictionaries of Lightning and omegaconf, numpy numbers. The objects are read into empty shells, so that no code of
# these packages is run and none of them has to be installed.
SHELLS = ("argparse", "pytorch_lightning", "lightning", "omegaconf", "numpy", "_codecs", "typing")


class Shell:
    """Stands for an object that is not looked at: takes whatever the file says of it."""

    def __new__(cls, *_: Any, **__: Any) -> Shell:
        """Make a shell, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def import_weights(format: str, file: Path, name: str, folder: Path, asset: Asset | None = None) -> ImportRecord:
    """Read a published file, check it and write it under our names; returns the record, which NAME.json holds.

    Args:
        format: one of `FORMATS`.
        file: torch checkpoint, safetensors, or a zip that holds one of them.
        name: name of the import, by which studies ask for it (`weights`).
        folder: folder of the assets, results/assets.
        asset: the row of config/assets.csv by which the file was fetched.

    Raises:
        ValueError: the file is of another format or holds what is not read from foreign files, or a tensor is missing,
            unexpected or of another shape than our model of this architecture has, or holds what is no finite real
            number.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: accepted: {', '.join((*FORMATS, EXPORTED))}")
    check_name(name)
    if not file.is_file():
        raise ValueError(f"{file}: no such file; accepted: a torch checkpoint, safetensors, or a zip that holds one")
    result, report = layout.import_weights(folder, name), layout.import_record(folder, name)
    with lock(folder):
        digest = sha256(file)
        if result.exists() and report.exists():
            try:
                record = files.read(report, ImportRecord)
                known = record.format, record.source.sha256, record.sha256
            except ValueError as error:
                print(f"{error}; it is imported again", flush=True)
                known = None
            if known == (format, digest, sha256(result)):
                print(f"{result}: imported already", flush=True)
                return record
        report.unlink(missing_ok=True)
        with opened(file, folder) as path:
            tensors, rest = pick(read(path, file), format, file)
            check_kinds(tensors, file)
            mapped, architecture = checked(format, tensors, file)
            # Of what is left out, VAR's mask of attention holds infinities.
            check_finite({mapped.sources[name]: tensor for name, tensor in mapped.tensors.items()}, file)
            dtypes = {source: str(t.dtype).removeprefix("torch.") for source, t in tensors.items()}
            origin = Origin(
                format=format,
                source=ImportedFile(file=file.name, sha256=digest, size=file.stat().st_size),
                asset=asset.name if asset else None,
                licence=asset.licence if asset else None,
            )
            record = put(mapped, dtypes, architecture, rest, origin, result, report)
    _print(record, mapped, file, result)
    return record


def put(
    mapped: Mapped,
    dtypes: dict[str, str],
    architecture: dict[str, Any],
    rest: dict[str, str],
    origin: Origin,
    result: Path,
    report: Path,
) -> ImportRecord:
    """Write the tensors of an import and, last, its record.

    Args:
        mapped: the tensors by our names.
        dtypes: their number types by their published names.
        architecture: values of the sections of a study that fit them.
        rest: what else the file holds.
        origin: where they are from.
        result: file of the tensors.
        report: file of the record.
    """
    with atomic(result) as temporary:
        save_file({k: _plain(t) for k, t in mapped.tensors.items()}, temporary)
    record = ImportRecord(
        **dict(origin),
        sha256=sha256(result),
        architecture=architecture,
        parameters=sum(t.numel() for t in mapped.tensors.values()),
        counts=ImportCounts(mapped=len(mapped.tensors), dropped=len(mapped.dropped)),
        tensors={k: _line(mapped, dtypes, k) for k in mapped.tensors},
        dropped=mapped.dropped,
        beside=rest,
        provenance=provenance(),
    )
    files.write(report, record)
    return record


def check_name(name: str, option: str = "--as") -> str:
    """The name of an import, if it can be one.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(
            f"{option}: found {name!r}; accepted: letters, digits and _ . + -, a letter or digit first, at most 100"
        )
    return name


def _plain(tensor: Tensor) -> Tensor:
    """A tensor as it is written: float32 where it holds real numbers, and contiguous."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()


def _line(mapped: Mapped, dtypes: dict[str, str], name: str) -> str:
    """What the report says of the tensor `name`: its published name, shape and type."""
    source = mapped.sources[name]
    return f"{source} {'x'.join(map(str, mapped.tensors[name].shape)) or 'scalar'} {dtypes[source]}"


def _print(record: ImportRecord, mapped: Mapped, file: Path, result: Path) -> None:
    width = max(len(source) for source in mapped.sources.values())
    for name, source in mapped.sources.items():
        print(f"{source:{width}}  {name}  {list(mapped.tensors[name].shape)}")
    for reason in sorted(set(mapped.dropped.values())):
        print(f"dropped {sum(r == reason for r in mapped.dropped.values())} tensors {reason}")
    for key, what in record.beside.items():
        print(f"not used: {key}: {what}")
    sizes = ", ".join(f"{k} {v}" for k, v in record.architecture.items())
    print(f"{file}: {record.format}: {sizes}")
    print(
        f"{result}: {record.counts.mapped} tensors, {record.parameters:,} parameters, {record.counts.dropped} dropped, "
        f"none missing, none unexpected; sha256 {record.sha256}",
        flush=True,
    )


@contextlib.contextmanager
def opened(file: Path, scratch: Path, depth: int = NESTED, named: Path | None = None) -> Iterator[Path]:
    """Yield the checkpoint: the file itself, or the only checkpoint inside a plain zip, unpacked into `scratch`.

    Messages name the file `named`, by default `file`; `depth` zips may be in each other.

    Raises:
        ValueError: a TorchScript archive, a damaged zip, one with none or several checkpoints, or with one that is far
            larger than the zip, or larger than the room on the disk.
        OSError: it cannot be unpacked.
    """
    named = named or file
    if file.suffix == ".safetensors" or not zipfile.is_zipfile(file):
        yield file
        return
    try:
        members = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise ValueError(f"{named}: {error}; accepted: a whole zip") from None
    with zipfile.ZipFile(file) as archive:
        if any(m.endswith("/constants.pkl") or "/code/" in m for m in members):
            raise ValueError(
                f"{named}: a TorchScript archive holds code, which is not run; accepted: safetensors or a checkpoint. "
                "Of the consistency decoder take diffusers' diffusion_pytorch_model.safetensors: `mar import "
                "consistency-decoder` fetches it (openai/consistency-decoder)"
            )
        if any(m.endswith("data.pkl") for m in members):
            yield file
            return
        if not depth:
            raise ValueError(f"{named}: holds zips in zips; accepted: at most {NESTED} in each other")
        checkpoints = [m for m in members if m.endswith(ARCHIVES)]
        if len(checkpoints) != 1:
            raise ValueError(f"{named}: found {members[:SHOWN]}; accepted: a zip with one of {', '.join(ARCHIVES)}")
        member = archive.getinfo(checkpoints[0])
        if member.file_size > PACKED * max(member.compress_size, 1 << 20):
            raise ValueError(
                f"{named}: {member.filename} has {member.file_size:,} bytes, {member.compress_size:,} in the zip; "
                f"accepted: at most {PACKED} times as many, as weights hardly compress"
            )
        if member.file_size > (free := shutil.disk_usage(scratch).free):
            raise ValueError(
                f"{named}: {member.filename} has {member.file_size:,} bytes; accepted: at most {free:,}, which the "
                f"disk of {scratch} has left; make room"
            )
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".unzip-") as temporary:
            inner = Path(temporary) / Path(checkpoints[0]).name
            try:
                with archive.open(checkpoints[0]) as source, open(inner, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"{named}: {error}; accepted: a whole zip without a password") from None
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(named)) from None
            with opened(inner, scratch, depth - 1, named) as path:
                yield path


def read(file: Path, named: Path | None = None) -> Any:
    """Content of a checkpoint; tensors are mapped from disk. No code from the file is run.

    Messages name the file `named`, by default `file`.

    Raises:
        ValueError: no checkpoint, or one that asks for more than tensors and the known shells.
    """
    named = named or file
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except Exception as error:
            raise ValueError(f"{named}: {error}; accepted: a safetensors file") from None
    is_zip = zipfile.is_zipfile(file)  # torch before 1.6 wrote no zips
    shells: list[Any] = []
    if is_zip:
        try:
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{named}: cannot be read: {reason}; accepted: a whole checkpoint of torch") from None
        unknown = [name for name in classes if name.partition(".")[0] not in SHELLS]
        if unknown:
            raise ValueError(f"{named}: asks for {', '.join(sorted(unknown))}, {_accepted()}")
        classes = [name for name in classes if name != "argparse.Namespace"]  # read as it is, for the report
        # Lightning's dictionaries have items, and torch puts items into plain dictionaries alone.
        shells += [(OrderedDict if name.endswith(".AttributeDict") else Shell, name) for name in classes]
    try:
        with torch.serialization.safe_globals([*shells, argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # of torch, of its unpickler, of the zip: damaged files raise whatever they meet
        message = str(error).partition("Please use")[0].partition("\n\n")[-1] or str(error)
        raise ValueError(f"{named}: cannot be read: {' '.join(message.split())[:300]}; {_accepted()}") from None


def _accepted() -> str:
    return f"and no code of a file is run; accepted: tensors, and shells of {', '.join(SHELLS)}"


def pick(content: Any, format: str, file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to import, by their published names, and a word on everything else in the checkpoint, by its key."""
    if not isinstance(content, dict):
        raise ValueError(f"{file}: found {type(content).__name__}; accepted: a mapping of tensors")
    holders = HOLDERS.get(format, ("state_dict", "model"))
    holder = next((key for key in holders if isinstance(_inside(content, key), dict)), None)
    tensors = content if holder is None else _inside(content, holder)
    if holder is None and not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file}: found keys {list(map(str, content))[:SHOWN]}; accepted: {' or '.join(holders)}")
    others = [str(key) for key, value in tensors.items() if not isinstance(value, Tensor)]
    if others or not tensors:
        raise ValueError(f"{file}: {holder or 'file'} holds {others[:SHOWN] or 'nothing'}; accepted: tensors")
    beside = (
        {}
        if holder is None
        else {str(k): _describe(v) for k, v in content.items() if k != (holder or "").split(".")[0]}
    )
    tensors = {str(name): value for name, value in tensors.items()}
    for prefix in 2 * PREFIXES:  # each of both may stand before the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            beside[prefix] = f"stood before the names of all {len(tensors)} tensors"
    return tensors, beside


def _inside(content: Any, key: str) -> Any:
    """The value at a key, or at a key inside the value of a key; None where there is none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def check_kinds(tensors: dict[str, Tensor], file: Path) -> None:
    """Refuse weights that are no plain real numbers; counters, of steps or of a codebook, may be whole ones.

    Raises:
        ValueError: a tensor is complex, sparse or quantised.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            found = "numbers that are sparse, quantised or complex"
            raise ValueError(f"{file}: {name}: found {found}; accepted: finite floating point numbers")


def check_finite(tensors: dict[str, Tensor], file: Path) -> None:
    """Refuse weights that are not finite in float32.

    Raises:
        ValueError: a tensor holds what is not.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.to(torch.float32)).all():
            found = "numbers that are not finite"
            raise ValueError(f"{file}: {name}: found {found}; accepted: finite floating point numbers")


def _describe(value: Any) -> str:
    if isinstance(value, argparse.Namespace):
        return ", ".join(f"{k}={v}" for k, v in vars(value).items() if isinstance(v, str | int | float | bool))
    tensors = [v for v in value.values() if isinstance(v, Tensor)] if isinstance(value, dict) else []
    return f"{len(tensors)} tensors" if tensors else type(value).__name__


def checked(format: str, tensors: dict[str, Tensor], file: Path) -> tuple[Mapped, dict[str, Any]]:
    """Tensors under our names and the architecture that they tell, compared one by one with our model of it.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the message lists them.
    """
    rename, read_architecture, build = FORMATS[format]
    try:
        mapped = rename(tensors)
        architecture = read_architecture(mapped)
        kind = format.removeprefix("ldm-")
        if kind in ("kl", "vq") and architecture["kind"] != kind:
            raise ValueError(f"it is a {architecture['kind']} autoencoder; accepted: format ldm-{architecture['kind']}")
        expected = build(architecture).state_dict()
    except ValidationError as error:  # the sizes of the tensors are none of a model
        found = "; ".join(map(str, of_validation(error, {})))
        raise ValueError(f"{file}: as {format}: the tensors tell {found}") from None
    except ValueError as error:
        accepted = "" if "accepted" in str(error) else f"; accepted: the tensors of {format}"
        raise ValueError(f"{file}: as {format}: {error}{accepted}") from None
    compare(expected, mapped, f"{file}: as {format} {architecture}")
    return mapped, architecture


def compare(expected: dict[str, Tensor], mapped: Mapped, where: str) -> None:
    """Refuse tensors that are missing, unexpected, of another shape or no floating point numbers, naming each."""
    faults = [f"missing: {name} {list(t.shape)}" for name, t in expected.items() if name not in mapped.tensors]
    for name, tensor in mapped.tensors.items():
        source = mapped.sources[name]
        if name not in expected:
            faults.append(f"unexpected: {source}, which becomes {name} {list(tensor.shape)}")
        elif tensor.shape != expected[name].shape:
            accepted = list(expected[name].shape)
            faults.append(f"shape: {source} is {list(tensor.shape)}; accepted: {accepted} ({name})")
        elif tensor.is_floating_point() != expected[name].is_floating_point():
            faults.append(f"type: {source} is {tensor.dtype}; accepted: {expected[name].dtype} ({name})")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise ValueError(
            f"{where}: {len(faults)} tensors do not fit; accepted: those of a model of these sizes\n  "
            + "\n  ".join(faults[:SHOWN] + more)
        )
