"""What share of a step of the SmolLM2 recipe is arithmetic that the processor could not do faster?

    python benchmarks/speed/recipe_limit.py [--rounds N]

A step of the recipe's stage `answers`: SmolLM2-135M's architecture with LoRA and random weights, states of the experts
in advance, two clips with six questions each, forward, backward and the optimiser, in the precision that the recipe
takes on this machine and with its kind of attention. The floating-point operations of all matrix products are counted
as PyTorch runs them. The limit is the rate of one large matrix product in the same precision and with as many threads,
in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from frozen_experts import shared, small_model, small_recipe
from models import clips_of
from timing import ROUNDS, alternate
from torch.utils.flop_counter import FlopCounterMode

from deft_llm.training.parts import adapters_in_half_precision, add_adapters, cast_language_model
from deft_llm.training.tuning import TuningArguments

SIDE = 2048  # of the matrices whose product is the limit
CLIPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    model = small_model()
    cast_language_model(model, "auto")
    dtype = model.lm_head.weight.dtype
    model.set_attn_implementation(small_recipe()["stages"][-1]["attn_implementation"])
    model.config.appearance_swap = model.config.expert_dropout = 0.0
    tuned = add_adapters(model, TuningArguments(use_peft=True, stage="answers", lora_dropout=0.0), "base").train()
    tuned.get_base_model().model.recognition.eval()
    with torch.no_grad():
        states = model.model(**clips_of(model.config, CLIPS)).expert_states
    inputs = {name: value.repeat(CLIPS, *[1] * (value.ndim - 1)) for name, value in shared(model.config).items()}
    optimiser = torch.optim.AdamW([value for value in tuned.parameters() if value.requires_grad], lr=1e-6)

    def step() -> None:
        optimiser.zero_grad()
        with adapters_in_half_precision(tuned):
            loss = tuned(**inputs, expert_states=states, skip_logits=True, use_cache=False).language_loss
        loss.backward()
        optimiser.step()

    matrices = [torch.randn(SIDE, SIDE).to(dtype) for _ in range(2)]
    with FlopCounterMode(display=False) as counter:
        step()
    counted = counter.get_total_flops()
    times = alternate({"step": step, "product": lambda: matrices[0] @ matrices[1]}, rounds=rounds, warmup=2)
    limit = 2 * SIDE**3 / statistics.median(times["product"])
    seconds = statistics.median(times["step"])
    by_kind = counter.get_flop_counts()["Global"]
    attention = sum(value for name, value in by_kind.items() if "bmm" in str(name))
    precision = str(dtype).removeprefix("torch.")
    tokens = inputs["input_ids"].numel()
    print("\n| measure | to reach | measured |\n|---|---|---|")
    print(f"| a step, {tokens} tokens, {precision}, {torch.get_num_threads()} threads | | {1000 * seconds:.0f} ms |")
    operations = f"{counted / 1e9:.0f}, {attention / 1e9:.0f} G"
    print(f"| … floating-point operations counted, of these in attention | | {operations} |")
    print(f"| a product of matrices of {SIDE} × {SIDE} | | {limit / 1e9:.0f} GFLOP/s |")
    print(f"| the step against this limit | ≥ 50 % | {100 * counted / seconds / limit:.0f} % |")


if __name__ == "__main__":
    main()
