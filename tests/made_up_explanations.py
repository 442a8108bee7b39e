"""Explanations with known content, made without a model."""

import numpy as np

from deft_llm.explained import Explained, ExplainedVideo, MovedRegion
from deft_llm.processing.aligned_clip import AlignedClip, Stretch
from deft_llm.processing.expression_report import ActionUnitFinding, ExpressionReport, MotionEvidence
from deft_llm.processing.head_motion import STILL
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.region_tracking import TRACKED_REGIONS, FollowedFrame
from deft_llm.processing.spotting import Interval

ONSET, APEX, OFFSET = 3, 8, 12
COUNT, FPS, SIDE = 20, 50.0, 96


def report(**changes):
    """AU4 on both sides with evidence, and AU12 that the motion does not bear out."""
    facts = {
        "emotion": "anger",
        "coarse_emotion": "negative",
        "scores": {"anger": 0.75, "happiness": 0.25},
        "action_units": [
            ActionUnitFinding("AU4", "brow lowerer", "both", score=0.9),
            ActionUnitFinding("AU12", "lip corner puller", "left", score=0.6, borne_out=False),
        ],
        "evidence": [
            MotionEvidence("AU4", "inner brow", "down and medially", 1.0, 0.04),
            MotionEvidence("AU4", "outer brow", "down", 0.5),
        ],
        "rationale": "The brows lower, which is read as anger.",
        "detection_limits": {"inner brow": 0.21, "chin": 0.4},
    }
    return ExpressionReport(**(facts | changes))


def explained(found=None, keys=(ONSET, APEX, OFFSET), *, moved=True):
    """The left inner brow moves down and to the person's midline, the right outer brow down."""
    found = report() if found is None else found
    indices = [keys[0], keys[1], keys[2]]
    regions = (
        MovedRegion("inner brow", "left", np.array([(0, 0), (-0.8, 0.8), (0, 0)], float), 0.04, "down and medially"),
        MovedRegion("outer brow", "right", np.array([(0, 0), (0, 0.5), (0, 0)], float), 0.05, "down"),
    )
    return Explained(found.to_dict(), str(found), "Class: anger", indices, KeyFrames(*keys), regions if moved else ())


def unmeasured(reason="the head turns too far"):
    found = ExpressionReport.not_measurable(reason)
    return Explained(found.to_dict(), str(found), "Class: not measurable")


def video(*items, spotted=False, intervals=(), lost=(), count=COUNT, fps=FPS, size=(SIDE, SIDE)):
    """A video of noise.

    Args:
        items: Its explanations, by default `explained()`.
        spotted: Whether expressions were looked for.
        intervals: (kind, onset, apex, offset) of what was found.
        lost: First frame, one more than the last, and reason of a stretch that cannot be measured.
        count: Frames.
        fps: Frames per second.
        size: Height and width in pixels.
    """
    frames = np.random.default_rng(0).integers(90, 160, (count, *size, 3), np.uint8)
    clip = AlignedClip.open(frames, face_source="canonical", fps=fps)
    start, stop, reason = lost or (0, 0, None)
    followed = []
    for frame in range(count):
        motion = np.zeros((len(TRACKED_REGIONS), 2), np.float32)
        motion[TRACKED_REGIONS.index(("inner brow", "left"))] = (-0.8 if ONSET < frame < OFFSET else 0, 0)
        followed.append(FollowedFrame(motion, reason if start <= frame < stop else None, STILL, clip.transform))
    return ExplainedVideo(
        source="folder/clip.mp4",
        clip=clip,
        followed=followed,
        explained=list(items) or [explained()],
        spotted=spotted,
        intervals=[Interval(*keys, kind, 7.0) for kind, *keys in intervals],
        stretches=[Stretch(*lost)] if lost else [],
    )
