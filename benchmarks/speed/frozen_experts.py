"""How long does a step take with frozen experts, run in each step or once in advance, and with shared clips?

    python benchmarks/speed/frozen_experts.py [--rounds N]

Stage `answers` with LoRA, forward and backward, float32, random weights: SmolLM2-135M's architecture with the experts
of `recipes/smollm2-135m-lora.yaml`, and Qwen3-0.6B's with those of `recipes/qwen3-0.6b-lora.yaml`. Before anything is
timed, the loss with states in advance is checked against that with the clips. "Six questions" compares one sequence
per question with one sequence per clip, in which the questions share the clip's tokens; both with states in advance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import yaml
from models import RECIPES, WORD, clips_of, large_model, model_of, prompts_of
from timing import alternate, rounds_asked_for, side_by_side

from deft_llm.training.parts import add_adapters
from deft_llm.training.tuning import TuningArguments

SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49156,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
QUESTION, ANSWER, QUESTIONS = 25, 15, 6  # tokens, tokens, and questions per clip


def small_recipe() -> dict[str, Any]:
    return yaml.safe_load((RECIPES / "smollm2-135m-lora.yaml").read_text(encoding="utf-8"))


def small_model() -> Any:
    recipe = small_recipe()
    parts = {name: recipe[name] for name in ("structure", "texture", "motion")}
    names = ("expert_size", "structure_tokens", "texture_tokens", "emotion_token")
    return model_of(SMOLLM2, **parts, **{name: recipe[name] for name in names})


def sequence(config: Any, clips: int) -> dict[str, torch.Tensor]:
    """One question and answer per clip."""
    prompt = prompts_of(config, clips, words=QUESTION)["input_ids"]
    answer = torch.full((clips, ANSWER), WORD)
    ids = torch.cat([prompt, answer], 1)
    labels = torch.cat([torch.full_like(prompt, -100), answer], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def shared(config: Any, questions: int = QUESTIONS) -> dict[str, torch.Tensor]:
    """Several questions and answers behind one clip, which do not attend to each other."""
    single = {name: value[0] for name, value in sequence(config, 1).items()}
    length, own = len(single["input_ids"]), QUESTION + ANSWER
    start = length - own
    tail = torch.arange(start, length)
    order = torch.cat([torch.arange(start), *[tail] * questions])
    block = torch.cat([torch.zeros(start), torch.arange(1, questions + 1).repeat_interleave(own)])
    allowed = (block[None] == 0) | (block[None] == block[:, None])
    mask = allowed & torch.ones(len(order), len(order), dtype=torch.bool).tril()
    return {
        "input_ids": single["input_ids"][order][None],
        "labels": single["labels"][order][None],
        "position_ids": order[None],
        "attention_mask": mask[None, None],
    }


def measure(name: str, model: Any, rounds: int) -> None:
    model.config.appearance_swap = model.config.expert_dropout = 0.0
    tuned = add_adapters(model, TuningArguments(use_peft=True, stage="answers", lora_dropout=0.0), "base").train()
    tuned.get_base_model().model.recognition.eval()
    config, clips = model.config, clips_of(model.config, 1)
    with torch.no_grad():
        states = model.model(**clips).expert_states
    one, six = sequence(config, 1), sequence(config, QUESTIONS)
    repeated = {key: value.repeat(QUESTIONS, 1, 1) for key, value in states.items()}

    def step(**inputs: Any) -> Callable[[], float]:
        def run() -> float:
            tuned.zero_grad()
            loss = tuned(**inputs, skip_logits=True, use_cache=False).language_loss
            loss.backward()
            return float(loss.detach())

        return run

    calls = {
        "experts in each step": step(**one, **clips),
        "experts in advance": step(**one, expert_states=states),
    }
    packed = {
        "one sequence per question": step(**six, expert_states=repeated),
        "one sequence per clip": step(**shared(config), expert_states=states),
    }
    for pair in (calls, packed):
        first, second = (call() for call in pair.values())
        if abs(first - second) > 1e-4 * abs(first):
            raise AssertionError(f"{name}: the losses differ, {first} and {second}")
    for title, pair in ((f"{name}, a step of one clip", calls), (f"{name}, six questions about a clip", packed)):
        times = alternate(pair, rounds=rounds)
        side_by_side(title, times, next(iter(pair)), {"experts in advance": "≤ 0.5"})


def main() -> None:
    rounds = rounds_asked_for(__doc__)
    measure("SmolLM2-135M", small_model(), rounds)
    measure("Qwen3-0.6B", large_model(torch.float32), rounds)


if __name__ == "__main__":
    main()
