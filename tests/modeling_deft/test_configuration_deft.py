from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError

from deft_llm.modeling_deft import DeftConfig, DeftForConditionalGeneration, DeftModel
from deft_llm.modeling_deft.configuration_deft import TESTED_TRANSFORMERS, newer_release_warning


def test_saved_and_loaded_unchanged(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    loaded = DeftConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == model.config.to_dict()
    assert set(loaded.auto_map) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoModelForMultimodalLM",
        "AutoModelForCausalLM",
    }


def test_full_size_differs_in_the_config_only():
    """The full-size recipe with the published sizes of its pretrained parts, built without memory."""
    path = Path(__file__).parents[2] / "recipes" / "qwen3-0.6b-lora.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = ("image_size", "expert_size", "structure_tokens", "texture_tokens", "texture_share")
    sizes = {name: recipe[name] for name in names}
    config = DeftConfig(
        text_config={
            "model_type": "qwen3",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        structure_config={"model_type": "dinov2", "image_size": 518, "patch_size": 14},
        texture_config={"model_type": "videomae", "image_size": 224, "num_frames": recipe["num_frames"]},
        motion_config=recipe["motion"],
        action_units=[f"AU{number}" for number in range(30)],
        emotion_labels=["anger", "happiness"],
        structure_token_id=1,
        texture_token_id=2,
        motion_token_id=3,
        **sizes,
    )
    with torch.device("meta"):
        model = DeftForConditionalGeneration(config)

    def millions(module):
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    assert 750 < millions(model) < 850
    assert 11 < millions(model.model.recognition.motion_expert) < 13
    assert config.structure_tokens + config.texture_tokens + config.motion_tokens <= 64
    assert config.image_size == 224
    # Costs are counted without memory too (`benchmarks/training.py --parts estimates`).
    frames = torch.empty(1, 16, 3, 224, 224, device="meta")
    (tokens,) = model.model.get_video_features(frames, torch.empty(1, 15, 2, 56, 56, device="meta")).pooler_output
    assert tokens.shape == (config.structure_tokens + config.texture_tokens + config.motion_tokens, 1024)


def test_another_family_of_language_models_and_an_image_backbone_over_time(model, clips):
    values = model.config.to_dict()
    values["text_config"] = {
        "model_type": "llama",
        "vocab_size": 800,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    values["texture_config"] = {
        "model_type": "vit",
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    other = DeftModel(DeftConfig(**values)).eval()
    with torch.no_grad():
        features = other.get_video_features(**clips)
    assert len(features.pooler_output) == 3
    assert features.pooler_output[0].shape == (4 + 8 + model.config.motion_tokens, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action_units": ["AU1", "AU1"]}, "contains a value twice"),
        ({"action_units": ["AU1"], "action_unit_regions": {"AU9": []}}, "'AU9'"),
        ({"emotion_labels": ["anger"], "coarse_emotion_of": {"joy": "positive"}}, "'joy'"),
        ({"loss_weights": {"speech": 1.0}}, "'speech'"),
        ({"loss_weights": {"emotion": -1.0}}, "sets emotion to -1.0"),
        ({"action_units": ["brow"]}, "'brow'; expected FACS codes"),
        ({"action_units": ["AU1"], "action_unit_name_ids": {"AU2": [1]}}, "`action_unit_name_ids` contains 'AU2'"),
        ({"emotion_labels": ["joy"], "coarse_emotion_of": {"joy": "nice"}}, "maps joy to 'nice'"),
        ({"label_conventions": ["samm", "samm"]}, "`label_conventions` contains a value twice"),
        ({"appearance_swap": 1.5}, "`appearance_swap` is 1.5"),
        ({"texture_share": 0.0}, "`texture_share` is 0.0; expected a share above 0"),
        (
            {"texture_share": 0.5, "texture_config": {"model_type": "vit"}},
            "'vit' always reads every patch",
        ),
        ({"emotion_temperature": 0.0}, "`emotion_temperature` is 0.0"),
        ({"action_unit_focus": -1.0}, "`action_unit_focus` is -1.0"),
        ({"motion_config": {"flow_size": 30, "patch_size": 4}}, "does not divide"),
        ({"motion_config": {"hidden_size": 30, "num_attention_heads": 4}}, "does not divide"),
        ({"motion_config": {"attention_reach": -1}}, "attention_reach is -1; expected at least 0"),
    ],
)
def test_contradictions_are_named(arguments, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        DeftConfig(**arguments)


# --- Releases of transformers ---------------------------------------------------------------------------------------


def test_the_tested_releases_are_the_supported_ones():
    """One range in three places: the requirement, the README's install line, and what the code warns of."""
    oldest, newest = TESTED_TRANSFORMERS
    following = f"{newest.split('.')[0]}.{int(newest.split('.')[1]) + 1}"
    bounds = f"transformers>={oldest},<{following}"
    root = Path(__file__).parents[2]
    assert f'"{bounds}"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"{bounds}"' in (root / "README.md").read_text(encoding="utf-8")
    for name, release in (("oldest", oldest), ("newest", newest)):
        assert f"\ntransformers=={release}." in (root / f"constraints-{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "warns"), [("5.20.2", False), ("5.24.9", False), ("5.25.0.dev0", True), ("6.0.1", True)]
)
def test_a_newer_release_is_warned_of_in_one_sentence(version, warns):
    warning = newer_release_warning(version)
    assert (warning is not None) == warns
    if warns:
        assert f"tested with transformers 5.20 to 5.24, and {version} is installed" in warning
        assert "pip install 'transformers~=5.24.0'" in warning


def test_remote_code_warns_before_it_fails(without_package, folder):
    """A release that does not exist yet, in a process that loads the folder's own code."""
    output = without_package(
        "import transformers; transformers.__version__ = '5.31.0'\n"
        f"import sys; sys.stderr = sys.stdout\n"
        f"transformers.AutoConfig.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
    )
    assert output.count("tested with transformers 5.20 to 5.24, and 5.31.0 is installed") == 1
