"""How soon does the first token come, and how fast the others, beside a stock video model and the bare language model?

    python benchmarks/speed/generation.py [--model FOLDER]

Qwen3-0.6B's architecture with random weights in all three: DEFT of `recipes/qwen3-0.6b-lora.yaml`, LLaVA-OneVision
with its own vision tower at eight frames, and the language model alone on as many tokens as DEFT's prompt has.
One clip, a question of 60 tokens, in bfloat16 where the processor has instructions for it and otherwise in float32.
Tensors are given; what making them takes is `clip_to_tensors.py`'s.
With `--model`, a trained model takes the place of the first, in its own precision, and the stock model is left out.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import torch
from models import PRECISION, clips_of, large_model, prompts_of, stock_inputs, stock_model
from timing import ROUNDS, alternate, growth, side_by_side

from deft_llm.modeling_deft import DeftForConditionalGeneration

TOKENS = 32  # that are generated to see how fast they come
ANSWER = 120  # of a full answer with two units


def on(device: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in inputs.items()}


def generated(model: Any, inputs: dict[str, Any], count: int) -> Any:
    return lambda: model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)


def bare_language_model(deft: Any) -> Any:
    """The causal language model that shares DEFT's own weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(deft.config.text_config)
    bare.model, bare.lm_head = deft.model.language_model, deft.lm_head
    return bare.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained model")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stock = None
    if arguments.model:
        deft = DeftForConditionalGeneration.from_pretrained(arguments.model).eval().to(device)
    else:
        deft, stock = large_model(PRECISION).eval().to(device), stock_model(PRECISION).eval().to(device)
    dtype = deft.lm_head.weight.dtype
    where = f"{device}, {str(dtype).removeprefix('torch.')}"
    bare = bare_language_model(deft)
    prompt = on(device, prompts_of(deft.config, 1))
    clip = on(device, clips_of(deft.config, 1, dtype=dtype))
    with torch.inference_mode():
        # What the bare model continues is DEFT's own prompt, so both write the same and take the same steps.
        embedded = {
            "inputs_embeds": deft.model.embed_prompts(prompt["input_ids"], deft.model(**clip)),
            "attention_mask": prompt["attention_mask"],
        }
        inputs = {
            "DEFT": (deft, prompt | clip),
            **({} if stock is None else {"stock": (stock, on(device, stock_inputs(1, dtype=PRECISION)))}),
            "bare language model": (bare, embedded),
        }
        written = {name: generated(*one, 4)()[0, -4:].tolist() for name, one in inputs.items()}
        if written["DEFT"] != written["bare language model"]:
            raise SystemExit(f"the language model alone writes something else: {written}")
        lengths = {name: one[1].get("input_ids", prompt["input_ids"]).shape[1] for name, one in inputs.items()}
        print("\nTokens of the prompt: " + ", ".join(f"{name} {length}" for name, length in lengths.items()))
        first = alternate({name: generated(*one, 1) for name, one in inputs.items()}, rounds=arguments.rounds)
        if stock is not None:
            side_by_side(f"first token, {where}", first, "stock", {"DEFT": "≤ 0.333"})
        side_by_side(f"first token, {where}", first, "bare language model", {"DEFT": "≤ 1.3"})
        both = {name: generated(*one, 1 + TOKENS) for name, one in inputs.items()}
        whole = alternate(both, rounds=arguments.rounds)
        rate = {name: TOKENS / (statistics.median(whole[name]) - statistics.median(first[name])) for name in inputs}
        print("\nTokens/s after the first: " + ", ".join(f"{name} {value:.1f}" for name, value in rate.items()))
        print(f"DEFT against the bare language model: {rate['DEFT'] / rate['bare language model']:.2f} (≥ 0.95 asked)")
        calls = {
            "recognition": partial(deft.model, **clip),
            "recognition from motion alone": partial(deft.model, flow_values_videos=clip["flow_values_videos"]),
            f"generation of {ANSWER} tokens": generated(deft, prompt | clip, ANSWER),
        }
        side_by_side(
            f"one clip, {where}",
            alternate(calls, rounds=arguments.rounds),
            f"generation of {ANSWER} tokens",
            {"recognition": "≤ 0.02"},
        )
        counts = (8, 32, 128)
        growth("tokens generated", counts, lambda count: generated(deft, prompt | clip, count))


if __name__ == "__main__":
    main()
