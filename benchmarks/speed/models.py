"""Models with random weights, their inputs, and the stock video language model that they are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from deft_llm.modeling_deft import DeftConfig, DeftForConditionalGeneration
from deft_llm.processing.action_units import ACTION_UNITS
from deft_llm.training.parts import multiplies_bfloat16

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STRUCTURE, TEXTURE, MOTION, WORD = 1, 2, 3, 10
UNITS = [code for code, unit in ACTION_UNITS.items() if unit.testable][:20]
EMOTIONS = [str(number) for number in range(7)]
# Without instructions for it, a processor multiplies bfloat16 many times slower than float32.
PRECISION = torch.bfloat16 if multiplies_bfloat16() else torch.float32

QWEN3_06B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
DINOV2_BASE = {"model_type": "dinov2", **BASE, "patch_size": 14}
VIDEOMAE_BASE = {"model_type": "videomae", **BASE, "intermediate_size": 3072, "num_frames": 16}
# The stock model's own frames: 384 × 384 pixels, 14 × 14 patches after its pooling, and eight of them.
SIDE, PATCHES, FRAMES = 384, 196, 8


def model_of(
    text: Any, structure: Any, texture: Any, motion: dict[str, Any], *, dtype: torch.dtype = torch.float32, **more: Any
) -> DeftForConditionalGeneration:
    """A DEFT of these configs; the language model has the words 0 to its vocabulary's size, placeholders 1 to 3."""
    config = DeftConfig(
        text_config=AutoConfig.for_model(**text),
        structure_config=AutoConfig.for_model(**structure),
        texture_config=AutoConfig.for_model(**texture),
        motion_config=motion,
        action_units=UNITS,
        emotion_labels=EMOTIONS,
        structure_token_id=STRUCTURE,
        texture_token_id=TEXTURE,
        motion_token_id=MOTION,
        **more,
    )
    return _random(DeftForConditionalGeneration, config, dtype)


def _random(kind: Any, config: Any, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return kind(config)
    finally:
        torch.set_default_dtype(before)


def tiny_model() -> DeftForConditionalGeneration:
    """Of `recipes/tiny.yaml`."""
    recipe = yaml.safe_load((RECIPES / "tiny.yaml").read_text(encoding="utf-8"))
    parts = {name: recipe[name] for name in ("structure", "texture", "motion")}
    names = ("expert_size", "structure_tokens", "texture_tokens", "emotion_token")
    text = {**recipe["text"], "vocab_size": recipe["vocab_size"]}
    return model_of(text, **parts, **{name: recipe[name] for name in names})


def large_model(dtype: torch.dtype) -> DeftForConditionalGeneration:
    """Of `recipes/qwen3-0.6b-lora.yaml`, in its full size."""
    recipe = yaml.safe_load((RECIPES / "qwen3-0.6b-lora.yaml").read_text(encoding="utf-8"))
    names = ("expert_size", "structure_tokens", "texture_tokens", "texture_share", "image_size")
    return model_of(
        QWEN3_06B,
        DINOV2_BASE,
        VIDEOMAE_BASE,
        recipe["motion"],
        dtype=dtype,
        **{name: recipe[name] for name in names},
    )


def clips_of(config: DeftConfig, count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Random pixels and flow in the shapes that the model reads."""
    generator = torch.Generator().manual_seed(seed)
    frames, side, flow = config.texture_config.num_frames, config.image_size, config.motion_config.flow_size
    return {
        "pixel_values_videos": torch.randn(count, frames, 3, side, side, generator=generator).to(dtype),
        "flow_values_videos": 0.3 * torch.randn(count, frames - 1, 2, flow, flow, generator=generator).to(dtype),
    }


def prompts_of(config: DeftConfig, count: int, words: int = 60) -> dict[str, torch.Tensor]:
    """A clip's placeholders and a question of so many words."""
    names = ("structure", "texture", "motion")
    counts = {getattr(config, f"{name}_token_id"): getattr(config, f"{name}_tokens") for name in names}
    row = [token for token, times in counts.items() for _ in range(times)] + [WORD] * words
    ids = torch.tensor([row] * count)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def stock_model(dtype: torch.dtype) -> LlavaOnevisionForConditionalGeneration:
    """LLaVA-OneVision with its own vision tower, around the same language model."""
    text = AutoConfig.for_model(**QWEN3_06B)
    config = LlavaOnevisionConfig(text_config=text, image_token_index=STRUCTURE, video_token_index=TEXTURE)
    return _random(LlavaOnevisionForConditionalGeneration, config, dtype)


def stock_inputs(count: int, words: int = 60, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Eight frames a clip as the stock model reads them: pooled patches of each, one token at the clip's end, and a
    question of so many words."""
    ids = torch.tensor([[TEXTURE] * (FRAMES * PATCHES + 1) + [WORD] * words] * count)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, FRAMES, 3, SIDE, SIDE, generator=generator).to(dtype)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
