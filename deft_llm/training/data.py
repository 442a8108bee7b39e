"""Load a Uni-MER dataset, check it, decode its clips, and draw clips.

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
from deft_llm.hub_datasets.unimer.rows import row_tensors
from deft_llm.processing import DeftProcessor
from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.common_deft import SIDE_LABELS

from .arguments import DataArguments

LABEL_COLUMNS = (
    "clip_id",
    "source",
    "subject",
    "action_units",
    "motion",
    "emotion",
    "emotion_coarse",
    "conversations",
)
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


def unit_set(units: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The codes of a row's action units."""
    return frozenset(unit["code"] for unit in units)


def without_unit_sets(train: Dataset, unit_sets: Sequence[str]) -> Dataset:
    """Leaves out the clips with some sets of action units, so that a test can show them as new.

    Args:
        train: Training rows.
        unit_sets: Sets of codes, such as "AU9+AU17". Clips that show all units of a set are left out.

    Raises:
        ValueError: A code does not exist, or no clip is left.
    """
    found, wanted = [unit_set(units) for units in train["action_units"]], []
    for text in unit_sets:
        codes = frozenset(get_action_unit(code.strip().upper()).code for code in text.split("+"))
        wanted.append(codes)
    kept = [place for place, units in enumerate(found) if not any(codes <= units for codes in wanted)]
    if not kept:
        raise ValueError(f"`held_out_unit_sets` {', '.join(unit_sets)} leaves no clip to train on.")
    print(
        f"{len(train) - len(kept)} of {len(train)} clips left out: they show the action units {', '.join(unit_sets)}"
    )
    return train.select(kept)


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
    processes = min(workers, len(dataset))
    prepared = dataset.map(
        clip_features,
        fn_kwargs={"processor": processor, "uncoded": uncoded},
        remove_columns=["video", "flow"],
        features=schema,
        num_proc=processes if processes > 1 else None,  # with 1, datasets would fork, which can hang
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
