"""What mkdocs.yml needs of ours: pages that are files elsewhere in the repository, and docstrings made to fit."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from posixpath import normpath

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "model_card.md": "model_card.md",
}
"""File of the repository → page of the site."""
PACKAGE, EXAMPLES = ROOT / "build" / "site-package", ROOT / "build" / "site-examples"


def on_startup(command: str, dirty: bool) -> None:
    """Makes the folder in which commands.md runs its examples, and the package as it is installed, of links.

    mkdocstrings reads the files of the package and imports nothing, so it does not see where setuptools maps them.
    """
    shutil.rmtree(EXAMPLES, ignore_errors=True)
    EXAMPLES.mkdir(parents=True)
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    shutil.rmtree(PACKAGE, ignore_errors=True)
    folder = PACKAGE / "deft_llm"
    folder.mkdir(parents=True)
    for path in (ROOT / "deft_llm").iterdir():
        (folder / path.name).symlink_to(path)
    for name, source in setup["package-dir"].items():
        (folder / name.removeprefix("deft_llm.")).symlink_to(ROOT / source)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source == "model_card.md":
            text = f"# The template of the model card\n\n````markdown\n{text}\n````\n"
        else:
            text = linked(text, source)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    """Makes the links of a page in docs/ fit that lead to a file outside of it."""
    return linked(markdown, f"docs/{page.file.src_uri}") if page.file.src_uri not in PAGES.values() else markdown


def linked(text: str, source: str) -> str:
    """The text of a file of the repository with links between pages of the site.

    Args:
        text: Markdown.
        source: Path of the file in the repository. Links are relative to it.

    Raises:
        FileNotFoundError: A link leads to a file that does not exist.
    """
    folder = source.rpartition("/")[0]

    def fitted(match: re.Match) -> str:
        target, anchor = match[2], match[3] or ""
        path = normpath(f"{folder}/{target}") if folder else normpath(target)
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{source} links to {target}, which does not exist.")
        page = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        # A file that is not a page, such as a benchmark, is named and not linked.
        return f"{match[1]}({page}{anchor})" if page else match[1].lstrip("!")[1:-1]

    return re.sub(r"(!?\[[^\]]*\])\(((?!\w+:|#)[^)#\s]+)(#[^)\s]*)?\)", fitted, text)


class PlainTypes(Extension):
    """Takes the backticks off types in docstrings, because the tables of the reference set types as code anyway."""

    def on_object(self, *, obj: Object, **kwargs) -> None:
        if obj.docstring is not None:
            lines = r"^( *\*{0,2}\w+ \()\[?`([^`\n]+)`\]?"
            obj.docstring.value = re.sub(lines, r"\1\2", obj.docstring.value, flags=re.MULTILINE)
