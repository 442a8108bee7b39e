"""Rendered micro-expressions whose truth is known: who, which muscles, when, how far, and every disturbance.

A neutral face is a shaded height map with features drawn on it, different for every seed; a photograph with three
landmarks serves as well. Action units displace it by smooth bumps at the regions of the atlas, at the amplitude and
duration of micro-expressions, and press furrows into it. Head motion, light and sensor noise are added on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO

import av
import cv2
import numpy as np

from deft_llm.processing.action_units import SIDES, get_action_unit, region_ellipse
from deft_llm.processing.face_alignment import crop_transform, warp_to_crop

CANVAS = 192  # pixels of the neutral face's canonical crop
CONVENTION = "synthetic"
# How this generator's annotator reads action units, in the style of the data sets' own conventions.
EMOTION_PROTOTYPES: dict[str, tuple[tuple[str, ...], ...]] = {
    "happiness": (("AU12",), ("AU6", "AU12"), ("AU6", "AU12", "AU26")),
    "surprise": (("AU1", "AU2"), ("AU2",), ("AU1", "AU2", "AU26"), ("AU1", "AU2", "AU5")),
    "sadness": (("AU15",), ("AU15", "AU17"), ("AU1", "AU15")),
    "disgust": (("AU9",), ("AU4", "AU9"), ("AU9", "AU17")),
    "anger": (("AU4",), ("AU4", "AU7"), ("AU4", "AU17")),
}
COARSE_EMOTION = {
    "happiness": "positive",
    "surprise": "surprise",
    "sadness": "negative",
    "disgust": "negative",
    "anger": "negative",
}
EMOTIONS: tuple[str, ...] = tuple(EMOTION_PROTOTYPES)
UNITS: tuple[str, ...] = tuple(
    sorted(
        {code for sets in EMOTION_PROTOTYPES.values() for units in sets for code in units}, key=lambda c: int(c[2:])
    )
)
UNILATERAL = frozenset({"AU2", "AU12", "AU15"})  # units that people do show on one side

# Furrows an action unit presses into the skin, canonical (x0, y0, x1, y1) on the subject's right; mirrored.
_FURROWS = {
    "AU1": ((0.36, 0.12, 0.49, 0.115),),
    "AU2": ((0.17, 0.13, 0.36, 0.115),),
    "AU4": ((0.465, 0.16, 0.470, 0.25),),
    "AU6": ((0.17, 0.37, 0.21, 0.43),),
    "AU9": ((0.44, 0.36, 0.48, 0.39), (0.38, 0.56, 0.34, 0.66)),
    "AU12": ((0.375, 0.60, 0.315, 0.73),),
    "AU15": ((0.340, 0.79, 0.325, 0.85),),
    "AU17": ((0.43, 0.86, 0.49, 0.855),),
}


@dataclass
class Face:
    """A neutral face in the canonical crop. `offsets` moves an atlas region to where this face has it."""

    image: np.ndarray  # (CANVAS, CANVAS, 3) float32 RGB, 0-255
    offsets: dict[str, tuple[float, float]] = field(default_factory=dict)  # region -> (lateral, down)

    def region(self, name: str, side: str) -> tuple[float, float, float, float]:
        cx, cy, rx, ry = region_ellipse(name, side)
        lateral, down = self.offsets.get(name, (0.0, 0.0))
        return cx + (lateral if side == "left" else -lateral), cy + down, rx, ry


@dataclass
class UnitRequest:
    """One action unit to show: side both, left or right; `amplitude` is the peak displacement in crop widths."""

    code: str
    side: str
    amplitude: float

    def __post_init__(self):
        get_action_unit(self.code)
        if self.side not in ("both", *SIDES):
            raise ValueError(f"{self.code}: side must be both, left or right, got {self.side!r}.")
        if not 0 <= self.amplitude <= 0.05:
            raise ValueError(f"{self.code}: amplitude must lie in 0–0.05 of the crop's width, got {self.amplitude}.")


@dataclass
class Disturbances:
    """What a camera and a living head add. Zero switches one off."""

    head_shift: float = 0.006  # crop widths
    head_rotation: float = 0.4  # degrees
    light_drift: float = 0.02  # relative
    noise: float = 1.5  # standard deviation in grey levels
    furrows: float = 0.10  # relative darkening of a furrow at full amplitude


@dataclass
class Clip:
    """Frames with their truth. `displacement`, (2, CANVAS, CANVAS), is the expression's at the apex in crop widths."""

    frames: np.ndarray  # (T, size, size, 3) uint8
    fps: float
    onset: int
    apex: int
    offset: int
    units: list[UnitRequest]
    displacement: np.ndarray


def photograph(image: np.ndarray, landmarks: Sequence[Sequence[float]]) -> Face:
    """A face from a photograph: (H, W, 3) uint8 and its right eye, left eye and mouth centre in pixels."""
    height, width = image.shape[:2]
    transform = crop_transform(height, width, landmarks=landmarks)
    return Face(np.clip(warp_to_crop(image.astype(np.float32), transform, CANVAS), 0, 255))


def render_face(rng: np.random.Generator) -> Face:
    """A face that no other seed has: skull, features, skin, light, hair."""
    return _FacePainter(rng).paint()


def render_clip(
    face: Face,
    units: Sequence[UnitRequest],
    rng: np.random.Generator,
    *,
    disturbances: Disturbances | None = None,
    size: int = 160,
    fps: float = 200.0,
    rise: int = 16,
    fall: int = 16,
    lead: int = 3,
    tail: int = 2,
) -> Clip:
    """Animates a face.

    Args:
        units: what to show; none gives a clip in which only the disturbances move.
        size: side of the frames in pixels. rise, fall: frames from onset to apex and from apex to offset.
        lead, tail: neutral frames before the onset and after the offset.
    """
    disturbances = disturbances or Disturbances()
    displacement = _displacement(face, units, rng)
    furrows = _furrow_map(face, units)
    onset, apex, offset = lead, lead + rise, lead + rise + fall
    count = offset + tail + 1
    course = np.interp(np.arange(count), [onset, apex, offset], [0.0, 1.0, 0.0])
    course = 0.5 - 0.5 * np.cos(np.pi * course)

    shift = _drift(rng, count, 2) * disturbances.head_shift
    angle = _drift(rng, count, 1)[:, 0] * np.radians(disturbances.head_rotation)
    light = 1 + _drift(rng, count, 1)[:, 0] * disturbances.light_drift
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    centre = (CANVAS - 1) / 2
    frames = np.empty((count, size, size, 3), np.uint8)
    for t in range(count):
        # Where each pixel of frame t comes from: first undo the head, then the expression.
        cosine, sine = np.cos(-angle[t]), np.sin(-angle[t])
        dx, dy = x - centre - shift[t, 0] * CANVAS, y - centre - shift[t, 1] * CANVAS
        source_x = (cosine * dx - sine * dy + centre).astype(np.float32)
        source_y = (sine * dx + cosine * dy + centre).astype(np.float32)
        if course[t] > 0 and units:
            field_x = cv2.remap(displacement[0], source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            field_y = cv2.remap(displacement[1], source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            source_x -= np.float32(course[t] * CANVAS) * field_x
            source_y -= np.float32(course[t] * CANVAS) * field_y
        neutral = face.image
        if course[t] > 0 and disturbances.furrows > 0 and units:
            neutral = neutral * np.float32(1 - disturbances.furrows * course[t] * furrows)[..., None]
        frame = cv2.remap(neutral, source_x, source_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        frame = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) * light[t]
        frame += rng.standard_normal((size, size, 1), np.float32) * disturbances.noise
        frames[t] = np.clip(np.rint(frame), 0, 255)
    return Clip(frames, fps, onset, apex, offset, list(units), displacement)


def _drift(rng: np.random.Generator, count: int, channels: int) -> np.ndarray:
    """A slow random walk, zero at the first frame, within about ±1."""
    knots = np.cumsum(rng.normal(0, 0.5, (4, channels)), axis=0)
    knots -= knots[0]
    at = np.linspace(0, 3, count)
    return np.stack([np.interp(at, range(4), knots[:, channel]) for channel in range(channels)], axis=1)


def _displacement(face: Face, units: Sequence[UnitRequest], rng: np.random.Generator) -> np.ndarray:
    y, x = (np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) + 0.5) / CANVAS
    total = np.zeros((2, CANVAS, CANVAS), np.float32)
    for unit in units:
        weight_sum = np.full((CANVAS, CANVAS), 1e-9, np.float32)
        vector_sum, strongest = np.zeros_like(total), np.zeros_like(weight_sum)
        for motion in get_action_unit(unit.code).motions:
            turn = rng.normal(0, np.radians(8))  # nobody's muscle pulls exactly along the axis
            for side in SIDES if unit.side == "both" else (unit.side,):
                cx, cy, rx, ry = face.region(motion.region, side)
                step = motion.vector(side)
                swing = turn if side == "right" else -turn
                vector = (
                    np.cos(swing) * step[0] - np.sin(swing) * step[1],
                    np.sin(swing) * step[0] + np.cos(swing) * step[1],
                )
                # Skin follows its neighbourhood: the bump reaches past the region it is named after.
                bump = np.exp(-0.5 * (((x - cx) / (1.1 * rx)) ** 2 + ((y - cy) / (1.3 * ry)) ** 2))
                weight_sum += bump
                vector_sum += np.float32(vector)[:, None, None] * bump
                strongest = np.maximum(strongest, bump)
        # Where the bumps of one unit overlap, as at the chin's middle, they share the motion and do not add to it.
        total += unit.amplitude * strongest * vector_sum / weight_sum
    return total


def _furrow_map(face: Face, units: Sequence[UnitRequest]) -> np.ndarray:
    """(CANVAS, CANVAS), 1 along the furrows of units at 2 % amplitude."""
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    for unit in units:
        lateral, down = face.offsets.get(get_action_unit(unit.code).motions[0].region, (0.0, 0.0))
        layer = np.zeros_like(canvas)
        for x0, y0, x1, y1 in _FURROWS.get(unit.code, ()):
            for side in SIDES if unit.side == "both" else (unit.side,):
                ends = [
                    (x - lateral if side == "right" else 1 - x + lateral, y + down) for x, y in ((x0, y0), (x1, y1))
                ]
                points = [tuple(round(value * CANVAS) for value in end) for end in ends]
                cv2.line(layer, *points, 1.0, 2, cv2.LINE_AA)
        canvas = np.maximum(canvas, min(unit.amplitude / 0.02, 1.5) * cv2.GaussianBlur(layer, (0, 0), 1.6))
    return canvas


def encode_mp4(clip: Clip, *, crf: int = 12) -> bytes:
    """H.264 at a quality that leaves micro-expressions in; the same frames give the same bytes."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1000))
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        # x264's macroblock tree reads past the frame's edge, and its output then depends on what lay in memory.
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


class _FacePainter:
    """Paints one neutral face at twice the canvas' resolution. Units are canonical coordinates throughout."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.side = 2 * CANVAS
        self.y, self.x = (np.mgrid[0 : self.side, 0 : self.side].astype(np.float32) + 0.5) / self.side
        uniform, normal = rng.uniform, rng.normal
        self.eye_x = 0.19 + normal(0, 0.008)  # from the midline
        self.eye_y, self.mouth_y = 0.35 + normal(0, 0.006), 0.76 + normal(0, 0.012)
        self.eye_width, self.eye_open = 0.072 * uniform(0.88, 1.12), 0.026 * uniform(0.75, 1.25)
        self.brow_y = 0.215 + normal(0, 0.012)
        self.nose_y, self.nose_width = 0.565 + normal(0, 0.012), 0.075 * uniform(0.8, 1.25)
        self.mouth_width, self.lip = 0.145 * uniform(0.85, 1.15), 0.030 * uniform(0.7, 1.35)
        self.face_width, self.jaw = 0.42 * uniform(0.92, 1.06), uniform(0.66, 0.86)
        melanin = uniform(0, 1)
        self.skin = (1 - melanin) * np.array([236, 196, 172.0]) + melanin * np.array([112, 72, 52.0])
        self.skin = self.skin + normal(0, 7) + normal(0, 3, 3)
        dark, light = np.array([28, 20, 16.0]), np.array([150, 105, 60.0])
        blend = uniform(0, 1) ** 2 * (1 - 0.8 * melanin)
        self.hair = (1 - blend) * dark + blend * light
        if uniform() < 0.12:
            self.hair = np.array([150, 148, 146.0]) + normal(0, 15)

    def paint(self) -> Face:
        rng = self.rng
        mask = self._head()
        image = self._background()
        image = self._over(image, self.hair * 0.8, self._hair_back())
        image = self._over(image, self.skin * 0.72, self._neck())
        image = self._over(image, self._skin_colour() * self._shading()[..., None], mask)
        image = self._lips(image)
        for sign in (-1, 1):
            image = self._eye(image, sign)
            image = self._brow(image, sign)
        image = self._nostrils(image)
        if rng.uniform() < 0.25:
            image = self._stubble(image, mask)
        image = self._hair_front(image)
        if rng.uniform() < 0.15:
            image = self._glasses(image)
        image = cv2.resize(np.float32(np.clip(image, 0, 255)), (CANVAS, CANVAS), interpolation=cv2.INTER_AREA)
        eyes, brows = (self.eye_x - 0.19, self.eye_y - 0.35), (self.eye_x - 0.19, self.brow_y - 0.21)
        mouth = (0.0, self.mouth_y - 0.76)
        corner = (self.mouth_width - 0.145, self.mouth_y - 0.76)
        offsets = {
            "inner brow": brows,
            "outer brow": brows,
            "upper lid": eyes,
            "lower lid": eyes,
            "nose wing": (self.nose_width - 0.075, self.nose_y - 0.565),
            "upper lip": mouth,
            "mouth corner": corner,
            "lower lip": mouth,
        }
        return Face(image, offsets)

    @staticmethod
    def _over(image, colour, alpha):
        return image * (1 - alpha[..., None]) + np.asarray(colour, np.float32) * alpha[..., None]

    def _smooth(self, value, width):
        """1 where `value` < 0, 0 above `width`, smooth between."""
        return np.clip(0.5 - value / width, 0, 1).astype(np.float32)

    def _noise(self, cells: int, sigma: float = 1.0):
        small = self.rng.normal(0, sigma, (cells, cells)).astype(np.float32)
        return cv2.resize(small, (self.side, self.side), interpolation=cv2.INTER_CUBIC)

    def _bump(self, cx, cy, rx, ry):
        return np.exp(-0.5 * (((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2))

    def _background(self):
        tone = self.rng.uniform(60, 200) + self.rng.normal(0, 12, 3)
        return (tone + 14 * self._noise(4)[..., None]).astype(np.float32)

    def _half_width(self):
        """Half the width of the head at each height: an oval that narrows to the chin."""
        t = np.clip((self.y + 0.14) / 1.17, 0, 1)
        oval = np.clip(1 - np.abs(2 * t - 1) ** 2.3, 0, 1) ** 0.47
        below = np.clip((t - 0.50) / 0.50, 0, 1)
        return self.face_width * oval * (1 - (1 - self.jaw) * below * below * (3 - 2 * below))

    def _head(self):
        return self._smooth(np.abs(self.x - 0.5) - self._half_width() * 1.08, 0.01)

    def _hair_back(self):
        volume = self.rng.uniform(1.05, 1.25)
        below = self.rng.uniform(0.35, 1.1)
        return self._smooth(np.abs(self.x - 0.5) - self._half_width() * 1.08 * volume, 0.02) * self._smooth(
            self.y - below, 0.1
        )

    def _neck(self):
        return self._smooth(np.abs(self.x - 0.5) - 0.24, 0.02) * self._smooth(0.88 - self.y, 0.06)

    def _skin_colour(self):
        blotches = 5 * self._noise(6) + 3 * self._noise(24) + 2.5 * self._noise(90) + 2.5 * self._noise(200)
        cheeks = sum(self._bump(0.5 + sign * 0.22, 0.53, 0.09, 0.07) for sign in (-1, 1))
        colour = self.skin + blotches[..., None] + cheeks[..., None] * np.array([10, -5, -4.0])
        if self.rng.uniform() < 0.3:
            freckles = cv2.GaussianBlur((self._noise(self.side) > 3.0).astype(np.float32), (0, 0), 2.0) * 8
            colour = colour - freckles[..., None] * np.array([18, 22, 20.0]) * (cheeks[..., None] + 0.2)
        return colour.astype(np.float32)

    def _shading(self):
        """Light on a height map: skull, brow ridge, sockets, nose, cheeks, lips, chin."""
        half = np.maximum(self._half_width() * 1.12, 0.20)
        height = 0.34 * np.sqrt(np.clip(1 - ((self.x - 0.5) / half) ** 2, 0.02, 1))
        height -= 1.6 * np.clip(self.y - 0.90, 0, 1) ** 2
        height += 0.016 * self._bump(0.5, self.brow_y + 0.02, 0.24, 0.035)
        nose = self._bump(0.5, self.nose_y - 0.02, 0.38 * self.nose_width, 0.045) * 0.062
        ridge = self._bump(0.5, self.nose_y - 0.13, 0.25 * self.nose_width, 0.085) * 0.040
        height += nose + ridge + 0.012 * self._bump(0.5, 0.92, 0.07, 0.045)
        height += 0.010 * self._bump(0.5, self.mouth_y - 0.02, 0.11, 0.03)
        height += 0.012 * self._bump(0.5, self.mouth_y + 0.035, 0.08, 0.022)
        height -= 0.010 * self._bump(0.5, self.mouth_y + 0.085, 0.07, 0.02)
        for sign in (-1, 1):
            height += 0.022 * self._bump(0.5 + sign * 0.23, 0.50, 0.085, 0.075)
            height -= 0.024 * self._bump(0.5 + sign * (self.eye_x - 0.02), self.eye_y - 0.015, 0.075, 0.038)
            height += 0.012 * self._bump(0.5 + sign * self.eye_x, self.eye_y, 0.05, 0.028)
            height += 0.020 * self._bump(0.5 + sign * 0.55 * self.nose_width, self.nose_y + 0.008, 0.018, 0.020)
        height += 0.0004 * self._noise(60) + 0.00015 * self._noise(180)
        dy, dx = np.gradient(height, 1 / self.side)
        normal = np.stack([-dx, -dy, np.ones_like(dx)], -1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        light = np.array([self.rng.uniform(-0.55, 0.55), self.rng.uniform(-0.7, -0.15), 1.0])
        light /= np.linalg.norm(light)
        diffuse = np.clip(normal @ light, 0, 1)
        gloss = np.clip(normal @ ((light + [0, 0, 1]) / np.linalg.norm(light + [0, 0, 1])), 0, 1) ** 40
        return (0.42 + 0.62 * diffuse + 0.10 * gloss).astype(np.float32)

    def _lips(self, image):
        u, v = (self.x - 0.5) / self.mouth_width, self.y - self.mouth_y
        arch = np.clip(1 - u**2, 0, 1)
        bow = 1 - 0.22 * np.exp(-((u / 0.12) ** 2)) + 0.12 * np.exp(-(((np.abs(u) - 0.25) / 0.15) ** 2))
        curve = 0.010 * self.rng.normal() * u**2
        upper = self._smooth(np.maximum(-(v - curve) - self.lip * 0.75 * arch**0.8 * bow, v - curve), 0.006)
        lower = self._smooth(np.maximum((v - curve) - self.lip * 1.1 * arch**0.7, -(v - curve)), 0.006)
        tint = np.clip(self.skin * np.array([0.93, 0.60, 0.60]) + self.rng.normal(0, 5, 3), 0, 255)
        stripes = 1 + 0.04 * cv2.resize(
            self.rng.normal(0, 1, (4, 90)).astype(np.float32), (self.side, self.side), interpolation=cv2.INTER_CUBIC
        )
        sides = (np.abs(u) < 1.02).astype(np.float32)
        image = self._over(image, tint * 0.80 * stripes[..., None], upper * sides * 0.85)
        image = self._over(image, tint * 0.98 * stripes[..., None], lower * sides * 0.80)
        seam = np.exp(-0.5 * ((v - curve) / 0.0035) ** 2) * self._smooth(np.abs(u) - 1.04, 0.06)
        corners = sum(self._bump(0.5 + sign * self.mouth_width * 1.02, self.mouth_y, 0.010, 0.008) for sign in (-1, 1))
        return self._over(image, self.skin * 0.25, np.clip(0.75 * seam + 0.35 * corners, 0, 1))

    def _eye(self, image, sign):
        cx, cy = 0.5 + sign * self.eye_x, self.eye_y
        u, v = (self.x - cx) / self.eye_width, self.y - cy
        arch = np.clip(1 - u**2, 0, 1)
        top, bottom = -self.eye_open * arch**0.75, 0.72 * self.eye_open * arch
        opening = self._smooth(np.maximum(top - v, v - bottom), 0.004) * (np.abs(u) < 1)
        white = (
            np.array([226, 220, 214.0]) * (0.80 + 0.2 * np.clip((v - top) / (self.eye_open + 1e-6), 0, 1))[..., None]
        )
        image = self._over(image, white, opening)
        radius = np.hypot(self.x - cx, (self.y - cy) + 0.004)
        if sign == -1:
            self.iris = self.rng.choice([[70, 45, 25], [95, 65, 35], [90, 110, 120], [85, 105, 75]]).astype(np.float32)
        fibre = 1 + 0.12 * np.sin(14 * np.arctan2(self.y - cy, self.x - cx))
        image = self._over(image, self.iris * fibre[..., None], self._smooth(radius - 0.0255, 0.004) * opening)
        image = self._over(image, [14, 12, 12], self._smooth(radius - 0.0115, 0.003) * opening)
        glint = self._smooth(np.hypot(self.x - cx - 0.008, self.y - cy + 0.012) - 0.004, 0.003)
        image = self._over(image, [250, 250, 250], glint * opening)
        inside = self._smooth(np.abs(u) - 1.06, 0.08)
        lash = np.exp(-0.5 * ((v - top) / 0.0040) ** 2) * inside
        crease = np.exp(-0.5 * ((v - top * 1.25 + 0.016) / 0.0038) ** 2) * self._smooth(np.abs(u) - 0.95, 0.3)
        under = np.exp(-0.5 * ((v - bottom) / 0.0028) ** 2) * inside
        image = self._over(image, self.hair * 0.35, np.clip(0.88 * lash, 0, 1))
        return self._over(image, self.skin * 0.5, np.clip(0.45 * crease + 0.35 * under, 0, 1))

    def _brow(self, image, sign):
        layer = np.zeros((self.side, self.side), np.float32)
        thickness = self.rng.uniform(0.010, 0.019) if sign == -1 else self.thickness
        arch = self.rng.uniform(0.008, 0.024) if sign == -1 else self.arch
        self.thickness, self.arch = thickness, arch
        for _ in range(150):
            s = self.rng.uniform(0, 1)
            bx = 0.5 + sign * (0.075 + (self.eye_x - 0.19) + 0.235 * s)
            by = self.brow_y - arch * np.sin(np.pi * min(1.0, s * 0.9)) + 0.022 * max(0.0, s - 0.6)
            by += self.rng.uniform(-1, 1) * thickness * (1 - 0.65 * s)
            slope = sign * (0.016 + 0.006 * s), -0.012 * (1 - 1.5 * s)
            ends = [(bx, by), (bx + slope[0], by + slope[1])]
            points = [tuple(round(value * self.side * 16) for value in end) for end in ends]
            cv2.line(layer, *points, float(self.rng.uniform(0.5, 1.0)), 2, cv2.LINE_AA, shift=4)
        layer = np.clip(
            0.75 * cv2.GaussianBlur(layer, (0, 0), 1.0) + 0.35 * cv2.GaussianBlur(layer, (0, 0), 4.0), 0, 0.9
        )
        return self._over(image, self.hair * 0.75, layer)

    def _nostrils(self, image):
        holes = sum(
            self._bump(0.5 + sign * 0.32 * self.nose_width, self.nose_y + 0.024, 0.013, 0.0065) for sign in (-1, 1)
        )
        wings = sum(
            self._bump(0.5 + sign * 0.74 * self.nose_width, self.nose_y + 0.008, 0.0045, 0.018) for sign in (-1, 1)
        )
        base = self._bump(0.5, self.nose_y + 0.034, 0.5 * self.nose_width, 0.006)
        return self._over(image, self.skin * 0.30, np.clip(0.75 * holes + 0.35 * wings + 0.25 * base, 0, 1))

    def _stubble(self, image, mask):
        zone = self._smooth(0.66 - self.y, 0.10) * (1 - self._bump(0.5, self.mouth_y, 0.12, 0.035)) * mask
        grain = np.clip(0.5 + 0.35 * self._noise(self.side), 0, 1)
        return self._over(image, self.hair * 0.6, zone * grain * self.rng.uniform(0.2, 0.6))

    def _hair_front(self, image):
        line = 0.035 + self.rng.normal(0, 0.02) - 0.10 * np.cos((self.x - 0.5 - self.rng.normal(0, 0.08)) * 5.5)
        line = line + 0.012 * self._noise(12) + 0.05
        alpha = self._smooth(self.y - line * self.rng.uniform(0.5, 1.0), 0.02)
        strands = 1 + 0.18 * cv2.resize(
            self.rng.normal(0, 1, (3, 140)).astype(np.float32), (self.side, self.side), interpolation=cv2.INTER_CUBIC
        )
        return self._over(image, self.hair * strands[..., None], alpha)

    def _glasses(self, image):
        frame = np.zeros((self.side, self.side), np.float32)
        scale = self.side
        for sign in (-1, 1):
            centre = (int((0.5 + sign * self.eye_x) * scale), int((self.eye_y + 0.015) * scale))
            cv2.ellipse(frame, centre, (int(0.115 * scale), int(0.085 * scale)), 0, 0, 360, 1.0, 5, cv2.LINE_AA)
            temple = (int((0.5 + sign * (self.eye_x + 0.115)) * scale), int((self.eye_y + 0.0) * scale))
            cv2.line(frame, temple, (int((0.5 + sign * 0.46) * scale), temple[1] - 6), 1.0, 5, cv2.LINE_AA)
        gap = self.eye_x - 0.115
        cv2.line(
            frame,
            (int((0.5 - gap) * scale), int(self.eye_y * scale)),
            (int((0.5 + gap) * scale), int(self.eye_y * scale)),
            1.0,
            5,
            cv2.LINE_AA,
        )
        return self._over(image, self.rng.uniform(15, 70) * np.ones(3), frame * 0.9)
