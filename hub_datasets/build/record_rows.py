"""A record of a licensed data set, its frames measured, to a Uni-MER row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.video_utils import VideoMetadata

from deft_llm.processing.face_alignment import face_transform, warp_to_crop
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.video_reading import ArrayClip, ClipReader, open_clip
from deft_llm.processing.whole_clip_flow import LEAD_IN

from ..sources.action_unit_grammar import ParsedCell
from ..sources.records import ClipRecord
from ..synthetic.clips import encode_frames
from ..unimer.instructions import clip_generator
from ..unimer.rows import UnitLabel, make_row
from ..unimer.splits import clip_signature
from .settings import BuildSettings

if TYPE_CHECKING:
    from deft_llm.processing import DeftVideoProcessor

_SIDES = {"L": "left", "R": "right"}  # top, bottom and asymmetric are no side of the face: both, and `raw` tells
_SIGNATURE_SIDE = 64  # pixels
_HELD = 128 * 2**20  # bytes of decoded frames that a worker holds, so that they are decoded once
_CROP_SIDES = (64, 512)  # pixels, least and most of a stored crop; in between it keeps the frames' own resolution


class ClipWindow(ClipReader):
    """Frames `start` to `stop - 1` of a clip as a clip of their own."""

    def __init__(self, clip: ClipReader, start: int, stop: int, name: str):
        self.name, self._clip, self._start = name, clip, start
        known = clip.metadata
        self.metadata = VideoMetadata(
            total_num_frames=stop - start, fps=known.fps, width=known.width, height=known.height,
            video_backend=known.video_backend,
        )  # fmt: skip

    def _views(self, wanted):
        numbers = range(len(self)) if wanted is None else wanted
        return self._clip.stream([self._start + number for number in numbers])


def held(clip: ClipReader) -> ClipReader:
    """The clip in memory, if it is no larger than `_HELD`: a row looks at its frames several times."""
    known = clip.metadata
    if len(clip) * known.height * known.width * 3 > _HELD:
        return clip
    return ArrayClip(np.stack(list(clip.scan())), clip.name, known.fps)


def unit_labels(cell: ParsedCell | None) -> list[UnitLabel]:
    """A sheet's action units as `make_row` takes them."""
    return [
        UnitLabel(
            code=unit.unit.code,
            side=_SIDES.get(unit.side or "", "both"),
            intensity=unit.intensity,
            certain=unit.certain,
            alternatives=tuple(dict.fromkeys(other.unit.code for other in unit.alternatives)),
            raw=unit.raw,
        )
        for unit in (cell.units if cell is not None else ())
    ]


def record_row(
    record: ClipRecord, settings: BuildSettings, processor: DeftVideoProcessor, face_source: Any
) -> tuple[dict[str, Any], np.ndarray]:
    """A record's row, and its `clip_signature`.

    The row's clip begins `LEAD_IN` frames before the onset, or as many as there are, and ends with the offset. An apex
    that the sheet lacks is the frame between onset and offset in which the face has moved most; where onset and offset
    are missing as well, all three are spotted. `quality` says so. Frames of a face crop are stored as they are; where
    a face source found the face, the aligned crop is. Motion is measured on the frames themselves.

    Raises:
        VideoReadError, FileNotFoundError, FaceAlignmentError, KeyFrameError, AmbiguousWordError: no row can be made.
    """
    opened = open_clip([str(path) for path in record.frames] if record.folder is not None else record.video)
    clip = ClipWindow(opened, 0, len(opened), record.clip_id)
    quality = list(record.quality)
    onset, apex, offset = record.onset, record.apex, record.offset
    if onset is None:
        clip = held(clip)
        spotted = processor.spot(clip, face_source=face_source)
        onset, apex, offset = spotted.onset, spotted.apex, spotted.offset
        quality.append("key_frames_spotted")
    elif apex is None:
        KeyFrames(onset, offset, offset).validate(len(clip))
        window = ClipWindow(clip, onset, offset + 1, clip.name)
        apex = onset + processor.spot(window, face_source=face_source).apex
        quality.append("apex_spotted")
    KeyFrames(onset, apex, offset).validate(len(clip))
    start = max(0, onset - LEAD_IN)
    clip = held(ClipWindow(clip, start, offset + 1, clip.name))
    keys = (onset - start, apex - start, offset - start)
    transform = face_transform(clip, keys[0], face_source)
    fps = record.fps or clip.metadata.fps
    video = None
    if not settings.features_only:
        shown: Iterator[np.ndarray] = clip.scan()
        if face_source is not None:
            scale = float(np.hypot(*transform[:, 0]))
            side = int(np.clip(round(1 / scale), *_CROP_SIDES))
            shown = (warp_to_crop(frame, transform, side) for frame in shown)
        # Key frames count frames; the rate is for players.
        video = encode_frames(shown, fps or 25.0, settings.crf)
    row = make_row(
        clip_id=record.clip_id,
        source=record.source,
        subject=record.subject,
        video=video,
        fps=fps,
        key_frames=keys,
        units=unit_labels(record.action_units),
        emotion=record.emotion,
        emotion_coarse=record.emotion_coarse,
        convention=record.convention,
        quality=quality,
        provenance=record.provenance,
        video_processor=processor,
        rng=clip_generator(record.clip_id, settings.seed),
        clip=clip,
        face_source=lambda frame: transform,  # found once
        objective_class=record.objective_class,
    )
    crops = [warp_to_crop(frame, transform, _SIGNATURE_SIDE) for frame in clip.stream(keys[:2])]
    return row, clip_signature(*crops)
