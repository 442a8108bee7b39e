"""What does recognition cost without the language model: beside generation, and beside ONNX?

    python benchmarks/speed/recognition.py

Models of `recipes/tiny.yaml` with random weights on random clips, batches of 1 and of 32. Generation writes as many
tokens as a full answer has; its recognition is the same network's. The rows agree before they are timed. The same
question at the size of a 0.6B language model is `generation.py`'s.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from models import clips_of, prompts_of, tiny_model
from timing import ROUNDS, alternate, growth, side_by_side

from deft_llm.modeling_deft.export_deft import export_recognition

ANSWER = 120  # tokens of a full answer with two units, by the tiny recipe's tokenizer
CALLS = 200


def onnx_session(model: torch.nn.Module, folder: str, frames: int) -> onnxruntime.InferenceSession:
    path = Path(folder) / "recognition.onnx"
    export_recognition(model.model, path, num_frames=frames)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def latencies(name: str, call) -> None:
    """The median and the slowest hundredth of single calls."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    print(f"\n{name}, {CALLS} calls: p50 {np.percentile(times, 50):.2f} ms, p99 {np.percentile(times, 99):.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    model = tiny_model().eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        session = onnx_session(model, folder, model.config.texture_config.num_frames)
        model.to(device)
        for size in (1, 32):
            clips = {name: value.to(device) for name, value in clips_of(model.config, size).items()}
            arrays = {name: value.cpu().numpy() for name, value in clips.items()}
            prompts = {name: value.to(device) for name, value in prompts_of(model.config, size).items()}
            expected = model.model(**clips).emotion_logits.cpu().numpy()
            np.testing.assert_allclose(session.run(["emotion_logits"], arrays)[0], expected, atol=2e-4)
            np.testing.assert_allclose(model(**prompts, **clips).emotion_logits.cpu().numpy(), expected, atol=2e-4)
            whole = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": False}
            calls = {
                "recognition": partial(model.model, **clips),
                "recognition, ONNX on the processor": partial(session.run, None, arrays),
                f"generation of {ANSWER} tokens": partial(model.generate, **prompts, **clips, **whole),
            }
            times = alternate(calls, rounds=arguments.rounds)
            generation = f"generation of {ANSWER} tokens"
            side_by_side(f"batch of {size}, {device}", times, generation, {"recognition": "≤ 0.02"})
            latencies(f"recognition, batch of {size}", calls["recognition"])
            latencies(f"ONNX, batch of {size}", calls["recognition, ONNX on the processor"])

        def job(size: int):
            clips = {name: value.to(device) for name, value in clips_of(model.config, size).items()}
            return partial(model.model, **clips)

        growth("clips of a batch, recognition", (16, 64, 256), job)
    seconds = statistics.median(times["recognition"])
    print(f"\n{32 / seconds:.0f} clips/s at a batch of 32")


if __name__ == "__main__":
    main()
