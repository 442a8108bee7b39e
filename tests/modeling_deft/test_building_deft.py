import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from deft_llm.modeling_deft import DeftForConditionalGeneration
from deft_llm.modeling_deft.building_deft import pretrained_source
from tests.gguf_files import write_gguf
from tests.modeling_deft.small_models import FAMILIES, OTHERS, TEXTS, VIDEOMAE, VOCABULARY


def test_parts_bring_their_weights():
    torch.manual_seed(1)
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TEXTS["llama"]))
    structure = AutoModel.from_config(AutoConfig.for_model(**FAMILIES["llama-vit-vit"][1]))
    texture = AutoModel.from_config(AutoConfig.for_model(**VIDEOMAE))
    model = DeftForConditionalGeneration.from_parts(
        text=text, structure=structure, texture=texture, vocab_size=VOCABULARY + 5, **OTHERS
    )
    assert model.get_input_embeddings().num_embeddings == VOCABULARY + 5
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(input_ids=ids).logits[..., :VOCABULARY], text.eval()(ids).logits)
    for name, part in (("structure", structure), ("texture", texture)):
        backbone = getattr(model.model.recognition, f"{name}_expert").backbone
        assert all(torch.equal(value, part.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_parts_from_folders(tmp_path):
    torch.manual_seed(2)
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TEXTS["qwen3"]))
    text.save_pretrained(tmp_path / "text")
    model = DeftForConditionalGeneration.from_parts(
        text=str(tmp_path / "text"), structure=FAMILIES["llama-vit-vit"][1], texture=VIDEOMAE, **OTHERS
    )
    assert torch.equal(model.get_input_embeddings().weight, text.get_input_embeddings().weight)


def test_a_part_that_is_none_is_named():
    with pytest.raises(TypeError, match="`structure` must be"):
        DeftForConditionalGeneration.from_parts(text=TEXTS["qwen3"], structure=3, texture=VIDEOMAE, **OTHERS)


# --- GGUF -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package with a GGUF file, as a folder."""
    folder = tmp_path / "packages" / "small_language_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    write_gguf(folder / "small.gguf")
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    sys.modules.pop(folder.name, None)


def test_a_language_model_from_gguf_has_its_weights_and_is_saved_as_safetensors(package, tmp_path):
    name = f"package:{package.name}"
    model = DeftForConditionalGeneration.from_parts(
        text={"gguf": name}, structure=FAMILIES["llama-vit-vit"][1], texture=VIDEOMAE, vocab_size=400, **OTHERS
    ).eval()
    text = AutoModelForCausalLM.from_pretrained(package, gguf_file="small.gguf").eval()
    known, ids = text.config.vocab_size, torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits[..., :known], text(ids).logits)
    old, new = model.get_input_embeddings().weight.split([known, 400 - known])
    assert (new - old.mean(0)).abs().max() < 0.05 * old.std()
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    loaded = DeftForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_gguf_part_is_a_file_a_folder_or_a_package(package):
    expected = {"pretrained_model_name_or_path": str(package), "gguf_file": "small.gguf"}
    for name in (package / "small.gguf", package, f"package:{package.name}"):
        assert pretrained_source({"gguf": str(name)}) == expected
    assert pretrained_source("org/model") == {"pretrained_model_name_or_path": "org/model"}
    assert pretrained_source({"model_type": "llama"}) == {}


@pytest.mark.parametrize("name", ["package:nobody_has_this", "package:../elsewhere"])
def test_a_package_that_is_not_installed_is_named(name):
    with pytest.raises(FileNotFoundError, match=rf"names the package '{name[8:]}', which is not installed"):
        pretrained_source({"gguf": name})


def test_a_missing_file_or_a_choice_of_files_is_said(package):
    with pytest.raises(FileNotFoundError, match=r"There is no GGUF file .*other\.gguf"):
        pretrained_source({"gguf": str(package / "other.gguf")})
    (package / "second.gguf").write_bytes((package / "small.gguf").read_bytes())
    with pytest.raises(FileNotFoundError, match="has 2 GGUF files; `text` needs the path of one"):
        pretrained_source({"gguf": str(package)})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.gguf is not a complete GGUF file"):
        pretrained_source({"gguf": str(path)})


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_a_model_that_is_not_a_causal_language_model_is_refused(tmp_path, architecture):
    path = write_gguf(tmp_path / "other.gguf", architecture)
    with pytest.raises(ValueError, match=rf"contains a {architecture} model, which transformers does not read as a"):
        pretrained_source({"gguf": str(path)})
