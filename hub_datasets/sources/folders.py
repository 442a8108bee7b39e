"""Folders of frames: a clip's folder by its name however it is padded, a frame by its number, and no way out."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from deft_llm.processing.video_reading import IMAGE_SUFFIXES


class LinkOutError(Exception):
    """A path that a symbolic link takes out of the root."""


class AmbiguousError(Exception):
    """Several folders that could be the clip's."""


class _Listing:
    """One folder's sub-folders and files in natural order, and which of both are symbolic links."""

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
        self.spelled: dict[tuple, list[Path]] = {}  # folders by what their name says, however it is spelled
        for name, path in self.folders.items():
            self.spelled.setdefault(natural_key(name), []).append(path)


class FolderTree:
    """The root's folders, each listed once."""

    def __init__(self, root: Path):
        self.root = root
        self._listings: dict[Path, _Listing] = {}

    def _list(self, folder: Path) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = _Listing(folder)
        return self._listings[folder]

    def names(self, folder: Path) -> list[str]:
        """Files of a folder."""
        return self._list(folder).files

    def folders_of(self, folder: Path) -> list[Path]:
        return list(self._list(folder).folders.values())

    def leads_out(self, path: Path) -> bool:
        return not path.resolve().is_relative_to(self.root)

    def glob(self, pattern: str) -> list[Path]:
        """Folders of a pattern under the root or one level below it, whichever has any."""
        for start in [self.root, *self.folders_of(self.root)]:
            found = [start]
            for part in pattern.split("/"):
                found = [child for folder in found for child in self._children(folder, part)]
            if found:
                return found
        return []

    def find(self, templates: Sequence[str], cells: Mapping[str, str]) -> Path | None:
        """The folder of a clip, raw frames before cropped ones; `None` where there is none.

        Raises:
            LinkOutError, AmbiguousError
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
        """Frame number -> file name, in ascending order. The number is the last one in the name, img046.jpg is 46.

        Raises:
            LinkOutError: a frame is a symbolic link out of the root.
            AmbiguousError: two files have one number.
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
        """Sub-folders that one part of a template means; "6" means "006", and case does not matter."""
        listing = self._list(folder)
        if "*" in part:
            literal = {key: re.sub(r"([*?[])", r"[\1]", text) for key, text in (cells or {}).items()}
            pattern = part.format_map(literal).casefold()
            return [path for name, path in listing.folders.items() if fnmatch.fnmatchcase(name.casefold(), pattern)]
        name = part.format_map(cells or {})
        return [listing.folders[name]] if name in listing.folders else listing.spelled.get(natural_key(name), [])


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which img9 stands before img10, and 006 beside 6."""
    parts = re.split(r"(\d+)", text.casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)
