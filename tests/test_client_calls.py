"""What clients of transformers do with a model, call by call; docs/clients.md is the table of the outcomes.

DEFT_WRITE_DOCS=1 pytest tests/test_client_calls.py     writes docs/clients.md anew
"""

import copy
import importlib.metadata
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from transformers.pipelines.pt_utils import KeyDataset

TABLE = Path(__file__).parents[1] / "docs" / "clients.md"
HEADER = """# What clients can do with a model

Each row is a call that a test makes (`tests/test_client_calls.py`) on a small model folder, with transformers
{version} and without torchvision. `…` stands for `trust_remote_code=True`, `clip` for the path of a video, `inputs` for what
`processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)`
returns.
"""


@dataclass(frozen=True)
class Call:
    group: str
    code: str  # as the table shows it; its last line is an expression
    check: str  # an expression that is True of its value, `it`
    fails: str = ""  # why it cannot work, where it cannot; the text of the error holds `check`


def works(group: str, code: str, check: str) -> Call:
    return Call(group, code, check)


LOAD, PIPE, GENERATE, ADAPT, SAVE = "Loading", "Pipelines", "Generating", "Adapting and running", "Saving"
CALLS = [
    works(LOAD, "AutoConfig.from_pretrained(folder, …)", "it.model_type == 'deft'"),
    works(LOAD, "AutoTokenizer.from_pretrained(folder, …)", "it.padding_side == 'left'"),
    works(LOAD, "AutoProcessor.from_pretrained(folder, …)", "it.action_units == processor.action_units"),
    works(LOAD, "DeftProcessor.from_pretrained(folder)", "it.action_units == processor.action_units"),
    works(LOAD, "AutoModel.from_pretrained(folder, …)(**clips).au_logits", "same(it, recognised.au_logits)"),
    *(
        works(LOAD, f"{name}.from_pretrained(folder, …)(**inputs).logits", "same(it, logits)")
        for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM")
    ),
    works(LOAD, "load(folder, …, dtype=torch.bfloat16)(**inputs).logits", "it.dtype == torch.bfloat16"),
    works(LOAD, 'load(folder, …, attn_implementation="eager")(**inputs).logits', "same(it, logits)"),
    works(
        LOAD,
        'load(folder, …, attn_implementation={"text_config": "eager", "structure_config": "sdpa"})(**inputs).logits',
        "same(it, logits)",
    ),
    works(LOAD, 'load(folder, …, device_map="cpu")(**inputs).logits', "same(it, logits)"),
    works(
        LOAD,
        'load(folder, …, device_map={"": "disk"}, offload_folder=out)(**inputs).logits',
        "same(it, logits)",
    ),
    Call(
        LOAD, "AutoVideoProcessor.from_pretrained(folder, …)", "Torchvision", "asks for torchvision, whatever it loads"
    ),
    works(PIPE, 'pipeline("video-text-to-text", model=folder, …)(clip)["report"]["emotion"]', "it in emotions"),
    works(PIPE, "pipeline(model=folder, …)(clip)", "agrees(it, answer)"),
    works(PIPE, 'pipeline("video-text-to-text", model=model, processor=processor)(clip)', "agrees(it, answer)"),
    works(
        PIPE,
        "pipe([clip, clip, clip], batch_size=2)",
        "len(it) == 3 and all(agrees(one, answer) for one in it)",
    ),
    works(
        PIPE,
        'list(pipe(KeyDataset(dataset, "clip"), batch_size=2))',
        "len(it) == 2 and all(agrees(one, answer) for one in it)",
    ),
    works(
        PIPE, "list(pipe(path for path in [clip, clip]))", "len(it) == 2 and all(agrees(one, answer) for one in it)"
    ),
    works(PIPE, "pipe([image for image in images])", "agrees(it, frames_answer)"),
    works(PIPE, "pipe(array_of_frames)", "agrees(it, frames_answer)"),
    works(PIPE, "pipe(Path(clip).as_uri())", "agrees(it, answer)"),
    works(PIPE, "pipe(Path(clip).read_bytes())", "agrees(it, answer)"),
    works(PIPE, "pipe(clip, max_length=400, num_beams=2)", "it['report']['parsed']"),
    works(
        PIPE,
        'pipeline("image-text-to-text", model=model, processor=processor)(text=chat, max_new_tokens=3)',
        "it[0]['generated_text']",
    ),
    Call(
        PIPE,
        'pipeline("any-to-any", model=model, processor=processor)',
        "Torchvision",
        "asks for torchvision where a model reads videos; with it installed, it answers",
    ),
    works(PIPE, "pipe.save_pretrained(out); pipeline(model=out, …)(clip)", "agrees(it, answer)"),
    works(GENERATE, "model.generate(**inputs, max_new_tokens=6)", "it.shape[1] == length + 6"),
    works(GENERATE, "model.generate(**inputs, max_length=length + 6)", "it.shape[1] == length + 6"),
    works(GENERATE, "model.generate(**two_chats, max_new_tokens=6)", "len(it) == 2"),
    works(GENERATE, "model.generate(**inputs, max_new_tokens=6, num_beams=3, num_return_sequences=2)", "len(it) == 2"),
    works(
        GENERATE, "model.generate(**inputs, max_new_tokens=6, do_sample=True, num_return_sequences=3)", "len(it) == 3"
    ),
    works(GENERATE, 'model.generate(**inputs, max_new_tokens=6, cache_implementation="static")', "words(it) == six"),
    works(GENERATE, "model.generate(**inputs, max_new_tokens=6, use_cache=False)", "words(it) == six"),
    works(GENERATE, "model.generate(**inputs, max_new_tokens=6, prompt_lookup_num_tokens=3)", "words(it) == six"),
    works(
        GENERATE,
        "model.generate(**inputs, max_new_tokens=6, assistant_model=copy.deepcopy(model))",
        "words(it) == six",
    ),
    works(
        GENERATE,
        "model.generate(**inputs, max_new_tokens=6, output_scores=True, return_dict_in_generate=True)",
        "len(it.scores) == 6 and words(it.sequences) == six",
    ),
    works(
        GENERATE,
        "model.generate(**inputs, max_new_tokens=6, streamer=TextIteratorStreamer(processor.tokenizer))",
        "words(it) == six",
    ),
    works(
        GENERATE,
        "model.generate(**inputs, logits_processor=[processor.answer_constraint(length, model.model(**clips))])",
        "processor.post_process_expression(processor.decode(it[0, length:], skip_special_tokens=True))[0].parsed",
    ),
    works(ADAPT, "model.get_video_features(**clips).pooler_output", "len(it) == 1"),
    works(ADAPT, "model.explain(**clips).expert_gates", "same(it.sum(), torch.tensor(1.0))"),
    works(ADAPT, 'torch.compile(model, backend="aot_eager")(**inputs).logits', "same(it, logits)"),
    works(ADAPT, 'export_recognition(model.model, out / "deft.onnx", num_frames=8)', "recognises(out / 'deft.onnx')"),
    works(ADAPT, "accelerate.cpu_offload(fresh(), execution_device='cpu')(**inputs).logits", "same(it, logits)"),
    works(ADAPT, "accelerate.disk_offload(fresh(), out, execution_device='cpu')(**inputs).logits", "same(it, logits)"),
    works(ADAPT, "peft.get_peft_model(fresh(), lora)(**inputs).logits", "same(it, logits)"),
    works(
        ADAPT,
        "peft.get_peft_model(fresh(), lora).save_pretrained(out / 'a'); "
        "peft.PeftModel.from_pretrained(fresh(), out / 'a').merge_and_unload()(**inputs).logits",
        "same(it, logits)",
    ),
    works(ADAPT, "(it := fresh()).add_adapter(lora); it(**inputs).logits", "same(it, logits)"),
    works(
        ADAPT,
        "load(folder, …, quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=experts))"
        "(**inputs).logits",
        "it.shape == logits.shape",
    ),
    works(ADAPT, "(it := fresh()).resize_token_embeddings(3000); it(**inputs).logits.shape[-1]", "it == 3000"),
    works(
        ADAPT,
        "(it := fresh().train()).gradient_checkpointing_enable(); it(**inputs, labels=inputs['input_ids']).loss.backward()",
        "True",
    ),
    works(ADAPT, "Trainer(model=fresh(), args=arguments, eval_dataset=rows).evaluate()['eval_loss']", "it > 0"),
    works(
        SAVE,
        "model.save_pretrained(out); processor.save_pretrained(out); load(out, …)(**inputs).logits",
        "same(it, logits)",
    ),
    works(
        SAVE, 'model.save_pretrained(out, max_shard_size="200KB"); load(out, …)(**inputs).logits', "same(it, logits)"
    ),
    works(SAVE, "pickle.loads(pickle.dumps(model))(**inputs).logits", "same(it, logits)"),
    works(SAVE, "(it := fresh()).load_state_dict(model.state_dict()); it(**inputs).logits", "same(it, logits)"),
    Call(
        "Serving",
        "getattr(transformers, model.config.architectures[0])",
        "has no attribute",
        "`transformers serve` looks the architecture up in transformers itself; see docs/hub.md",
    ),
]


@pytest.fixture(scope="module")
def world(model, processor, folder, brow_video, brow_clip):
    """Everything that the calls name."""
    import accelerate
    import onnxruntime
    import peft

    from deft_llm.modeling_deft.export_deft import OUTPUTS, export_recognition
    from deft_llm.processing import DeftProcessor

    chat = [
        {"role": "user", "content": [{"type": "video", "video": str(brow_video)}, {"type": "text", "text": "Go."}]}
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template(chat, **options)
    clips = {name: inputs[name] for name in ("pixel_values_videos", "flow_values_videos")}
    pipe = transformers.pipeline("video-text-to-text", model=model, processor=processor)
    with torch.no_grad():
        logits, recognised = model(**inputs).logits, model.model(**clips)
    length = inputs["input_ids"].shape[1]

    def words(sequences):
        return sequences[0, length:].tolist()

    def same(found, expected):
        return torch.allclose(found, expected, atol=1e-4, rtol=1e-3)

    def agrees(found, expected):
        """The same words; probabilities may differ in their last bits."""
        scores = found["report"]["scores"] == pytest.approx(expected["report"]["scores"], abs=1e-6)
        return scores and found["generated_text"] == expected["generated_text"]

    def recognises(exported):
        """What the model does, for one clip and for three."""
        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            several = {name: value.repeat(count, *[1] * (value.ndim - 1)) for name, value in clips.items()}
            with torch.no_grad():
                expected = model.model(**several)
            found = session.run(list(OUTPUTS), {name: value.numpy() for name, value in several.items()})
            for name, value in zip(OUTPUTS, found, strict=True):
                torch.testing.assert_close(torch.from_numpy(value), expected[name], atol=1e-4, rtol=1e-3)
        return True

    row = {name: value[0] for name, value in inputs.items()}
    names = {name: getattr(transformers, name) for name in dir(transformers) if name.startswith("Auto")}
    experts = [f"model.{name}" for name, _ in model.model.named_children() if name != "language_model"]
    return names | {
        "transformers": transformers,
        "torch": torch,
        "copy": copy,
        "pickle": pickle,
        "peft": peft,
        "Path": Path,
        "accelerate": accelerate,
        "KeyDataset": KeyDataset,
        "pipeline": transformers.pipeline,
        "pipe": pipe,
        "load": transformers.AutoModelForImageTextToText.from_pretrained,
        "fresh": lambda: copy.deepcopy(model),
        "BitsAndBytesConfig": transformers.BitsAndBytesConfig,
        "TextIteratorStreamer": transformers.TextIteratorStreamer,
        "Trainer": transformers.Trainer,
        "DeftProcessor": DeftProcessor,
        "export_recognition": export_recognition,
        "model": model,
        "processor": processor,
        "folder": str(folder),
        "clip": str(brow_video),
        "chat": chat,
        "inputs": dict(inputs),
        "clips": clips,
        "length": length,
        "logits": logits,
        "recognised": recognised,
        "two_chats": processor.apply_chat_template([chat, chat], **options),
        "array_of_frames": brow_clip.frames,
        "images": [Image.fromarray(frame) for frame in brow_clip.frames],
        "emotions": {None, *processor.emotion_labels},
        "dataset": [{"clip": str(brow_video)}] * 2,
        "answer": pipe(str(brow_video)),
        "experts": [*experts, "lm_head"],
        "recognises": recognises,
        "frames_answer": pipe(brow_clip.frames),
        "words": words,
        "same": same,
        "agrees": agrees,
        "rows": [row | {"labels": row["input_ids"]}],
        "six": words(model.generate(**inputs, max_new_tokens=6)),
        "lora": peft.LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"),
    }


def outcome(call: Call, world: dict, out: Path) -> str:
    """What the table says of a call; raises what the call raises if it should work."""
    arguments = transformers.TrainingArguments(output_dir=str(out / "trainer"), report_to="none", use_cpu=True)
    names = {**world, "out": out, "arguments": arguments}
    *statements, expression = call.code.replace("…", "trust_remote_code=True").split("; ")
    torch.manual_seed(0)
    try:
        for statement in statements:
            exec(statement, names)
        names["it"] = eval(expression, names)
    except Exception as error:
        if call.fails and call.check in str(error):
            return f"no: {call.fails}"
        raise
    assert not call.fails, f"it works now: {call.code}"
    assert eval(call.check, names), call.check
    return "yes"


@pytest.fixture(scope="module")
def outcomes():
    return {}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.code[:60])
def test_a_call_has_the_outcome_in_the_table(call, world, outcomes, tmp_path):
    outcomes[call] = outcome(call, world, tmp_path)


def test_the_table_is_that_of_these_calls(outcomes):
    if set(outcomes) != set(CALLS):
        pytest.skip("some of the calls did not run")
    lines = [HEADER.format(version=importlib.metadata.version("transformers"))]
    for group in dict.fromkeys(call.group for call in CALLS):
        lines += [f"## {group}\n", "| call | works |", "|---|---|"]
        lines += [f"| `{call.code}` | {outcomes[call]} |" for call in CALLS if call.group == group]
        lines.append("")
    text = "\n".join(lines).rstrip() + "\n"
    if os.environ.get("DEFT_WRITE_DOCS"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text
