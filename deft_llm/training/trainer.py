"""SFTTrainer with the losses of all experts, complete checkpoints, a clean stop on SIGTERM, and more metrics."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer

from deft_llm.processing.common_deft import EXPERTS

from .calibration import action_unit_temperature, emotion_temperature
from .collator import DeftCollator
from .data import ClipOrder, DrawnClips
from .parts import adapters_in_half_precision, part_of_parameter
from .threads import FreeThreads

PARTIAL = ".partial"
RECOGNITION_INPUTS = ("pixel_values_videos", "flow_values_videos", "convention_ids")
TEMPERATURES = ("emotion_temperature", "action_unit_temperature")

# Dense bfloat16 FLOP/s from the data sheets, by a part of the GPU's name. The first match is used.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite. For a loss, the message names the clips of the batch."""


def peak_flops(device: str) -> float | None:
    """Peak FLOP/s of a GPU by its name; `None` if the name is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device), None)


class DeftSFTTrainer(SFTTrainer):
    """SFTTrainer that trains with the model's own loss and logs every term of it.

    TRL's trainer computes the language loss from the hidden states and does not call the model's `forward` with
    labels, so the terms of the experts would not be trained.

    Args:
        *args: As for `SFTTrainer`.
        balance_keys: One tuple per training row, see `ClipOrder`.
        expert_learning_rate: Learning rate of experts, heads and connectors; by default `learning_rate`.
        **kwargs: As for `SFTTrainer`.
    """

    def __init__(
        self,
        *args,
        balance_keys: Sequence[tuple] | None = None,
        expert_learning_rate: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.expert_learning_rate = expert_learning_rate
        self._clip_order = None
        step_size = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        if isinstance(self.train_dataset, Dataset):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            self._clip_order = ClipOrder(len(self.train_dataset), seed, balance_keys, step_size)
        self._label_totals: dict[str, float] = {}
        self._stop_requested, self.stopped = False, False
        self._window = dict.fromkeys(("seconds", "waiting", "clips", "tokens", "flops"), 0.0)
        self._flops_per_clip, self._rates = None, {}
        self.add_callback(_StepCallback(self))
        if self.args.device.type == "cpu":
            self.add_callback(FreeThreads())
        if isinstance(self.data_collator, DeftCollator):
            self.data_collator.step_size = step_size

    # --- The objective ----------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        return self.accelerator.unwrap_model(self.model).config.loss_weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        training = self.model.training
        inputs = dict(inputs)
        clip_ids = inputs.pop("clip_ids", [])
        for name in ("pixel_values_videos", "flow_values_videos"):
            if name in inputs and not bool(torch.isfinite(inputs[name]).all()):
                bad = (~torch.isfinite(inputs[name]).flatten(1).all(1)).tolist()
                clips = ", ".join(clip for clip, is_bad in zip(clip_ids, bad, strict=False) if is_bad)
                raise NonFiniteLossError(
                    f"{name} of {clips} contains NaN or infinite values; build the dataset again."
                )
        precision = contextlib.nullcontext()
        if "expert_states" in inputs:  # where the experts run as well, they keep their own
            precision = adapters_in_half_precision(self.accelerator.unwrap_model(model))
        with precision:
            outputs = model(**inputs, use_cache=False, skip_logits=not return_outputs)
        terms = {name: outputs[f"{name}_loss"] for name in self.loss_weights if f"{name}_loss" in outputs}
        shares = self._shares(terms, inputs) if training else dict.fromkeys(terms, 1.0)
        loss = sum(self.loss_weights[name] * shares[name] * value for name, value in terms.items())
        self._record(loss, terms, shares, outputs.expert_gates, inputs, clip_ids)
        if training and (num_items_in_batch is None or not self.model_accepts_loss_kwargs):
            # In this case the Trainer divides by the accumulation steps, which the shares have already done.
            loss = loss * self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _shares(self, terms, inputs) -> dict[str, float]:
        """Factors of the terms of this micro-batch.

        With them, the gradient of a step (averaged over processes, summed over accumulation steps) equals that of the
        whole batch.
        """
        processes = self.accelerator.num_processes
        counts = self._label_counts(inputs)
        shares = {}
        for name in terms:
            if name in counts and name in self._label_totals:
                shares[name] = processes * float(counts[name]) / max(self._label_totals[name], 1.0)
            else:
                shares[name] = 1 / self.current_gradient_accumulation_steps
        return shares

    def _label_counts(self, inputs) -> dict[str, torch.Tensor]:
        """Number of labels that the model averages each term over."""
        config = self.accelerator.unwrap_model(self.model).config
        labels = inputs["au_labels"]
        located = torch.tensor(
            [
                code in config.action_unit_regions and len(config.action_unit_regions[code]) > 0
                for code in config.action_units
            ],
            device=labels.device,
        )
        named = torch.tensor(
            [bool(config.action_unit_name_ids.get(code)) for code in config.action_units], device=labels.device
        )
        return {
            **({"language": (inputs["labels"][:, 1:] != -100).sum()} if "labels" in inputs else {}),
            "emotion": (inputs["emotion_labels"] != -100).sum(),
            "action_unit": (labels != -100).sum(),
            "region": ((labels == 1) & located).sum(),
            "alignment": ((labels == 1) & named).sum(),
            **{
                name: ((labels == 1) & (inputs[f"au_{name}_labels"] != -100)).sum()
                for name in ("side", "intensity")
                if f"au_{name}_labels" in inputs
            },
        }

    def _record(self, loss, terms, shares, gates, inputs, clip_ids) -> None:
        """Gathers the terms, gates, counts and stop requests of all processes, once per batch."""
        mode = "train" if self.model.training else "eval"
        accumulated = self.current_gradient_accumulation_steps if mode == "train" else 1
        processes = self.accelerator.num_processes
        tokens = _token_count(inputs)
        values = [value.detach().float() * (shares[name] * accumulated / processes) for name, value in terms.items()]
        if gates is not None:  # the experts were run
            values += list(gates.detach().float().mean(0) / processes)
        flags = [tokens, len(clip_ids), not torch.isfinite(loss.detach()).all(), self._stop_requested]
        values += [torch.as_tensor(flag, dtype=torch.float32) for flag in flags]
        gathered = self.accelerator.gather(torch.stack([value.to(loss.device) for value in values])[None])
        totals = gathered.sum(0).tolist()
        if totals[-2]:
            own = not bool(torch.isfinite(loss.detach()).all())
            where = f"clips {', '.join(clip_ids)}" if own else "a batch of another process, which names its clips"
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in terms.items())
            raise NonFiniteLossError(
                f"The loss is not finite in step {self.state.global_step + 1}, in {where} ({values}). The weights "
                f"were not updated with it; checkpoints of earlier steps are in {self.args.output_dir}. Check the "
                "flow and the labels of these clips, or reduce the learning rate."
            )
        self.stopped |= bool(totals[-1])
        names = [f"{name}_loss" for name in terms] + [f"gate_{name}" for name in EXPERTS if gates is not None]
        for name, value in zip(names, totals, strict=False):
            self._metrics[mode][name].append(value)
        if mode == "train":
            self._total_train_tokens += int(totals[-4])
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
            self._window["tokens"] += totals[-4]
            self._window["clips"] += totals[-3]
            if loss.device.type == "cuda":
                self._window["flops"] += self._flops_of(inputs)

    # --- Data -------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self):
        if self._clip_order is None:
            return super().get_train_dataloader()
        return self._get_dataloader(
            dataset=DrawnClips(self.train_dataset),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=lambda _: self._clip_order,
            is_training=True,
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._step_began = time.perf_counter()
        batches, items = super().get_batch_samples(self._timed(epoch_iterator), num_batches, device)
        if batches and "au_labels" in batches[0]:
            counts = [self._label_counts(batch) for batch in batches]
            totals = torch.stack([sum(count[name] for count in counts) for name in counts[0]]).float().to(device)
            totals = self.accelerator.gather(totals[None]).sum(0).tolist()
            self._label_totals = dict(zip(counts[0], totals, strict=True))
        return batches, items

    def _timed(self, iterator: Iterator) -> Iterator:
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._window["waiting"] += time.perf_counter() - began
            yield batch

    # --- Optimiser and log ------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            names = {id(p): name for name, p in (self.model if model is None else model).named_parameters()}
            groups = []
            for group in optimizer.param_groups:
                for part in ("language", "connectors", "experts"):
                    chosen = [p for p in group["params"] if part_of_parameter(names[id(p)]) == part]
                    if chosen:
                        own = self.expert_learning_rate if part != "language" else None
                        groups.append({**group, "params": chosen, "lr": own or group["lr"], "part": part})
            optimizer.param_groups[:] = groups
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and "loss" in logs:
            logs |= self._rates | self._speed()
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        """Speed of the steps since the last log. The time of evaluations and checkpoints is not counted."""
        window, self._window = self._window, dict.fromkeys(self._window, 0.0)
        if not window["seconds"]:
            return {}
        speed = {"clips_per_second": window["clips"] / window["seconds"]}
        if window["tokens"]:
            speed["tokens_per_second"] = window["tokens"] / window["seconds"]
        speed["data_wait_share"] = window["waiting"] / window["seconds"]
        peak = peak_flops(torch.cuda.get_device_name()) if window["flops"] else None
        if peak:
            # The FLOP are counted in this process, which uses one GPU.
            speed["peak_flops_share"] = window["flops"] / window["seconds"] / peak
        return {name: round(value, 6) for name, value in speed.items()}

    def _flops_of(self, inputs) -> float:
        """FLOP of a forward and backward pass, without the recomputation of activation checkpointing."""
        model = self.accelerator.unwrap_model(self.model)
        if self._flops_per_clip is None:
            self._flops_per_clip = _expert_flops(model, inputs)
            language = {"frozen": 0, "trained": 0}
            embeddings = id(model.get_input_embeddings().weight)
            for name, parameter in model.named_parameters():
                if part_of_parameter(name) == "language" and id(parameter) != embeddings:
                    language["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
            # Per weight and token: 2 FLOP forward, 2 for the inputs' gradient, 2 for the gradient of a trained weight.
            self._flops_per_token = 4 * language["frozen"] + 6 * language["trained"]
        return len(inputs["au_labels"]) * self._flops_per_clip + _token_count(inputs) * self._flops_per_token

    # --- Calibration ------------------------------------------------------------------------------------------------

    def calibrate(self) -> dict[str, float]:
        """Fits the temperatures of the config on the evaluation clips, which must not be training clips.

        Returns:
            The fitted fields of the config.
        """
        model = self.accelerator.unwrap_model(self.model)
        model.config.update(dict.fromkeys(TEMPERATURES, 1.0))
        self.model.eval()
        parts = []
        for batch in self.get_eval_dataloader():
            batch = self._prepare_inputs(batch)
            clips = {name: batch[name] for name in RECOGNITION_INPUTS if name in batch}
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.model(**clips)
            found = outputs.emotion_logits, batch["emotion_labels"], outputs.au_logits, batch["au_labels"]
            parts.append([part.cpu() for part in self.accelerator.gather_for_metrics(found)])
        emotion_logits, emotions, au_logits, units = map(torch.cat, zip(*parts, strict=True))
        fitted = emotion_temperature(emotion_logits, emotions), action_unit_temperature(au_logits, units)
        found = dict(zip(TEMPERATURES, fitted, strict=True))
        model.config.update(found)
        return found

    # --- Checkpoints ------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / PARTIAL) if getattr(self, "_writing_checkpoint", False) else folder

    def _save_checkpoint(self, model, trial):
        """Writes the checkpoint under another name and renames it when it is complete. Cleans up after a failure."""
        folder = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        push, self.args.push_to_hub = self.args.push_to_hub, False
        if self.args.should_save:
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._writing_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._publish_checkpoint(folder, name)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            raise
        finally:
            self._writing_checkpoint, self.args.push_to_hub = False, push
        self.accelerator.wait_for_everyone()

    def _publish_checkpoint(self, folder: Path, name: str) -> None:
        written, final = folder / PARTIAL / name, folder / name
        if self.state.best_model_checkpoint == str(written):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(written / "trainer_state.json"))
        if final.exists():  # a step can be saved twice, after an evaluation and by a stop
            shutil.rmtree(final)
        written.rename(final)
        (folder / PARTIAL).rmdir()
        rotate_checkpoints(
            output_dir=str(folder),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def create_model_card(self, *args, **kwargs):
        """Does nothing: `deft_llm.sharing.card` writes the card, and TRL's must not replace it."""

    # --- Stopping ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stopping_on_sigterm(self) -> Iterator[None]:
        """Context in which SIGTERM ends the training after the current step, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(signum, frame):
            self._stop_requested = True

        before = signal.signal(signal.SIGTERM, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def train(self, *args, **kwargs):
        with self.stopping_on_sigterm():
            return super().train(*args, **kwargs)


class _StepCallback(TrainerCallback):
    """Calls the trainer at the start of an epoch and at the end of a step, and checks the gradient in between."""

    def __init__(self, trainer: DeftSFTTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = int(state.epoch or 0)
        if self.trainer._clip_order is not None:
            self.trainer._clip_order.epoch = epoch
        if isinstance(self.trainer.data_collator, DeftCollator):
            self.trainer.data_collator.epoch = epoch

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        # An update with it would make all weights NaN. In float16, the scaler expects it and skips the step.
        if not args.fp16 and not _finite_gradients(model):
            raise NonFiniteLossError(
                f"The gradient is not finite in step {state.global_step + 1}, although the loss is. The weights were "
                f"not updated with it; checkpoints of earlier steps are in {args.output_dir}. Reduce the learning "
                "rate, or train in float32 (`bf16: false`, `dtype: float32`)."
            )

    def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
        # Before the scheduler's next step, like the Trainer's `learning_rate`.
        groups = [group for group in optimizer.param_groups if "part" in group]
        self.trainer._rates = {f"learning_rate_{group['part']}": float(group["lr"]) for group in groups}

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer._window["seconds"] += time.perf_counter() - self.trainer._step_began
        if self.trainer.stopped:
            control.should_save = control.should_training_stop = True


def _finite_gradients(model: torch.nn.Module) -> bool:
    """Whether all gradients are finite. One value is read from the device, because each reading waits for it."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32) for gradient in gradients]
    norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]  # of FSDP's shards
    return not norms or bool(torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all())


def _token_count(inputs: dict[str, Any]) -> float:
    """Number of tokens of a batch, without padding."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return 0.0
    # In a mask of (batch, 1, sequence, sequence), padding does not attend to itself.
    return float((mask if mask.ndim == 2 else mask.diagonal(dim1=-2, dim2=-1)).sum())


def _expert_flops(model: torch.nn.Module, inputs: dict[str, Any]) -> float:
    """FLOP per clip of experts, heads and connectors: counted for the forward pass, three times that if trained."""
    from torch.utils.flop_counter import FlopCounterMode

    clip = {name: inputs[name][:1] for name in ("pixel_values_videos", "flow_values_videos") if name in inputs}
    if not clip:
        return 0.0
    # With gradients enabled, because the counter fails on trainable parameters without them.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model.get_video_features(**clip)
    trained = any(p.requires_grad for name, p in model.named_parameters() if part_of_parameter(name) == "experts")
    return counter.get_total_flops() * (3 if trained else 1)
