"""Finds clip folders by name regardless of zero padding, and frames by number. Never leaves the root folder."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from deft_llm.processing.video_reading import IMAGE_SUFFIXES


class LinkOutError(Exception):
    """A symbolic link that leads out of the root."""


class AmbiguousError(Exception):
    """Several folders match the clip."""


class _Listing:
    """Sub-folders and files of one folder in natural order, and which of them are symbolic links."""

    def __init__(self, folder: Path):
        try:
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.is_dir(), entry.is_symlink()) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            found = []
        found.sort(key=lambda item: natural_key(item[0]))
        self.files = [name for name, is_folder, _ in found if not is_folder]
        self.links = frozenset(name for name, _, is_link in found if is_link)
        self.folders = {name: folder / name for name, is_folder, _ in found if is_folder}
        self.spelled: dict[tuple, list[Path]] = {}  # folders by the meaning of their name: "6" and "006" are the same
        for name, path in self.folders.items():
            self.spelled.setdefault(natural_key(name), []).append(path)


class FolderTree:
    """The folders below the root. Each is listed from disk once."""

    def __init__(self, root: Path):
        self.root = root
        self._listings: dict[Path, _Listing] = {}

    def _list(self, folder: Path) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = _Listing(folder)
        return self._listings[folder]

    def names(self, folder: Path) -> list[str]:
        """File names in a folder."""
        return self._list(folder).files

    def folders_of(self, folder: Path) -> list[Path]:
        return list(self._list(folder).folders.values())

    def leads_out(self, path: Path) -> bool:
        return not path.resolve().is_relative_to(self.root)

    def glob(self, pattern: str) -> list[Path]:
        """Folders that match a pattern under the root, or one level below it if there are none."""
        for start in [self.root, *self.folders_of(self.root)]:
            found = [start]
            for part in pattern.split("/"):
                found = [child for folder in found for child in self._children(folder, part)]
            if found:
                return found
        return []

    def find(self, templates: Sequence[str], cells: Mapping[str, str]) -> Path | None:
        """The folder of a clip, or `None` if there is none. Raw frames are preferred over cropped ones.

        Raises:
            LinkOutError: a symbolic link leads out of the root.
            AmbiguousError: several folders match.
        """
        below = sorted(self.folders_of(self.root), key=lambda path: "crop" in path.name.casefold())
        for start in [self.root, *below]:
            for template in templates:
                found = [start]
                for part in template.split("/"):
                    found = [child for folder in found for child in self._children(folder, part, cells)]
                if len(found) > 1:
                    raise AmbiguousError(", ".join(str(path.relative_to(self.root)) for path in found))
                if found:
                    if self.leads_out(found[0]):
                        raise LinkOutError(str(found[0].relative_to(self.root)))
                    return found[0]
        return None

    def frames(self, folder: Path) -> dict[int, str]:
        """Frame number -> file name, in ascending order. The number is the last one in the name: img046.jpg is 46.

        Raises:
            LinkOutError: a frame is a symbolic link out of the root.
            AmbiguousError: two files have the same number.
        """
        listing = self._list(folder)
        numbered: dict[int, str] = {}
        for name in listing.files:
            digits = re.findall(r"\d+", PurePosixPath(name).stem)
            if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES or not digits or name.startswith("."):
                continue
            if name in listing.links and self.leads_out(folder / name):
                raise LinkOutError(str((folder / name).relative_to(self.root)))
            if int(digits[-1]) in numbered:
                raise AmbiguousError(f"{numbered[int(digits[-1])]} and {name} are both frame {int(digits[-1])}")
            numbered[int(digits[-1])] = name
        return dict(sorted(numbered.items()))

    def _children(self, folder: Path, part: str, cells: Mapping[str, str] | None = None) -> list[Path]:
        """Sub-folders that match one part of a template. "6" matches "006", and case is ignored."""
        listing = self._list(folder)
        if "*" in part:
            literal = {key: re.sub(r"([*?[])", r"[\1]", text) for key, text in (cells or {}).items()}
            pattern = part.format_map(literal).casefold()
            return [path for name, path in listing.folders.items() if fnmatch.fnmatchcase(name.casefold(), pattern)]
        name = part.format_map(cells or {})
        return [listing.folders[name]] if name in listing.folders else listing.spelled.get(natural_key(name), [])


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts img9 before img10 and treats 006 like 6."""
    parts = re.split(r"(\d+)", text.casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)
