"""Is a face crop the canonical crop of `action_units`, and if not, where in it is the face?

Data sets ship crops of their own: looser or tighter, not square, the face higher or lower. Read as the canonical crop,
brows, eyes and mouth are elsewhere than the atlas says, and every number is wrong. One frame is therefore compared
with a drawing of what faces share: dark eyes, brows, nostrils and a dark line of the mouth, bright cheeks. Picture and
drawing are band-passed, once from top to bottom (these features lie across, and light from one side does not change
them) and once in both directions, and the contrast is made even. The drawing is shifted, scaled, stretched and turned
to where the two are most alike. No model is trained or downloaded.

It is not a face detector: a part of the picture without a face may look like the drawing too. So a face is taken to be
elsewhere only where it is clear. `docs/limits.md` has the error rates on people.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from .action_units import CANONICAL_LANDMARKS

# Likeness is a correlation, −1 to 1. These values were set on half of the recordings that
# `benchmarks/science/face_crops.py` measures; the drawing was adjusted to that half too.
LEAST_CLEAR = 0.58  # of a face that is elsewhere
LEAST_LEAD = 0.05  # by which it must be more alike than any other place
LEAST_GAIN = 0.02  # by which it must be more alike than the canonical place
LEAST_CANONICAL = 0.45  # of a face in the canonical place
LEAST_ASIDE = 0.17  # by which it must be more alike than up to half an eye distance aside; stripes are not
LEAST_RENDERED = 0.34  # of a rendered face in the canonical place, to `_RENDERED`; it is never moved
MOST_BEHIND = 0.25  # by which that may be less than the likeness to the drawing elsewhere
# Crop widths by which an eye or the mouth is elsewhere: from the first on it is in doubt whether the crop is
# canonical, and from the second on, which is more than most faces are found wrongly by, it is better to move it.
MOST_SHIFT, LEAST_MOVE = 0.06, 0.08
LEAST_PIXELS = 32  # of the picture's shorter side: a smaller face is not measured, so nothing is said of it

_LANDMARKS = np.array(list(CANONICAL_LANDMARKS.values()))
_SIDE = 24  # pixels of the crop in which pictures are compared
_EDGE = 4  # pixels around it that the filters see
_COMPARED = (0.12, 0.13, 0.88, 0.88)  # left, top, right and bottom of the part that is compared
# Ellipses (cx, cy, rx, ry) of the subject's right side, mirrored to the left, and how much brighter than the skin. The
# eyes are drawn a little nearer to each other than they are, because the hollow beside the nose is dark as well.
_DRAWING = (
    (0.337, 0.355, 0.077, 0.040, -1.2),  # eyes
    (0.318, 0.240, 0.091, 0.030, -0.8),  # brows
    (0.455, 0.595, 0.054, 0.020, -0.6),  # nostrils
    (0.500, 0.770, 0.117, 0.020, -1.0),  # mouth
    (0.303, 0.525, 0.090, 0.080, 0.6),  # cheeks
)
# The faces of `hub_datasets.synthetic` have a dark nose and pale eyes, which the drawing does not have. This is their
# mean in the canonical crop, the right half of the face, as `docs/make_crop_template.py` prints it.
_RENDERED = (
    "ODNRS1NKST5AMjQqLy4pQCNJOD4nMgcT7ffe4MvS2OMLJSpMIzb+F+n94O3b2r3Du8jrBhI0IDgTKf0P4/HY1snO0dji+/cVDiwOI/8Q4vXD"
    "zM/a2+Ti9vAD/h7+FB4oLTP9AycsEBXp9+DmFCsLGx8mPj9GO0NGJSsQFQL2IS4bIw0VFBwrJhsoHywpKBX6HSMhJB0gHCQqLiQ5Kz8oJxHu"
    "EhMYGBobGSMgLx06GzgGDPLSCAISCxEQDRgQJBAxBCnS5rKi+u8OARMLDxUOIRAvBirV6aac39b/7xEDFBMTIRcwHzolJyICxL/h1QHyEQoV"
    "GxcqJDhEQWQ/vbnBvObaBfoODgIS9hH8Dw8P1cy0s8XB7+MC/PH90/K85bjd/e7Hwq+xz8b36QUB/QvtC+EGHw726L27tK7czAf4IyA4QEJQ"
)
_SCALES = tuple(0.56 * 1.15**step for step in range(7))  # the crop's width in shorter sides of the picture
_ASPECTS = (0.9, 1.0, 1.11)  # its height in widths
_USUAL_ASPECT = 1.03  # eyes and mouth of most people are a little farther apart than in the canonical crop
_DOUBT = 0.01  # likeness that a face loses if it is stretched or turned by `_SPREAD`
_SPREAD = 0.10  # logarithm of the aspect, and radians
# Where in the picture the face of a crop may be: its middle from the picture's, eyes and mouth from the top.
_ASIDE, _EYES, _MOUTH = 0.16, (0.16, 0.58), 0.97
_FINE, _COARSE = cv2.getGaussianKernel(5, 0.7, cv2.CV_32F), cv2.getGaussianKernel(15, 2.8, cv2.CV_32F)
_EYES_APART = 0.19  # half the distance of the eyes, crop widths
_OTHER = 0.12  # crop widths from which on a place is another one

CANONICAL, ELSEWHERE, UNCLEAR = "canonical", "elsewhere", "unclear"


@dataclass(frozen=True, eq=False)
class CropFinding:
    """What a frame that is said to be a face crop shows.

    Args:
        verdict (`str`): `"canonical"`, eyes and mouth are where the atlas has them, or nothing speaks against it;
            `"elsewhere"`, they are at `landmarks`; `"unclear"`, no face is recognised, or it is not clear where.
        landmarks (`np.ndarray` of shape `(3, 2)`): Right eye, left eye and mouth centre where the frame looks most
            like a face, in pixels.
        shift (`float`): Farthest that one of them is from its canonical place, in widths of the canonical crop.
        likeness (`float`): Correlation with the drawing there, −1 to 1.
    """

    verdict: str
    landmarks: np.ndarray
    shift: float
    likeness: float


@dataclass(frozen=True)
class _Place:
    """Where a crop lies in a picture: its middle, width (pixels), height in widths, and angle (radians)."""

    x: float
    y: float
    width: float
    aspect: float = 1.0
    angle: float = 0.0

    @property
    def matrix(self) -> np.ndarray:
        """From the crop's unit square to pixels, (2, 3)."""
        across, down = self.width, self.width * self.aspect
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        a, b, c, d = cosine * across, -sine * down, sine * across, cosine * down
        return np.array([[a, b, self.x - (a + b) / 2], [c, d, self.y - (c + d) / 2]])

    @property
    def landmarks(self) -> np.ndarray:
        matrix = self.matrix
        return _LANDMARKS @ matrix[:, :2].T + matrix[:, 2]

    @property
    def doubt(self) -> float:
        return _DOUBT * ((math.log(self.aspect / _USUAL_ASPECT) / _SPREAD) ** 2 + (self.angle / _SPREAD) ** 2)

    def aside(self, step: float) -> _Place:
        """Shifted to the right by a share of the width."""
        return replace(self, x=self.x + step * self.width)

    def moved(self, number: int, step: float) -> _Place:
        """With one of the five numbers changed by a step, of sizes in shares of the width or of the size."""
        x, y, width, aspect, angle = self.x, self.y, self.width, self.aspect, self.angle
        if number == 0:
            x += 0.7 * step * width
        elif number == 1:
            y += 0.7 * step * width
        elif number == 2:
            width *= math.exp(step)
        elif number == 3:
            aspect *= math.exp(step)
        else:
            angle += step
        return _Place(x, y, width, aspect, angle)


@dataclass(frozen=True, eq=False)
class _Level:
    """The picture at a scale at which the crop is `_SIDE` pixels wide."""

    width: float  # of the crop, in pixels of the picture
    bands: np.ndarray  # (height + 2 · edge, width + 2 · edge, 2)
    scale: np.ndarray  # (2, 1), its pixels per pixel of the picture, x and y


@dataclass(frozen=True, eq=False)
class _Template:
    bands: np.ndarray
    left: int
    top: int
    rows: int  # of the whole crop


def inspect_crop(frame: np.ndarray) -> CropFinding:
    """Compares a frame that is said to be a face crop with the canonical crop, its centred square.

    Args:
        frame (`np.ndarray` of shape `(height, width, 3)`, uint8): RGB.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = grey.shape
    side = min(height, width)
    if side < LEAST_PIXELS:
        return CropFinding(CANONICAL, _Place(width / 2, height / 2, side).landmarks, 0.0, 0.0)
    shrunk = min(1.0, 64 / side)
    if shrunk < 1:
        size = (round(width * shrunk), round(height * shrunk))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    side, middle = min(grey.shape), (grey.shape[1] / 2, grey.shape[0] / 2)
    canonical = _Place(*middle, side)
    levels = [_level(grey, scale * side) for scale in _SCALES]
    candidates = sorted((item for level in levels for item in _places(grey, level)), key=lambda item: -item[0])
    likeness, best = _refined(levels, candidates[0][1], 3)
    in_place, _ = _refined(levels, canonical, 2, near=canonical)
    shift = _apart(best, canonical) / side
    others = [value for value, place in candidates if _apart(place, best) > _OTHER * best.width]
    lead = candidates[0][0] - max(others, default=-1.0)
    aside = max(_likeness(levels, best.aside(step)) for step in (-_EYES_APART, -0.1, 0.1, _EYES_APART))
    rendered = _like_rendered(grey)
    if rendered >= max(LEAST_RENDERED, likeness - MOST_BEHIND):
        verdict = CANONICAL
    elif shift > MOST_SHIFT and likeness > in_place + LEAST_GAIN:
        clear = likeness >= LEAST_CLEAR and lead >= LEAST_LEAD and likeness - aside >= LEAST_ASIDE
        verdict = ELSEWHERE if clear and shift >= LEAST_MOVE and rendered < LEAST_RENDERED else UNCLEAR
    else:
        verdict = CANONICAL if in_place >= LEAST_CANONICAL else UNCLEAR
    size = np.array([width, height]) / grey.shape[::-1]
    return CropFinding(verdict, best.landmarks * size, float(shift), float(likeness))


def _apart(one: _Place, other: _Place) -> float:
    return float(np.hypot(*(one.landmarks - other.landmarks).T).max())


def _bands(picture: np.ndarray, *, even: bool) -> np.ndarray:
    """(height, width, 2) the picture band-passed from top to bottom, and in both directions."""
    fine = cv2.sepFilter2D(picture, -1, _FINE, _FINE)
    coarse = [cv2.sepFilter2D(picture, -1, across, _COARSE) for across in (_FINE, _COARSE)]
    bands = cv2.merge([fine - blurred for blurred in coarse])
    return bands / (np.sqrt(cv2.boxFilter(bands * bands, -1, (9, 9))) + 3.0) if even else bands


def _level(grey: np.ndarray, width: float) -> _Level:
    """The picture at the scale at which a crop of `width` pixels has `_SIDE` pixels."""
    scale = _SIDE / width
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    small = cv2.copyMakeBorder(small, *[_EDGE] * 4, cv2.BORDER_REPLICATE)
    return _Level(width, _bands(small, even=True), np.array([[size[0] / grey.shape[1]], [size[1] / grey.shape[0]]]))


@lru_cache(maxsize=len(_ASPECTS))
def _template(aspect: float) -> _Template:
    """The drawing of a crop that is `_SIDE` pixels wide."""
    rows, fine = round(_SIDE * aspect), 4
    y, x = (np.mgrid[-_EDGE * fine : (rows + _EDGE) * fine, -_EDGE * fine : (_SIDE + _EDGE) * fine] + 0.5) / fine
    y, x = y / rows, x / _SIDE
    drawn = np.zeros(x.shape, np.float32)
    for cx, cy, rx, ry, brightness in _DRAWING:
        for centre in {cx, 1 - cx}:
            drawn += np.float32(brightness * np.exp(-(((x - centre) / rx) ** 2) - ((y - cy) / ry) ** 2))
    drawn = cv2.resize(drawn, (_SIDE + 2 * _EDGE, rows + 2 * _EDGE), interpolation=cv2.INTER_AREA)
    left, right = (round(_COMPARED[i] * _SIDE) for i in (0, 2))
    top, bottom = (round(_COMPARED[i] * rows) for i in (1, 3))
    part = _bands(drawn, even=False)[_EDGE + top : _EDGE + bottom, _EDGE + left : _EDGE + right]
    return _Template(_standardised(part), left, top, rows)


def _standardised(bands: np.ndarray) -> np.ndarray:
    """With the mean 0 and the norm 1 in each band."""
    bands = bands - bands.mean((0, 1))
    return np.ascontiguousarray(bands / np.sqrt((bands * bands).sum((0, 1))), np.float32)


def _places(grey: np.ndarray, level: _Level) -> list[tuple[float, _Place]]:
    """For each aspect the place of one scale that is most like a face, and its likeness."""
    found = []
    height, width = (length - 2 * _EDGE for length in level.bands.shape[:2])
    for aspect in _ASPECTS:
        template = _template(aspect)
        rows, columns = template.bands.shape[:2]
        # Where the template's corner may be, in the padded picture.
        left = np.array([0.5 - _ASIDE, 0.5 + _ASIDE]) * width - 0.5 * _SIDE
        top = np.array([_EYES[0] * height - 0.35 * template.rows, _EYES[1] * height - 0.35 * template.rows])
        top[1] = min(top[1], _MOUTH * height - 0.76 * template.rows)
        x0, x1 = _whole(left + _EDGE + template.left, level.bands.shape[1] - columns)
        y0, y1 = _whole(top + _EDGE + template.top, level.bands.shape[0] - rows)
        if x1 < x0 or y1 < y0:
            continue
        part = level.bands[y0 : y1 + rows, x0 : x1 + columns]
        _, likeness, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(part, template.bands, cv2.TM_CCOEFF_NORMED))
        corner = np.array([x + x0 - template.left, y + y0 - template.top]) - _EDGE
        size = np.array([_SIDE, template.rows]) / level.scale[:, 0]
        middle = corner / level.scale[:, 0] + size / 2
        place = _Place(*middle, size[0], size[1] / size[0])
        found.append((likeness - place.doubt, place))
    return found


def _whole(limits: np.ndarray, most: int) -> tuple[int, int]:
    return max(int(np.ceil(limits[0])), 0), min(int(np.floor(limits[1])), most)


def _likeness(levels: Sequence[_Level], place: _Place) -> float:
    template = _template(1.0)
    level = min(levels, key=lambda item: max(item.width / place.width, place.width / item.width))
    matrix = place.matrix
    matrix[:, :2] /= _SIDE
    matrix[:, 2] += matrix[:, :2] @ (template.left + 0.5, template.top + 0.5)
    matrix *= level.scale
    matrix[:, 2] += _EDGE - 0.5
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    seen = cv2.warpAffine(level.bands, matrix, template.bands.shape[1::-1], **options)
    seen -= seen.mean((0, 1))
    # The template's norm is 1 in each of two bands.
    return float((seen * template.bands).sum() / np.sqrt(2 * (seen * seen).sum() + 1e-6)) - place.doubt


def _refined(
    levels: Sequence[_Level], place: _Place, rounds: int, *, near: _Place | None = None
) -> tuple[float, _Place]:
    """The place that is most like a face around another one, by steps that become smaller."""
    best, step = _likeness(levels, place), 0.06
    for _ in range(rounds):
        for number in range(5):
            for signed in (step, -step):
                changed = place.moved(number, signed)
                if near is not None and not _is_near(changed, near):
                    continue
                likeness = _likeness(levels, changed)
                if likeness > best:
                    best, place = likeness, changed
                    break
        step /= 1.7
    return best, place


def _is_near(place: _Place, other: _Place) -> bool:
    """Whether a place is another one, but for what faces differ by."""
    shifted = max(abs(place.x - other.x), abs(place.y - other.y)) / other.width
    return (
        shifted < 0.05
        and 0.93 < place.width / other.width < 1.08
        and 0.88 < place.aspect < 1.13
        and abs(place.angle) < 0.1
    )


def mean_bands(frames: Sequence[np.ndarray]) -> np.ndarray:
    """(18, 18, 2) the bands of the compared part of canonical crops, mirrored and averaged."""
    template, total = _template(1.0), 0.0
    rows, columns = template.bands.shape[:2]
    for frame in frames:
        bands = _canonical_level(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)).bands
        part = bands[_EDGE + template.top :, _EDGE + template.left :][:rows, :columns]
        total = total + part + part[:, ::-1]
    return total / (2 * len(frames))


def _canonical_level(grey: np.ndarray) -> _Level:
    """The centred square of a picture at the scale of the templates."""
    height, width = grey.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _level(np.ascontiguousarray(grey[top : top + side, left : left + side]), side)


@lru_cache(maxsize=1)
def _rendered() -> np.ndarray:
    half = np.frombuffer(base64.b64decode(_RENDERED), np.int8).reshape(18, 9, 2)
    return _standardised(np.concatenate([half, half[:, ::-1]], 1).astype(np.float32))


def _like_rendered(grey: np.ndarray) -> float:
    """Largest correlation with a rendered face in the canonical place, or a pixel of the template beside it."""
    template, mean = _template(1.0), _rendered()
    x, y = _EDGE + template.left - 1, _EDGE + template.top - 1
    part = _canonical_level(grey).bands[y : y + mean.shape[0] + 2, x : x + mean.shape[1] + 2]
    return float(cv2.matchTemplate(np.ascontiguousarray(part), mean, cv2.TM_CCOEFF_NORMED).max())
