"""Code of the user's own kinds: found beside a study, copied under its digest into its results, imported from there.

A file counts together with the local files that it imports at the top. The digest is that of their names and contents.
Whoever reads a YAML file takes the files beside it; whoever reads a resolved study takes results/<study>/code/<digest>,
and refuses a copy that has changed. An installed package is imported as it is.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from mar.runtime.files import write_text

DIGEST = "^([0-9a-f]{16})?$"
FILE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.py")
LARGEST = 10**6  # bytes of one file of code
FILES = 200  # of one own kind, at most

_beside: contextvars.ContextVar[tuple[Path, ...]] = contextvars.ContextVar("beside", default=())
_copies: list[Path] = []  # code folders of the results that this process reads
_codes: dict[str, Code] = {}
_modules: dict[tuple[str, str], ModuleType] = {}


class Code(NamedTuple):
    """Files of an own kind.

    Attributes:
        folder: where they are from.
        files: contents by their path below the folder.
    """

    folder: Path
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """Checksum of names and contents."""
        lines = [f"{hashlib.sha256(content).hexdigest()} {name}\n" for name, content in sorted(self.files.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@contextlib.contextmanager
def beside(folders: Sequence[Path]) -> Iterator[None]:
    """Within it, files of own kinds are looked for in these folders, the first that has one counts."""
    token = _beside.set(tuple(folders))
    try:
        yield
    finally:
        _beside.reset(token)


def add_copies(folder: Path) -> None:
    """From now on, look for copies of code in results/<study>/code too."""
    if folder not in _copies:
        _copies.append(folder)


def find(kind: str) -> tuple[str, Any]:
    """The digest of the code of an own kind, empty for a package, and the class.

    Args:
        kind: `file.py:Class` or `package.module:Class`.

    Raises:
        ValueError: there is no such file or class, or it cannot be imported.
    """
    place, _, name = kind.partition(":")
    folders = _beside.get()
    if not folders:  # no study file is read: nothing is imported
        raise ValueError(f"found {kind!r}; accepted outside of a study file: a kind of this project")
    if not place.endswith(".py"):
        return "", _attribute(_package(place), name, kind)
    if not FILE.fullmatch(place):
        raise ValueError(f"found {kind!r}; accepted: a name of letters, digits and _ as my_file.py, beside the study")
    folder = next((folder for folder in folders if (folder / place).is_file()), None)
    if folder is None:
        where = " or ".join(str(folder / place) for folder in dict.fromkeys(folders)) or place
        raise ValueError(f"found {kind!r}, and there is no file {where}; accepted: a file beside the study")
    code = _collect(folder, place)
    digest = code.digest
    _codes[digest] = code  # the one that was read last: messages name its files
    return digest, _attribute(_module(digest, place), name, kind)


def load(kind: str, digest: str) -> Any:
    """The class of an own kind, of the code of this digest.

    Raises:
        ValueError: there is no copy of it, or the copy has changed.
    """
    place, _, name = kind.partition(":")
    if not digest:
        return _attribute(_package(place), name, kind)
    return _attribute(_module(digest, place), name, kind)


def imported(kind: str, digest: str) -> bool:
    """Whether this process has imported the class of an own kind."""
    place = kind.partition(":")[0]
    return (digest, place) in _modules if digest else place in sys.modules


def implementation(text: str, of: type, kind: str) -> Any:
    """What a class names as its implementation: `module:name`, or a name in the file of an own class.

    Raises:
        ValueError: there is none, or it cannot be imported.
    """
    if not text:
        raise ValueError(f"{kind}: has no implementation; accepted: implementation, a ClassVar with the name of one")
    module, _, name = text.rpartition(":")
    if not module:
        return _attribute(sys.modules[of.__module__], name, f"{kind}: implementation")
    if module.endswith(".py"):
        raise ValueError(f"{kind}: implementation: found {text!r}; accepted: a name in this file, or module:name")
    return _attribute(_package(module), name, f"{kind}: implementation")


def store(digest: str, folder: Path) -> None:
    """Copy the code of a digest into `folder`, results/<study>/code, unless it is there.

    Raises:
        ValueError: it is known neither by a study that was read nor in the results of one.
    """
    if (folder / digest).exists() and _copy(folder / digest).digest == digest:
        return
    for name, content in _code(digest).files.items():
        write_text(folder / digest / name, content.decode("utf-8"))


def called(made: type) -> str:
    """`file.py:Class` of a class that an own kind's code defines; of others their name."""
    spec = getattr(sys.modules.get(made.__module__), "__spec__", None)
    if spec is not None and isinstance(spec.loader, _Finder):
        return f"{spec.loader_state}:{made.__name__}"
    return made.__name__


def blame(error: BaseException) -> str | None:
    """`file:line: what happened` where an error was raised in or below an own kind's code; None for others."""
    files = {str(code.folder / name) for code in _codes.values() for name in code.files}
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not frames:
        return None
    said = " ".join(str(error).split())
    return f"{frames[-1].filename}:{frames[-1].lineno}: in {frames[-1].name}: {type(error).__name__}: {said}"


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module of the user's may raise anything
        raise ValueError(f"{name}: cannot be imported ({type(error).__name__}: {error}); accepted: a module") from error


def _attribute(module: ModuleType, name: str, kind: str) -> Any:
    if not hasattr(module, name):
        where = module.__spec__.origin if module.__spec__ else module.__name__
        raise ValueError(f"{kind}: {where} has no {name!r}; accepted: a name that it defines")
    return getattr(module, name)


def _collect(folder: Path, place: str) -> Code:
    """A file with the local files that it imports, and those that these import."""
    files, waiting = dict[str, bytes](), [place]
    while waiting:
        name = waiting.pop()
        if name in files:
            continue
        path = folder / name
        if path.stat().st_size > LARGEST or len(files) >= FILES:
            raise ValueError(f"{path}: accepted: at most {FILES} files of {LARGEST} bytes")
        files[name] = path.read_bytes()
        try:
            tree = ast.parse(files[name], str(path))
        except (SyntaxError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            said = error.msg if isinstance(error, SyntaxError) else error
            raise ValueError(f"{path}{line}: {type(error).__name__}: {said}; accepted: Python") from None
        waiting += [local for module in _imported(tree, name) for local in _local(folder, module)]
    return Code(folder, files)


def _imported(tree: ast.Module, name: str) -> Iterator[str]:
    """Modules that a file imports anywhere, as paths; a name from a module may be a module too."""
    package = name.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(".", "/") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = "/".join([*base, *(node.module or "").split(".")]).strip("/")
            yield start
            yield from (f"{start}/{alias.name}".strip("/") for alias in node.names)


def _local(folder: Path, module: str) -> Iterator[str]:
    """The files below the folder that a module is; of a package also those of the packages around it."""
    parts = module.split("/")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        for name in (f"{path}.py", f"{path}/__init__.py"):
            if (folder / name).is_file():
                yield name


def _code(digest: str) -> Code:
    if digest not in _codes:
        for folder in (root / digest for root in _copies):
            if folder.is_dir():
                code = _copy(folder)
                if code.digest != digest:
                    raise ValueError(f"{folder}: differs from its digest; accepted: the copy as it was made")
                _codes[digest] = code
                break
        else:
            where = ", ".join(str(root / digest) for root in _copies) or "no results folder"
            raise ValueError(f"code {digest} of an own kind: is not in {where}; run the workflow of the study again")
    return _codes[digest]


def _copy(folder: Path) -> Code:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return Code(folder, {name: (folder / name).read_bytes() for name in names})


def _module(digest: str, place: str) -> ModuleType:
    """A file of own code as a module, imported once.

    Raises:
        ValueError: it cannot be imported; the message has file and line.
    """
    if (known := _modules.get((digest, place))) is not None:
        return known
    code = _code(digest)
    if place not in code.files:
        raise ValueError(f"{code.folder}: has no {place}; accepted: {', '.join(sorted(code.files))}")
    finder = _Finder(code)
    spec = importlib.machinery.ModuleSpec(f"mar_own_{digest}_{place.removesuffix('.py')}", finder)
    spec.origin, spec.loader_state = str(code.folder / place), place
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks up the names of annotations
    local = {name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in code.files}
    hidden = {name: sys.modules.pop(name) for name in local if name in sys.modules}
    sys.meta_path.insert(0, finder)
    try:
        finder.exec_module(module)
    except Exception as error:  # a file of the user's may raise anything
        del sys.modules[spec.name]
        raise ValueError(f"{blame(error) or error}; accepted: a file that Python can import") from error
    finally:
        sys.meta_path.remove(finder)
        for name in local:  # another study may have another file of this name
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
    _modules[digest, place] = module
    return module


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the files of an own kind by their plain names, before anything else of these names."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        for file in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
            if file in self.code.files:
                spec = importlib.machinery.ModuleSpec(name, self, is_package=file.endswith("/__init__.py"))
                spec.origin, spec.loader_state = str(self.code.folder / file), file
                return spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        module.__file__ = spec.origin
        exec(compile(self.code.files[spec.loader_state], spec.origin, "exec"), module.__dict__)

    def get_source(self, fullname: str) -> str | None:
        return None

    def get_code(self, fullname: str) -> CodeType | None:
        return None
