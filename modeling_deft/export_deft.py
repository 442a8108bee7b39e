"""ONNX export of the experts and their heads, without the language model."""

from pathlib import Path

import torch

from .modeling_deft import DeftModel
from .recognition_deft import HEADS as OUTPUTS
from .recognition_deft import DeftRecognitionModel


class _Recognition(torch.nn.Module):
    def __init__(self, model: DeftRecognitionModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor, flow_values_videos: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.model(pixel_values_videos, flow_values_videos)
        return tuple(features[name] for name in OUTPUTS)


def export_recognition(model: DeftModel, path: str | Path, *, num_frames: int) -> None:
    """Writes an ONNX file with the inputs `pixel_values_videos` and `flow_values_videos` and the outputs `OUTPUTS`.

    The number of clips is dynamic; all other sizes are fixed. An incomplete file is never left at `path`.

    Args:
        model: [`DeftModel`], or the `model` of a [`DeftForConditionalGeneration`]. It is exported in evaluation mode;
            its own mode does not change.
        path: the ONNX file to write.
        num_frames: frames per clip, including the onset; the processor's `num_frames`.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    path = Path(path)
    side, motion = model.config.image_size, model.config.motion_config
    # Two clips, because a trace with one clip may treat the number of clips as a constant.
    pixels = torch.zeros(2, num_frames, 3, side, side, device=model.device)
    flow = torch.zeros(2, num_frames - 1, 2, motion.flow_size, motion.flow_size, device=model.device)
    clips = torch.export.Dim("clips", min=1)
    training = model.training
    partial = path.with_name(path.name + ".partial")
    try:
        with torch.inference_mode():
            torch.onnx.export(
                _Recognition(model.eval().recognition).eval(),
                (pixels, flow),
                partial,
                input_names=["pixel_values_videos", "flow_values_videos"],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: clips}, {0: clips}),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        model.train(training)


__all__ = ["export_recognition"]
