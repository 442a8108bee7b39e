"""Convert a record of a licensed data set to a Uni-MER row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deft_llm.processing.aligned_clip import AlignedClip
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.video_reading import open_clip
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

_SIDES = {"L": "left", "R": "right"}  # top, bottom and asymmetric are stored as both; `raw` keeps the sheet's text
_SIGNATURE_SIDE = 64  # pixels
_CROP_SIDES = (
    64,
    512,
)  # pixels: smallest and largest side of a stored crop, which otherwise keeps its size


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
    """Makes the Uni-MER row of a record, and the row's `clip_signature`.

    The row's clip begins `LEAD_IN` frames before the onset, or at the first frame if there are fewer, and ends with
    the offset. If the sheet has no apex, the frame between onset and offset in which the face has moved most is used.
    If onset and offset are missing too, all three are spotted. `quality` records both cases. Frames that are
    canonical face crops are stored unchanged. If a face source found the face, or a face crop was aligned, which
    `quality` records as `crop_aligned`, the aligned crop is stored. Motion is always measured on the original frames.
    If they cannot be measured, `quality` says why, see `make_row`.

    Args:
        record: The clip and what the sheet says about it.
        settings: Settings of the build.
        processor: Measures the motion of the clip.
        face_source: Finds the face in a frame, as in `make_face_source`; `None` if the frames are face crops.

    Returns:
        The row, and the signature that finds near-duplicates of the clip.

    Raises:
        VideoReadError: The clip cannot be decoded.
        FileNotFoundError: A file of the clip is missing.
        FaceAlignmentError: No face was found, its landmarks are not valid, or key frames must be spotted in a clip
            that cannot be measured.
        KeyFrameError: The key frames contradict each other or the clip's length.
        AmbiguousWordError: A word of the sheet means something else to the answer parser.
    """
    opened = open_clip([str(path) for path in record.frames] if record.folder is not None else record.video)
    reader = opened.window(0, len(opened), name=record.clip_id)
    quality = list(record.quality)
    onset, apex, offset = record.onset, record.apex, record.offset
    if onset is None:
        reader = reader.in_memory()
        spotted = AlignedClip.open(reader, face_source=face_source).spot()
        onset, apex, offset = spotted.onset, spotted.apex, spotted.offset
        quality.append("key_frames_spotted")
    elif apex is None:
        KeyFrames(onset, offset, offset).validate(len(reader))
        shown = AlignedClip.open(reader.window(onset, offset + 1), face_source=face_source)
        apex = onset + shown.spot().apex
        quality.append("apex_spotted")
    KeyFrames(onset, apex, offset).validate(len(reader))
    start = max(0, onset - LEAD_IN)
    keys = (onset - start, apex - start, offset - start)
    reader = reader.window(start, offset + 1).in_memory()  # a row looks at its frames several times
    clip = AlignedClip.open(reader, face_source=face_source, key_frames=keys)
    aligned = not np.array_equal(clip.transform, crop_transform(reader.metadata.height, reader.metadata.width))
    if aligned and face_source is None:
        quality.append("crop_aligned")
    fps = record.fps or clip.fps
    video = None
    if not settings.features_only:
        frames: Iterator[np.ndarray] = reader.scan()
        if aligned:
            frames = clip.crops(int(np.clip(round(clip.face_width), *_CROP_SIDES)))
        # Key frames count frames; the rate is for players.
        video = encode_frames(frames, fps or 25.0, settings.crf)
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
        objective_class=record.objective_class,
    )
    return row, clip_signature(*clip.crops(_SIGNATURE_SIDE, keys[:2]))
