"""One similarity transform a clip, from its own frame to the canonical crop of `action_units`.

The transform is estimated once, on the onset frame (the first frame while the onset is not known), and applied to
every frame: a box or a landmark found again in each frame jitters by more than a micro-expression moves.

Where the face is, says the caller (landmarks or a box) or a `FaceSource`: "cropped", the frame is a face crop already,
which is checked; "canonical", the frame is the canonical crop; "yunet", OpenCV's detector; "mediapipe", Google's
landmarker; or any callable that follows the protocol.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from transformers.utils import logging

from .action_units import CANONICAL_LANDMARKS
from .crop_geometry import CANONICAL, ELSEWHERE, inspect_crop
from .video_reading import ClipReader

logger = logging.get_logger(__name__)

YUNET_REPOSITORY = "opencv/face_detection_yunet"
YUNET_REVISION = "3cc26e7f1014a5ee5d74a42acee58bafc9d0a310"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_INSTEAD = 'Pass face_landmarks or face_box, or face_source="cropped" if the frames are face crops already'


class FaceAlignmentError(ValueError):
    """Landmarks, a box or a transform that describe no face in the frame, or a frame in which no face was found."""


class NoFaceFoundError(FaceAlignmentError):
    """A face source found no face in the frame."""


class FaceSource(Protocol):
    """Finds the face in the onset frame; anything callable of this form can be passed as `face_source`."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """
        Args:
            frame: (height, width, 3) uint8 RGB, the onset frame of one clip. Called once a clip.

        Returns:
            (faces, 3, 2), the landmarks of every face found, in pixels (a pixel's centre is at + 0.5), as in
            `crop_transform`; of several, the largest is used. Or (3, 2), those of the one face. Or (2, 3), the
            similarity that takes frame pixels to the canonical crop's unit square.
        """


def face_transform(
    clip: ClipReader,
    onset: int,
    source: FaceSource | None,
    *,
    landmarks: Sequence[Sequence[float]] | None = None,
    box: Sequence[float] | None = None,
) -> np.ndarray:
    """The clip's one transform, (2, 3): from `landmarks` or `box` where given, else from `source`.

    Args:
        onset: number of the frame that `source` sees; no other frame is read.
        source: None if the frames are face crops already, see `placed_crop`.
        landmarks: as in `crop_transform`.
        box: as in `crop_transform`.

    Raises:
        FaceAlignmentError: no face was found, or the landmarks, the box or the found face are not valid. The message
            names the clip.
    """
    height, width = clip.metadata.height, clip.metadata.width
    try:
        if landmarks is not None or box is not None:
            return crop_transform(height, width, landmarks=landmarks, box=box)
        if source is None:
            transform, remark = placed_crop(clip.frames([onset])[0])
            if remark is not None:
                logger.warning_once(f"{clip.name}: In frame {onset}, {remark}")
            return transform
        found = _as_array(source(clip.frames([onset])[0]), "What a face source returns")
        if found.shape == (2, 3):
            return checked_similarity(found)
        if found.shape == (3, 2):
            found = found[None]
        if found.ndim != 3 or found.shape[1:] != (3, 2):
            raise FaceAlignmentError(
                "A face source must return landmarks, shape (faces, 3, 2) or (3, 2), or a transform, shape (2, 3); "
                f"got an array of shape {found.shape}."
            )
        if not len(found):
            raise NoFaceFoundError(f"No face found in frame {onset}. {_INSTEAD}.")
        if len(found) > 1:
            logger.warning(f"{clip.name}: {len(found)} faces in frame {onset}; the largest one is used.")
        return crop_transform(height, width, landmarks=max(found, key=_extent))
    except FaceAlignmentError as error:
        raise type(error)(f"{clip.name}: {error}") from None


def canonical_crop(frame: np.ndarray) -> np.ndarray:
    """The `FaceSource` of frames that are canonical crops. They are not checked."""
    return crop_transform(*frame.shape[:2])


def placed_crop(frame: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The transform of a frame that is said to be a face crop, as data sets ship them.

    It is that of the canonical crop, unless the face is clearly elsewhere in the frame.

    Args:
        frame: (height, width, 3) uint8 RGB.

    Returns:
        The transform, as in `crop_transform`, and what is to be said if the frame does not look like the canonical
        crop, else None.
    """
    height, width = frame.shape[:2]
    found = inspect_crop(frame)
    if found.verdict == CANONICAL:
        return crop_transform(height, width), None
    instead = 'pass face_landmarks, face_box or a face finder such as face_source="yunet"'
    as_it_is = 'face_source="canonical" to use the frames as they are without this check'
    if found.verdict == ELSEWHERE:
        remark = (
            f"eyes or mouth are up to {100 * found.shift:.0f} % of the crop's width from where a canonical face crop "
            f"has them, so the crop is aligned to where the face was found; {instead} to place it exactly, or "
            f"{as_it_is}."
        )
        return crop_transform(height, width, landmarks=found.landmarks), remark
    remark = (
        "no face is recognised with certainty where a canonical face crop has it, and the frames are used as they "
        f"are; {instead} if the face is elsewhere, or {as_it_is}."
    )
    return crop_transform(height, width), remark


def crop_transform(
    height: int,
    width: int,
    *,
    landmarks: Sequence[Sequence[float]] | None = None,
    box: Sequence[float] | None = None,
) -> np.ndarray:
    """The 2 × 3 matrix that takes frame pixels to the canonical crop's unit square.

    Args:
        height: height of the frame in pixels.
        width: width of the frame in pixels.
        landmarks: (x, y) in pixels of the subject's right eye centre, left eye centre and mouth centre. The
            least-squares similarity to the canonical positions is used (Umeyama 1991).
        box: (left, top, right, bottom) in pixels of a region that is a face crop already. What sticks out of the
            frame is filled with the frame's edge.
        With neither, the frame itself is taken for the canonical crop; what sticks out of its centred square is cut
        off.

    Raises:
        FaceAlignmentError: both given, a wrong number of values, values that are not finite, landmarks outside the
            frame, too close together or in the wrong order, a box too small or mostly outside the frame.
    """
    if landmarks is not None and box is not None:
        raise FaceAlignmentError("Give landmarks or a box, not both.")
    if landmarks is not None:
        points = _checked_landmarks(landmarks, height, width)
        return _similarity(points, np.array(list(CANONICAL_LANDMARKS.values())))
    if box is None:
        extent = min(height, width)
        box = ((width - extent) / 2, (height - extent) / 2, (width + extent) / 2, (height + extent) / 2)
    left, top, right, bottom = _checked_box(box, height, width)
    extent = max(right - left, bottom - top)
    left, top = (left + right - extent) / 2, (top + bottom - extent) / 2
    return np.array([[1 / extent, 0, -left / extent], [0, 1 / extent, -top / extent]])


def _as_array(value: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise FaceAlignmentError(f"{what} must be numbers; got {value!r} ({error}).") from None


def _checked_landmarks(landmarks: Any, height: int, width: int) -> np.ndarray:
    points = _as_array(landmarks, "Landmarks")
    if points.shape != (3, 2):
        raise FaceAlignmentError(
            "Landmarks must be three (x, y) points in pixels: right eye, left eye (the subject's), mouth centre; "
            f"got an array of shape {points.shape}."
        )
    if not np.isfinite(points).all():
        raise FaceAlignmentError(f"Landmarks must be finite; got {points.tolist()}.")
    if not ((points >= 0) & (points <= (width, height))).all():
        raise FaceAlignmentError(
            f"Eyes and mouth must lie inside the picture, {width}×{height} pixels; got {points.tolist()}."
        )
    eyes, mouth = points[1] - points[0], points[2] - points[:2].mean(0)
    distance = np.hypot(*eyes)
    if distance < 4:
        raise FaceAlignmentError(f"The eyes stand less than 4 pixels apart: {points[:2].tolist()}.")
    if (eyes[0] * mouth[1] - eyes[1] * mouth[0]) / distance < 4:  # the mouth's distance from the line of the eyes
        raise FaceAlignmentError(
            "The mouth must stand at least 4 pixels below the line from the subject's right eye (at the left of the "
            f"picture, given first) to the left eye; got {points.tolist()}."
        )
    return points


def _checked_box(box: Any, height: int, width: int) -> np.ndarray:
    box = _as_array(box, "A face box")
    if box.shape != (4,) or not np.isfinite(box).all() or box[2] - box[0] < 8 or box[3] - box[1] < 8:
        raise FaceAlignmentError(
            f"A face box must be (left, top, right, bottom), at least 8 pixels wide and high; got {box.tolist()}."
        )
    inside = np.clip(box, 0, (width, height, width, height))
    if np.prod(inside[2:] - inside[:2]) < 0.5 * np.prod(box[2:] - box[:2]):
        raise FaceAlignmentError(
            f"A face box must be (left, top, right, bottom) in pixels, at least half of it inside the frame of "
            f"{width}×{height}; got {box.tolist()}."
        )
    return box


def checked_similarity(transform: np.ndarray) -> np.ndarray:
    """Returns a (2, 3) transform as it is, or raises `FaceAlignmentError` if it is not a similarity."""
    (a, b), (c, d) = transform[:, :2]
    scale = np.hypot(a, c)
    if not np.isfinite(transform).all() or scale == 0 or not np.allclose((a, b), (d, -c), rtol=0, atol=1e-3 * scale):
        raise FaceAlignmentError(
            "A transform must be a similarity [[a, −b, x], [b, a, y]] from frame pixels to the crop's unit square; "
            f"got {transform.tolist()}."
        )
    return transform


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    norm = np.sum(a * a)
    cosine = np.sum(a * b) / norm
    sine = np.sum(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / norm
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([rotation, target_mean - rotation @ source_mean])


def _extent(points: np.ndarray) -> float:
    """Spread of three landmarks in pixels, a measure of the face's size."""
    return float(np.sum((points - points.mean(0)) ** 2))


def warp_to_crop(
    frame: np.ndarray,
    transform: np.ndarray,
    size: int,
    points: np.ndarray | None = None,
    *,
    exact: bool = False,
) -> np.ndarray:
    """Samples the crop at size × size pixels; shrinking averages (no aliasing), growing interpolates.

    Args:
        frame (`np.ndarray`): (H, W) or (H, W, 3), uint8 or float32.
        transform (`np.ndarray` of shape `(2, 3)`): From `crop_transform`.
        size (`int`): Side of the crop in pixels.
        points (`np.ndarray` of shape `(2, size²)`, *optional*): Where each pixel of the crop is fetched, x and y in
            the unit square of `transform`; by default where it lies itself.
        exact (`bool`): Return float32 whatever the frame's type is: eight bits would round away a tenth of a pixel.
    """
    matrix = size * transform
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    # warpAffine samples points, so blur away what the smaller grid cannot hold
    sigma = 0.4 / scale if scale < 0.75 else 0.0
    shown = (0, 0, size, size) if points is None else (*size * points.min(1), *size * points.max(1))
    frame, matrix = _cut_to_crop(frame, matrix, shown, margin=int(np.ceil(4 * sigma)) + 4)
    if exact:
        frame = np.float32(frame)
    if scale <= 0.125:  # most of the blur as a mean over whole blocks: a wide kernel on a large frame takes seconds
        block = int(0.25 / scale)
        height, width = frame.shape[:2]
        frame = cv2.copyMakeBorder(frame, 0, -height % block, 0, -width % block, cv2.BORDER_REPLICATE)
        grid = (frame.shape[1] // block, frame.shape[0] // block)
        frame = cv2.resize(frame, grid, interpolation=cv2.INTER_AREA)
        matrix[:, :2] *= block
        sigma = np.sqrt(sigma**2 - (block**2 - 1) / 12) / block  # variances of the two blurs add up
    if sigma:
        frame = cv2.GaussianBlur(frame, (0, 0), sigma)
    # Linear, because OpenCV's bicubic kernel shifts by up to 0.047 pixels, differently at every place.
    options = {"borderMode": cv2.BORDER_REPLICATE}
    if points is not None:
        x, y = np.float32(np.linalg.solve(matrix[:, :2], size * points - matrix[:, 2:]) - 0.5).reshape(2, size, size)
        return cv2.remap(frame, x, y, cv2.INTER_LINEAR, **options)
    # Pixel centres lie at half-integers of the unit square.
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, **options)


def _cut_to_crop(
    frame: np.ndarray, matrix: np.ndarray, shown: tuple[float, float, float, float], margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the frame that the crop is made of, and the matrix from its pixels.

    Args:
        shown: left, top, right and bottom of what the crop shows, in its pixels.
    """
    # With plain numbers, because NumPy takes longer for two of them than OpenCV for the crop.
    left, top, right, bottom = map(float, shown)
    (a, b, x), (c, d, y) = matrix.tolist()
    corners = [(across - x, down - y) for across in (left, right) for down in (top, bottom)]
    area = a * d - b * c
    xs = [(d * across - b * down) / area for across, down in corners]
    ys = [(a * down - c * across) / area for across, down in corners]
    (x0, x1), (y0, y1) = (
        _span(places, margin, limit) for places, limit in ((xs, frame.shape[1]), (ys, frame.shape[0]))
    )
    shifted = np.array([(a, b, x + a * x0 + b * y0), (c, d, y + c * x0 + d * y0)])
    return frame[y0:y1, x0:x1], shifted


def _span(places: Sequence[float], margin: int, limit: int) -> tuple[int, int]:
    """The whole pixels around some places and a margin, at least one, within a frame of `limit` pixels."""
    start = min(max(math.floor(min(places)) - margin, 0), limit - 1)
    return start, max(min(max(math.ceil(max(places)) + margin, 0), limit), start + 1)


class YuNetFaces:
    """Faces by YuNet (Wu, Peng & Yu 2023, "YuNet: A tiny millisecond-level face detector") in `cv2.FaceDetectorYN`.

    Without `path` its model (0.2 MB, MIT licence) is fetched from the Hugging Face Hub on first use and kept in the
    Hub's cache: choosing this source is the consent to that, and one warning says what is fetched.

    Args:
        path: the model as a local ONNX file; nothing is fetched then.
        score_threshold: detections below are left out.

    Raises:
        FileNotFoundError: when called, if there is no such file, or it is neither in the cache nor can be fetched.
        ValueError: when called, if the file is not the model.
    """

    # The model's input is fixed, and some of OpenCV's engines hold it to that (opencv/opencv#28826).
    _INPUT = 640
    # Trained on faces of 10 to 300 pixels (opencv_zoo's note): the smaller view is for those that fill the frame.
    _VIEWS = (640, 240)

    def __init__(self, path: str | Path | None = None, *, score_threshold: float = 0.6):
        self.path, self.score_threshold = path, score_threshold

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """(faces, 3, 2) float64, as `FaceSource` has it."""
        # A new detector each time: it takes milliseconds, once a clip, and leaves nothing that threads or forked
        # workers would share.
        path = _existing(self.path, "YuNet model") if self.path is not None else _fetch_yunet()
        try:
            detector = cv2.FaceDetectorYN.create(
                str(path), "", (self._INPUT, self._INPUT), score_threshold=self.score_threshold
            )
            views = sorted({min(1.0, view / max(frame.shape[:2])) for view in self._VIEWS})
            faces = np.concatenate([self._detect(detector, frame, scale) for scale in views])
        except cv2.error as error:
            raise ValueError(f"{path}: not a YuNet model that OpenCV {cv2.__version__} reads ({error}).") from error
        # Rows: box (x, y, width, height), right eye, left eye, nose tip, right and left corner of the mouth, score.
        kept = cv2.dnn.NMSBoxes(faces[:, :4].tolist(), faces[:, 14].tolist(), self.score_threshold, 0.3)
        points = faces[np.asarray(kept, int).reshape(-1), 4:14].reshape(-1, 5, 2)
        return np.stack([points[:, 0], points[:, 1], points[:, 3:].mean(1)], axis=1)

    def _detect(self, detector: Any, frame: np.ndarray, scale: float) -> np.ndarray:
        """(faces, 15) in pixels of the frame, which is shown to the detector shrunk by `scale`."""
        height, width = frame.shape[:2]
        grid = (max(round(width * scale), 1), max(round(height * scale), 1))
        canvas = np.zeros((self._INPUT, self._INPUT, 3), np.uint8)
        small = cv2.resize(frame, grid, interpolation=cv2.INTER_AREA)
        canvas[: grid[1], : grid[0]] = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        found = detector.detect(canvas)[1]
        faces = np.empty((0, 15)) if found is None else np.asarray(found, np.float64)
        faces[:, :14] *= np.tile((width / grid[0], height / grid[1]), 7)
        return faces


def _existing(path: str | Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {what} file.")
    return path


def _fetch_yunet() -> str:
    try:
        path = try_to_load_from_cache(YUNET_REPOSITORY, YUNET_FILE, revision=YUNET_REVISION)
        if not isinstance(path, str):
            logger.warning(
                f"Fetching the face detector YuNet, {YUNET_FILE} (0.2 MB, MIT licence), from the Hugging Face Hub, "
                f"{YUNET_REPOSITORY}, revision {YUNET_REVISION}."
            )
            path = hf_hub_download(YUNET_REPOSITORY, YUNET_FILE, revision=YUNET_REVISION)
    except OSError as error:
        raise FileNotFoundError(
            f"{YUNET_FILE} is not in the Hub's cache and could not be fetched from {YUNET_REPOSITORY} "
            f'({type(error).__name__}). {_INSTEAD}, or face_source="yunet:PATH" with the path of that file.'
        ) from error
    if hashlib.sha256(Path(path).read_bytes()).hexdigest() != YUNET_SHA256:
        raise ValueError(f"{path}: not the file that {YUNET_FILE} is known as (SHA-256 {YUNET_SHA256}); delete it.")
    return path


class MediaPipeFaces:
    """Faces by MediaPipe's Face Landmarker: 478 points, of which eye and mouth corners are used.

    Needs `pip install deft-llm[mediapipe]` and the task file (`face_landmarker.task`, from MediaPipe's page on the
    Face Landmarker), which is never fetched from here.

    Args:
        path: the task file.
        max_faces: the largest number of faces to find.

    Raises:
        ImportError: when called, if the package is not installed.
        FileNotFoundError: when called, if the task file is missing.
        ValueError: when called, if the file is not a Face Landmarker task.
    """

    # Outer and inner corner of the subject's right eye and left eye, corners of the mouth: the ends of
    # `vision.FaceLandmarksConnections.FACE_LANDMARKS_RIGHT_EYE`, `…_LEFT_EYE` and `…_LIPS`. Corners and not irises,
    # which go with the gaze.
    CORNERS = ((33, 133), (263, 362), (61, 291))

    def __init__(self, path: str | Path, *, max_faces: int = 5):
        self.path, self.max_faces = path, max_faces

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """(faces, 3, 2) float64, as `FaceSource` has it."""
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise ImportError('face_source="mediapipe:…" needs `pip install deft-llm[mediapipe]`.') from error
        path = _existing(self.path, "MediaPipe task")
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(path)), num_faces=self.max_faces
        )
        try:
            landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: not a task file of MediaPipe's Face Landmarker ({error}).") from error
        with landmarker:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            faces = landmarker.detect(image).face_landmarks
        points = np.array([[(face[i].x, face[i].y) for pair in self.CORNERS for i in pair] for face in faces])
        height, width = frame.shape[:2]
        return points.reshape(-1, 3, 2, 2).mean(2) * (width, height)


def make_face_source(name: str | FaceSource) -> FaceSource | None:
    """The source that a name stands for; a callable stands for itself, and "cropped" for None.

    Args:
        name: "cropped", "canonical", "yunet", "yunet:PATH" (a local ONNX file) or "mediapipe:PATH" (the task file).

    Raises:
        ValueError: the name is unknown, or its path is missing.
        TypeError: `name` is neither text nor callable.
    """
    if callable(name):
        return name
    if not isinstance(name, str):
        raise TypeError(f"`face_source` must be a name or a callable, not {type(name).__name__}.")
    key, _, path = name.partition(":")
    if name == "cropped":
        return None
    if name == "canonical":
        return canonical_crop
    if name == "yunet" or (key == "yunet" and path):
        return YuNetFaces(path or None)
    if key == "mediapipe" and path:
        return MediaPipeFaces(path)
    raise ValueError(
        f'`face_source` must be "cropped", "canonical", "yunet", "yunet:PATH" with the ONNX file or '
        f'"mediapipe:PATH" with the landmarker\'s task file; got {name!r}.'
    )
