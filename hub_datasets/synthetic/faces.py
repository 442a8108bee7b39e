"""Neutral faces to animate: painted faces, different for every seed, or a photograph with three landmarks.

A painted face is a lit height map (skull, brows, sockets, nose, cheeks, lips, chin) with eyes, brows, lips, hair,
stubble and glasses drawn on it. No picture of a person is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import cv2
import numpy as np

from deft_llm.processing.action_units import region_ellipse
from deft_llm.processing.face_alignment import FaceAlignmentError, crop_transform, warp_to_crop

# OpenCV's bicubic and Lanczos kernels do not reproduce a ramp. Their shifts are off by up to 0.047 and 0.015 pixels,
# which is a large part of a micro-expression. Linear interpolation shifts exactly. On a grid finer by this factor it
# does not blur, and the rounding of positions to 1/32 pixel does not matter.
FINER = 4


@dataclass
class Face:
    """A neutral face in the canonical crop.

    Args:
        image (`np.ndarray` of shape `(size, size, 3)`): float32 RGB from 0 to 255.
        offsets (`dict[str, tuple[float, float]]`): Region → shift of the atlas region on this face, lateral and down,
            in crop widths.
    """

    image: np.ndarray
    offsets: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.image.shape[0]

    @cached_property
    def fine_image(self) -> np.ndarray:
        """The image on a grid `FINER` times as fine, by cubic spline interpolation (Unser 1999)."""
        matrix = spline_interpolation(self.size, FINER)
        rows = np.tensordot(matrix, self.image, (1, 0))
        return np.ascontiguousarray(np.tensordot(rows, matrix, (1, 1)).transpose(0, 2, 1))

    def region(self, name: str, side: str) -> tuple[float, float, float, float]:
        """The region's ellipse (cx, cy, rx, ry) on this face, in units of the crop."""
        cx, cy, rx, ry = region_ellipse(name, side)
        lateral, down = self.offsets.get(name, (0.0, 0.0))
        return cx + (lateral if side == "left" else -lateral), cy + down, rx, ry


@lru_cache(maxsize=16)
def spline_interpolation(size: int, factor: int) -> np.ndarray:
    """(size · factor, size) matrix from samples at pixel centres to samples at the centres of finer pixels."""

    def basis(at: np.ndarray) -> np.ndarray:
        distance = np.abs(at[:, None] - np.arange(-1, size + 1))
        near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, (2 - distance) ** 3 / 6
        values = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        values[:, 1] += values[:, 0]  # edge pixels continue beyond the image
        values[:, -2] += values[:, -1]
        return values[:, 1:-1]

    fine = (np.arange(size * factor) + 0.5) / factor - 0.5
    return np.float32(np.linalg.solve(basis(np.arange(size)).T, basis(fine).T).T)


@dataclass(frozen=True)
class FaceStyle:
    """Traits of a face. `None` means random.

    Args:
        background (`tuple[float, float, float]`, *optional*): RGB from 0 to 255.
        skin (`float`, *optional*): From 0 (light) to 1 (dark).
        hair (`tuple[float, float, float]`, *optional*): RGB from 0 to 255.
        glasses (`bool`, *optional*): Whether the face has glasses.
        beard (`bool`, *optional*): Whether the face has a beard.
    """

    background: tuple[float, float, float] | None = None
    skin: float | None = None
    hair: tuple[float, float, float] | None = None
    glasses: bool | None = None
    beard: bool | None = None


def render_face(rng: np.random.Generator, *, size: int = 224, style: FaceStyle | None = None) -> Face:
    """Renders a face with random skull, features, skin, light and hair.

    Args:
        rng (`np.random.Generator`): Random numbers.
        size (`int`): Side of the image in pixels.
        style (`FaceStyle`, *optional*): Traits that are not random.
    """
    return _FacePainter(rng, size, style or FaceStyle()).paint()


def photograph(image: np.ndarray, landmarks: Sequence[Sequence[float]], *, size: int = 224) -> Face:
    """Makes a face from a photograph.

    Args:
        image (`np.ndarray`): Photograph, (H, W, 3) uint8.
        landmarks (`Sequence[Sequence[float]]`): The subject's right eye, left eye and mouth centre, as (x, y) in
            pixels.
        size (`int`, *optional*, defaults to `224`): Side of the face image in pixels.

    Raises:
        FaceAlignmentError: the landmarks do not form a face, the face is smaller than 32 pixels, or they are outside
            the image.
    """
    height, width = image.shape[:2]
    transform = crop_transform(height, width, landmarks=landmarks)
    extent = 1 / float(np.hypot(transform[0, 0], transform[1, 0]))
    if extent < 32:
        raise FaceAlignmentError(f"The landmarks mark a face {extent:.0f} pixels wide; at least 32 are needed.")
    return Face(np.clip(warp_to_crop(image.astype(np.float32), transform, size), 0, 255))


class _FacePainter:
    """Paints one neutral face at twice its final resolution. All lengths are in crop widths."""

    def __init__(self, rng: np.random.Generator, size: int, style: FaceStyle):
        self.rng, self.size, self.style = rng, size, style
        self.side = 2 * size
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
        melanin = melanin if style.skin is None else style.skin
        self.skin = (1 - melanin) * np.array([236, 196, 172.0]) + melanin * np.array([112, 72, 52.0])
        self.skin = self.skin + normal(0, 7) + normal(0, 3, 3)
        dark, light = np.array([28, 20, 16.0]), np.array([150, 105, 60.0])
        blend = uniform(0, 1) ** 2 * (1 - 0.8 * melanin)
        self.hair = (1 - blend) * dark + blend * light
        if uniform() < 0.12:
            self.hair = np.array([150, 148, 146.0]) + normal(0, 15)
        if style.hair is not None:
            self.hair = np.array(style.hair, np.float64)

    def paint(self) -> Face:
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
        if self._has(0.25, self.style.beard):
            image = self._stubble(image, mask)
        image = self._hair_front(image)
        if self._has(0.15, self.style.glasses):
            image = self._glasses(image)
        image = cv2.resize(np.float32(np.clip(image, 0, 255)), (self.size, self.size), interpolation=cv2.INTER_AREA)
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

    def _has(self, share: float, fixed: bool | None) -> bool:
        drawn = bool(self.rng.uniform() < share)
        return drawn if fixed is None else fixed

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
        if self.style.background is not None:
            tone = np.array(self.style.background, np.float64)
        return (tone + 14 * self._noise(4)[..., None]).astype(np.float32)

    def _half_width(self):
        """Half the width of the head at each height: an oval that narrows towards the chin."""
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
