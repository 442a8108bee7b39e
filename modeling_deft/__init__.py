"""The model; flat files that are the Hub's remote code as they stand."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from .configuration_deft import DeftConfig, DeftMotionConfig
from .modeling_deft import DeftForConditionalGeneration, DeftModel, DeftPreTrainedModel
from .pipeline_deft import DeftVideoTextToTextPipeline
from .recognition_deft import DeftRecognitionModel

AutoConfig.register("deft", DeftConfig, exist_ok=True)
AutoModel.register(DeftConfig, DeftModel, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(DeftConfig, DeftForConditionalGeneration, exist_ok=True)
# Saving copies the code next to the weights.
DeftModel.register_for_auto_class("AutoModel")
DeftForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = [
    "DeftConfig",
    "DeftForConditionalGeneration",
    "DeftModel",
    "DeftMotionConfig",
    "DeftPreTrainedModel",
    "DeftRecognitionModel",
    "DeftVideoTextToTextPipeline",
]
