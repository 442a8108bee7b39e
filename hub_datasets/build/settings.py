"""Settings and errors of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deft_llm.processing.common_deft import NUM_FRAMES
from deft_llm.processing.face_alignment import make_face_source

from ..unimer.rewriting import check_rewriter

SPLITS = ("none", "fixed", "holdout")


class BuildError(ValueError):
    """The build cannot start or continue. The message says what to do."""


class BuildInterruptedError(RuntimeError):
    """The build was interrupted. Run the same command again to resume it. `__cause__` is the error of the shard."""


class NothingBuiltError(BuildError):
    """Every row was dropped. `drops` has the reason for each row."""

    def __init__(self, message: str, drops: list[dict[str, Any]]):
        super().__init__(message)
        self.drops = drops


@dataclass(frozen=True)
class BuildSettings:
    """Settings that the content of the built files depends on.

    Args:
        features_only: Whether to store flow and labels without video.
        num_frames: Frames that the model samples from a clip, for the flow column.
        split: "none" puts every clip into train (folds are made for evaluation). "fixed" keeps the sets of a source
            that has them, such as DFME, and puts all other clips into train. "holdout" keeps `test_share` of the
            subjects for testing.
        test_share: Share of the subjects in the test split, above 0 and up to 0.5; for "holdout".
        face_source: Finds the face, as `DeftVideoProcessor.face_source`; "cropped" if the frames are face crops.
        face_source_of: Source names → face sources that differ from `face_source`.
        crf: x264's constant rate factor of the stored clips, 0 to 51; 6 is near-lossless.
        shard_size: Clips per Parquet file.
        seed: Seed of the held-out subjects and of the instructions.
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
            raise BuildError(
                "`rewriter_model` needs `rewriter`: set it to the address of an endpoint, or to pipeline."
            )
        if self.rewriter:
            check_rewriter(self.rewriter, self.rewriter_model)
        for name, least in (("num_frames", 2), ("crf", 0), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BuildError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        if self.crf > 51:
            raise BuildError(f"`crf` must be at most 51; got {self.crf}.")
        if self.split not in SPLITS:
            raise BuildError(f"`split` must be one of {', '.join(SPLITS)}, not {self.split!r}.")
        if not 0 < self.test_share <= 0.5:
            raise BuildError(f"`test_share` must be above 0 and at most 0.5; got {self.test_share}.")
        for name in (self.face_source, *(self.face_source_of or {}).values()):
            make_face_source(name)

    def face_source_for(self, source: str) -> str:
        return (self.face_source_of or {}).get(source, self.face_source)
