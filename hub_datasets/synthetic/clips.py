"""Renders synthetic micro-expressions with exact ground truth for every pixel: what moved, where, how far and when.

A clip is one face and a list of *movements*: smooth displacement fields, each with its own course over time. Action
units, blinks, glances and a talking mouth are movements. The head's motion, light and sensor noise are added
afterwards. After t frames, point p of the neutral face is at H_t(W_t(p + Σ_k c_k(t) d_k(p))), where the fields d are
sums of Gaussians, W turns the head in space (see `turning`) and H is a similarity. The flow between any two frames is
therefore known in closed form.

Lengths are in crop widths unless a name says pixels. Left and right are the subject's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from io import BytesIO

import av
import cv2
import numpy as np

from deft_llm.processing.action_units import SIDES, get_action_unit
from deft_llm.processing.common_deft import SIDE_LABELS

from .faces import FINER, Face
from .turning import HeadPath

# Peak displacement of each FACS intensity, in crop widths: 0.2 to 3 %, the range of micro-expressions.
INTENSITIES: dict[str, tuple[float, float]] = {
    "A": (0.002, 0.005),
    "B": (0.005, 0.009),
    "C": (0.009, 0.015),
    "D": (0.015, 0.022),
    "E": (0.022, 0.030),
}
# Unit pairs that pull the same region in opposite directions. They are allowed and recorded with the clip.
OPPOSED = (("AU12", "AU15"), ("AU1", "AU4"), ("AU17", "AU26"))

# Furrows caused by an action unit: (x0, y0, x1, y1) on the subject's right, mirrored on the left.
_FURROWS = {
    "AU1": ((0.36, 0.12, 0.49, 0.115),),
    "AU2": ((0.17, 0.13, 0.36, 0.115),),
    "AU4": ((0.465, 0.16, 0.470, 0.25),),
    "AU6": ((0.17, 0.37, 0.21, 0.43),),
    "AU9": ((0.44, 0.36, 0.48, 0.39), (0.38, 0.56, 0.34, 0.66)),
    "AU10": ((0.40, 0.58, 0.36, 0.68),),
    "AU12": ((0.375, 0.60, 0.315, 0.73),),
    "AU15": ((0.340, 0.79, 0.325, 0.85),),
    "AU17": ((0.43, 0.86, 0.49, 0.855),),
}


@dataclass(frozen=True)
class UnitRequest:
    """One action unit to show.

    Args:
        code (`str`): Code of the action unit.
        side (`str`): both, left or right.
        amplitude (`float`): Peak displacement in crop widths, above 0 and up to 0.05.

    Raises:
        ValueError: A value is out of range, or the unit has no motion in the image plane.
    """

    code: str
    side: str
    amplitude: float

    def __post_init__(self):
        unit = get_action_unit(self.code)
        if not unit.motions:
            raise ValueError(f"{self.code} ({unit.name}) has no motion in the image plane to render.")
        if self.side not in SIDE_LABELS:
            raise ValueError(f"{self.code}: side must be one of {', '.join(SIDE_LABELS)}, got {self.side!r}.")
        if not 0 < self.amplitude <= 0.05:
            raise ValueError(f"{self.code}: amplitude must lie in 0–0.05 crop widths, got {self.amplitude}.")

    @property
    def intensity(self) -> str:
        """The letter whose range contains the amplitude. Weaker than A counts as A, stronger than E as E."""
        return next((letter for letter, (_, high) in INTENSITIES.items() if self.amplitude <= high), "E")

    @classmethod
    def at_intensity(cls, code: str, side: str, intensity: str, rng: np.random.Generator) -> UnitRequest:
        """Makes a request with a random amplitude of a FACS intensity.

        Args:
            code (`str`): Code of the action unit.
            side (`str`): both, left or right.
            intensity (`str`): FACS letter from A to E.
            rng (`np.random.Generator`): Random numbers.

        Raises:
            ValueError: The letter is unknown.
        """
        if intensity not in INTENSITIES:
            raise ValueError(f"{code}: intensity must be one of {', '.join(INTENSITIES)}, got {intensity!r}.")
        return cls(code, side, float(rng.uniform(*INTENSITIES[intensity])))


@dataclass(frozen=True)
class Expression:
    """Action units that rise and fall together.

    Args:
        units (`tuple[UnitRequest, ...]`): The action units; empty for no expression.
        onset (`int`): Frame number of the onset.
        apex (`int`): Frame number of the apex.
        offset (`int`): Frame number of the offset.
    """

    units: tuple[UnitRequest, ...]
    onset: int
    apex: int
    offset: int

    def course(self, count: int) -> np.ndarray:
        """Strength over time, (count,): from 0 to 1 and back to 0 along raised cosines."""
        ramp = np.interp(np.arange(count), [self.onset, self.apex, self.offset], [0.0, 1.0, 0.0])
        return 0.5 - 0.5 * np.cos(np.pi * ramp)

    @property
    def opposed(self) -> list[str]:
        """Pairs of requested units that oppose each other on the same side."""
        sides = {unit.code: unit.side for unit in self.units}
        return [
            f"{first}+{second}"
            for first, second in OPPOSED
            if first in sides
            and second in sides
            and ("both" in (sides[first], sides[second]) or sides[first] == sides[second])
        ]


@dataclass(frozen=True)
class Disturbances:
    """Disturbances by camera, light and head. Zero turns a disturbance off.

    Args:
        head_shift (`float`): Shift of the head in crop widths.
        head_rotation (`float`): Rotation of the head in degrees.
        head_scale (`float`): Relative change of the head's size.
        light_drift (`float`): Slow relative change of the light.
        flicker (`float`): Relative change of the light by mains flicker.
        noise (`float`): Standard deviation of the noise in grey levels.
        furrows (`float`): Relative darkening of a furrow at an amplitude of 2 %.
        blinks (`float`): Blinks per second.
        gaze (`float`): Motion of the irises in crop widths.
        talking (`float`): Motion of lips and chin in crop widths.
        turn (`float`): Yaw, pitch and roll of the head in space, each up to this many degrees.
        crf (`int`): H.264 quality: 0 is lossless, 18 is good television quality, 28 shows blocks.
    """

    head_shift: float = 0.0
    head_rotation: float = 0.0
    head_scale: float = 0.0
    light_drift: float = 0.0
    flicker: float = 0.0
    noise: float = 0.0
    furrows: float = 0.0
    blinks: float = 0.0
    gaze: float = 0.0
    talking: float = 0.0
    turn: float = 0.0
    crf: int = 12


EVERYDAY = Disturbances(
    head_shift=0.006, head_rotation=0.4, head_scale=0.004, light_drift=0.02, flicker=0.004, noise=1.5, furrows=0.10
)


@dataclass
class Movement:
    """A displacement field and its strength over time.

    Args:
        name (`str`): Name of the movement.
        pieces (`list[tuple[float, float, float, float, float, float]]`): (cx, cy, sx, sy, dx, dy): Gaussian bumps,
            each times a vector, in crop widths.
        course (`np.ndarray` of shape `(count,)`): Strength in each frame.
    """

    name: str
    pieces: list[tuple[float, float, float, float, float, float]]
    course: np.ndarray

    def displacement(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The field at full strength at points of the neutral face, (2, *x.shape).

        Overlapping bumps of one movement, as at the middle of the chin, do not add up. Their vectors are averaged with
        the bumps as weights and scaled by the strongest bump.
        """
        total = np.full(x.shape, 1e-9, x.dtype)
        strongest, vectors = np.zeros_like(x), np.zeros((2, *x.shape), x.dtype)
        for cx, cy, sx, sy, dx, dy in self.pieces:
            bump = np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2)).astype(x.dtype)
            total += bump
            np.maximum(strongest, bump, out=strongest)
            vectors[0] += x.dtype.type(dx) * bump
            vectors[1] += x.dtype.type(dy) * bump
        return vectors * (strongest / total)


@dataclass
class Clip:
    """Frames and their ground truth.

    Args:
        frames (`np.ndarray` of shape `(count, size, size, 3)`): uint8 RGB.
        fps (`float`): Frames per second.
        expressions (`list[Expression]`): The expressions in order.
        movements (`list[Movement]`): All movements, including blinks, gaze and speech.
        head (`np.ndarray` of shape `(count, 2, 3)`): Maps a point without head motion to its actual position.
        disturbances (`Disturbances`): The disturbances.
        blinks (`list[tuple[int, int, int]]`): Key frames of the blinks.
    """

    frames: np.ndarray
    fps: float
    expressions: list[Expression]
    movements: list[Movement]
    head: np.ndarray
    disturbances: Disturbances
    blinks: list[tuple[int, int, int]] = field(default_factory=list)
    path: HeadPath | None = None  # the head's motion in space, before `head`

    @property
    def expression(self) -> Expression:
        """The clip's only expression. Raises `ValueError` if the clip has several."""
        if len(self.expressions) != 1:
            raise ValueError(f"This clip shows {len(self.expressions)} expressions; name one of them.")
        return self.expressions[0]

    def flow(self, start: int, end: int, *, expression_only: bool = False, grid: int | None = None) -> np.ndarray:
        """The true displacement from frame `start` to frame `end`, (2, grid, grid) float32 in crop widths.

        The flow is sampled at the centres of `grid` × `grid` cells of frame `start`. It is computed in closed form,
        except for inverting the displacement of frame `start` itself, which is zero at an onset while the head is
        where it was in the first frame.

        Args:
            start (`int`): Frame number.
            end (`int`): Frame number.
            expression_only (`bool`, *optional*, defaults to `False`): Whether to leave out head, blinks, gaze and
                speech in both frames.
            grid (`int | None`, *optional*): Number of cells per side; by default the frames' pixels.
        """
        grid = grid or self.frames.shape[1]
        y, x = (np.mgrid[0:grid, 0:grid].astype(np.float64) + 0.5) / grid
        movements = [m for m in self.movements if m.name.startswith("AU") or not expression_only]
        still = np.array([[1.0, 0, 0], [0, 1, 0]])
        first, last = (still, still) if expression_only else (self.head[start], self.head[end])
        path = None if expression_only else self.path
        unmoved = _apply(_invert(first), x, y)
        if path is not None:
            unmoved = path.origin(start, unmoved)
        neutral = unmoved.copy()
        for _ in range(30):
            neutral = unmoved - _displacement(movements, start, neutral)
        now = neutral + _displacement(movements, end, neutral)
        now = _apply(last, *(now if path is None else path.place(end, now)))
        return (now - np.stack([x, y])).astype(np.float32)

    def truth(self) -> dict:
        """All parameters as plain numbers and strings."""
        return {
            "fps": self.fps,
            "frames": len(self.frames),
            "expressions": [
                {
                    "onset": item.onset,
                    "apex": item.apex,
                    "offset": item.offset,
                    "opposed": item.opposed,
                    "units": [
                        {"code": u.code, "side": u.side, "intensity": u.intensity, "amplitude": u.amplitude}
                        for u in item.units
                    ],
                }
                for item in self.expressions
            ],
            "blinks": [list(item) for item in self.blinks],
            "disturbances": asdict(self.disturbances),
        }


def _displacement(movements: Sequence[Movement], frame: int, points: np.ndarray) -> np.ndarray:
    active = [m for m in movements if m.course[frame] != 0]
    return sum((m.course[frame] * m.displacement(*points) for m in active), np.zeros_like(points))


def _apply(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2] for row in range(2)])


def _invert(matrix: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(matrix[:, :2])
    return np.column_stack([inverse, -inverse @ matrix[:, 2]])


def unit_movement(face: Face, unit: UnitRequest, course: np.ndarray, rng: np.random.Generator) -> Movement:
    """Makes the movement of an action unit on a face, from the table of motions with small random changes.

    Args:
        face (`Face`): The face.
        unit (`UnitRequest`): The action unit.
        course (`np.ndarray` of shape `(count,)`): Strength in each frame.
        rng (`np.random.Generator`): Random numbers.
    """
    pieces = []
    for motion in get_action_unit(unit.code).motions:
        turn = rng.normal(0, np.radians(8))  # real muscles do not pull exactly along the axis
        for side in SIDES if unit.side == "both" else (unit.side,):
            cx, cy, rx, ry = face.region(motion.region, side)
            swing = turn if side == "right" else -turn
            rotation = np.array([[np.cos(swing), -np.sin(swing)], [np.sin(swing), np.cos(swing)]])
            dx, dy = unit.amplitude * (rotation @ motion.vector(side))
            # Skin moves with its surroundings, so the bump extends beyond its region.
            pieces.append((cx, cy, 1.1 * rx, 1.3 * ry, float(dx), float(dy)))
    return Movement(unit.code, pieces, course)


def render_clip(
    face: Face,
    expressions: Sequence[Expression],
    rng: np.random.Generator,
    *,
    count: int,
    fps: float = 200.0,
    disturbances: Disturbances = EVERYDAY,
    path: HeadPath | None = None,
) -> Clip:
    """Animates a face for `count` frames. The frames have the face's size.

    Args:
        face (`Face`): The neutral face.
        expressions (`Sequence[Expression]`): Expressions to show.
        rng (`np.random.Generator`): Random generator.
        count (`int`): Number of frames.
        fps (`float`, *optional*, defaults to `200.0`): Frames per second, 25 to 500.
        disturbances (`Disturbances`, *optional*, defaults to `EVERYDAY`): Disturbances to add.
        path (`HeadPath | None`, *optional*): The head's motion in space; by default a random one as large as
            `disturbances.turn`.

    Raises:
        ValueError: `fps` is outside 25–500, an expression is outside the clip or not onset < apex < offset, the head
            turns by more than 15°, or its path has another number of frames.
    """
    if not 25 <= fps <= 500:
        raise ValueError(f"fps must lie in 25–500, got {fps}.")
    for item in expressions:
        if not 0 <= item.onset < item.apex < item.offset < count:
            raise ValueError(
                f"An expression must satisfy 0 ≤ onset < apex < offset < {count}; got {item.onset}, {item.apex}, "
                f"{item.offset}."
            )
    if path is not None and len(path) != count:
        raise ValueError(f"The head's path has {len(path)} frames and the clip {count}.")
    movements = [unit_movement(face, unit, item.course(count), rng) for item in expressions for unit in item.units]
    blinks = _blinks(rng, count, fps, disturbances.blinks)
    movements += _blink_movements(face, blinks, count)
    movements += _gaze_movements(face, rng, count, fps, disturbances.gaze)
    movements += _talking_movements(face, rng, count, fps, disturbances.talking)
    head = _head_motion(rng, count, fps, disturbances)
    seconds = np.arange(count) / fps
    light = 1 + _drift(rng, count, fps, 1)[0] * disturbances.light_drift
    # Lamps pulse at twice the mains frequency, which is never exactly a multiple of the frame rate.
    pulse = rng.choice([100, 120]) * (1 + rng.normal(0, 0.01))
    light *= 1 + disturbances.flicker * np.sin(2 * np.pi * pulse * seconds + rng.uniform(0, 2 * np.pi))
    clip = Clip(
        np.empty((count, face.size, face.size, 3), np.uint8),
        fps,
        list(expressions),
        movements,
        head,
        disturbances,
        blinks,
        _path(rng, count, fps, disturbances.turn) if path is None else path,
    )
    _render(face, clip, light, rng)
    return clip


def _render(face: Face, clip: Clip, light: np.ndarray, rng: np.random.Generator) -> None:
    """Fills the frames. Each pixel is traced back through the head's motion and then through the face's motion."""
    size = face.size
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size
    # From here on, lengths are in pixels and channels come last, as cv2.remap needs them.
    fields = [np.float32(size * movement.displacement(x, y)).transpose(1, 2, 0).copy() for movement in clip.movements]
    units = [unit for shown in clip.expressions for unit in shown.units]
    furrows = [
        (movement.course, _furrow_map(face, unit))
        for movement, unit in zip(clip.movements, units, strict=False)
        if unit.code in _FURROWS and clip.disturbances.furrows
    ]
    grid = np.stack(np.mgrid[0:size, 0:size][::-1], axis=-1).astype(np.float32)
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    for t in range(len(clip.frames)):
        active = [(m.course[t], values) for m, values in zip(clip.movements, fields, strict=True) if m.course[t] != 0]
        source = grid if np.array_equal(clip.head[t], still) else _pixel_map(_invert(clip.head[t]), grid)
        if clip.path is not None and not clip.path.is_still(t):
            seen = (source.transpose(2, 0, 1) + np.float32(0.5)) / np.float32(size)
            source = size * clip.path.origin_map(t, seen).transpose(1, 2, 0) - np.float32(0.5)
        if active:
            # Solves p + d(p) = target by iterating p ← target − d(p). This is a contraction for fields this smooth,
            # and converges faster for smaller motion.
            moved = sum(np.float32(weight) * values for weight, values in active)
            peak = float(np.abs(moved).max())
            target = source
            for _ in range(2 + (peak > 0.5) + (peak > 2)):
                source = target - _look_up(moved, source)
        frame = _look_up(face.fine_image, FINER * source + 0.5 * (FINER - 1))
        for course, furrow in furrows:
            if course[t] > 0:
                frame *= 1 - np.float32(clip.disturbances.furrows * course[t]) * _look_up(furrow, source)[..., None]
        frame *= np.float32(light[t])
        if clip.disturbances.noise:
            frame += rng.standard_normal((size, size, 1), np.float32) * np.float32(clip.disturbances.noise)
        frame += 0.5  # so that truncation rounds
        np.clip(frame, 0, 255, out=frame)
        clip.frames[t] = frame


def _look_up(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    return cv2.remap(values, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _pixel_map(matrix: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A similarity of the unit square as a map between pixel indices (pixel centres are at half-integers)."""
    size = grid.shape[0]
    shift = size * matrix[:, 2] + 0.5 * matrix[:, :2].sum(1) - 0.5
    return cv2.transform(grid, np.column_stack([matrix[:, :2], shift]))


def _drift(rng: np.random.Generator, count: int, fps: float, channels: int) -> np.ndarray:
    """Smooth random drift, (channels, count), within ±1 and zero at the first frame, with a new target every 0.3 s."""
    knots = max(4, int(np.ceil(count / fps / 0.3)) + 2)
    aims = rng.uniform(-1, 1, (channels, knots))
    aims[:, 0] = 0
    at = np.linspace(0, knots - 1, count)
    index = np.minimum(at.astype(int), knots - 2)
    ease = 0.5 - 0.5 * np.cos(np.pi * (at - index))
    return aims[:, index] * (1 - ease) + aims[:, index + 1] * ease


def _head_motion(rng: np.random.Generator, count: int, fps: float, disturbances: Disturbances) -> np.ndarray:
    shift_x, shift_y, turn, grow = _drift(rng, count, fps, 4)
    angle, scale = np.radians(disturbances.head_rotation) * turn, 1 + disturbances.head_scale * grow
    head = np.empty((count, 2, 3))
    head[:, 0, 0] = head[:, 1, 1] = scale * np.cos(angle)
    head[:, 1, 0] = scale * np.sin(angle)
    head[:, 0, 1] = -head[:, 1, 0]
    # Turned and scaled about the middle of the crop.
    head[:, :, 2] = 0.5 - head[:, :, :2].sum(-1) * 0.5
    head[:, 0, 2] += disturbances.head_shift * shift_x
    head[:, 1, 2] += disturbances.head_shift * shift_y
    return head


def _path(rng: np.random.Generator, count: int, fps: float, turn: float) -> HeadPath | None:
    """A random path in space; none, and nothing asked of the generator, where heads do not turn."""
    return HeadPath.random(rng, count, fps, yaw=turn, pitch=turn, roll=turn) if turn else None


def _blinks(rng: np.random.Generator, count: int, fps: float, rate: float) -> list[tuple[int, int, int]]:
    """Blinks as (start, closed, end) frames; each takes 0.15 to 0.3 s."""
    blinks = []
    at = rng.exponential(1 / rate) * fps if rate else np.inf
    while at < count:
        length = rng.uniform(0.15, 0.3) * fps
        start, end = int(at), int(at + length)
        if end < count:
            blinks.append((start, start + max(1, (end - start) // 3), end))
        at = end + rng.exponential(1 / rate) * fps
    return blinks


def _blink_movements(face: Face, blinks: Sequence[tuple[int, int, int]], count: int) -> list[Movement]:
    if not blinks:
        return []
    course = np.zeros(count)
    for start, closed, end in blinks:
        course = np.maximum(course, np.interp(np.arange(count), [start, closed, end], [0.0, 1.0, 0.0]))
    pieces = []
    for side in SIDES:
        cx, cy, rx, ry = face.region("upper lid", side)
        pieces.append((cx, cy, rx, 0.8 * ry, 0.0, 0.022))
        cx, cy, rx, ry = face.region("lower lid", side)
        pieces.append((cx, cy, rx, 0.8 * ry, 0.0, -0.006))
    return [Movement("blink", pieces, course)]


def _gaze_movements(face: Face, rng: np.random.Generator, count: int, fps: float, amount: float) -> list[Movement]:
    if not amount:
        return []
    eyes = [(face.region("upper lid", side), face.region("lower lid", side)) for side in SIDES]
    centres = [((up[0] + low[0]) / 2, (up[1] + low[1]) / 2) for up, low in eyes]
    courses = amount * _drift(rng, count, fps, 2)
    return [
        Movement("gaze", [(cx, cy, 0.03, 0.02, *direction) for cx, cy in centres], course)
        for direction, course in zip(((1.0, 0.0), (0.0, 0.4)), courses, strict=True)
    ]


def _talking_movements(face: Face, rng: np.random.Generator, count: int, fps: float, amount: float) -> list[Movement]:
    if not amount:
        return []
    seconds = np.arange(count) / fps
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(3, 5) * seconds)
    syllables *= 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.5, 1.5) * seconds + rng.uniform(0, 6))
    moving: Mapping[str, tuple[float, float]] = {
        "lower lip": (0.0, 1.0),
        "chin": (0.0, 0.9),
        "upper lip": (0.0, -0.25),
        "mouth corner": (0.3, 0.2),
    }
    pieces = []
    for region, (medial, down) in moving.items():
        for side in SIDES:
            cx, cy, rx, ry = face.region(region, side)
            sideways = medial if side == "right" else -medial
            pieces.append((cx, cy, 1.2 * rx, 1.3 * ry, amount * sideways, amount * down))
    return [Movement("talking", pieces, syllables - syllables[0])]


def _furrow_map(face: Face, unit: UnitRequest) -> np.ndarray:
    """(size, size) map that is 1 along the furrows of a unit at 2 % amplitude."""
    lateral, down = face.offsets.get(get_action_unit(unit.code).motions[0].region, (0.0, 0.0))
    layer = np.zeros((face.size, face.size), np.float32)
    for x0, y0, x1, y1 in _FURROWS[unit.code]:
        for side in SIDES if unit.side == "both" else (unit.side,):
            ends = [(x - lateral if side == "right" else 1 - x + lateral, y + down) for x, y in ((x0, y0), (x1, y1))]
            points = [tuple(round(value * face.size * 16) for value in end) for end in ends]
            cv2.line(layer, *points, 1.0, 2, cv2.LINE_AA, shift=4)
    width = 0.008 * face.size
    return min(unit.amplitude / 0.02, 1.5) * cv2.GaussianBlur(layer, (0, 0), width)


def encode_mp4(clip: Clip) -> bytes:
    """Encodes a clip as H.264 at its `crf`. The same frames give the same bytes."""
    return encode_frames(clip.frames, clip.fps, clip.disturbances.crf)


def encode_frames(frames: Iterable[np.ndarray], fps: float, crf: int) -> bytes:
    """Encodes frames as H.264 without colour subsampling. The same frames give the same bytes.

    Args:
        frames (`Iterable[np.ndarray]`): Frames, (H, W, 3) uint8 RGB.
        fps (`float`): Frames per second.
        crf (`int`): x264's constant rate factor; 6 is near-lossless.
    """
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv444p"
        # x264's macroblock tree reads past the frame's edge, so its output would depend on uninitialised memory.
        options = {"crf": str(crf), "preset": "superfast", "threads": "1"}
        stream.options = {**options, "x264-params": "mbtree=0"}
        for index, frame in enumerate(frames):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
