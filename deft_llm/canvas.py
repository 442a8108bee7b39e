"""A picture with text, bars, outlines and arrows, for pictures and films that need no plotting library.

This module imports nothing of the package, so that all of it may draw. Pillow and OpenCV are dependencies anyway.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

ARROW_SCALES = (20, 10, 5, 2, 1)
"""How many times longer than the motion arrows may be: true lengths would be too small to see."""
LONGEST_ARROW = 0.15
"""Of the crop's width: longer arrows would hide the face."""
_LEAST_ARROW = 4  # pixels: a shorter one is a dot, and shows no direction
_SHIFT = 4  # OpenCV takes sixteenths of a pixel
_LINE = 1.25  # height of a line, in sizes of the font
# Pillow's built-in font has the letters, digits and signs of English, and these stand for others that are used here.
_STAND_INS = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">=", "→": "to", "…": "..."})
_KNOWN = frozenset(chr(code) for code in range(32, 127)) | frozenset("±·’“”")


@dataclass(frozen=True)
class Theme:
    """The colours of a picture.

    Args:
        ground: Background.
        text: Text.
        quiet: Text that is less important, and lines.
        fill: Background of bars and diagrams.
        mark: What moves: arrows, outlines, and the bars' filled part.
        warning: What cannot be measured.
    """

    ground: Colour
    text: Colour
    quiet: Colour
    fill: Colour
    mark: Colour
    warning: Colour


PAPER = Theme((255, 255, 255), (17, 24, 39), (85, 95, 110), (228, 231, 236), (194, 65, 12), (153, 27, 27))
SCREEN = Theme((17, 22, 29), (240, 243, 246), (160, 170, 182), (45, 53, 64), (255, 160, 50), (255, 120, 110))
ARROW, ARROW_EDGE = (255, 176, 32), (20, 20, 20)
"""Arrows and outlines on faces: bright with a dark edge, so that they show on any skin."""


class Canvas:
    """A picture to draw on; `pixels` is (height, width, 3) uint8 RGB.

    Args:
        height: In pixels.
        width: In pixels.
        theme: The colours.
    """

    def __init__(self, height: int, width: int, theme: Theme):
        self.theme = theme
        self.pixels = np.empty((height, width, 3), np.uint8)
        self.pixels[:] = theme.ground

    def copy(self) -> Canvas:
        """The same picture, to draw on without changing this one."""
        other = object.__new__(Canvas)
        other.theme, other.pixels = self.theme, self.pixels.copy()
        return other

    def text(
        self,
        words: str,
        left: int,
        top: int,
        *,
        size: int = 18,
        colour: Colour | None = None,
        width: int | None = None,
        lines: int | None = None,
    ) -> int:
        """Writes text, broken into lines where it is longer than `width`.

        Args:
            words: The text. Letters that the font does not have lose their accents or become question marks.
            left: Of the text, in pixels.
            top: Of its first line, in pixels.
            size: Of the font, in pixels.
            colour: By default the theme's.
            width: Of a line, in pixels; by default up to the picture's right border.
            lines: Most lines; what is left over is cut off with an ellipsis.

        Returns:
            The top of what may follow below.
        """
        width = self.pixels.shape[1] - left if width is None else width
        rows = wrapped(words, size, width)
        if lines is not None and len(rows) > lines:
            rows = [*rows[: lines - 1], shortened(rows[lines - 1] + "...", size, width)]
        step = round(_LINE * size)
        for row in rows:
            self._line(row, left, top, size, self.theme.text if colour is None else colour)
            top += step
        return top

    def _line(self, words: str, left: int, top: int, size: int, colour: Colour) -> None:
        mask = _drawn(words, size)
        top, left = max(top, 0), max(left, 0)
        height = min(mask.shape[0], self.pixels.shape[0] - top)
        width = min(mask.shape[1], self.pixels.shape[1] - left)
        if height <= 0 or width <= 0:
            return
        part = self.pixels[top : top + height, left : left + width]
        weight = mask[:height, :width, None].astype(np.float32) / 255
        part[:] = (part + weight * (np.array(colour, np.float32) - part)).round()

    def place(self, picture: np.ndarray, left: int, top: int) -> None:
        """Puts a picture onto this one.

        Args:
            picture: (height, width, 3) uint8 RGB that fits.
            left: In pixels.
            top: In pixels.
        """
        height, width = picture.shape[:2]
        self.pixels[top : top + height, left : left + width] = picture

    def box(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Fills a rectangle; `right` and `bottom` are outside of it."""
        self.pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = colour

    def bar(self, share: float, left: int, top: int, *, width: int, height: int, colour: Colour | None = None) -> None:
        """Draws a bar that is filled up to a share, 0 to 1."""
        self.box(left, top, left + width, top + height, self.theme.fill)
        filled = round(width * float(np.clip(share, 0, 1)))
        self.box(left, top, left + filled, top + height, self.theme.mark if colour is None else colour)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, *, thickness: int = 2) -> None:
        """Draws a line through points (x, y), in pixels."""
        cv2.polylines(self.pixels, [_fixed(points)], False, colour, thickness, cv2.LINE_AA, shift=_SHIFT)


# --- Text -----------------------------------------------------------------------------------------------------------


def written(words: str) -> str:
    """The text in letters that the font has."""
    plain = unicodedata.normalize("NFKD", words.translate(_STAND_INS))
    kept = (letter for letter in plain if not unicodedata.combining(letter))
    return "".join(letter if letter in _KNOWN else "?" for letter in kept)


def text_width(words: str, size: int) -> float:
    """Width of a line of text in pixels."""
    return _font(size).getlength(written(words))


def wrapped(words: str, size: int, width: float) -> list[str]:
    """The text in lines that are not wider than `width`, broken at spaces. A longer word is broken anywhere."""
    rows: list[str] = []
    for paragraph in words.splitlines() or [""]:
        row = ""
        for word in paragraph.split(" "):
            longer = f"{row} {word}" if row else word
            if text_width(longer, size) <= width:
                row = longer
                continue
            if row:
                rows.append(row)
            while text_width(word, size) > width and len(word) > 1:
                fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], size) <= width)
                rows.append(word[:fits])
                word = word[fits:]
            row = word
        rows.append(row)
    return rows


def shortened(words: str, size: int, width: float) -> str:
    """The text if it fits into `width`, or its beginning and an ellipsis."""
    if text_width(words, size) <= width:
        return words
    kept = words.rstrip(".")
    while kept and text_width(f"{kept}...", size) > width:
        kept = kept[:-1]
    return f"{kept.rstrip()}..."


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=1024)  # the lines of a film are drawn once, not in every frame
def _drawn(words: str, size: int) -> np.ndarray:
    """(height, width) uint8: how much of each pixel the text covers."""
    words = written(words)
    mask = Image.new("L", (max(1, round(text_width(words, size)) + 2), round(1.4 * size)))
    ImageDraw.Draw(mask).text((0, 0), words, font=_font(size), fill=255)
    return np.asarray(mask)


# --- On faces -------------------------------------------------------------------------------------------------------


def arrow_scale(longest: float) -> int:
    """How many times longer than the motion arrows are drawn, one of `ARROW_SCALES`.

    Args:
        longest: The largest motion that is shown, in percent of the crop's width.
    """
    return next((scale for scale in ARROW_SCALES if scale * longest / 100 <= LONGEST_ARROW), ARROW_SCALES[-1])


def draw_arrow(picture: np.ndarray, start: Sequence[float], way: Sequence[float]) -> None:
    """Draws an arrow onto a face.

    Args:
        picture: (side, side, 3) uint8 RGB, changed in place.
        start: Where the arrow begins, (x, y) in the unit square of the picture, y down.
        way: From there to its tip, in the same unit.
    """
    side = picture.shape[0]
    first, last = np.array(start, float) * side, (np.array(start, float) + way) * side
    length = float(np.hypot(*(last - first)))
    if length < _LEAST_ARROW:
        return
    along = (last - first) / length
    across = np.array([-along[1], along[0]])
    head = min(0.042 * side, 0.6 * length)
    neck = last - head * along
    tip = _fixed([last, neck + 0.55 * head * across, neck - 0.55 * head * across])
    shaft = _fixed([first, neck])
    thick = max(2, round(side / 150))
    # The edge first, so that it is behind shaft and head.
    cv2.polylines(picture, [shaft], False, ARROW_EDGE, thick + 3, cv2.LINE_AA, shift=_SHIFT)
    cv2.polylines(picture, [tip], True, ARROW_EDGE, 3, cv2.LINE_AA, shift=_SHIFT)
    cv2.polylines(picture, [shaft], False, ARROW, thick, cv2.LINE_AA, shift=_SHIFT)
    cv2.fillPoly(picture, [tip], ARROW, cv2.LINE_AA, shift=_SHIFT)


def draw_outline(picture: np.ndarray, ellipse: Sequence[float], *, colour: Colour = ARROW) -> None:
    """Draws the outline of a region onto a face.

    Args:
        picture: (side, side, 3) uint8 RGB, changed in place.
        ellipse: Centre and radii (cx, cy, rx, ry) in the unit square of the picture.
        colour: Of the line.
    """
    side = picture.shape[0]
    x, y, wide, high = (round(value * side * 2**_SHIFT) for value in ellipse)
    for line, thickness in ((ARROW_EDGE, 2), (colour, 1)):
        cv2.ellipse(picture, (x, y), (wide, high), 0, 0, 360, line, thickness, cv2.LINE_AA, shift=_SHIFT)


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture scaled to fit into width × height pixels; small ones are scaled up."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _fixed(points: Sequence[Sequence[float]]) -> np.ndarray:
    """Points for OpenCV, in sixteenths of a pixel."""
    return np.round(np.asarray(points, float) * 2**_SHIFT).astype(np.int32)
