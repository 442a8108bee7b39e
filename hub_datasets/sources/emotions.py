"""Normalises the emotion words of coding sheets, and derives coarse classes and objective classes.

The same movement has different labels in different sources: lowered brows are disgust in CASME II and anger in SAMM.
Records therefore keep the source's own word next to the normalised one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product

from deft_llm.processing.emotion_prototypes import COARSE_EMOTION

from .action_unit_grammar import ParsedActionUnit, is_missing

_SPELLINGS = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "other": "others",
    "repressed": "repression",
    "sad": "sadness",
    "surprised": "surprise",
    "tension": "tense",
}
_SEVERAL = re.compile(r"[,;/+&|、，]|\band\b")


class UnknownEmotionError(ValueError):
    """Emotion words that are not in the table. `words` lists them."""

    def __init__(self, words: Iterable[str]):
        self.words = tuple(words)
        super().__init__(
            f"Unknown emotion {', '.join(map(repr, self.words))}. Known: {', '.join(COARSE_EMOTION)}, and the "
            f"spellings {', '.join(_SPELLINGS)}."
        )


def normalise_emotion(text: str, extra: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Maps a cell to words of `COARSE_EMOTION`: one word, several for a multi-label cell, none for "/" or "N/A".

    Case, surrounding spaces and adjective forms are ignored. A cell such as "Negative & Surprise" gives two words.

    Args:
        text (`str`): The cell.
        extra (`Mapping[str, str] | None`, *optional*): More words of a source or user, each mapped to a word of
            `COARSE_EMOTION`.

    Raises:
        UnknownEmotionError: a word is in neither table, or `extra` maps it to an unknown word.
    """
    table = {_plain(word): _plain(meaning) for word, meaning in (extra or {}).items()}
    whole = _plain(text)
    if whole not in table and (is_missing(whole) or whole == "?"):
        return ()
    pieces = [whole] if whole in table else [piece for piece in map(_plain, _SEVERAL.split(whole)) if piece]
    words = [_SPELLINGS.get(word, word) for word in (table.get(piece, piece) for piece in pieces)]
    unknown = [piece for piece, word in zip(pieces, words, strict=True) if word not in COARSE_EMOTION]
    if unknown or not words:
        raise UnknownEmotionError(unknown or [text])
    return tuple(dict.fromkeys(words))


def coarse_emotion(words: Iterable[str], changes: Mapping[str, str] | None = None) -> str | None:
    """The coarse class of normalised words, or `None` if there is no word or the words disagree.

    Args:
        words (`Iterable[str]`): Normalised emotion words.
        changes (`Mapping[str, str] | None`, *optional*): Words that a source assigns to another coarse class. 4DME
            treats repression as its own class.
    """
    classes = {(changes or {}).get(word, COARSE_EMOTION[word]) for word in words}
    return classes.pop() if len(classes) == 1 else None


def _plain(word: str) -> str:
    return " ".join(str(word).casefold().split())


# Sets of action units from Davison, Merghani and Yap, Objective Classes for Micro-Facial Expression Recognition,
# arXiv 1708.07549. Sides and intensities are ignored. All other sets are class VII.
OBJECTIVE_CLASSES: dict[str, tuple[frozenset[int], ...]] = {
    name: tuple(frozenset(map(int, units.split("+"))) for units in sets.split())
    for name, sets in {
        "I": "6 12 6+12 6+7+12 7+12",
        "II": "1+2 5 25 1+2+25 25+26 5+24",
        "III": "23 4 4+7 4+5 4+5+7 17+24 4+6+7 4+38",
        "IV": "10 9 4+9 4+40 4+5+40 4+7+9 4+9+17 4+7+10 4+5+7+9 7+10",
        "V": "1 15 1+4 6+15 15+17",
        "VI": "1+2+4 20",
    }.items()
}
_OBJECTIVE_NAMES = (*OBJECTIVE_CLASSES, "VII")
_MOST_READINGS = 64  # per cell; annotators leave one or two choices open


def objective_class(units: Iterable[ParsedActionUnit], changes: Mapping[str, str] | None = None) -> str | None:
    """Davison's objective class, "I" to "VII", of a clip's action units.

    Movements of head and eyes (M57, …) are ignored. Returns `None` if there is no unit, or if the annotator left a
    choice between units that lead to different classes.

    Args:
        units (`Iterable[ParsedActionUnit]`): The action units.
        changes (`Mapping[str, str] | None`, *optional*): Sets of units, such as "4+10", that a source's release
            assigns to another class than the table.
    """
    readings = [
        sorted({reading.code for reading in (unit, *unit.alternatives)})
        for unit in units
        if unit.unit.kind in ("AU", "AD")
    ]
    count = 1
    for codes in readings:
        count *= len(codes)
    if not readings or count > _MOST_READINGS:
        return None
    changed = {frozenset(map(int, codes.split("+"))): name for codes, name in (changes or {}).items()}
    sets = map(frozenset, product(*readings))
    classes = {changed.get(codes) or _class_of_set(codes) for codes in sets}
    return classes.pop() if len(classes) == 1 else None


def parse_objective_class(text: str) -> str | None:
    """Parses a cell with a Roman or Arabic class number to "I" … "VII"; returns `None` for an empty cell.

    Raises:
        ValueError: the cell contains anything else.
    """
    name = str(text).strip().upper().removeprefix("CLASS").strip()
    if not name:
        return None
    if name.isdecimal() and 1 <= int(name) <= len(_OBJECTIVE_NAMES):
        return _OBJECTIVE_NAMES[int(name) - 1]
    if name not in _OBJECTIVE_NAMES:
        raise ValueError(f"{text!r} is not an objective class. Expected {', '.join(_OBJECTIVE_NAMES)} or 1 to 7.")
    return name


def _class_of_set(codes: frozenset[int]) -> str:
    return next((name for name, sets in OBJECTIVE_CLASSES.items() if codes in sets), "VII")
