"""Clips to tensors and answers to reports; flat files that are the Hub's remote code as they stand."""

from .expression_report import ExpressionReport, format_answer, parse_answer
from .processing_deft import DeftProcessor
from .video_processing_deft import DeftVideoProcessor
from .video_reading import open_clip

DeftProcessor.register_for_auto_class("AutoProcessor")
DeftVideoProcessor.register_for_auto_class("AutoVideoProcessor")

__all__ = ["DeftProcessor", "DeftVideoProcessor", "ExpressionReport", "format_answer", "open_clip", "parse_answer"]
