"""Load a Uni-MER dataset, check it, decode its clips, draw clips, and collate batches.

No global random state is used. Random choices depend on the seed, the epoch and the place of the clip in the epoch.
A resumed run therefore makes the same choices as an uninterrupted one, and several processes the same as one.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Array4D, Dataset, Features, IterableDataset, load_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError

from deft_llm.files import code_fingerprint
from deft_llm.hub_datasets.unimer.answer_parsing import TASKS
from deft_llm.hub_datasets.unimer.rows import row_tensors
from deft_llm.processing import DeftProcessor
from deft_llm.processing.common_deft import SIDE_LABELS

from .arguments import DataArguments
from .augmentation import Augmentation

LABEL_COLUMNS = ("clip_id", "source", "subject", "action_units", "emotion", "emotion_coarse", "conversations")
COLUMNS = (*LABEL_COLUMNS, "onset", "apex", "offset", "video", "flow")
UNKNOWN = -100
# The code that makes tensors and labels from a row. Prepared clips are reused until it changes.
PREPARING_CODE = ("deft_llm.training.data", "deft_llm.hub_datasets.unimer.rows", "deft_llm.processing")


# --- Loading --------------------------------------------------------------------------------------------------------


def load_splits(name: str, *, streaming: bool = False) -> Mapping[str, Any]:
    """Loads a dataset.

    Args:
        name: Dataset folder or Hub repository.
        streaming: Whether to read rows as they are needed.

    Returns:
        Split → rows.

    Raises:
        FileNotFoundError: The dataset does not exist, or this account may not read it.
        ValueError: A column is missing.
    """
    try:
        splits = load_dataset(name, streaming=streaming)
    except (DatasetNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name} is not a dataset folder, and not a readable Hub repository ({_first_line(error)}). If it is "
            "private or gated, ask for access on its page and log in with `hf auth login`."
        ) from error
    for split, rows in splits.items():
        names = rows.column_names or list(next(iter(rows)))
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise ValueError(
                f"{name}, split {split}, is not a Uni-MER dataset: it lacks the columns {', '.join(missing)}. "
                "`deft data build` makes one."
            )
    return splits


def label_tables(name: str) -> dict[str, Dataset]:
    """Loads the labels and texts of a streamed dataset, without its videos.

    Args:
        name: Dataset folder or Hub repository.

    Returns:
        Split → rows.
    """
    splits = load_dataset(name, streaming=True, columns=list(LABEL_COLUMNS))
    return {split: Dataset.from_list(list(rows), features=rows.features) for split, rows in splits.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def choose_splits(
    arguments: DataArguments, splits: Mapping[str, Dataset], seed: int
) -> tuple[Dataset, Dataset | None]:
    """Chooses the rows to train on, and the rows for evaluation during training.

    Args:
        arguments: The options; names of the splits and `eval_share` are used.
        splits: Split → rows.
        seed: Seed of the held-out subjects.

    Returns:
        Training rows and evaluation rows. The latter are `None` if no evaluation is requested.

    Raises:
        ValueError: A split does not exist, or two of the training, evaluation and test rows share a subject.
    """
    for option, split in (("train_split", arguments.train_split), ("eval_split", arguments.eval_split)):
        if split is not None and split not in splits:
            raise ValueError(f"{arguments.dataset} has no {option} {split!r}; it has {', '.join(splits)}.")
    train = splits[arguments.train_split]
    held_out = splits.get(arguments.test_split)
    if arguments.train_split == arguments.test_split:
        held_out = None  # the user wants to train on all splits
    if arguments.eval_split in (arguments.test_split, arguments.train_split):
        raise ValueError(
            f"`eval_split` is {arguments.eval_split!r}, which is for {'testing' if held_out else 'training'}. "
            "Evaluation during training influences the choice of the model: set another split, or `eval_share`."
        )
    if held_out is not None:
        _refuse_shared(train, held_out, arguments.train_split, arguments.test_split)
    if arguments.eval_split:
        evaluation = splits[arguments.eval_split]
        _refuse_shared(train, evaluation, arguments.train_split, arguments.eval_split)
        if held_out is not None:
            _refuse_shared(evaluation, held_out, arguments.eval_split, arguments.test_split)
        return train, evaluation
    if not arguments.eval_share:
        return train, None
    subjects = np.array(train["subject"])
    people = np.unique(subjects)
    count = max(1, round(arguments.eval_share * len(people)))
    if count >= len(people):
        raise ValueError(
            f"`eval_share` {arguments.eval_share} of {len(people)} subjects leaves none to train on; reduce it."
        )
    chosen = np.random.default_rng([seed, zlib.crc32(b"eval")]).choice(people, count, replace=False)
    aside = np.isin(subjects, chosen)
    return train.select(np.flatnonzero(~aside)), train.select(np.flatnonzero(aside))


def _refuse_shared(first: Dataset, second: Dataset, first_name: str, second_name: str) -> None:
    shared = sorted(set(first["subject"]) & set(second["subject"]))
    if shared:
        raise ValueError(
            f"{len(shared)} subjects are in both {first_name} and {second_name}, such as {shared[0]}. Split the "
            "dataset by subject (`deft data build --split`)."
        )


def check_labels(dataset: Dataset, action_units: Collection[str], emotions: Collection[str], what: str) -> None:
    """Checks that the model has an output for every label.

    Args:
        dataset: The rows.
        action_units: Codes of the model's action units.
        emotions: The model's emotions.
        what: Name of the rows in the message.

    Raises:
        ValueError: The model has no output for an action unit or emotion. The message names it.
    """
    for row in dataset.select_columns(["clip_id", "action_units", "emotion"]):
        unknown = [unit["code"] for unit in row["action_units"] if unit["code"] not in action_units]
        if unknown:
            raise ValueError(
                f"Clip {row['clip_id']} of {what} is labelled {unknown[0]}, which is not among the model's action "
                f"units {', '.join(action_units)}. Train a model on data with this unit, or remove the clip."
            )
        if row["emotion"] is not None and row["emotion"] not in emotions:
            raise ValueError(
                f"Clip {row['clip_id']} of {what} is labelled {row['emotion']!r}, which is not among the model's "
                f"emotions {', '.join(emotions)}."
            )


def check_budget(dataset: Dataset, processor: DeftProcessor, task_weights: Mapping[str, float] | None, budget: int):
    """Checks that every prompt with its answer fits into a number of tokens.

    Args:
        dataset: The rows.
        processor: The processor.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks.
        budget: Largest number of tokens.

    Raises:
        ValueError: A conversation is too long. The message names the clip.
    """
    clip = processor._get_num_multimodal_tokens(video_sizes=[None])["num_video_tokens"][0]
    all_inputs = {"pixel_values_videos": True, "flow_values_videos": True}
    for row in dataset.select_columns(["clip_id", "conversations"]):
        texts = []
        for item in weighted(row["conversations"], task_weights):
            *question, answer = item["messages"]
            texts.append(processor.render_prompt(question, all_inputs) + answer["content"][0]["text"])
        if not texts:
            continue
        ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        longest = max(map(len, ids)) + 1  # the end of the turn
        if longest > budget:
            raise ValueError(
                f"Clip {row['clip_id']} needs {longest} tokens, {clip} of them for the clip itself, and only "
                f"{budget} fit. Increase `max_length` (and the language model's max_position_embeddings), or reduce "
                "structure_tokens and texture_tokens. Texts are never truncated."
            )


def label_lists(train: Dataset, every: Dataset) -> Dataset:
    """Makes the rows for a new model's label lists and tokenizer.

    The model needs an output for every action unit, so the labels of evaluation clips are included, without their
    texts.

    Args:
        train: Training rows.
        every: Training and evaluation rows.
    """
    columns = ["emotion", "emotion_coarse", "action_units", "source", "clip_id", "conversations"]
    kept = set(train["clip_id"])

    def without_text(row: dict[str, Any]) -> dict[str, Any]:
        return row if row["clip_id"] in kept else {**row, "conversations": []}

    rows = [without_text(row) for row in every.select_columns(columns)]
    return Dataset.from_list(rows, features=Features({name: every.features[name] for name in columns}))


def with_tasks(dataset: Dataset, task_weights: dict[str, float] | None) -> Dataset:
    """Keeps the clips that have a conversation. A clip may have none if its labels and its motion disagree.

    Args:
        dataset: The rows.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks.

    Raises:
        ValueError: A task does not exist, or no clip is left.
    """
    unknown = sorted(set(task_weights or ()) - set(TASKS))
    if unknown:
        raise ValueError(f"`task_weights` has {unknown[0]!r}, which is not a task; the tasks are {', '.join(TASKS)}.")
    kept = [index for index, items in enumerate(dataset["conversations"]) if next(weighted(items, task_weights), None)]
    if not kept:
        raise ValueError(f"No clip has a conversation of the tasks {sorted(task_weights or ['any'])}.")
    if len(kept) < len(dataset):
        print(f"{len(dataset) - len(kept)} of {len(dataset)} clips left out: no conversation of the weighted tasks")
    return dataset.select(kept)


def weighted(conversations: Sequence[dict], task_weights: Mapping[str, float] | None) -> Iterator[dict]:
    """The conversations whose task has a weight above 0."""
    return (item for item in conversations if task_weights is None or task_weights.get(item["task"], 0) > 0)


# --- Decoding -------------------------------------------------------------------------------------------------------


def uncoded_sources(dataset: Dataset) -> frozenset[str]:
    """Sources in which no clip has an action unit. Their action units are unknown, not absent."""
    coded = {source for source, units in zip(dataset["source"], dataset["action_units"], strict=True) if len(units)}
    return frozenset(set(dataset["source"]) - coded)


def clip_features(
    row: dict[str, Any], processor: DeftProcessor, uncoded: Collection[str] = frozenset()
) -> dict[str, Any]:
    """Makes the tensors and labels of a row. Unknown labels are -100.

    Args:
        row: A Uni-MER row.
        processor: The processor.
        uncoded: Sources whose action units are unknown, from `uncoded_sources`.
    """
    cv2.setNumThreads(1)
    tensors = row_tensors(row, processor.video_processor)
    emotion, units = row["emotion"], defaultdict(list)
    for unit in row["action_units"]:
        units[unit["code"]].append(unit)
    present, sides, intensities = [], [], []
    for code in processor.action_units:
        found = units.get(code, [])
        certain = [unit for unit in found if unit.get("certain") is not False]
        absent = UNKNOWN if row["source"] in uncoded or found else 0.0
        present.append(1.0 if certain else float(absent))
        named = {SIDE_LABELS.index(unit["side"]) for unit in certain if unit["side"] in SIDE_LABELS}
        sides.append(UNKNOWN if not named else named.pop() if len(named) == 1 else SIDE_LABELS.index("both"))
        letters = [unit["intensity"] for unit in certain if unit["intensity"] in tuple("ABCDE")]
        intensities.append(float("ABCDE".index(max(letters))) if letters else float(UNKNOWN))
    return {
        "pixel_values_videos": tensors.get("pixel_values_videos"),
        "flow_values_videos": tensors["flow_values_videos"],
        "emotion_label": processor.emotion_labels.index(emotion) if emotion in processor.emotion_labels else UNKNOWN,
        "au_label": present,
        "au_side_label": sides,
        "au_intensity_label": intensities,
    }


def prepare(dataset: Dataset, processor: DeftProcessor, workers: int) -> Dataset:
    """Decodes every clip once. The tensors are stored on disk in float16 and memory-mapped.

    A later run on the same clips with the same processor reuses them.

    Args:
        dataset: The rows.
        processor: The processor.
        workers: Number of processes.
    """
    video_processor = processor.video_processor
    side = video_processor.size["height"]
    schema = dataset.features.copy()
    for column in ("video", "flow"):
        del schema[column]
    schema["pixel_values_videos"] = Array4D((video_processor.num_frames, 3, side, side), "float16")
    schema["flow_values_videos"] = Array4D(video_processor.flow_shape, "float16")
    schema["emotion_label"] = dataset.features["onset"]
    for column in ("au_label", "au_intensity_label"):
        schema[column] = [dataset.features["fps"]]
    schema["au_side_label"] = [dataset.features["onset"]]
    # An explicit fingerprint, because the pickled tokenizer has different bytes in every process.
    uncoded = uncoded_sources(dataset)
    known = [
        dataset._fingerprint,
        video_processor.to_json_string(),
        processor.action_units,
        processor.emotion_labels,
        sorted(uncoded),
        code_fingerprint(*PREPARING_CODE),
    ]
    prepared = dataset.map(
        clip_features,
        fn_kwargs={"processor": processor, "uncoded": uncoded},
        remove_columns=["video", "flow"],
        features=schema,
        num_proc=min(workers, len(dataset)),
        new_fingerprint=hashlib.sha256(repr(known).encode()).hexdigest()[:32],
        desc="Decoding clips",
    )
    return prepared.with_format(
        "numpy", columns=["pixel_values_videos", "flow_values_videos"], output_all_columns=True
    )


def cache_folder() -> Path:
    """The folder that `prepare` writes to."""
    return Path(datasets_config.HF_DATASETS_CACHE)


def decoded_size(clips: int, processor: DeftProcessor) -> int:
    """Number of bytes that `prepare` writes."""
    video_processor = processor.video_processor
    side = video_processor.size["height"]
    return 2 * clips * (video_processor.num_frames * 3 * side**2 + int(np.prod(video_processor.flow_shape)))


def stream(
    dataset: IterableDataset,
    processor: DeftProcessor,
    kept: Collection[str],
    uncoded: Collection[str],
    *,
    seed: int = 0,
    shuffle_buffer: int = 0,
) -> IterableDataset:
    """Decodes clips as they are needed. Their order depends only on the seed and the epoch.

    Args:
        dataset: The streamed rows.
        processor: The processor.
        kept: Ids of the clips to use.
        uncoded: Sources whose action units are unknown, from `uncoded_sources`.
        seed: Seed of the order.
        shuffle_buffer: Number of clips that the next one is drawn from; 0 keeps the order, for evaluation.
    """
    kept = frozenset(kept)
    rows = dataset.filter(lambda clip_id: clip_id in kept, input_columns="clip_id")
    if shuffle_buffer:
        rows = rows.shuffle(seed=seed, buffer_size=shuffle_buffer)
    rows = rows.map(
        clip_features, fn_kwargs={"processor": processor, "uncoded": uncoded}, remove_columns=["video", "flow"]
    )
    return rows.map(lambda row, index: {"place": index}, with_indices=True) if shuffle_buffer else rows


# --- Drawing clips --------------------------------------------------------------------------------------------------


class ClipOrder(torch.utils.data.Sampler):
    """Sampler of the clips of an epoch. Yields (epoch, place, row).

    The last step of an epoch is filled up with the first rows of the epoch. Every step then has the same size, for any
    number of processes.

    With `keys`, the values of the first column are drawn equally often; for each of them, the values of the second
    column are drawn equally often, and so on. Clips with the same values are drawn equally often, up to one draw.

    Args:
        size: Number of rows.
        seed: Seed of the order.
        keys: One tuple per row with its values in the columns to balance; `None` to draw each row once.
        step_size: Clips per optimiser step, over all processes and accumulated batches.
    """

    def __init__(self, size: int, seed: int, keys: Sequence[tuple] | None = None, step_size: int = 1):
        self.size, self.seed, self.keys = size, seed, None if keys is None else list(keys)
        self.places = -(-size // step_size) * step_size
        self.epoch = 0  # set by the trainer

    def __len__(self) -> int:
        return self.places

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        epoch = self.epoch
        rng = np.random.default_rng([self.seed, epoch])
        rows = rng.permutation(self.size) if self.keys is None else self._balanced(rng)
        return iter([(epoch, place, int(row)) for place, row in enumerate(np.resize(rows, self.places))])

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        shares, order = balanced_shares(self.keys), rng.permutation(self.size)
        # Sorted by group, so that the number of draws of each group is exact up to one.
        order = order[np.argsort(np.array([hash_of(self.keys[row]) for row in order]), kind="stable")]
        # Systematic sampling: equal steps along the cumulative shares.
        ends = np.cumsum(shares[order]) / shares.sum() * self.size
        counts = np.diff(np.floor(ends + rng.random()), prepend=0.0).astype(int)
        rows = np.repeat(order, counts.clip(min=0))[: self.size]
        if len(rows) < self.size:
            rows = np.concatenate([rows, order[-(self.size - len(rows)) :]])
        return rng.permutation(rows)


def hash_of(key: tuple) -> int:
    """Hash of a tuple that is equal in all processes, unlike `hash`."""
    return zlib.crc32(repr(key).encode())


def balanced_shares(keys: Sequence[tuple]) -> np.ndarray:
    """(rows,) probabilities that make all values of a column equally likely, given the columns before it."""
    children: dict[tuple, set] = defaultdict(set)
    for key in keys:
        for depth in range(len(key)):
            children[key[:depth]].add(key[depth])
    counts: dict[tuple, int] = defaultdict(int)
    for key in keys:
        counts[key] += 1
    return np.array([1 / (counts[key] * np.prod([len(children[key[:d]]) for d in range(len(key))])) for key in keys])


def balance_keys(dataset: Dataset, balance: str) -> list[tuple]:
    """The values of each row in the columns to balance.

    Args:
        dataset: The rows.
        balance: Names of columns, separated by commas.

    Raises:
        ValueError: A column cannot be used. The message names it.
    """
    columns = [name.strip() for name in balance.split(",") if name.strip()]
    allowed = ("source", "subject", "emotion", "emotion_coarse", "objective_class")
    for column in columns:
        if column not in allowed or column not in dataset.column_names:
            raise ValueError(f"`balance` cannot use the column {column!r}; it can use {', '.join(allowed)}.")
    return list(zip(*(dataset[column] for column in columns), strict=True))


class DrawnClips(torch.utils.data.Dataset):
    """The rows that `ClipOrder` draws."""

    def __init__(self, clips: Dataset):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, drawn: tuple[int, int, int]) -> dict[str, Any]:
        epoch, place, row = drawn
        return {**self.clips[row], "epoch": epoch, "place": place}


# --- Batches --------------------------------------------------------------------------------------------------------


class DeftCollator:
    """Collates rows to a batch, with one random conversation per clip. Only the answers have labels.

    Args:
        processor: The processor.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks equally often.
        appearance_dropout: Share of the steps without pixels, from 0 to 1.
        seed: Seed of all random choices.
        augmentation: Applied to training clips.
        text: Whether to include texts; `False` if the language model is not run.
        conventions: The config's `label_conventions`, for `convention_ids`.
    """

    def __init__(
        self,
        processor: DeftProcessor,
        task_weights: dict[str, float] | None,
        appearance_dropout: float,
        *,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        text: bool = True,
        conventions: Sequence[str] = (),
    ):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.task_weights, self.appearance_dropout, self.seed = task_weights, appearance_dropout, seed
        self.augmentation, self.text = augmentation, text
        self.conventions = list(conventions)
        # Set by the trainer: the clips per optimiser step, which are all with or all without pixels, and the epoch of
        # streamed clips, whose rows do not contain it.
        self.step_size, self.epoch = 1, 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        generators = [self._generator(row) for row in rows]
        if self.augmentation is not None:
            rows = [
                # Clips without a place are for evaluation and are not augmented.
                row if row.get("place") is None else self.augmentation(row, rng, self.processor.action_units)
                for row, rng in zip(rows, generators, strict=True)
            ]
        batch: dict[str, Any] = {"flow_values_videos": _stack(rows, "flow_values_videos")}
        complete = all(row["pixel_values_videos"] is not None for row in rows)
        if complete and not self._drops_appearance(rows[0]):
            batch["pixel_values_videos"] = _stack(rows, "pixel_values_videos")
        if self.text:
            batch |= self._text(rows, generators, batch)
        batch["emotion_labels"] = torch.tensor([int(row["emotion_label"]) for row in rows])
        batch["au_labels"] = torch.tensor(np.array([row["au_label"] for row in rows]), dtype=torch.float32)
        sides, graded = (np.array([row[name] for row in rows]) for name in ("au_side_label", "au_intensity_label"))
        batch["au_side_labels"] = torch.tensor(sides, dtype=torch.long)
        batch["au_intensity_labels"] = torch.tensor(graded, dtype=torch.float32)
        batch["convention_ids"] = torch.tensor(
            [self.conventions.index(row["source"]) if row["source"] in self.conventions else UNKNOWN for row in rows]
        )
        batch["clip_ids"] = [row["clip_id"] for row in rows]
        return batch

    def _text(self, rows, generators, batch) -> dict[str, torch.Tensor]:
        prompts, answers = [], []
        for row, rng in zip(rows, generators, strict=True):
            *question, answer = self._draw(row["conversations"], rng)["messages"]
            prompt = self.processor.render_prompt(question, batch)
            prompts.append(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
            text = answer["content"][0]["text"] + self.tokenizer.eos_token
            answers.append(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        input_ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            input_ids[index, :end] = torch.tensor(prompt + answer)
            labels[index, len(prompt) : end] = torch.tensor(answer)
            mask[index, :end] = 1
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def _generator(self, row: Mapping[str, Any]) -> np.random.Generator:
        clip = zlib.crc32(row["clip_id"].encode())
        if row.get("place") is None:
            return np.random.default_rng([self.seed, clip])
        return np.random.default_rng([self.seed, int(row.get("epoch", self.epoch)), int(row["place"]), clip])

    def _drops_appearance(self, first: Mapping[str, Any]) -> bool:
        if not self.appearance_dropout or first.get("place") is None:
            return False
        epoch, step = int(first.get("epoch", self.epoch)), int(first["place"]) // self.step_size
        rng = np.random.default_rng([self.seed, epoch, step, zlib.crc32(b"appearance")])
        return bool(rng.random() < self.appearance_dropout)

    def _draw(self, conversations: Sequence[dict], rng: np.random.Generator) -> dict:
        candidates = list(weighted(conversations, self.task_weights))
        weights = np.array([1.0 if self.task_weights is None else self.task_weights[c["task"]] for c in candidates])
        return candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))]


def _stack(rows: list[dict[str, Any]], column: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([row[column] for row in rows]).astype(np.float32))
