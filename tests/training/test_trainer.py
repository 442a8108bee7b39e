import copy
import errno
import json
import math
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from deft_llm.training import run as training_run
from deft_llm.training.arguments import parse_arguments
from deft_llm.training.augmentation import Augmentation
from deft_llm.training.collator import DeftCollator
from deft_llm.training.data import prepare
from deft_llm.training.parts import build_model, set_stage
from deft_llm.training.trainer import DeftSFTTrainer, NonFiniteLossError, peak_flops
from tests.processes import output_of

ROOT = Path(__file__).parents[2]


def losses(history):
    return [entry["loss"] for entry in history if "loss" in entry]


def trainer_of(model, processor, args, clips, **options):
    collator = DeftCollator(processor, {"explain": 1.0}, appearance_dropout=0.0)
    options = {"data_collator": collator, **options}
    return DeftSFTTrainer(model=model, args=args, train_dataset=clips, processing_class=processor, **options)


# --- The objective --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(model_arguments, dataset, settings, tmp_path_factory):
    """A few steps on four clips: (model, trainer, weights before)."""
    torch.manual_seed(0)
    model, processor = build_model(model_arguments, dataset)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trackers = {"report_to": ["tensorboard", "trackio"], "project": "deft", "run_name": "first"}
    args = settings(tmp_path_factory.mktemp("run"), max_steps=25, learning_rate=3e-3, **trackers)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(tmp_path_factory.mktemp("tensorboard"))
    trainer = trainer_of(
        model, processor, args, prepare(dataset.select(range(4)), processor, workers=1), expert_learning_rate=6e-3
    )
    trainer.train()
    return model, trainer, before


def test_every_term_is_in_the_log_and_falls(trained):
    log = [entry for entry in trained[1].state.log_history if "language_loss" in entry]
    for term in ("language", "emotion", "action_unit", "region"):
        first, last = float(log[0][f"{term}_loss"]), float(log[-1][f"{term}_loss"])
        assert last < first, term
    assert float(log[-1]["language_loss"]) < 0.6 * float(log[0]["language_loss"])
    gates = [float(log[-1][f"gate_{name}"]) for name in ("structure", "texture", "motion")]
    assert sum(gates) == pytest.approx(1.0, abs=1e-4)


def test_the_logged_terms_add_up_to_the_loss(trained):
    model, trainer, _ = trained
    entry = next(entry for entry in trainer.state.log_history if "language_loss" in entry)
    weights = model.config.loss_weights.items()
    total = sum(weight * float(entry.get(f"{name}_loss", 0)) for name, weight in weights)
    assert float(entry["loss"]) == pytest.approx(total, rel=1e-3)


def test_the_heads_are_trained_by_their_own_terms(trained):
    """No other term reaches these two, and there is no weight decay that could move them."""
    model, trainer, before = trained
    assert trainer.args.weight_decay == 0
    for name in ("model.recognition.emotion_head.classifier.weight", "model.recognition.motion_expert.au_weight"):
        assert (model.get_parameter(name) - before[name]).abs().mean() > 1e-3, name


def test_rates_and_speed_are_logged_by_part(trained):
    _, trainer, _ = trained
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in entries:
        assert entry["learning_rate_language"] == pytest.approx(entry["learning_rate"])
        assert entry["learning_rate_experts"] == pytest.approx(2 * entry["learning_rate"])
        assert entry["clips_per_second"] > 0
        assert entry["tokens_per_second"] > entry["clips_per_second"]
        assert 0 <= entry["data_wait_share"] < 1
        assert "peak_flops_share" not in entry  # on no GPU
    held = [sum(map(len, (group["params"],))) for group in trainer.optimizer.param_groups]
    assert sum(held) == sum(1 for p in trainer.model.parameters() if p.requires_grad)


def test_tensorboard_gets_what_is_logged(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(os.environ.pop("TENSORBOARD_LOGGING_DIR"))
    events.Reload()
    for tag in ("language_loss", "region_loss", "gate_motion", "learning_rate_experts", "clips_per_second"):
        found = [event.value for event in events.Scalars(f"train/{tag}")]
        assert found == pytest.approx([e[tag] for e in trained[1].state.log_history if tag in e], rel=1e-5), tag


def test_trackio_gets_what_is_logged(trained):
    from trackio.sqlite_storage import SQLiteStorage

    logged = SQLiteStorage.get_logs("deft", "first")
    for tag in ("language_loss", "gate_motion", "learning_rate_experts", "clips_per_second"):
        found = [entry[f"train/{tag}"] for entry in logged if f"train/{tag}" in entry]
        assert found == pytest.approx([e[tag] for e in trained[1].state.log_history if tag in e], rel=1e-5), tag


def test_the_peak_of_a_gpu_is_that_of_its_name_or_not_known():
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA GeForce GTX 1080") is None


def test_accumulated_steps_are_those_of_the_whole_batch(model, processor, prepared, settings, tmp_path):
    """Clips without an emotion and answers of different lengths lie unequally in the parts of a batch."""
    found, model = [], copy.deepcopy(model)
    # What depends on who else is in a batch cannot be put together from parts of it.
    model.config.appearance_swap = model.config.expert_dropout = 0.0
    for parts in (1, 4):
        args = settings(
            tmp_path / str(parts),
            max_steps=3,
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            learning_rate=1e-3,
        )
        trainer = trainer_of(copy.deepcopy(model), processor, args, prepared)
        trainer.train()
        found.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for whole, parts in zip(*found, strict=True):
        for name in ("loss", "grad_norm", *(f"{term}_loss" for term in model.config.loss_weights)):
            assert parts[name] == pytest.approx(whole[name], rel=2e-4), name


def test_the_stage_of_the_experts_does_without_the_language_model(model, processor, prepared, settings, tmp_path):
    own = copy.deepcopy(model)
    own.model.language_model.forward = None  # must not be called
    set_stage(own, "experts")
    collator = DeftCollator(processor, {"explain": 1.0}, 0.0, text=False)
    args = settings(tmp_path, max_steps=3, gradient_accumulation_steps=2)
    trainer = trainer_of(own, processor, args, prepared, data_collator=collator)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert "language_loss" not in entry
    weights = own.config.loss_weights.items()
    assert entry["loss"] == pytest.approx(sum(w * entry.get(f"{n}_loss", 0) for n, w in weights), rel=1e-3)


def test_evaluation_sees_held_out_clips_as_they_are(model, processor, prepared, settings, tmp_path):
    args = settings(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1)
    collator = DeftCollator(processor, None, 0.5, augmentation=Augmentation(0.5, 0.5, 0.5, 1.0))
    own = copy.deepcopy(model)
    trainer = trainer_of(
        own,
        processor,
        args,
        prepared.select(range(16)),
        eval_dataset=prepared.select(range(16, 20)),
        data_collator=collator,
    )
    trainer.train()
    entry = [entry for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    weights = own.config.loss_weights.items()
    assert entry["eval_loss"] == pytest.approx(sum(w * entry.get(f"eval_{n}_loss", 0) for n, w in weights), rel=1e-3)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(entry["eval_loss"])


# --- When something goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "count"), [("au_intensity_labels", 4), ("flow_values_videos", 1)])
def test_a_loss_that_is_no_number_stops_with_its_clips(model, processor, prepared, settings, tmp_path, field, count):
    """Those of the batch, or the very one where its own values are none."""
    bad = next(index for index in range(len(prepared)) if max(prepared[index]["au_label"]) == 1)
    own = copy.deepcopy(model)

    class Poisoned(DeftCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            for index, row in enumerate(rows):
                if row["clip_id"] == prepared[bad]["clip_id"]:
                    batch[field][index] = math.nan
            return batch

    trainer = trainer_of(
        own,
        processor,
        settings(tmp_path, max_steps=30, weight_decay=0.0),
        prepared,
        data_collator=Poisoned(processor, {"explain": 1.0}, 0.0),
    )
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    assert prepared[bad]["clip_id"] in str(caught.value)
    named = [row["clip_id"] for row in prepared if row["clip_id"] in str(caught.value)]
    assert len(named) == count
    assert all(torch.isfinite(p).all() for p in own.parameters())


@pytest.mark.parametrize("clipped", [0.0, 1.0])
def test_a_gradient_that_is_no_number_stops_before_the_update(model, processor, prepared, settings, tmp_path, clipped):
    own = copy.deepcopy(model)
    own.model.recognition.motion_expert.queries.register_hook(lambda gradient: gradient * math.nan)
    before = copy.deepcopy(own.state_dict())
    trainer = trainer_of(own, processor, settings(tmp_path, max_grad_norm=clipped), prepared)
    with pytest.raises(NonFiniteLossError, match="gradient is not finite in step 1"):
        trainer.train()
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name])


class At(TrainerCallback):
    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.action()


def test_sigterm_ends_the_step_with_a_checkpoint(model, processor, prepared, settings, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    args = settings(tmp_path, max_steps=10)
    trainer = trainer_of(
        copy.deepcopy(model),
        processor,
        args,
        prepared,
        callbacks=[At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))],
    )
    trainer.train()
    assert trainer.stopped
    assert trainer.state.global_step == 3
    assert sorted(path.name for path in tmp_path.glob("*")) == ["checkpoint-3"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(
    model, processor, prepared, settings, tmp_path, monkeypatch
):
    args = settings(tmp_path, max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=1)
    trainer = trainer_of(copy.deepcopy(model), processor, args, prepared)
    plain = trainer._save_optimizer_and_scheduler

    def full(folder):
        if trainer.state.global_step == 3:
            (Path(folder) / "optimizer.pt").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(folder)

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    again = trainer_of(copy.deepcopy(model), processor, args, prepared)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_best_checkpoint_is_remembered_where_it_lies(model, processor, prepared, settings, tmp_path):
    args = settings(
        tmp_path,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
        learning_rate=5e-3,
    )
    trainer = trainer_of(
        copy.deepcopy(model), processor, args, prepared.select(range(16)), eval_dataset=prepared.select(range(4))
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path
    state = json.loads((best / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(best)


# --- The same run, however it is run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(dataset, recipe_file, tmp_path_factory):
    """A short run on 12 clips, with everything random switched on: augmentation, tasks, dropout of adapters and of
    appearance."""
    data = tmp_path_factory.mktemp("uni-mer")
    dataset.select(range(12)).to_parquet(data / "train-0.parquet")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    words = (
        "--use_cpu true --preprocessing_workers 1 --logging_steps 1 --warmup_steps 2 --disable_tqdm true --mirror 0.5 "
        "--flow_noise 1 --temporal_crop 0.5 --appearance_jitter 0.5 --balance source,emotion"
    ).split()
    with pytest.MonkeyPatch.context() as patch:
        # Beside the data and not in it: the cache's files would be read as rows.
        patch.setenv("HF_DATASETS_CACHE", str(data.with_name("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield ["--config", str(recipe_file), "--dataset", str(data), *words]
    torch.set_num_threads(threads)


def run_of(*options):
    run = training_run.make_run(*parse_arguments(options))
    assert training_run.train(run) == training_run.DONE
    return run


STEPS = 5  # an epoch has three
KILLED_AT = {"before the first checkpoint": (1, 2), "after it": (3, STEPS)}


@pytest.fixture(scope="module")
def checkpointed(options):
    """The options of a run with checkpoints."""
    more = f"--max_steps {STEPS} --per_device_train_batch_size 4 --use_peft true --lora_dropout 0.2"
    return [*options, *f"{more} --save_strategy steps --save_steps 2".split()]


@pytest.fixture(scope="module")
def paired(options):
    """The options of a run in one process or several, without the size of the batch.

    Each process draws its own swaps and dropouts; an epoch is no multiple of a step.
    """
    return [*options, "--max_steps", "4", "--appearance_swap", "0", "--expert_dropout", "0"]


@pytest.fixture(scope="module")
def forked_runs(checkpointed, paired, tmp_path_factory):
    """(step, folder) of the runs that were killed, and the file with the losses of two processes."""
    place = tmp_path_factory.mktemp("forked")
    killed = {moment: (random.randint(*steps), place / moment) for moment, steps in KILLED_AT.items()}
    runs = [
        {"options": [*checkpointed, "--output_dir", str(folder)], "kill_at": step} for step, folder in killed.values()
    ]
    one_half = ["--per_device_train_batch_size", "4", "--output_dir", str(place / "two")]
    runs.append({"options": paired + one_half, "result": str(place / "result.json")})
    output_of([sys.executable, ROOT / "tests/training/forked_runs.py", json.dumps(runs)], timeout=500)
    return killed, place / "result.json"


@pytest.fixture(scope="module")
def straight(checkpointed, tmp_path_factory):
    """A run that nothing disturbs."""
    return run_of(*checkpointed, "--output_dir", str(tmp_path_factory.mktemp("straight") / "run"))


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_run_killed_and_resumed_has_the_curve_of_an_undisturbed_one(checkpointed, forked_runs, straight, moment):
    """Bit for bit, over the border of an epoch."""
    step, folder = forked_runs[0][moment]
    assert [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{at}" for at in (2, 4) if at < step]
    assert not (folder / "config.json").exists()
    resumed = run_of(*checkpointed, "--output_dir", str(folder), "--resume_from_checkpoint", "last")
    assert losses(resumed.trainer.state.log_history) == losses(straight.trainer.state.log_history), step
    assert len(losses(straight.trainer.state.log_history)) == STEPS
    for name, value in straight.trainer.model.state_dict().items():
        assert torch.equal(resumed.trainer.model.state_dict()[name], value), name


def test_two_processes_train_like_one(paired, forked_runs, tmp_path):
    """DDP over two CPU processes through the script, and FSDP2 as torch shards the model."""
    found = json.loads(forked_runs[1].read_text())
    one = run_of(*paired, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one"))
    assert len(found["ddp"]) == 4
    np.testing.assert_allclose(found["ddp"], losses(one.trainer.state.log_history), atol=1e-4)
    np.testing.assert_allclose(found["fsdp2"], found["alone"], atol=1e-4)
    assert found["fsdp2"][-1] < found["fsdp2"][0]
    # Blocks of the language model and of the backbones are cut, and each process holds half of the weights.
    assert found["blocks"] >= 5
    assert found["held"] == pytest.approx(0.5, abs=0.05)
