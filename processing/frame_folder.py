"""Which images of a folder are the frames of a clip, and which number each one has.

One rule for everything that reads folders of frames:

- Files are told apart by the text of their names around the digits. Letter case, zero padding and the file format do
  not count: `IMG1.png` and `img002.JPG` belong together. The largest such group is the clip.
- The frame number is the group of digits that varies: `frame_0001_1000ms.jpg` and `1_crop2.png` are frame 1.
- All other images are strangers: `apex.png`, `img1 (1).png`, `img1 - Copy.png`.
- Two files of one number, or a second series, are an error, because there is no telling which one is meant.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from pathlib import Path, PurePath

IMAGE_SUFFIXES = frozenset(".bmp .gif .jfif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
_NAMED = 3  # files that a message names


class FrameSeriesError(ValueError):
    """The images of a folder are not one series of frames. The message names the files that contradict each other."""


@dataclass(frozen=True)
class FrameSeries:
    """The frames of a folder.

    Args:
        frames (`dict[int, str]`): Frame number → file name, in ascending order.
        strangers (`tuple[str, ...]`): Images that are not frames of the clip, in alphabetical order.
    """

    frames: dict[int, str]
    strangers: tuple[str, ...]

    @property
    def gaps(self) -> list[range]:
        """Frame numbers that are missing. Folders that hold every n-th frame only have none."""
        numbers = list(self.frames)
        step = gcd(*(later - earlier for earlier, later in pairwise(numbers)))
        return [range(earlier + step, later, step) for earlier, later in pairwise(numbers) if later - earlier > step]

    @property
    def missing(self) -> int:
        """How many frame numbers are missing."""
        return sum((gap[-1] - gap[0]) // gap.step + 1 for gap in self.gaps)

    @property
    def remarks(self) -> list[str]:
        """What a reader should tell its user: one sentence for the strangers, and one for the gaps."""
        said = []
        if self.strangers:
            said.append(f"not frames of the clip, and left out: {_listed(self.strangers)}.")
        if gaps := self.gaps:
            spans = [f"{gap[0]} to {gap[-1]}" if gap[-1] > gap[0] else str(gap[0]) for gap in gaps]
            said.append(f"no file for frame {_listed(spans)}; the frames around it are read as neighbours.")
        return said


def folder_series(folder: Path) -> FrameSeries:
    """The frames of a folder on disk.

    Args:
        folder (`Path`): The folder. A link in it that leads nowhere counts as the file that it is named after.

    Raises:
        FileNotFoundError: a frame is a link that leads nowhere.
        FrameSeriesError: the folder holds no numbered image; or see `frame_series`.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _leads_nowhere(entry) or entry.is_file()]
    series = frame_series(names)
    if not series.frames:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        kind = f"no number in the name of {_listed(series.strangers)}" if series.strangers else f"no image ({known})"
        raise FrameSeriesError(f"the folder holds no frames: {kind}")
    for name in series.frames.values():
        path = folder / name
        if _leads_nowhere(path):
            raise FileNotFoundError(f"{path}: the frame is missing; it is a link to {os.readlink(path)}.")
    return series


def _leads_nowhere(entry: Path | os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry)


def is_image(name: str) -> bool:
    """Whether a file name is that of an image. Hidden files are not, such as those that macOS leaves behind."""
    return not name.startswith(".") and PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def frame_series(names: Iterable[str]) -> FrameSeries:
    """Finds the frames among the files of a folder.

    Args:
        names (`Iterable[str]`): File names, in any order. Files that are not images are ignored.

    Returns:
        The frames. There are none if no image has a number in its name.

    Raises:
        FrameSeriesError: two files have the same number, there are several series, or several groups of digits could
            be the frame number.
    """
    shapes: dict[tuple[str, ...], list[tuple[tuple[int, ...], str]]] = defaultdict(list)
    images = sorted(name for name in names if is_image(name))
    for name in images:
        parts = re.split(r"(\d+)", PurePath(name).stem.casefold())
        shapes[tuple(parts[::2])].append((tuple(map(int, parts[1::2])), name))
    numbered = {texts: found for texts, found in shapes.items() if len(texts) > 1}
    if not numbered:
        return FrameSeries({}, tuple(images))
    # Of equally frequent shapes the shorter one: `img1_mask` is made from `img1`.
    main = min(numbered, key=lambda texts: (-len(numbered[texts]), len(texts), sum(map(len, texts)), texts))
    _check_rivals(main, numbered)
    group, found = _number_group(numbered[main])
    frames: dict[int, str] = {}
    for numbers, name in sorted(found):
        if numbers[group] in frames:
            raise FrameSeriesError(
                f"{frames[numbers[group]]} and {name} are both frame {numbers[group]}; keep one file per frame"
            )
        frames[numbers[group]] = name
    kept = set(frames.values())
    return FrameSeries(frames, tuple(name for name in images if name not in kept))


def _check_rivals(main: tuple[str, ...], numbered: dict[tuple[str, ...], list]) -> None:
    """Raises `FrameSeriesError` if other files could be the clip as well as those of the largest group."""
    size = len(numbered[main])
    rivals = {texts: found for texts, found in numbered.items() if texts != main and not _made_from(texts, main)}
    largest = max(rivals.values(), key=len, default=[])
    second_series = 2 * len(largest) >= size and (len(largest) > 1 or size == 1)
    if second_series or sum(map(len, rivals.values())) > size:
        raise FrameSeriesError(
            f"several series of images: {size} such as {numbered[main][0][1]}, and "
            f"{sum(map(len, rivals.values()))} such as {largest[0][1]}; put one series into a folder of its own"
        )


def _made_from(texts: tuple[str, ...], main: tuple[str, ...]) -> bool:
    """Whether names of one shape are names of another with something appended, like `img1 (1)` and `img1_mask`."""
    last = len(main) - 1
    return len(texts) > last and texts[:last] == main[:last] and texts[last].startswith(main[last])


def _number_group(found: Sequence[tuple[tuple[int, ...], str]]) -> tuple[int, list[tuple[tuple[int, ...], str]]]:
    """Which group of digits is the frame number, and the files of that series."""
    lines = sorted({numbers for numbers, _ in found})
    varying = [group for group, values in enumerate(zip(*lines, strict=True)) if len(set(values)) > 1]
    if len(varying) < 2:
        return (varying[0] if varying else len(lines[0]) - 1), list(found)
    # A counter beside a time stamp: both rise together. The counter is the one that spans less.
    rising = [group for group in varying if _orders(lines, group, varying)]
    if rising:
        return min(rising, key=lambda group: (abs(lines[-1][group] - lines[0][group]), group)), list(found)
    # The files of which only one group varies, if they are by far the most.
    rest = Counter((group, line[:group] + line[group + 1 :]) for line in lines for group in varying)
    (group, fixed), count = max(rest.items(), key=lambda item: (item[1], item[0]))
    second = max((other for key, other in rest.items() if key[0] == group and key != (group, fixed)), default=0)
    if 2 * second >= count or 2 * count <= len(lines):
        names = [name for _, name in found]
        raise FrameSeriesError(
            f"several numbers vary in the names of the images ({_listed(names)}), so the frame number is not known; "
            "put one series into a folder of its own"
        )
    return group, [item for item in found if item[0][:group] + item[0][group + 1 :] == fixed]


def _orders(lines: Sequence[tuple[int, ...]], group: int, varying: Sequence[int]) -> bool:
    """Whether a group of digits differs in all files, and the other groups never fall while it rises."""
    ordered = sorted(lines, key=lambda line: line[group])
    return all(
        earlier[group] < later[group] and all(earlier[other] <= later[other] for other in varying)
        for earlier, later in pairwise(ordered)
    )


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
