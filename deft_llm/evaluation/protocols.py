"""Protocols: what is predicted for which clips, in which folds, and checks for leaks.

Disjoint subject names do not rule out a person with two names, copies of a clip, or an instruction text that names a
test clip. `check_leaks` looks for these and raises an error.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED
from deft_llm.hub_datasets.unimer.rows import not_measurable
from deft_llm.hub_datasets.unimer.splits import (
    Fold,
    LeakageError,
    check_disjoint,
    check_folds,
    dfme_sets,
    leave_one_dataset_out,
    leave_one_subject_out,
    select_rows,
)

CDE = "cde"  # the name that the MEGC 2019 composite had before the other published protocols were known
ZERO_SHOT = "zero-shot"  # trains on one dataset and tests on every row of another
PROTOCOLS = ("loso", CDE, "lodo", "fixed", ZERO_SHOT, *PUBLISHED)
TARGET = "emotion_coarse"  # the column to predict by default
Row = Mapping[str, Any]


# --- Tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is predicted for which clips, and in which folds.

    Args:
        labels (`tuple[str, ...]`): The fixed label list.
        label_of (`dict[str, str]`): Clip id → label.
        left_out (`dict[str, str]`, *optional*): Clip id → reason, for every other clip.
        differences (`tuple[str, ...]`, *optional*): Differences from the counts of a published protocol. The report
            lists them.
        still (`dict[str, tuple[str, ...]]`, *optional*): Fold → clips of its test side that show no expression. They
            have no class; a model that can abstain should abstain.
        not_trained (`dict[str, str]`, *optional*): Clip id → why its motion cannot be measured. Folds do not train on
            these clips. They are tested all the same, because leaving them out would make the task easier.
    """

    protocol: str
    target: str
    labels: tuple[str, ...]
    label_of: dict[str, str]
    folds: tuple[Fold, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    still: dict[str, tuple[str, ...]] = field(default_factory=dict)
    not_trained: dict[str, str] = field(default_factory=dict)


def make_task(
    splits: Mapping[str, Sequence[Row]],
    protocol: str,
    *,
    target: str = TARGET,
    labels: Sequence[str] | None = None,
    emotion_words: Mapping[str, str] | None = None,
) -> Task:
    """Makes the folds of a protocol.

    Args:
        splits (`Mapping[str, Sequence[Row]]`): Split → rows. Only `fixed` and `zero-shot` use the splits: they train
            on `train` and test on `test`. For rows of DFME `fixed` trains on the training set and tests on A and B.
            The other protocols pool all rows.
        protocol (`str`): `loso` (leave one subject out), lodo (leave one dataset out), fixed, `zero-shot` (the splits
            are two datasets), or a published protocol of `PUBLISHED`; cde is megc2019.
        target (`str`, *optional*, defaults to `"emotion_coarse"`): Column to predict. Published protocols have classes
            of their own.
        labels (`Sequence[str] | None`, *optional*): The fixed label list; by default every value that occurs, and
            for `zero-shot` every value that occurs in both datasets. Clips with another value or none are left out.
        emotion_words (`Mapping[str, str] | None`, *optional*): For published protocols: more emotion words, each with
            the known word that means the same.

    Raises:
        ValueError: the protocol is unknown, a label is not in any row, an emotion word is not known to the published
            protocol, a fold is empty, or a fold trains on one class.
        LeakageError: a subject or a clip is on both sides.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}. Known: {', '.join(PROTOCOLS)}.")
    rows = [row for part in splits.values() for row in part]
    if not rows:
        raise ValueError("The dataset has no rows.")
    if protocol == CDE or protocol in PUBLISHED:
        return _published_task(rows, protocol, target, labels, emotion_words)
    if emotion_words:
        raise ValueError(f"{protocol} does not read emotion words; map them when the dataset is built.")
    left_out: dict[str, str] = {}
    label_of: dict[str, str] = {}
    for row in rows:
        if target not in row:
            raise ValueError(f"The column {target!r} was not found in the rows; choose another --target.")
        if row[target] is None:
            left_out[row["clip_id"]] = f"no {target}"
        else:
            label_of[row["clip_id"]] = row[target]
    if not label_of:
        raise ValueError(f"No clip has a label for {protocol} ({target}).")
    if labels is None and protocol == ZERO_SHOT:
        labels = _shared_labels(splits, label_of)
    if labels is None:
        labels = sorted(set(label_of.values()))
    else:
        _check_labels(labels, Counter(label_of.values()), target)
        for clip, label in list(label_of.items()):
            if label not in labels:
                left_out[clip] = f"{label} is not one of the labels"
                del label_of[clip]
    used = [row for row in rows if row["clip_id"] in label_of]
    differences: Sequence[str] = ()
    still: dict[str, tuple[str, ...]] = {}
    if protocol in ("fixed", ZERO_SHOT):
        folds, differences = _fixed_folds(splits, label_of)
        still = _still_clips(splits, folds, label_of)
    else:
        check_disjoint({"the dataset": used})  # a duplicate clip id would hide a clip
        folds = leave_one_dataset_out(used) if protocol == "lodo" else leave_one_subject_out(used)
        check_folds(folds, used)
    task = Task(protocol, target, tuple(labels), label_of, tuple(folds), left_out, tuple(differences), still)
    return _trained_on_measurable(task, rows)


def _trained_on_measurable(task: Task, rows: Sequence[Row]) -> Task:
    """The task without unmeasurable clips in training. Raises `ValueError` as `check_trainable` does."""
    reasons = {row["clip_id"]: reason for row in rows if (reason := not_measurable(row)) is not None}
    folds = tuple(
        replace(fold, train=tuple(clip for clip in fold.train if clip not in reasons)) for fold in task.folds
    )
    not_trained = {clip: reason for clip, reason in reasons.items() if clip in task.label_of}
    task = replace(task, folds=folds, not_trained=not_trained)
    check_trainable(task)
    return task


def _published_task(
    rows: Sequence[Row],
    protocol: str,
    target: str,
    labels: Sequence[str] | None,
    emotion_words: Mapping[str, str] | None,
) -> Task:
    """The task of a published protocol, whose rows, classes and folds are fixed."""
    published = PUBLISHED["megc2019" if protocol == CDE else protocol]
    if labels is not None and tuple(labels) != published.classes:
        raise ValueError(f"{protocol} has the labels {', '.join(published.classes)}; remove --labels.")
    if target != TARGET:
        raise ValueError(f"{protocol} has classes of its own; remove --target {target}.")
    check_disjoint({"the dataset": rows})
    selected = select_rows(published, rows, emotion_words)
    if not selected.labels:
        sources = ", ".join(sorted({row["source"] for row in rows}))
        reasons = Counter(selected.left_out.values()).most_common(3)
        raise ValueError(
            f"{protocol} uses rows of {', '.join(published.words)}; the dataset has {sources}, and no row that can be "
            f"used ({'; '.join(f'{count} rows: {why}' for why, count in reasons)})."
        )
    folds = selected.folds()
    check_folds(folds, [row for row in rows if row["clip_id"] in selected.labels])
    task = Task(
        protocol,
        f"classes of {published.title}",
        published.classes,
        selected.labels,
        tuple(folds),
        selected.left_out,
        tuple(selected.differences),
    )
    return _trained_on_measurable(task, rows)


def _check_labels(labels: Sequence[str], found: Counter[str], target: str) -> None:
    """Raises `ValueError` for a label that no row has, with the nearest one that rows have, and for a repeated one."""
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"--labels names {label!r} twice.")
        if label not in found:
            spelled = {value.casefold(): value for value in found}
            near = difflib.get_close_matches(label.casefold(), spelled, n=1)
            hint = f" Did you mean {spelled[near[0]]!r}?" if near else ""
            listed = ", ".join(f"{value} {count}" for value, count in sorted(found.items()))
            raise ValueError(f"No row has the label {label!r} in {target}.{hint} The rows have {listed}.")


def _shared_labels(splits: Mapping[str, Sequence[Row]], label_of: Mapping[str, str]) -> list[str]:
    """The labels that rows of every split have."""
    found = [{label_of[row["clip_id"]] for row in part if row["clip_id"] in label_of} for part in splits.values()]
    shared = sorted(set.intersection(*found))
    if not shared:
        listed = " and ".join(", ".join(sorted(labels)) or "none" for labels in found)
        raise ValueError(f"The datasets have no label in common: they have {listed}. Choose another --target.")
    return shared


def _fixed_folds(splits: Mapping[str, Sequence[Row]], label_of: Mapping[str, str]) -> tuple[list[Fold], list[str]]:
    parts = {name: [row for row in rows if row["clip_id"] in label_of] for name, rows in splits.items()}
    every = [row for rows in parts.values() for row in rows]
    differences: list[str] = []
    if {row["source"] for row in every} == {"dfme"}:
        sets, differences = dfme_sets(every)
        tests = {name: clips for name, clips in sets.items() if name != "train" and clips}
        return [Fold(name, sets["train"], clips) for name, clips in tests.items()], differences
    missing = [name for name in ("train", "test") if name not in parts]
    if missing:
        raise ValueError(f"The fixed protocol needs the split {missing[0]!r}; the dataset has {', '.join(splits)}.")
    check_disjoint(parts)
    return [Fold("test", *(tuple(row["clip_id"] for row in parts[name]) for name in ("train", "test")))], differences


def _still_clips(
    splits: Mapping[str, Sequence[Row]], folds: Sequence[Fold], label_of: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Clips without emotion and action unit in the split that a fold is named after."""
    still = {}
    for fold in folds:
        rows = [
            row
            for row in splits.get(fold.name, ())
            if row["clip_id"] not in label_of and row.get("emotion") is None and not row.get("action_units")
            if not_measurable(row) is None  # what cannot be measured is not known to be still
        ]
        if rows:
            trained = {clip: row for part in splits.values() for row in part if (clip := row["clip_id"]) in label_of}
            check_disjoint({"train": [trained[clip] for clip in fold.train], f"{fold.name}, still clips": rows})
            still[fold.name] = tuple(row["clip_id"] for row in rows)
    return still


def check_trainable(task: Task) -> None:
    """Raises `ValueError` if a fold is empty or trains on a single class. The message names the fold."""
    if not task.folds:
        raise ValueError(f"{task.protocol} gives no fold for these clips, so there is nothing to test on.")
    for fold in task.folds:
        for side, clips in (("train", fold.train), ("test", fold.test)):
            if not clips:
                raise ValueError(f"Fold {fold.name} is empty: it has no clip to {side} on.")
        classes = {task.label_of[clip] for clip in fold.train}
        if len(classes) < 2:
            raise ValueError(f"Fold {fold.name} has only one class in training, {classes.pop()!r}; two are needed.")


def with_joined(task: Task, rows: Sequence[Row]) -> tuple[Task, list[dict[str, Any]]]:
    """Adds rows of another dataset to the training side of every fold. They are never tested.

    A row has the class of its coarse emotion, or of its emotion, whichever is a label of the task. Others stay out.

    Args:
        task (`Task`): The task.
        rows (`Sequence[Row]`): Rows of the other dataset.

    Returns:
        The new task, and the rows that joined it, marked by `joined`.

    Raises:
        ValueError: no row has a class of the task, or the two datasets share a clip id.
    """
    classes = {
        row["clip_id"]: (row.get("emotion_coarse"), row.get("emotion"))
        for row in rows
        if not_measurable(row) is None  # they are trained only
    }
    label_of = {}
    for clip, words in classes.items():
        if clip in task.label_of or clip in task.left_out:
            raise ValueError(f"Clip {clip} is in --dataset and in --train-dataset. Remove it from one of them.")
        if word := next((word for word in words if word in task.labels), None):
            label_of[clip] = word
    if not label_of:
        raise ValueError(f"No row of --train-dataset has one of the labels {', '.join(task.labels)}.")
    folds = tuple(Fold(fold.name, (*fold.train, *label_of), fold.test) for fold in task.folds)
    joined = [{**row, "joined": True} for row in rows if row["clip_id"] in label_of]
    return replace(task, label_of={**task.label_of, **label_of}, folds=folds), joined


# --- Leaks ----------------------------------------------------------------------------------------------------------

COPY = 0.995  # two clips count as copies from this correlation of their flow, head motion removed


def check_leaks(rows: Sequence[Row], task: Task) -> None:
    """Looks for leaks that disjoint subject names do not rule out.

    Raises:
        LeakageError: a subject is on both sides of a fold; clips of one person (by clip id) are under several
            subjects, as if subjects were made from file names; a clip and a mirrored or rescaled copy are on two sides
            of a fold; or the instruction text of a training clip names a test clip.
    """
    by_id = {row["clip_id"]: row for row in rows}
    absent = [clip for clip in task.label_of if clip not in by_id]
    if absent:
        raise ValueError(f"Clip {absent[0]} is part of the task but not among the rows.")
    for fold in task.folds:
        check_disjoint(
            {
                f"{fold.name}, {side}": [by_id[clip] for clip in clips]
                for side, clips in (("train", fold.train), ("test", fold.test))
            }
        )
    used = [by_id[clip] for clip in task.label_of]
    people: dict[str, set[str]] = defaultdict(set)
    for row in used:
        parts = row["clip_id"].split("/")
        if len(parts) >= 3:
            people["/".join(parts[:2])].add(row["subject"])
    for person, subjects in people.items():
        if len(subjects) > 1:
            first, second = sorted(subjects)[:2]
            raise LeakageError(
                f"{person} is one person by its clip ids but has clips under the subjects {first} and {second}. "
                "Subjects must be people, not files."
            )
    sides = [({*fold.train}, {*fold.test}, fold.name) for fold in task.folds]
    for first, second in _copies(used):
        for train, test, name in sides:
            if (first in train and second in test) or (second in train and first in test):
                raise LeakageError(
                    f"{first} and {second} are copies of one clip but on two sides of fold {name}. Augment inside "
                    "the fold, and keep one subject's clips under one name."
                )
    _check_instructions(used, sides)


def _copies(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Pairs of clips of different subjects that have the same video, or the same flow up to mirroring and scale."""
    pairs = []
    videos: dict[str, Row] = {}
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        video = (row.get("video") or {}).get("bytes")
        if video:
            other = videos.setdefault(hashlib.sha256(video).hexdigest(), row)
            if other["subject"] != row["subject"]:
                pairs.append((other["clip_id"], row["clip_id"]))
        if row.get("flow") is not None:
            groups[np.shape(row["flow"])].append(row)
    for group in groups.values():
        flows = np.stack([np.asarray(row["flow"], np.float32) for row in group])
        mirrored = flows[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
        plain, turned = _directions(flows), _directions(mirrored)
        people = np.array([row["subject"] for row in group])
        for start in range(0, len(group), 1024):  # in blocks, so that memory does not grow quadratically
            block = plain[start : start + 1024]
            alike = np.maximum(block @ plain.T, block @ turned.T) > COPY
            for row, column in np.argwhere(alike):
                if start + row < column and people[start + row] != people[column]:
                    pairs.append((group[start + row]["clip_id"], group[column]["clip_id"]))
    return pairs


def _directions(flows: np.ndarray) -> np.ndarray:
    """Unit vectors of the flow, (clips, features), with each frame's median removed; all zeros for a still clip."""
    flat = (flows - np.median(flows, axis=(-2, -1), keepdims=True)).reshape(len(flows), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(lengths > 0, flat / np.maximum(lengths, 1e-12), 0)


def _check_instructions(rows: Sequence[Row], sides: Sequence[tuple[set, set, str]]) -> None:
    texts = {}
    for row in rows:
        blocks = [
            block.get("text") or ""
            for conversation in row.get("conversations") or ()
            for message in conversation["messages"]
            for block in message["content"]
        ]
        if blocks:
            texts[row["clip_id"]] = " ".join(blocks)
    if not texts:
        return
    named: dict[str, list[str]] = defaultdict(list)  # training clip → clips that its text names
    ids = [row["clip_id"] for row in rows]
    for clip, text in texts.items():
        # Most texts name no clip, so look for the separator before looking for each name.
        if "/" in text or "_" in text:
            named[clip] = [other for other in ids if other != clip and any(name in text for name in _names(other))]
    for clip, others in named.items():
        for train, test, fold in sides:
            told = next((other for other in others if other in test), None)
            if clip in train and told:
                raise LeakageError(
                    f"The instruction text of training clip {clip} names {told}, which fold {fold} tests."
                )


def _names(clip_id: str) -> tuple[str, ...]:
    """A clip's id, and its name in the question-answering track: source_subject_clip."""
    return clip_id, "_".join(clip_id.split("/")[:3])


# --- For the report --------------------------------------------------------------------------------------------------


def split_hash(task: Task) -> str:
    """SHA-256 of the folds, the labels and their clips. Reports with the same hash can be compared."""
    content = {
        "labels": task.labels,
        "label_of": task.label_of,
        "folds": [[fold.name, sorted(fold.train), sorted(fold.test)] for fold in task.folds],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def left_out_rows(task: Task, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows that the task leaves out, counted: `source`, `emotion` (the row's own word), `reason` and `clips`."""
    counts = Counter(
        (row["source"], row.get("emotion"), task.left_out[row["clip_id"]])
        for row in rows
        if row["clip_id"] in task.left_out
    )
    return [
        {"source": source, "emotion": emotion, "reason": reason, "clips": count}
        for (source, emotion, reason), count in sorted(counts.items(), key=lambda item: tuple(map(str, item[0])))
    ]


def in_one_line(task: Task) -> str:
    """How many rows the task uses, how many it leaves out, and why."""
    used, out = len(task.label_of), len(task.left_out)
    line = f"{task.protocol}: {used} of {used + out} rows are used"
    if task.not_trained:
        line += f" ({len(task.not_trained)} cannot be measured, and are tested but not trained)"
    if not out:
        return f"{line}."
    reasons = "; ".join(f"{count}: {why}" for why, count in Counter(task.left_out.values()).most_common())
    return f"{line}, {out} are left out ({reasons})."


def class_counts(task: Task, clips: Iterable[str]) -> dict[str, int]:
    """Number of clips of each label, in the order of the label list."""
    counts = Counter(task.label_of[clip] for clip in clips)
    return {label: counts[label] for label in task.labels}
