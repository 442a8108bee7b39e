"""Supervised fine-tuning of DEFT on a Uni-MER dataset with TRL's SFTTrainer and the losses of all experts."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deft_llm.exit_codes import BROKE_OFF, DONE, REFUSED, STOPPED
from deft_llm.files import files_together
from deft_llm.sharing.card import fill_card, terms_of, write_run
from deft_llm.training.arguments import DataArguments, ModelArguments, parse_arguments, print_help
from deft_llm.training.staged import stage_runs, write_recipes
from deft_llm.training.stages import STAGES

if TYPE_CHECKING:
    from deft_llm.training.tuning import TuningArguments

BASE, ADAPTER = "base", "adapter"


# --- Before anything is computed ------------------------------------------------------------------------------------


def check_output(training: Any) -> str | None:
    """Finds the checkpoint to resume from.

    Args:
        training: TRL's `SFTConfig`; `output_dir` and `resume_from_checkpoint` are used.

    Returns:
        Path of the checkpoint; `None` for a new run.

    Raises:
        FileExistsError: The output folder contains a run, and `resume_from_checkpoint` is not set.
        FileNotFoundError: The checkpoint does not exist.
    """
    from transformers.trainer_utils import get_last_checkpoint

    out, wanted = Path(training.output_dir), training.resume_from_checkpoint
    last = get_last_checkpoint(out) if out.is_dir() else None
    if wanted in (None, False, "", "false", "False", "no"):
        if last or (out / "config.json").exists():
            raise FileExistsError(
                f"{out} contains {Path(last).name if last else 'a finished model'}. Resume it with "
                "`--resume-from-checkpoint last`, or choose another --output-dir."
            )
        return None
    if wanted in (True, "true", "True", "last"):
        return last  # `None` if there is no checkpoint yet, so that one command both starts and resumes a run
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise FileNotFoundError(f"{wanted} is not a checkpoint. The last checkpoint of this run: {last or 'none'}.")
    return str(wanted)


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Checks the free space of a disk.

    Args:
        folder: A folder on the disk. It does not need to exist.
        needed: Number of bytes.
        what: Name of the files in the message.

    Raises:
        OSError: The disk has less than `needed` bytes left.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{what} take {needed / 1e9:.1f} GB, and the disk of {folder} has {free / 1e9:.1f} GB left. Free some "
            "space, choose another disk, or set save_total_limit."
        )


def checkpoint_size(model: Any) -> int:
    """Number of bytes of a checkpoint: the stored weights, and two optimiser moments per trained weight."""
    trained = [p for p in model.parameters() if p.requires_grad]
    stored = trained if hasattr(model, "peft_config") else list(model.parameters())
    return sum(p.numel() * p.element_size() for p in stored) + sum(8 * p.numel() for p in trained)


def check_hub(training: Any) -> None:
    """Creates the Hub repository, so that a missing permission is found before the training.

    Args:
        training: TRL's `SFTConfig`; its options for the Hub are used.

    Raises:
        PermissionError: The repository cannot be written, or it is public and should be private.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    name = training.hub_model_id or Path(training.output_dir).absolute().name
    api = HfApi(token=training.hub_token)
    try:
        repository = api.create_repo(name, private=training.hub_private_repo, exist_ok=True).repo_id
        is_private = api.repo_info(repository).private
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PermissionError(
            f"`push_to_hub`: {name} cannot be written on the Hub ({reason}). Log in with `hf auth login` and a token "
            "with write permission, or choose another --hub-model-id."
        ) from error
    if training.hub_private_repo and not is_private:
        raise PermissionError(
            f"`push_to_hub`: {name} exists and is not private. Make it private on the Hub, or choose another "
            "--hub-model-id."
        )


def check_sharing(training: Any, rows: Any, dataset: str) -> None:
    """Checks that the terms of the recordings allow to push a model trained on them.

    Args:
        training: TRL's `SFTConfig`; its options for the Hub are used.
        rows: The training rows, with `source` and `subject`.
        dataset: A Hub repository, or a folder, whose manifest is read.

    Raises:
        LicenceError: The repository is not private, and the terms of a source apply to models.
    """
    from deft_llm.hub_datasets.sources.sharing_policy import StatementNeededError, check_may_share

    people: dict[str, set[str]] = {}
    for source, subject in zip(rows["source"], rows["subject"], strict=True):
        people.setdefault(source, set()).add(subject)
    visibility = "private" if training.hub_private_repo else "public"
    try:
        check_may_share("model", training.output_dir, terms_of(people, dataset), visibility, None)
    except StatementNeededError as error:
        raise StatementNeededError(
            f"`push_to_hub`: the terms of the recordings also apply to models trained on them ({error.terms}). Set "
            "`--hub-private-repo true`, or push the finished folder with `deft push` and --i-may-share REASON.",
            error.terms,
        ) from None


# --- The run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run that is checked and loaded, but not trained yet.

    Args:
        trainer: The `DeftSFTTrainer`.
        processor: The processor.
        tuning: The options of the stage and the adapters.
        clips: The training rows.
        dataset: Folder or Hub repository of the dataset.
        parts: Names or configs of the model's parts.
        base: Folder or Hub repository of the model that adapters belong to.
        checkpoint: The checkpoint to resume from; `None` for a new run.
        push: Whether to push the model to the Hub.
    """

    trainer: Any
    processor: Any
    tuning: TuningArguments
    clips: Any
    dataset: str
    parts: dict[str, Any]
    base: str
    checkpoint: str | None
    push: bool


def make_model(arguments: ModelArguments, tuning: TuningArguments, training: Any, labels: Any) -> tuple[Any, Any, str]:
    """Builds or loads the model for training.

    Args:
        arguments: The parts of a new model.
        tuning: The options of the stage and the adapters.
        training: TRL's `SFTConfig`.
        labels: Rows from `data.label_lists`.

    Returns:
        The model, the processor, and the folder or Hub repository of the base model for adapters.

    Raises:
        ValueError: The dataset has too few labels, or an option does not fit the model.
        FileNotFoundError: A part or the model does not exist.
    """
    from transformers import set_seed

    from deft_llm.training import parts
    from deft_llm.training.tokenizer import added_chat_tokens

    base = tuning.model_name_or_path or str(Path(training.output_dir).absolute() / BASE)
    revision = tuning.model_revision if tuning.model_name_or_path else None
    if tuning.model_name_or_path or (tuning.use_peft and (Path(base) / "config.json").exists()):
        model, processor = parts.load_model(base, revision)
    else:
        model, processor = parts.build_model(arguments, labels)
        if tuning.use_peft:
            # from_pretrained(adapter) loads the base model, so it must exist on disk.
            with training.main_process_first(local=False, desc="writing the base model"):
                if training.should_save and not (Path(base) / "config.json").exists():
                    parts.cast_language_model(model, tuning.dtype)
                    write_folder(Path(base), model, processor)
    quantized = parts.quantization_config(tuning, model)
    if quantized is not None:
        model, _ = parts.load_model(base, revision, quantization_config=quantized, device_map={"": training.device})
    else:
        parts.cast_language_model(model, tuning.dtype)
    if tuning.attn_implementation:
        model.set_attn_implementation(tuning.attn_implementation)
    if tuning.use_peft:
        set_seed(training.seed)  # so that adapters have the same initial weights for a new and for a loaded base
        new_tokens = added_chat_tokens(processor.tokenizer)
        return parts.add_adapters(model, tuning, base, new_tokens), processor, base
    parts.set_stage(model, tuning.stage)
    return model, processor, base


def write_folder(folder: Path, *written: Any) -> None:
    """Saves models and processors. The files are moved into the folder when all of them are written.

    Args:
        folder: The folder.
        *written: Objects with `save_pretrained`.
    """
    # config.json is moved last, because a folder without it cannot be loaded.
    with files_together(folder, last="config.json") as partial:
        for part in written:
            part.save_pretrained(partial)


def finish(run: Run) -> Any:
    """Writes the output folder, with LoRA also the adapter, and returns the written model."""
    from deft_llm.training.parts import merged

    trainer, processor, tuning = run.trainer, run.processor, run.tuning
    out, model = Path(trainer.args.output_dir), trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled:
        # Each process has a part of the weights, so all processes take part in gathering them.
        trainer.save_model(str(out / ADAPTER if tuning.use_peft else out))
        if tuning.use_peft and trainer.args.should_save:
            model = merged(out / ADAPTER, run.base, tuning.dtype)
            write_folder(out, model, processor)
        return model
    if not trainer.args.should_save:
        return model
    if tuning.use_peft:
        shutil.rmtree(out / ADAPTER, ignore_errors=True)
        model.save_pretrained(out / ADAPTER)
        processor.save_pretrained(out / ADAPTER)
        whole = tuning.load_in_4bit or tuning.load_in_8bit
        model = merged(out / ADAPTER, run.base, tuning.dtype) if whole else model.merge_and_unload()
    write_folder(out, model, processor)
    return model


def make_run(data: DataArguments, model_arguments: ModelArguments, tuning: TuningArguments, training: Any) -> Run:
    """Checks the options, builds the model and decodes the clips.

    Args:
        data: The options of the data.
        model_arguments: The parts of a new model.
        tuning: The options of the stage and the adapters.
        training: TRL's `SFTConfig`.

    Raises:
        ValueError: The arguments or the data are wrong. The message says what to change.
        OSError: The Hub or the disk failed, or a file is missing. The message says what to do.
        ImportError: An option needs a package that is not installed.
    """
    from transformers import set_seed

    from deft_llm.training import conversations
    from deft_llm.training import data as clips
    from deft_llm.training.augmentation import Augmentation
    from deft_llm.training.collator import DeftCollator
    from deft_llm.training.expert_states import precomputed
    from deft_llm.training.trainer import DeftSFTTrainer

    checkpoint = check_output(training)
    if data.streaming and training.max_steps <= 0:
        raise ValueError("With `streaming`, the number of clips is not known: set `max_steps`.")
    if _word(training.eval_strategy) != "no" and not (data.eval_split or data.eval_share):
        raise ValueError("`eval_strategy` needs clips to evaluate on: set `eval_share` or `eval_split`.")

    set_seed(training.seed)
    with training.main_process_first(desc="loading the dataset"):
        splits = clips.load_splits(data.dataset, streaming=data.streaming)
        labels = clips.label_tables(data.dataset) if data.streaming else splits
    train, evaluation = clips.choose_splits(data, labels, training.seed)
    if training.push_to_hub:
        check_sharing(training, train, data.dataset)
        check_hub(training)
    if data.held_out_unit_sets:
        train = clips.without_unit_sets(train, data.held_out_unit_sets)
    train = conversations.with_tasks(train, data.task_weights, data.held_out_wordings)
    labelled = train if evaluation is None else clips.label_lists(train, labels[data.train_split])
    keys = clips.balance_keys(train, data.balance) if data.balance else None

    model, processor, base = make_model(model_arguments, tuning, training, labelled)
    config = model.config
    for part, what in ((train, data.train_split), (evaluation, "the evaluation split")):
        if part is not None:
            clips.check_labels(part, config.action_units, config.emotion_labels, what)
    with_text, with_experts = STAGES[tuning.stage] != ("experts",), "experts" in STAGES[tuning.stage]
    if processor.recognition_in_words and with_text and (with_experts or data.streaming):
        raise ValueError(
            "`recognition_in_words` needs experts that are trained already, and clips that are not streamed: train "
            "with the stages experts, connectors and answers, without `streaming`."
        )
    # Also before the stage of the experts, which does not need the room, so that a later stage does not fail.
    longest = getattr(config.text_config, "max_position_embeddings", None) or sys.maxsize
    longest = min(training.max_length or sys.maxsize, longest)
    conversations.check_budget(train, processor, data.task_weights, longest)
    size = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kept = 0 if _word(training.save_strategy) == "no" else 2
    check_disk(Path(training.output_dir), kept * checkpoint_size(model) + 4 * size, "Checkpoints and model")
    if training.process_index == 0:
        people = len(set(train["subject"]))
        print(f"{len(train)} clips of {people} subjects; {trained / 1e6:.1f} of {size / 1e6:.1f} M parameters trained")

    augmentation = Augmentation(data.mirror, data.appearance_jitter, data.temporal_crop, data.flow_noise)
    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    training.max_length = None
    # The complete folder is pushed once at the end. The Trainer's own pushes would lack the model's code.
    push, training.push_to_hub = training.push_to_hub, False
    with training.main_process_first(desc="decoding clips"):
        if evaluation is not None:
            evaluation = conversations.with_tasks(evaluation, data.task_weights, data.held_out_wordings)
        if data.streaming:
            uncoded = clips.uncoded_sources(train)
            source = splits[data.train_split]
            rows = clips.stream(
                source, processor, train["clip_id"], uncoded, seed=training.seed, shuffle_buffer=data.shuffle_buffer
            )
            watched = None
            if evaluation is not None:
                source = splits[data.eval_split or data.train_split]
                watched = clips.stream(source, processor, evaluation["clip_id"], uncoded)
        else:
            decoded = [part for part in (train, evaluation) if part is not None]
            room = clips.decoded_size(sum(map(len, decoded)), processor)
            check_disk(clips.cache_folder(), room, "Decoded clips")
            rows, watched = (
                part and clips.prepare(part, processor, data.preprocessing_workers) for part in (train, evaluation)
            )
            if not with_experts:
                whole = model.get_base_model() if tuning.use_peft else model
                whole.model.recognition.to(training.device)
                rows = precomputed(rows, whole, augmentation, data.expert_variants, training.seed)
                watched = watched and precomputed(watched, whole)
                augmentation = None
    trainer = DeftSFTTrainer(
        model=model,
        args=training,
        train_dataset=rows,
        eval_dataset=watched,
        processing_class=processor,
        data_collator=DeftCollator(
            processor,
            data.task_weights,
            data.appearance_dropout,
            seed=training.seed,
            augmentation=augmentation,
            text=with_text,
            conventions=config.label_conventions,
            questions_per_clip=data.questions_per_clip,
            turns=data.turns,
            held_out_wordings=data.held_out_wordings,
        ),
        balance_keys=keys,
        expert_learning_rate=tuning.expert_learning_rate,
    )
    names = {name: getattr(model_arguments, name) for name in ("text", "structure", "texture")}
    names = {"model": tuning.model_name_or_path, **names}
    parts = {name: part for name, part in names.items() if part is not None}
    return Run(trainer, processor, tuning, train, data.dataset, parts, base, checkpoint, push)


def train(run: Run, command: str = "") -> int:
    """Trains the model, writes the output folder and its card, and pushes them if requested.

    Args:
        run: The run, from `make_run`.
        command: The command that repeats the run, for the card.

    Returns:
        The exit code.
    """
    from huggingface_hub import HfApi

    from deft_llm.sharing.push import push_model

    trainer, training = run.trainer, run.trainer.args
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=run.checkpoint)
    seconds = time.monotonic() - started
    if trainer.stopped:
        if training.process_index == 0:
            step = trainer.state.global_step
            print(f"Stopped by SIGTERM after step {step}. Resume the run with `--resume-from-checkpoint last`.")
        return STOPPED
    if trainer.eval_dataset is not None and "experts" in STAGES[run.tuning.stage]:
        found = trainer.calibrate()
        if training.process_index == 0:
            values = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            print(f"Calibrated on the held-out clips: {values}")
    written, out = finish(run), Path(training.output_dir)
    if training.should_save:
        write_run(
            out,
            written,
            run.clips,
            dataset=run.dataset,
            steps=trainer.state.global_step,
            seconds=seconds,
            seed=training.seed,
            parts=run.parts,
            command=command,
        )
        fill_card(out)
        if run.tuning.use_peft:
            shutil.copy(out / "README.md", out / ADAPTER / "README.md")  # replaces PEFT's empty template
        print(f"Model folder written to {training.output_dir}")
        if run.push:
            visibility = "private" if training.hub_private_repo else "public"
            name = training.hub_model_id or out.absolute().name
            api = HfApi(token=training.hub_token)
            print(f"Pushed to {push_model(out, name, visibility=visibility, revision=training.hub_revision, api=api)}")
    return DONE


def _word(strategy: Any) -> str:
    return str(getattr(strategy, "value", strategy))


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if print_help(argv):
        return DONE
    command = shlex.join(["deft", "train", *argv])
    try:
        stages = stage_runs(argv)
        write_recipes(stages)
        for stage in stages:
            parse_arguments(stage.arguments)  # so that an error in the last stage is not found after the others
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    if not stages:
        return _run(argv, command)
    for stage in stages:
        if stage.finished and stage is not stages[-1]:
            print(f"{stage.folder} is finished.")
            continue
        print(f"Stage {stage.recipe.stem}")
        code = _run(stage.arguments, command)
        if code != DONE:
            return code
    return DONE


def _run(argv: list[str], command: str) -> int:
    """Runs one stage, and returns the exit code."""
    try:
        run = make_run(*parse_arguments(argv))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    # Errors from here on are not caused by the options, so the traceback is shown.
    from deft_llm.training.trainer import NonFiniteLossError

    try:
        return train(run, command)
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return BROKE_OFF


if __name__ == "__main__":
    sys.exit(main())
