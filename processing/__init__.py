"""Clips to tensors and answers to reports; flat files that are the Hub's remote code as they stand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aligned_clip import AlignedClip
    from .expression_report import ExpressionReport, format_answer, parse_answer
    from .processing_deft import DeftProcessor
    from .video_processing_deft import DeftVideoProcessor
    from .video_reading import open_clip

# Fetched when first asked for: measuring and reading need no transformers, which takes longer to import than torch.
_FILES = {
    "AlignedClip": "aligned_clip",
    "DeftProcessor": "processing_deft",
    "DeftVideoProcessor": "video_processing_deft",
    "ExpressionReport": "expression_report",
    "format_answer": "expression_report",
    "open_clip": "video_reading",
    "parse_answer": "expression_report",
}

__all__ = [
    "AlignedClip",
    "DeftProcessor",
    "DeftVideoProcessor",
    "ExpressionReport",
    "format_answer",
    "open_clip",
    "parse_answer",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f".{_FILES[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
