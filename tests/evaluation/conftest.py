import pytest
import torch


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """Folder of a tiny vision transformer with random weights."""
    return save_backbone(tmp_path_factory.mktemp("backbones") / "vit", "vit")


def save_backbone(path, kind, **changes):
    """Saves a tiny vision model of transformers and returns its folder."""
    from transformers import AutoConfig, AutoModel

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{"image_size": 32, "patch_size": 8} | size | changes)
    AutoModel.from_config(config).save_pretrained(path)
    return str(path)
