"""Finds clip folders by name regardless of zero padding, and frames by number.

Stays in the root folder, unless the user allows symbolic links to lead out of it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from deft_llm.processing.frame_folder import FrameSeriesError, frame_series


class LinkOutError(Exception):
    """A symbolic link that leads out of the root."""


class OutsideError(Exception):
    """A path in a sheet that is not below the root."""


class AmbiguousError(Exception):
    """Several folders match the clip."""


class _Listing:
    """Sub-folders and files of one folder in natural order, and which of them are symbolic links."""

    def __init__(self, folder: Path):
        try:
            with os.scandir(folder) as entries:
                # `entry.is_dir()` raises an error for a link that leads to itself.
                found = [(entry.name, os.path.isdir(entry.path), entry.is_symlink()) for entry in entries]
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
    """The folders below the root. Each is listed from disk once.

    Args:
        root: The root, without symbolic links.
        follow_links: Whether symbolic links may lead out of the root. `links` then has those that were followed.
    """

    def __init__(self, root: Path, follow_links: bool = False):
        self.root = root
        self.follow_links = follow_links
        self.links: dict[str, str] = {}
        self._listings: dict[Path, _Listing] = {}
        self._strangers: dict[Path, tuple[str, ...]] = {}  # folder of frames -> images that are not frames
        self._lost: dict[Path, None] = {}  # frames that are links to nowhere

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
        """Whether a path is outside of the root, and links out of it are not allowed."""
        try:
            target = path.resolve()
        except (OSError, RuntimeError, ValueError):  # a circle of links, or characters that no path can have
            return True
        if target.is_relative_to(self.root):
            return False
        inside = Path(os.path.normpath(path))
        if not self.follow_links or not inside.is_relative_to(self.root):
            return True
        link = next((place for place in [*reversed(inside.parents), inside] if place.is_symlink()), inside)
        if not link.is_dir():  # one entry for all linked files of a folder
            link, target = link.parent, target.parent
            self.links.setdefault(f"{link.relative_to(self.root)}/*", str(target))
        else:
            self.links.setdefault(str(link.relative_to(self.root)), str(link.resolve()))
        return False

    def place(self, text: str) -> tuple[Path, str]:
        """The place that the path of a sheet names, and its name relative to the root with "/" between the parts.

        A path with backslashes is read as one of Windows if there is no file of that name. An absolute path of Windows
        is read from the folder in it that has the root's name.

        Raises:
            OutsideError: The path is not below the root.
        """
        relative: PurePosixPath | PureWindowsPath = PurePosixPath(text)
        windows = PureWindowsPath(text)
        if (windows.drive or "\\" in text) and not os.path.lexists(self.root / relative):
            relative = windows
            if windows.anchor:
                here = self.root.name.casefold()
                rests = [
                    PureWindowsPath(*windows.parts[number + 1 :])
                    for number, part in enumerate(windows.parts)
                    if number and part.casefold() == here
                ]
                if not rests:
                    raise OutsideError(
                        f"{text} is a path of another computer without a folder {self.root.name!r}; write it relative "
                        "to the root"
                    )
                existing = (rest for rest in rests if os.path.lexists(self.root / rest.as_posix()))
                relative = next(existing, rests[-1])
        elif relative.is_absolute() and relative.is_relative_to(self.root):
            relative = relative.relative_to(self.root)
        name = os.path.normpath(relative.as_posix())
        path = self.root / name
        if not path.is_relative_to(self.root) or ".." in PurePosixPath(name).parts or self.leads_out(path):
            raise OutsideError(
                f"{text} leads out of the root; write a path below it, or pass --follow-links if a "
                "symbolic link there leads to your own data"
            )
        return path, PurePosixPath(name).as_posix()

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
        """Frame number -> file name, in ascending order, by the rule of `frame_folder`. Links to nowhere are left out.

        Raises:
            LinkOutError: a frame is a symbolic link out of the root.
            AmbiguousError: the images are not one series of frames.
        """
        listing = self._list(folder)
        try:
            series = frame_series(listing.files)
        except FrameSeriesError as error:
            raise AmbiguousError(str(error)) from None
        if series.strangers:
            self._strangers[folder] = series.strangers
        numbered = {}
        for number, name in series.frames.items():
            path = folder / name
            if name in listing.links:
                if not path.exists():
                    self._lost[path] = None
                    continue
                if self.leads_out(path):
                    raise LinkOutError(str(path.relative_to(self.root)))
            numbered[number] = name
        return numbered

    @property
    def remarks(self) -> list[str]:
        """What was not as expected in the folders of frames that were looked at, one sentence per kind."""
        said = []
        if self._strangers:
            names = [path / name for path, strangers in self._strangers.items() for name in strangers]
            said.append(
                f"{len(names)} images in {len(self._strangers)} folders are not frames and were left out: "
                f"{self._listed(names)}."
            )
        if self._lost:
            lost = list(self._lost)
            said.append(f"{len(lost)} frames are missing, because they are links to nowhere: {self._listed(lost)}.")
        return said

    def _listed(self, paths: Sequence[Path]) -> str:
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        return ", ".join(str(path.relative_to(self.root)) for path in paths[:3]) + more

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
    # Python refuses to read a number of thousands of digits.
    return tuple(
        (0, int(part), "") if part.isdecimal() and len(part) < 1000 else (1, 0, part) for part in parts if part
    )
