"""Small configs with random weights around several families of language and vision, and inputs that fit them."""

from typing import Any

import torch

from deft_llm.modeling_deft import DeftForConditionalGeneration

# Of two computations of the same numbers that may take different paths: some tens of float32's roundings of values
# near one.
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
VOCABULARY, IMAGE, FRAMES, FLOW = 120, 32, 4, 16
STRUCTURE, TEXTURE, MOTION = 110, 111, 112
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "max_position_embeddings": 256,
}
VISION = {
    "image_size": IMAGE,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
TEXTS = {
    "qwen3": {"model_type": "qwen3", **SMALL, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", **SMALL, "tie_word_embeddings": False},
    "gemma3": {"model_type": "gemma3_text", **SMALL, "sliding_window": 16, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", **SMALL, "tie_word_embeddings": False},
}
VIDEOMAE = {"model_type": "videomae", **VISION, "num_frames": FRAMES, "tubelet_size": 2}
FAMILIES = {
    "qwen3-dinov2-videomae": ("qwen3", {"model_type": "dinov2", **VISION}, VIDEOMAE),
    "llama-vit-vit": ("llama", {"model_type": "vit", **VISION}, {"model_type": "vit", **VISION}),
    "gemma3-siglip-videomae": ("gemma3", {"model_type": "siglip_vision_model", **VISION}, VIDEOMAE),
    "mistral-dinov2-vit": ("mistral", {"model_type": "dinov2", **VISION}, {"model_type": "vit", **VISION}),
}
SHARES = {"gemma3-siglip-videomae": 0.5}
UNITS = ["AU1", "AU4", "AU12"]
OTHERS = {
    "motion_config": {
        "flow_size": FLOW,
        "patch_size": 4,
        "num_flow_frames": FRAMES,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "action_units": UNITS,
    "emotion_labels": ["anger", "happiness"],
    "expert_size": 32,
    "structure_tokens": 2,
    "texture_tokens": 3,
    "structure_token_id": STRUCTURE,
    "texture_token_id": TEXTURE,
    "motion_token_id": MOTION,
    "action_unit_regions": {code: [[0.5, 0.3, 0.2, 0.2]] for code in UNITS},
    "action_unit_name_ids": {code: [5 + index, 9] for index, code in enumerate(UNITS)},
    "label_conventions": ["casme2", "samm"],
}


def parts_of(family: str) -> dict[str, Any]:
    """Arguments of `from_parts` for one of `FAMILIES`."""
    text, structure, texture = FAMILIES[family]
    share = SHARES.get(family, 1.0)
    return {"text": TEXTS[text], "structure": structure, "texture": texture, "texture_share": share, **OTHERS}


def small_model(family: str, seed: int = 0, **fields: Any) -> DeftForConditionalGeneration:
    torch.manual_seed(seed)
    return DeftForConditionalGeneration.from_parts(**{**parts_of(family), **fields}).eval()


def clips(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {
        "pixel_values_videos": torch.randn(count, FRAMES, 3, IMAGE, IMAGE, generator=generator),
        "flow_values_videos": torch.randn(count, FRAMES - 1, 2, FLOW, FLOW, generator=generator),
    }


def prompt(*words: int, clips: int = 1) -> list[int]:
    return [3, *([STRUCTURE] * 2 + [TEXTURE] * 3 + [MOTION] * len(UNITS)) * clips, *words]


def padded(*rows: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded."""
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def batch() -> dict[str, torch.Tensor]:
    return {**padded(prompt(7, 8, 9, 10), prompt(20)), **clips(2)}


def targets(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    count = len(inputs["flow_values_videos"])
    return {
        "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100),
        "emotion_labels": torch.arange(count) % 2,
        "au_labels": torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -100.0]])[:count],
        "au_side_labels": torch.tensor([[1, -100, 0], [-100, 2, -100]])[:count],
        "au_intensity_labels": torch.tensor([[2.0, -100.0, 4.0], [-100.0, 0.0, -100.0]])[:count],
        "convention_ids": torch.tensor([1, -100])[:count],
    }
