import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from deft_llm.evaluation.baselines.mpt import GroupAdapter, MotionPrompt, MPTStyle, MPTStyleFlow, PromptedBackbone
from tests.evaluation.baselines.moving_rows import LABELS, filmed_rows, moving_rows
from tests.evaluation.conftest import save_backbone


def prompted(path):
    return PromptedBackbone(AutoModel.from_pretrained(path), side=32, tokens=3, rank=4).eval()


def test_gaussians_lie_where_it_moves():
    motion = torch.zeros(1, 3, 28, 28)
    motion[0, 0, 4:6, 20:22] = 3.0
    motion[0, 1, 20:22, 8:10] = 2.0
    prompt = MotionPrompt(width=8, tokens=2)
    weights, centres = prompt.windows(torch.nn.functional.adaptive_avg_pool2d(motion, 14))
    torch.testing.assert_close(centres[0], torch.tensor([[2.5, 10.5], [10.5, 4.5]]) / 14)
    torch.testing.assert_close(weights.sum(2), torch.ones(1, 2))
    assert prompt(motion).shape == (1, 2, 8)


def test_each_group_of_tokens_has_its_own_adapter():
    adapter = GroupAdapter(4, 2)
    states = torch.rand(1, 6, 4)
    torch.testing.assert_close(adapter(states, [1, 2, 3]), states)  # at first it changes nothing
    with torch.no_grad():
        adapter.groups["prompt"][2].bias += 1
    changed = (adapter(states, [1, 2, 3]) - states).abs().sum(2)[0]
    assert changed.bool().tolist() == [False, True, True, False, False, False]


# Registers count as class tokens; Swin's layers take no prompts; a convolutional backbone has no layers of tokens.
@pytest.mark.parametrize(
    ("kind", "changes", "layers", "class_tokens"),
    [
        ("vit", {}, 2, 1),
        ("dinov2_with_registers", {"num_register_tokens": 2}, 2, 3),
        ("siglip_vision_model", {}, 2, 0),
        (
            "swin",
            {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_attention_heads": [1, 1], "window_size": 4},
            0,
            0,
        ),
        ("resnet", {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}, 0, 0),
    ],
)
def test_any_vision_backbone(tmp_path, kind, changes, layers, class_tokens):
    backbone = prompted(save_backbone(tmp_path / kind, kind, **changes))
    assert (len(backbone.layers), backbone.class_tokens) == (layers, class_tokens)
    images, prompts = torch.rand(2, 3, 32, 32), torch.rand(2, 3, backbone.width)
    groups = backbone(images, prompts)
    assert [groups[name].shape[1] for name in ("class", "prompt")] == [class_tokens, 3]
    assert groups["visual"].shape[1] == 16 if layers else groups["visual"].shape[1] > 0
    # Where prompts pass through the layers, the image's tokens attend to them.
    other = backbone(images, -prompts)["visual"]
    assert torch.allclose(other, groups["visual"]) == (not layers)


def test_only_prompts_adapters_and_classifier_are_trained(backbone):
    before = AutoModel.from_pretrained(backbone).state_dict()
    rows = filmed_rows(6)
    model = MPTStyle(LABELS, backbone=backbone, epochs=2, batch_size=3)
    model.fit(rows)
    after = model.network.backbone.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not model.network.train().backbone.backbone.training
    assert any(adapter.groups["prompt"][2].bias.any() for adapter in model.network.backbone.adapters)
    assert not model.network.backbone.layers[0]._forward_hooks


def test_the_inputs_are_the_normalised_apex_and_the_magnified_motion(tmp_path):
    path = save_backbone(tmp_path / "vit", "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    model = MPTStyle(LABELS, backbone=path, magnification=4)
    assert model.side == 32
    model.scale = np.float32(255)
    inputs = np.zeros((1, 6, 2, 2), np.uint8)
    inputs[:, 3:] = 51
    scaled = model._scaled(inputs)
    torch.testing.assert_close(scaled[:, :3], torch.full((1, 3, 2, 2), (0.2 - 0.5) / 0.25))
    torch.testing.assert_close(scaled[:, 3:], torch.full((1, 3, 2, 2), 0.8))


def test_the_flow_variant_reads_flow_as_image_and_as_motion(backbone):
    model = MPTStyleFlow(LABELS, backbone=backbone, epochs=1)
    model.fit(moving_rows(6))
    scaled = model._scaled(model.read(moving_rows(2)))
    assert scaled.shape == (2, 6, 32, 32)
    torch.testing.assert_close(scaled[:, :3], scaled[:, 3:])


def test_backbones_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs a vision backbone\. Give --backbone"):
        MPTStyle(LABELS)
    with pytest.raises(ValueError, match="nowhere cannot be loaded"):
        MPTStyle(LABELS, backbone=str(tmp_path / "nowhere"))
    changes = {"vocab_size": 20, "max_position_embeddings": 16}
    text = AutoModel.from_pretrained(save_backbone(tmp_path / "text", "bert", **changes))
    with pytest.raises(ValueError, match=r"bert, reads input_ids and not pixel_values\. Choose the folder"):
        PromptedBackbone(text, 32, 2, 2)
