"""There and back through the Hub's own clients, in processes that have every dependency and not this package."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file

from deft_llm.hub_datasets.build.publishing import push
from deft_llm.sharing.push import push_model
from tests.loopback_hub import OWNER_TOKEN, READER_TOKEN, LoopbackHub
from tests.modeling_deft.small_models import CLOSE
from tests.processes import output_of

ROOT = Path(__file__).parents[1]
NAME = "org/deft-llm"

LOAD = """
import sys, torch
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
                          AutoModelForMultimodalLM, AutoProcessor)
name, revision, inputs, output = sys.argv[1], sys.argv[2] or None, torch.load(sys.argv[3]), sys.argv[4]
options = {"trust_remote_code": True, "revision": revision}
clips = {key: inputs[key] for key in ("pixel_values_videos", "flow_values_videos")}
result = {"config": AutoConfig.from_pretrained(name, **options).model_type}
with torch.no_grad():
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
        result[auto.__name__] = auto.from_pretrained(name, **options).eval()(**inputs).logits
    result["AutoModel"] = AutoModel.from_pretrained(name, **options).eval()(**clips).au_logits
result["processor"] = AutoProcessor.from_pretrained(name, **options).action_units
torch.save(result, output)
"""

EXPLAIN = """
import json, sys
from transformers import pipeline
explain = pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=True, revision=sys.argv[3] or None)
print("RESULT" + json.dumps(explain(sys.argv[2], max_new_tokens=12)))
"""

PUSH_BY_HAND = """
import sys
from huggingface_hub import ModelCard
from transformers import pipeline
first, second = sys.argv[1:3]
explain = pipeline("video-text-to-text", model=first, trust_remote_code=True)
explain.push_to_hub(second)
explain.model.push_to_hub(second)
explain.processor.push_to_hub(second)
ModelCard.load(first).push_to_hub(second)
"""

PUSH_ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText
name, adapter, inputs, output = sys.argv[1], sys.argv[2], torch.load(sys.argv[3]), sys.argv[4]
model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True).eval()
torch.manual_seed(0)
settings = LoraConfig(target_modules=r"model\\.language_model\\..*\\.(q_proj|v_proj)", init_lora_weights=False)
tuned = get_peft_model(model, settings)
tuned.push_to_hub(adapter)
with torch.no_grad():
    torch.save(tuned.eval()(**inputs).logits, output)
"""

LOAD_ADAPTER = """
import sys, torch
from transformers import AutoModelForImageTextToText
inputs = torch.load(sys.argv[2])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(**inputs).logits, sys.argv[3])
"""

STREAM = """
import json, sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], split="train", streaming=True)
print("RESULT" + json.dumps([
    {"clip_id": row["clip_id"], "video": None if row["video"] is None else len(row["video"]["bytes"]),
     "flow": len(row["flow"])} for row in rows.take(3)]))
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield opened


@pytest.fixture(scope="module")
def api(hub):
    return HfApi(endpoint=hub.url, token=OWNER_TOKEN)


@pytest.fixture
def elsewhere(hub, without_package, tmp_path):
    """Runs code as somebody else would: no package, an empty cache, and a token or none."""

    def run(code, *arguments, token=OWNER_TOKEN):
        home = tmp_path / f"home{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        variables = hub.environment(token, HF_HOME=str(home), HF_MODULES_CACHE=str(home / "modules"))
        if token is None:
            variables["HF_TOKEN"] = ""
        return without_package(f"import sys; sys.argv = {['script', *map(str, arguments)]!r}\n" + code, **variables)

    return run


@pytest.fixture(scope="module")
def inputs(processor, clips, tmp_path_factory):
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Explain."}]}]
    prompt = processor.render_prompt(message, clips)
    text = processor.tokenizer([prompt] * 3, add_special_tokens=False, return_tensors="pt")
    path = tmp_path_factory.mktemp("inputs") / "inputs.pt"
    torch.save({**text, **clips}, path)
    return path


@pytest.fixture(scope="module")
def revisions(hub, api, card_folder, tmp_path_factory):
    """(old, new) commits of `NAME`: the model, and the same with every weight of the AU heads doubled."""
    import shutil

    push_model(card_folder, NAME, api=api)
    old = hub.repositories["model", NAME].head.oid
    folder = tmp_path_factory.mktemp("second") / "deft-llm"
    shutil.copytree(card_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.recognition.motion_expert.au_weight"] *= 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    push_model(folder, NAME, api=api)
    return old, hub.repositories["model", NAME].head.oid


def result_of(output):
    return json.loads(output.split("RESULT")[1])


def test_every_auto_class_loads_the_revision_it_is_told(elsewhere, revisions, inputs, model, processor, tmp_path):
    with torch.no_grad():
        tensors = torch.load(inputs)
        logits, au_logits = (output := model(**tensors)).logits, output.au_logits
    elsewhere(LOAD, NAME, revisions[0], inputs, tmp_path / "old.pt")
    old = torch.load(tmp_path / "old.pt")
    assert (old["config"], old["processor"]) == ("deft", processor.action_units)
    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM"):
        torch.testing.assert_close(old[name], logits, **CLOSE)
    torch.testing.assert_close(old["AutoModel"], au_logits, **CLOSE)
    elsewhere(LOAD, NAME, "", inputs, tmp_path / "new.pt")
    new = torch.load(tmp_path / "new.pt")["AutoModel"]
    bias = model.model.recognition.motion_expert.au_bias.detach()
    torch.testing.assert_close(new - bias, 2 * (au_logits - bias))


def test_the_pipeline_by_its_repository(elsewhere, revisions, brow_video, processor):
    result = result_of(elsewhere(EXPLAIN, NAME, brow_video, revisions[0]))
    assert set(result["report"]["scores"]) == set(processor.emotion_labels)
    assert len(result["frames_indices"]) == processor.video_processor.num_frames


def test_loaded_and_pushed_by_hand_it_is_whole_again(elsewhere, hub, revisions, brow_video):
    elsewhere(PUSH_BY_HAND, NAME, "org/again")
    first, second = hub.files(NAME), hub.files("org/again")
    code = {name for name in first if name.endswith(".py")}
    assert code
    assert {name: second[name] for name in code} == {name: first[name] for name in code}
    assert second["README.md"] == first["README.md"]
    direct = result_of(elsewhere(EXPLAIN, NAME, brow_video, ""))
    assert result_of(elsewhere(EXPLAIN, "org/again", brow_video, "")) == direct


def test_an_adapter_alone_brings_its_model(elsewhere, hub, revisions, inputs, model, tmp_path):
    elsewhere(PUSH_ADAPTER, NAME, "org/adapter", inputs, tmp_path / "tuned.pt")
    assert "adapter_model.safetensors" in hub.files("org/adapter")
    assert "model.safetensors" not in hub.files("org/adapter")
    elsewhere(LOAD_ADAPTER, "org/adapter", inputs, tmp_path / "loaded.pt")
    tuned, loaded = torch.load(tmp_path / "tuned.pt"), torch.load(tmp_path / "loaded.pt")
    torch.testing.assert_close(loaded, tuned)
    with torch.no_grad():
        assert not torch.allclose(model(**torch.load(inputs)).logits, tuned)


def test_a_push_of_the_trainer_keeps_pipeline_and_card(elsewhere, hub, revisions, dataset, brow_video, tmp_path):
    """The command line of training with `push_to_hub`, over a repository that is in use."""
    dataset.select(range(12)).to_parquet(tmp_path / "rendered" / "train-0.parquet")
    environment = {**os.environ, **hub.environment(HF_HOME=str(tmp_path / "home")), "OMP_NUM_THREADS": "1"}
    arguments = {
        "--config": ROOT / "recipes/tiny.yaml",
        "--dataset": tmp_path / "rendered",
        "--output_dir": tmp_path / "trained",
        "--max_steps": 1,
        "--per_device_train_batch_size": 2,
        "--preprocessing_workers": 1,
        "--use_cpu": "true",
        "--push_to_hub": "true",
        "--hub_model_id": NAME,
    }
    words = [word for pair in arguments.items() for word in pair]
    output_of([sys.executable, "train_sft.py", *words], cwd=ROOT, env=environment)
    files = hub.files(NAME)
    assert set(hub.files(NAME, revision=revisions[0])) - {"old_helper.py"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "video-text-to-text"
    assert "optimiser steps · seed | 1 · 0" in card.text
    assert result_of(elsewhere(EXPLAIN, NAME, brow_video, ""))["report"]["scores"]
    assert result_of(elsewhere(EXPLAIN, NAME, brow_video, revisions[0]))["report"]["scores"]


@pytest.mark.parametrize("features_only", [False, True], ids=["with video", "features only"])
def test_a_private_dataset_streams_to_its_owner_alone(elsewhere, hub, api, dataset, tmp_path, features_only):
    rows = dataset.select(range(4))
    if features_only:
        rows = rows.map(lambda row: {"video": None}, features=rows.features)
    rows.to_parquet(tmp_path / "rows" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "rows" / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    name = f"org/rows-{features_only}".lower()
    push(tmp_path / "rows", name, visibility="private", api=api)
    found = result_of(elsewhere(STREAM, name))
    assert [row["clip_id"] for row in found] == dataset["clip_id"][:3]
    assert all((row["video"] is None) == features_only for row in found)
    with pytest.raises(AssertionError, match="doesn't exist on the Hub or cannot be accessed"):
        elsewhere(STREAM, name, token=READER_TOKEN)


def test_a_gated_dataset_says_that_it_must_be_asked_for(elsewhere, hub, api, dataset, tmp_path):
    dataset.select(range(4)).to_parquet(tmp_path / "rows" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "rows" / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    push(tmp_path / "rows", "org/gated", visibility="gated", api=api)
    assert len(result_of(elsewhere(STREAM, "org/gated"))) == 3
    with pytest.raises(AssertionError, match="gated"):
        elsewhere(STREAM, "org/gated", token=READER_TOKEN)
