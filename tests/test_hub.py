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
import json, sys, torch
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
                          AutoModelForMultimodalLM, AutoProcessor)
name, revisions, inputs, output = sys.argv[1], json.loads(sys.argv[2]), torch.load(sys.argv[3]), sys.argv[4]
clips = {key: inputs[key] for key in ("pixel_values_videos", "flow_values_videos")}
results = []
for revision in revisions:
    options = {"trust_remote_code": True, "revision": revision}
    result = {"config": AutoConfig.from_pretrained(name, **options).model_type}
    with torch.no_grad():
        for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
            result[auto.__name__] = auto.from_pretrained(name, **options).eval()(**inputs).logits
        result["AutoModel"] = AutoModel.from_pretrained(name, **options).eval()(**clips).au_logits
    result["processor"] = AutoProcessor.from_pretrained(name, **options).action_units
    results.append(result)
torch.save(results, output)
"""

EXPLAIN = """
import json, sys
from transformers import pipeline
results = []
for name, revision in json.loads(sys.argv[1]):
    explain = pipeline("video-text-to-text", model=name, trust_remote_code=True, revision=revision)
    results.append(explain(sys.argv[2], max_new_tokens=12))
print("RESULT" + json.dumps(results))
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
told = {}
for name in json.loads(sys.argv[1]):
    try:
        rows = load_dataset(name, split="train", streaming=True)
        told[name] = [{"clip_id": row["clip_id"], "video": row["video"] and len(row["video"]["bytes"]),
                       "flow": len(row["flow"])} for row in rows.take(3)]
    except Exception as error:
        told[name] = str(error)
print("RESULT" + json.dumps(told))
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
    # None is the newest.
    elsewhere(LOAD, NAME, json.dumps([revisions[0], None]), inputs, tmp_path / "loaded.pt")
    old, new = torch.load(tmp_path / "loaded.pt")
    assert (old["config"], old["processor"]) == ("deft", processor.action_units)
    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM"):
        torch.testing.assert_close(old[name], logits, **CLOSE)
    torch.testing.assert_close(old["AutoModel"], au_logits, **CLOSE)
    bias = model.model.recognition.motion_expert.au_bias.detach()
    torch.testing.assert_close(new["AutoModel"] - bias, 2 * (au_logits - bias))


def test_loaded_and_pushed_by_hand_it_is_whole_again(elsewhere, hub, revisions, brow_video, processor):
    elsewhere(PUSH_BY_HAND, NAME, "org/again")
    first, second = hub.files(NAME), hub.files("org/again")
    code = {name for name in first if name.endswith(".py")}
    assert code
    assert {name: second[name] for name in code} == {name: first[name] for name in code}
    assert second["README.md"] == first["README.md"]
    pushed, direct = result_of(elsewhere(EXPLAIN, json.dumps([("org/again", None), (NAME, None)]), brow_video))
    assert pushed == direct
    assert set(direct["report"]["scores"]) == set(processor.emotion_labels)
    assert len(direct["frames_indices"]) == processor.video_processor.num_frames


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
    asked = json.dumps([(NAME, None), (NAME, revisions[0])])
    assert all(result["report"]["scores"] for result in result_of(elsewhere(EXPLAIN, asked, brow_video)))


def test_datasets_stream_to_those_who_may_read_them(elsewhere, hub, api, dataset, tmp_path):
    """With video and features alone, private and gated: to their owner, and to nobody else."""
    rows = dataset.select(range(4))
    without = rows.map(lambda row: {"video": None}, features=rows.features)
    kinds = {"org/private": (rows, "private"), "org/features": (without, "private"), "org/gated": (rows, "gated")}
    for name, (content, visibility) in kinds.items():
        folder = tmp_path / name
        content.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
        push(folder, name, visibility=visibility, api=api)
    found = result_of(elsewhere(STREAM, json.dumps(list(kinds))))
    for name, (content, _) in kinds.items():
        assert [row["clip_id"] for row in found[name]] == dataset["clip_id"][:3]
        assert all((row["video"] is None) == (content is without) for row in found[name])
    refused = result_of(elsewhere(STREAM, json.dumps(list(kinds)), token=READER_TOKEN))
    for name in ("org/private", "org/features"):
        assert "doesn't exist on the Hub or cannot be accessed" in refused[name]
    assert "gated" in refused["org/gated"].lower()
