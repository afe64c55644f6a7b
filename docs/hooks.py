"""What the site needs beside docs/: pages of the reference, files of the repository, and pages that the menu lacks."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)]*)?\)")  # a link of a page that may lead out of docs/
CODE = (".py", ".yaml", ".csv", ".sh", ".in")  # shown as text
MORE, REFERENCE = "More", "Reference"  # sections of the menu


def on_config(config: Any) -> Any:
    """Add the reference to the menu, and every page of docs/ that it lacks."""
    named = set(re.findall(r"[\w/.-]+\.md", str(config["nav"])))
    pages = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "results").glob("*/README.md"))]
    others = [name for page in pages if (name := page.relative_to(ROOT / "docs").as_posix()) not in named]
    rooms = [f"reference/{path.parent.name}.md" for path in _rooms()]
    config["nav"].append({REFERENCE: ["reference/index.md", *rooms]})
    if others:
        config["nav"].append({MORE: others})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each room of the package, and the files outside of docs/ that pages link to."""
    lines = [f"- [`mar.{path.parent.name}`]({path.parent.name}.md): {_first_line(path)}" for path in _rooms()]
    intro = "The package by its rooms. A room imports from those below it only (`make lint`).\n\n"
    _add(files, config, "reference/index.md", f"# Reference\n\n{intro}" + "\n".join(lines))
    for path in _rooms():
        _add(files, config, f"reference/{path.parent.name}.md", _reference(path.parent))
    for page in [file for file in files if file.is_documentation_page() and file.abs_src_path]:
        for target, _ in OUTSIDE.findall(Path(page.abs_src_path).read_text(encoding="utf-8")):
            name = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), target))
            place = f"repository/{name}"
            if name.startswith("docs/") or not (ROOT / name).is_file() or files.get_file_from_path(_page(place)):
                continue
            text = (ROOT / name).read_text(encoding="utf-8")
            if not name.endswith(".md"):
                text = f"# {name}\n\n```{Path(name).suffix[1:]}\n{text}\n```\n"
            _add(files, config, _page(place), text)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links that lead out of docs/ lead to the copies of those files; on the copies, links are plain text."""
    if page.file.src_uri.startswith("repository/"):
        return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", markdown)

    def inside(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match[1]))
        if name.startswith("docs/"):
            return match[0]
        return f"]({posixpath.relpath(_page(f'repository/{name}'), posixpath.dirname(page.file.src_uri) or '.')})"

    return OUTSIDE.sub(inside, markdown)


def _add(files: Any, config: Any, name: str, text: str) -> None:
    files.append(File.generated(config, name, content=text))


def _page(place: str) -> str:
    """The page that shows a file of the repository."""
    return place if place.endswith(".md") else f"{place}.md"


def _rooms() -> list[Path]:
    """The doors of the rooms of the package."""
    return sorted((ROOT / "mar").glob("*/__init__.py"))


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _reference(room: Path) -> str:
    """The page of a room: what its door says, then each module."""
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    parts = [f"# mar.{room.name}\n\n{text}\n"]
    for path in sorted(room.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.endswith(("__init__", "__main__")):
            parts.append(f"## {name.removeprefix(f'mar.{room.name}.')}\n\n::: {name}\n")
    return "\n".join(parts)
