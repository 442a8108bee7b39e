"""What is asked of a build, and how it says that it cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deft_llm.processing.common_deft import NUM_FRAMES
from deft_llm.processing.face_alignment import make_face_source

from ..unimer.rewriting import check_rewriter

SPLITS = ("none", "fixed", "holdout")


class BuildError(ValueError):
    """A build that cannot start or go on; the message says what to do."""


class BuildInterruptedError(RuntimeError):
    """A build that broke off; run again, it goes on. What a shard stumbled over is the cause."""


class NothingBuiltError(BuildError):
    """No row became a clip. `drops` says why, row by row."""

    def __init__(self, message: str, drops: list[dict[str, Any]]):
        super().__init__(message)
        self.drops = drops


@dataclass(frozen=True)
class BuildSettings:
    """What decides about the bytes that come out.

    Args:
        features_only: flow and labels, and not a pixel.
        num_frames: frames the model samples, for the flow column.
        split: "none" puts every clip into train (folds are made when evaluating); "fixed" keeps the sets that a
            source states, such as DFME's, and puts the rest into train; "holdout" keeps `test_share` of the subjects
            for testing.
        face_source: what finds the face, as `DeftVideoProcessor.face_source`; "cropped" where frames are face crops.
        face_source_of: the same for single sources.
        crf: x264's constant rate factor of the stored clips; 6 is near-lossless.
        shard_size: clips a Parquet file.
        rewriter: the chat model that rewrites the answers, as in `rewriting.make_chat`. A build with a rewriter gives
            the same bytes again only if the model gives the same answers again.
        rewriter_model: name of the model that `rewriter` is asked for.
    """

    features_only: bool = False
    num_frames: int = NUM_FRAMES
    split: str = "none"
    test_share: float = 0.2
    face_source: str = "yunet"
    face_source_of: Mapping[str, str] | None = None
    crf: int = 6
    shard_size: int = 50
    seed: int = 0
    rewriter: str | None = None
    rewriter_model: str | None = None

    def __post_init__(self):
        if self.rewriter_model and not self.rewriter:
            raise BuildError("`rewriter_model` is given without `rewriter`: an endpoint's address, or pipeline.")
        if self.rewriter:
            check_rewriter(self.rewriter, self.rewriter_model)
        for name, least in (("num_frames", 2), ("crf", 0), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BuildError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.crf > 51:
            raise BuildError(f"`crf` must be at most 51, got {self.crf}.")
        if self.split not in SPLITS:
            raise BuildError(f"`split` must be one of {', '.join(SPLITS)}, not {self.split!r}.")
        if not 0 < self.test_share <= 0.5:
            raise BuildError(f"`test_share` must lie above 0 and not above 0.5, got {self.test_share}.")
        for name in (self.face_source, *(self.face_source_of or {}).values()):
            make_face_source(name)

    def face_source_for(self, source: str) -> str:
        return (self.face_source_of or {}).get(source, self.face_source)
