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
NAME, AGAIN = "org/deft-llm", "org/again"

# What a process does that has no package and an empty cache. Each takes seconds to start, so that all that the owner
# does is done by one, and all that a stranger reads is read by another.
OWNER = """
import json, sys, torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
                          AutoModelForMultimodalLM, AutoProcessor, pipeline)
name, revisions, inputs, output = sys.argv[1], json.loads(sys.argv[2]), torch.load(sys.argv[3]), sys.argv[4]
again, adapter = sys.argv[5:]
clips = {key: inputs[key] for key in ("pixel_values_videos", "flow_values_videos")}
found = {"loaded": []}
for revision in revisions:
    options = {"trust_remote_code": True, "revision": revision}
    result = {"config": AutoConfig.from_pretrained(name, **options).model_type}
    with torch.no_grad():
        for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
            result[auto.__name__] = auto.from_pretrained(name, **options).eval()(**inputs).logits
        result["AutoModel"] = AutoModel.from_pretrained(name, **options).eval()(**clips).au_logits
    result["processor"] = AutoProcessor.from_pretrained(name, **options).action_units
    found["loaded"].append(result)

explain = pipeline("video-text-to-text", model=name, trust_remote_code=True)
explain.push_to_hub(again)
explain.model.push_to_hub(again)
explain.processor.push_to_hub(again)
ModelCard.load(name).push_to_hub(again)

model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True).eval()
torch.manual_seed(0)
settings = LoraConfig(target_modules=r"model\\.language_model\\..*\\.(q_proj|v_proj)", init_lora_weights=False)
tuned = get_peft_model(model, settings)
tuned.push_to_hub(adapter)
with torch.no_grad():
    found["tuned"] = tuned.eval()(**inputs).logits
torch.save(found, output)
"""

STRANGER = """
import json, sys, torch
from transformers import AutoModelForImageTextToText, pipeline
adapter, asked, inputs, video, output = sys.argv[1], json.loads(sys.argv[2]), torch.load(sys.argv[3]), *sys.argv[4:]
model = AutoModelForImageTextToText.from_pretrained(adapter, trust_remote_code=True).eval()
with torch.no_grad():
    found = {"adapter": model(**inputs).logits, "answers": []}
for name, revision in asked:
    explain = pipeline("video-text-to-text", model=name, trust_remote_code=True, revision=revision)
    found["answers"].append(explain(video, max_new_tokens=12))
torch.save(found, output)
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


@pytest.fixture(scope="module")
def elsewhere(hub, without_package, tmp_path_factory):
    """Runs code as somebody else would: no package, an empty cache, and a token or none."""

    def run(code, *arguments, token=OWNER_TOKEN):
        home = tmp_path_factory.mktemp("home")
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


@pytest.fixture(scope="module")
def owner(elsewhere, revisions, inputs, tmp_path_factory):
    """What the owner's process found, which has also pushed the model by hand and an adapter of the first revision."""
    output = tmp_path_factory.mktemp("owner") / "found.pt"
    # None is the newest.
    elsewhere(OWNER, NAME, json.dumps([revisions[0], None]), inputs, output, AGAIN, "org/adapter")
    return torch.load(output)


@pytest.fixture(scope="module")
def trained(hub, owner, dataset, recipe_file, tmp_path_factory):
    """The command line of training with `push_to_hub`, over the model that was pushed by hand: the commit before."""
    before = hub.repositories["model", AGAIN].head.oid
    place = tmp_path_factory.mktemp("training")
    dataset.select(range(12)).to_parquet(place / "rendered" / "train-0.parquet")
    environment = {**os.environ, **hub.environment(HF_HOME=str(place / "home")), "OMP_NUM_THREADS": "1"}
    arguments = {
        "--config": recipe_file,
        "--dataset": place / "rendered",
        "--output_dir": place / "trained",
        "--max_steps": 1,
        "--per_device_train_batch_size": 2,
        "--preprocessing_workers": 1,
        "--use_cpu": "true",
        "--push_to_hub": "true",
        "--hub_model_id": AGAIN,
    }
    words = [word for pair in arguments.items() for word in pair]
    output_of([sys.executable, "train_sft.py", *words], cwd=ROOT, env=environment)
    return before


@pytest.fixture(scope="module")
def stranger(elsewhere, trained, inputs, brow_video, tmp_path_factory):
    """(logits of the adapter, answers of: the model pushed by hand, what it was made of, the trained one)."""
    output = tmp_path_factory.mktemp("stranger") / "found.pt"
    asked = [(AGAIN, trained), (NAME, None), (AGAIN, None)]
    elsewhere(STRANGER, "org/adapter", json.dumps(asked), inputs, brow_video, output)
    found = torch.load(output)
    return found["adapter"], found["answers"]


def test_every_auto_class_loads_the_revision_it_is_told(owner, inputs, model, processor):
    with torch.no_grad():
        tensors = torch.load(inputs)
        logits, au_logits = (output := model(**tensors)).logits, output.au_logits
    old, new = owner["loaded"]
    assert (old["config"], old["processor"]) == ("deft", processor.action_units)
    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM"):
        torch.testing.assert_close(old[name], logits, **CLOSE)
    torch.testing.assert_close(old["AutoModel"], au_logits, **CLOSE)
    bias = model.model.recognition.motion_expert.au_bias.detach()
    torch.testing.assert_close(new["AutoModel"] - bias, 2 * (au_logits - bias))


def test_loaded_and_pushed_by_hand_it_is_whole_again(hub, trained, stranger, processor):
    first, second = hub.files(NAME), hub.files(AGAIN, revision=trained)
    code = {name for name in first if name.endswith(".py")}
    assert code
    assert {name: second[name] for name in code} == {name: first[name] for name in code}
    assert second["README.md"] == first["README.md"]
    pushed, direct, _ = stranger[1]
    assert pushed == direct
    assert set(direct["report"]["scores"]) == set(processor.emotion_labels)
    assert len(direct["frames_indices"]) == processor.video_processor.num_frames


def test_an_adapter_alone_brings_its_model(hub, owner, stranger, inputs, model):
    assert "adapter_model.safetensors" in hub.files("org/adapter")
    assert "model.safetensors" not in hub.files("org/adapter")
    torch.testing.assert_close(stranger[0], owner["tuned"])
    with torch.no_grad():
        assert not torch.allclose(model(**torch.load(inputs)).logits, owner["tuned"])


def test_a_push_of_the_trainer_keeps_pipeline_and_card(hub, trained, stranger):
    files = hub.files(AGAIN)
    assert set(hub.files(AGAIN, revision=trained)) <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "video-text-to-text"
    assert "optimiser steps · seed | 1 · 0" in card.text
    assert stranger[1][2]["report"]["scores"]


def result_of(output):
    return json.loads(output.split("RESULT")[1])


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
