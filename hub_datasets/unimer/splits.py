"""Splits clips into training and test sets by published protocols, and checks that they share no subject.

All functions accept records of `readers.py` and rows of a written Uni-MER dataset. They use clip_id, source and
subject; the protocols also use emotion and provenance. The result does not depend on the order of the input.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from ..sources.catalogue import SOURCES
from ..sources.emotions import UnknownEmotionError, normalise_emotion
from ..sources.folders import natural_key
from .published_protocols import Published, PublishedProtocol


class LeakageError(ValueError):
    """A subject or a clip is on both sides of a split. The message names it."""


@dataclass(frozen=True)
class Fold:
    """Clips to train on and to test on. No subject is in both.

    Args:
        name: Name of the fold.
        train: Ids of the training clips.
        test: Ids of the test clips.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def leave_one_subject_out(items: Iterable[Any]) -> list[Fold]:
    """Leave one subject out (LOSO): one fold per subject, in natural order.

    Raises:
        ValueError: there are fewer than two subjects.
    """
    return _leave_one_out(items, lambda subject: subject, "subjects")


def leave_one_dataset_out(items: Iterable[Any]) -> list[Fold]:
    """Cross-dataset: one fold per group of participants. SMIC's three cameras filmed the same people: one group.

    Raises:
        ValueError: there are fewer than two groups.
    """
    return _leave_one_out(items, lambda subject: subject.partition("/")[0], "data sets")


def subject_folds(items: Iterable[Any], folds: int = 10, seed: int = 0) -> list[Fold]:
    """Makes k subject-independent folds with about equal numbers of clips. DFME's paper uses ten.

    Subjects are assigned to the smallest fold, starting with those with most clips. The seed breaks ties.

    Args:
        items (`Iterable[Any]`): Records or rows.
        folds (`int`, *optional*, defaults to `10`): Number of folds.
        seed (`int`, *optional*, defaults to `0`): Seed for ties.

    Raises:
        ValueError: there are fewer than two folds, or fewer subjects than folds.
    """
    groups = _by(items, lambda subject: subject)
    if not 2 <= folds <= len(groups):
        raise ValueError(f"{folds} folds of {len(groups)} subjects: choose at least 2 and at most one per subject.")

    def drawn(subject: str) -> str:
        return hashlib.sha256(f"{seed}/{subject}".encode()).hexdigest()

    parts: list[list[str]] = [[] for _ in range(folds)]
    for subject in sorted(groups, key=lambda name: (-len(groups[name]), drawn(name))):
        min(parts, key=len).extend(groups[subject])
    every = sorted((clip for part in parts for clip in part), key=natural_key)
    result = []
    for number, part in enumerate(parts, 1):
        test = set(part)
        result.append(Fold(f"fold {number}", tuple(clip for clip in every if clip not in test), _ordered(part)))
    return result


# Clips and subjects of DFME's challenge sets (CCAC 2024).
DFME_SETS = {"train": (1856, 176), "test_a": (474, 42), "test_b": (299, 41)}


def dfme_sets(items: Iterable[Any]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """DFME's fixed sets, by the sheet of each clip, and how they differ from the published counts.

    Raises:
        ValueError: a clip's sheet is not one of the three.
        LeakageError: a subject is in two sets.
    """
    sets: dict[str, list[Any]] = {name: [] for name in DFME_SETS}
    for item in items:
        if _get(item, "source") != "dfme":
            continue
        name = _partition(item)
        if name not in sets:
            raise ValueError(
                f"{_get(item, 'clip_id')} is in none of DFME's sets: its sheet is {_sheet(item)!r}, but the name must "
                "contain train, testA or testB."
            )
        sets[name].append(item)
    check_disjoint(sets)
    found = {name: (len(part), len({_get(item, "subject") for item in part})) for name, part in sets.items()}
    differences = [
        f"{name}: {found[name][0]} clips of {found[name][1]} subjects, published are {clips} of {subjects}"
        for name, (clips, subjects) in DFME_SETS.items()
        if found[name] != (clips, subjects)
    ]
    return {name: _ordered(_get(item, "clip_id") for item in part) for name, part in sets.items()}, differences


# --- Published protocols --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The clips of a published protocol.

    Args:
        protocol (`PublishedProtocol`): The protocol.
        labels (`dict[str, str]`): Clip id -> class.
        subjects (`dict[str, str]`): Clip id -> subject.
        left_out (`dict[str, str]`): Clip id -> reason, for every other clip.
        differences (`list[str]`, *optional*): Differences from the published counts; empty if there are none.
    """

    protocol: PublishedProtocol
    labels: dict[str, str]
    subjects: dict[str, str]
    left_out: dict[str, str]
    differences: list[str] = field(default_factory=list)

    def folds(self) -> list[Fold]:
        """LOSO over the protocol's subjects, or as many folds as it states."""
        items = [{"clip_id": clip, "subject": self.subjects[clip]} for clip in _ordered(self.labels)]
        if self.protocol.folds is None:
            return leave_one_subject_out(items)
        return subject_folds(items, self.protocol.folds)


def select_rows(
    protocol: PublishedProtocol, items: Iterable[Any], emotion_words: Mapping[str, str] | None = None
) -> Selection:
    """The clips that a published protocol uses, with their classes, and why each of the others is left out.

    A row whose word is the name of a class has that class. Rows of other sources or without an emotion are left out.

    Args:
        protocol (`PublishedProtocol`): One of `PUBLISHED`.
        items (`Iterable[Any]`): Records or rows.
        emotion_words (`Mapping[str, str] | None`, *optional*): More emotion words, each with the known word that means
            the same.

    Raises:
        UnknownEmotionError: the protocol neither uses nor leaves out a word of its sources. The message names all of
            them with their rows.
    """
    labels, subjects, left_out, sources = {}, {}, {}, {}
    unknown: Counter[tuple[str, str]] = Counter()
    for item in sorted(items, key=lambda item: natural_key(_get(item, "clip_id"))):
        clip, source = _get(item, "clip_id"), _get(item, "source")
        if source not in protocol.words:
            left_out[clip] = f"{source} is not part of {protocol.name}"
            continue
        words = _emotions(item, emotion_words)
        classes = {name: name for name in protocol.classes} | dict(protocol.words[source])
        outside = protocol.left_out.get(source, ())
        if words is None:
            unknown[source, _get(item, "emotion")] += 1
        elif not words:
            left_out[clip] = "no emotion"
        elif len(words) > 1:
            left_out[clip] = f"several emotions: {', '.join(words)}"
        elif words[0] in outside:
            left_out[clip] = f"{words[0]} is not part of {protocol.name} for {source}"
        elif words[0] not in classes:
            unknown[source, _get(item, "emotion")] += 1
        elif (name := clip.rsplit("/", 1)[0]) in protocol.without:
            left_out[clip] = protocol.without[name]
        else:
            labels[clip], subjects[clip], sources[clip] = classes[words[0]], _get(item, "subject"), source
    if unknown:
        raise _unknown_words(protocol, unknown)
    differences = []
    for source, published in protocol.published.items():
        clips = [clip for clip in labels if sources[clip] == source]
        counts = Counter(labels[clip] for clip in clips)
        found = Published("", tuple(counts[name] for name in protocol.classes), len({subjects[c] for c in clips}))
        if not any(item.clips == found.clips and item.subjects in (None, found.subjects) for item in published):
            said = "; ".join(f"published are {item} ({item.where})" for item in published)
            differences.append(f"{source}: {found} ({', '.join(protocol.classes)}); {said}")
    return Selection(protocol, labels, subjects, left_out, differences)


def _unknown_words(protocol: PublishedProtocol, unknown: Counter[tuple[str, str]]) -> UnknownEmotionError:
    places = ", ".join(f"{word!r} of {source} ({count} rows)" for (source, word), count in sorted(unknown.items()))
    known = "; ".join(
        f"{source}: {', '.join([*words, *protocol.left_out.get(source, ())])}"
        for source, words in protocol.words.items()
        if source in {place for place, _ in unknown}
    )
    error = UnknownEmotionError(word for _, word in unknown)
    error.args = (
        f"{protocol.name} does not say what becomes of the emotions {places}. It knows {known}. Map them with "
        "emotion_words (--emotion-word WORD=KNOWN), or correct them in the coding sheet and build the dataset again.",
    )
    return error


# --- Proof ----------------------------------------------------------------------------------------------------------


def check_disjoint(parts: Mapping[str, Iterable[Any]]) -> dict[str, tuple[int, int]]:
    """Checks that the parts share no subject and no clip. Returns the numbers of clips and subjects of each part.

    Raises:
        LeakageError: a subject or a clip id is in two parts, or a clip id is twice in one part.
    """
    subjects: dict[str, str] = {}
    clips: dict[str, str] = {}
    counts = {}
    for part, items in parts.items():
        people, number = set(), 0
        for item in items:
            clip, subject = _get(item, "clip_id"), _get(item, "subject")
            if clip in clips:
                raise LeakageError(f"Clip {clip} is in {clips[clip]} and again in {part}.")
            if subjects.setdefault(subject, part) != part:
                raise LeakageError(
                    f"Subject {subject} is in {subjects[subject]} and in {part}; a split must keep a subject's clips "
                    "together."
                )
            clips[clip] = part
            people.add(subject)
            number += 1
        counts[part] = (number, len(people))
    return counts


def check_folds(folds: Sequence[Fold], items: Iterable[Any]) -> None:
    """Raises `LeakageError` if a fold shares a subject, or if a clip is not tested exactly once."""
    subjects = {_get(item, "clip_id"): _get(item, "subject") for item in items}
    for fold in folds:
        strange = next((clip for clip in (*fold.train, *fold.test) if clip not in subjects), None)
        if strange is not None:
            raise LeakageError(f"{fold.name}: {strange} is not among the clips.")
        check_disjoint(
            {
                f"{fold.name}, {side}": [{"clip_id": clip, "subject": subjects[clip]} for clip in clips]
                for side, clips in (("train", fold.train), ("test", fold.test))
            }
        )
    tested = Counter(clip for fold in folds for clip in fold.test)
    wrong = next((clip for clip in subjects if tested[clip] != 1), None)
    if wrong is not None:
        raise LeakageError(f"{wrong} is tested {tested[wrong]} times in {len(folds)} folds; expected once.")


def check_written(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Reads clip ids and subjects from a dataset folder's Parquet files and checks that the splits are disjoint.

    Args:
        folder (`str | Path`): Folder that contains `train-00000-of-00001.parquet` and so on.

    Returns:
        The numbers of clips and subjects of each split.

    Raises:
        FileNotFoundError: the folder has no Parquet file.
        LeakageError: see `check_disjoint`.
    """
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no Parquet file; pass the folder that contains the splits.")
    parts: dict[str, list[dict]] = defaultdict(list)
    for path in files:
        split = re.sub(r"-\d+-of-\d+$", "", path.stem)
        parts[split] += pq.read_table(path, columns=["clip_id", "subject"]).to_pylist()
    return check_disjoint(parts)


# --- Near-duplicates ------------------------------------------------------------------------------------------------

_HASHED = 16  # lowest frequencies per side
NEAR = 0.1  # share of differing bits; on rendered faces, re-encoded clips are below 0.05 and other people above 0.2


@dataclass(frozen=True)
class NearDuplicate:
    """Two clips of different splits that look similar.

    Args:
        first: Id of one clip.
        second: Id of the other clip.
        splits: Splits of both clips.
        distance: Share of differing bits in their signatures, from 0 to 1.
    """

    first: str
    second: str
    splits: tuple[str, str]
    distance: float


def clip_signature(onset: np.ndarray, apex: np.ndarray) -> np.ndarray:
    """Perceptual hash of a clip's onset and apex crops, (510,) bool.

    Each half holds the signs, relative to their median, of the 16 × 16 lowest DCT frequencies without the mean
    (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010). Size, light and compression
    hardly change it. Pass aligned crops; otherwise the background dominates.

    Args:
        onset (`np.ndarray`): Crop of the onset frame, (H, W) or (H, W, 3) uint8.
        apex (`np.ndarray`): Crop of the apex frame, (H, W) or (H, W, 3) uint8.
    """
    return np.concatenate([_perceptual_hash(image) for image in (onset, apex)])


def near_duplicates(splits: Mapping[str, Mapping[str, np.ndarray]], threshold: float = NEAR) -> list[NearDuplicate]:
    """Pairs of clips in different splits whose signatures differ in less than `threshold` of the bits, closest first.

    This finds one recording under two names, and one person filmed twice in a session.

    Args:
        splits (`Mapping[str, Mapping[str, np.ndarray]]`): Split -> clip id -> `clip_signature`.
        threshold (`float`, *optional*, defaults to `NEAR`): Share of differing bits.
    """
    found = []
    names = list(splits)
    signs = {
        name: np.array([np.where(bits, 1, -1) for bits in part.values()], np.float32) for name, part in splits.items()
    }
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            if not splits[first] or not splits[second]:
                continue
            ids = list(splits[first]), list(splits[second])
            bits = signs[first].shape[1]
            for start in range(0, len(ids[0]), 1024):  # in blocks, so that memory does not grow quadratically
                distances = 0.5 - 0.5 * (signs[first][start : start + 1024] @ signs[second].T) / bits
                for row, column in np.argwhere(distances < threshold):
                    pair = ids[0][start + row], ids[1][column]
                    found.append(NearDuplicate(*pair, (first, second), float(distances[row, column])))
    return sorted(found, key=lambda item: (item.distance, item.first, item.second))


def _perceptual_hash(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    small = cv2.resize(grey.astype(np.float32), (4 * _HASHED, 4 * _HASHED), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:_HASHED, :_HASHED].ravel()[1:]
    return low > np.median(low)


# --- Records and rows alike -----------------------------------------------------------------------------------------


def _get(item: Any, name: str) -> Any:
    return item[name] if isinstance(item, Mapping) else getattr(item, name)


def _emotions(item: Any, more: Mapping[str, str] | None) -> tuple[str, ...] | None:
    """Normalised emotion words. A written row only has the source's own word, which gives `None` if it is unknown."""
    if not isinstance(item, Mapping):
        return item.emotions
    try:
        return normalise_emotion(item["emotion"] or "", more)
    except UnknownEmotionError:
        return None


def _sheet(item: Any) -> str | None:
    return item["provenance"]["sheet"] if isinstance(item, Mapping) else item.sheet


def _partition(item: Any) -> str | None:
    """The fixed set of a record or row. For a written row it follows from the sheet's name."""
    if not isinstance(item, Mapping) and item.partition is not None:
        return item.partition
    return SOURCES[_get(item, "source")].set_of(_sheet(item) or "")


def _by(items: Iterable[Any], group_of: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for item in items:
        groups[group_of(_get(item, "subject"))].append(_get(item, "clip_id"))
    return {name: sorted(groups[name], key=natural_key) for name in sorted(groups, key=natural_key)}


def _ordered(clips: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(clips, key=natural_key))


def _leave_one_out(items: Iterable[Any], group_of: Any, what: str) -> list[Fold]:
    groups = _by(items, group_of)
    if len(groups) < 2:
        raise ValueError(f"Leave-one-out needs at least two {what}; there are {len(groups)}: {', '.join(groups)}.")
    return [
        Fold(name, tuple(clip for other, clips in groups.items() if other != name for clip in clips), tuple(test))
        for name, test in groups.items()
    ]
