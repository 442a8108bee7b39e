"""What a question in free words is about, and which true statements answer it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from .action_units import ACTION_UNITS, REGIONS, SIDES, get_action_unit
from .clip_statements import CLASSED, KNOWLEDGE, OPEN, Statement

MOST_STATEMENTS = 3  # in one answer
_MOST_COMBINED = 5  # with more statements, an answer has only one, because there are too many answers otherwise

# Everyday words for regions, action units and emotions.
_REGION_WORDS = {
    "inner eyebrow": ("inner brow",),
    "outer eyebrow": ("outer brow",),
    "eyebrow": ("inner brow", "outer brow"),
    "brow": ("inner brow", "outer brow"),
    "lid": ("upper lid", "lower lid"),
    "eyelid": ("upper lid", "lower lid"),
    "eye": ("upper lid", "lower lid"),
    "nose": ("nose root", "nose wing"),
    "lip corner": ("mouth corner",),
    "corner of the mouth": ("mouth corner",),
    "lip": ("upper lip", "lower lip"),
    "mouth": ("mouth corner", "upper lip", "lower lip"),
    "jaw": ("chin",),
    **{region: (region,) for region in REGIONS},
}
_UNIT_WORDS = {
    "smile": "AU12",
    "smiles": "AU12",
    "smiling": "AU12",
    "frown": "AU4",
    "frowns": "AU4",
    "frowning": "AU4",
    **{name: unit.code for unit in ACTION_UNITS.values() for name in (unit.name, unit.action)},
}
_EMOTION_WORDS = {
    "smile": "happiness",
    "smiles": "happiness",
    "smiling": "happiness",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "afraid": "fear",
    "angry": "anger",
    "disgusted": "disgust",
    "positive": "positive",
    "negative": "negative",
}
# Words that ask for a topic.
_TOPICS = {
    "why_not": r"why|against|missing|exclude[sd]?|rule[sd]? out|have to move|that it is not|isn't it",
    "could_be": r"could|might",
    "differs": r"differ\w*|compar\w*|unlike",
    "same": r"in common|same|alike|both clips",
    "expected": (
        r"expect\w*|(?:where|how|which motion|what) would|were there|(?:what|which regions) (?:is|does|do) .*"
        r"(?:mean|do|move)\b|how does .* change|recognised in|would (?:look like|one see)|one would see|typical"
        r"|should move|describe what .* does|which way does the face"
    ),
    "side": (
        r"which side|what side|the side|which half|(?:one|both) sides?|where is (?!the motion)|asymmetr\w*"
        r"|left or right|left, right|left side, (?:the )?right"
    ),
    "coarse": r"coarse\w*|positive or negative|negative or positive|positive, negative",
    "emotion": r"emotions?|feel\w*|class(?:es|ified)?|mood",
    "units": r"action units?|facial actions|AUs|facs",
    "evidence": r"how (?:far|much|strong\w*)|magnitude|strength|intens\w*|percent|direction|where to",
    "motions": r"moves? (?:the )?most|strongest|by their motion|what moves|what moved|which parts|the motion",
    "overview": r"what (?:do you see|happens|can you see)|describe|explain|summ?\w*|tell me",
    "convention": r"convention",
}
# The coarse classes as answers to choose from.
_LISTED_CLASSES = r"(?:positive,? (?:or )?negative|negative,? (?:or )?positive)(?:,? (?:or )?(?:surprise|others))*"
_BEFORE = {  # topic -> topics that it leaves out
    "expected": {"side", "evidence", "motions", "overview"},
    "coarse": {"emotion", "overview", "convention"},
    "emotion": {"motions", "overview", "convention"},
    "units": {"motions", "overview"},
    "side": {"evidence", "motions", "overview"},
    "motions": {"overview"},
    "evidence": {"motions", "overview"},
}
_CLIPS = {0: r"first clip|first one|the first", 1: r"second clip|second one|the second|the other"}
_REFERS_BACK = re.compile(r"\b(?:it|its|that one|this one|there)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What a question is about. Empty fields are not narrowed.

    Args:
        units (`frozenset[str]`): Codes of action units.
        regions (`frozenset[tuple[str, str]]`): (region, side).
        emotions (`frozenset[str]`): Emotions, in lower case.
        topics (`frozenset[str]`): Topics of statements.
        clip (`int | None`): 0 or 1 for one of two clips.
        refers_back (`bool`): Whether the question refers to an earlier one, as in "which side is it on?".
    """

    units: frozenset[str] = frozenset()
    regions: frozenset[tuple[str, str]] = frozenset()
    emotions: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    clip: int | None = None
    refers_back: bool = False

    @property
    def named(self) -> bool:
        return bool(self.units or self.regions or self.emotions)


def asked_in(question: str, emotions: Sequence[str] = ()) -> Asked:
    """What a question is about, by its words.

    Args:
        question (`str`): The question.
        emotions (`Sequence[str]`, *optional*): Classes of the model.

    Raises:
        ValueError: The question names an action unit that does not exist.
    """
    rest, units = question, set()
    for match in re.finditer(r"(?<![\w-])(?:AU|AD|M)\s?\d+(?![\w-])", rest, re.IGNORECASE):
        units.add(get_action_unit(re.sub(r"\s", "", match[0]).upper()).code)
    words = {**{name.casefold(): name.casefold() for name in emotions}, **_EMOTION_WORDS}
    why_not = re.search(rf"\b(?:{_TOPICS['why_not']})", question, re.IGNORECASE)
    named = re.sub(r"convention of [^,.:;?\n]+", "", rest)
    # Answers to choose from are not emotions to judge.
    named = named if why_not else re.sub(_LISTED_CLASSES, "", named, flags=re.IGNORECASE)
    found_emotions = {words[word] for word in _found(tuple(words), named)}
    options = len(found_emotions) > 1 and re.search(r"\bor\b", named) and not why_not
    if options:
        found_emotions = set()
    names = _found(tuple(_UNIT_WORDS), rest)
    units |= {_UNIT_WORDS[name] for name in names}
    for name in names:  # the upper lip of the "upper lip raiser" is not a region that is asked about
        rest = re.sub(re.escape(name), " ", rest, flags=re.IGNORECASE)
    sides = [side for side in SIDES if re.search(rf"\b{side}\b", rest, re.IGNORECASE)]
    regions = {
        (region, side)
        for word in _found(tuple(_REGION_WORDS), rest)
        for region in _REGION_WORDS[word]
        for side in (sides if len(sides) == 1 else SIDES)
    }
    topics = {name for name, pattern in _TOPICS.items() if re.search(rf"\b(?:{pattern})", question, re.IGNORECASE)}
    if options:
        topics.add("emotion")
    topics -= {other for name in topics for other in _BEFORE.get(name, ())}
    clips = [place for place, pattern in _CLIPS.items() if re.search(rf"\b(?:{pattern})\b", question, re.IGNORECASE)]
    return Asked(
        frozenset(units),
        frozenset(regions),
        frozenset(found_emotions),
        frozenset(topics),
        clips[0] if len(clips) == 1 else None,
        _REFERS_BACK.search(question) is not None,
    )


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})s?(?![\w-])", re.IGNORECASE)


def _found(words: tuple[str, ...], text: str) -> list[str]:
    """The words that occur in a text, in singular or plural, the longest at each place."""
    return [match[1].lower() for match in _pattern(words).finditer(text)]


def answering(
    statements: Sequence[Statement], questions: Sequence[str], emotions: Sequence[str] = ()
) -> list[Statement]:
    """The statements that may answer the last question.

    A question that names action units, regions or emotions is answered about these; one that names none, but refers
    back to an earlier question, about what that one named.

    Args:
        statements (`Sequence[Statement]`): All true statements.
        questions (`Sequence[str]`): The user's questions, the last one last.
        emotions (`Sequence[str]`, *optional*): Classes of the model.
    """
    asked = asked_in(questions[-1], emotions)
    if asked.refers_back and not asked.named and not asked.topics & {"emotion", "coarse", "overview", "motions"}:
        for earlier in reversed(questions[:-1]):
            before = asked_in(earlier, emotions)
            if before.named:
                asked = replace(asked, units=before.units, regions=before.regions, emotions=before.emotions)
                break
    if asked.clip is not None:
        statements = [item for item in statements if item.clip in (asked.clip, None) or item.topic in KNOWLEDGE]
    status = [item for item in statements if item.topic == "status" and "cannot be measured" in item.text]
    if asked.named:
        about = [item for item in statements if _concerns(item, asked)]
        narrowed = [item for item in about if item.topic in _topics_of(asked)]
        chosen = narrowed or about
    elif asked.topics & set(_GENERAL):
        wanted = {topic for name in asked.topics for topic in _GENERAL.get(name, ())}
        chosen = [item for item in statements if item.topic in wanted and (item.topic != "side" or _is_shown(item))]
        chosen = chosen or [item for item in statements if item.topic in ("status", "open")]
    else:
        chosen = [item for item in statements if item.topic in ("status", "units", "motions", "emotion", "open")]
    if status and not any(item.topic in KNOWLEDGE for item in chosen):
        chosen = status
    unique = {item.text: item for item in chosen}
    if len(unique) > 1 and asked.named:
        unique.pop(OPEN, None)
    return list(unique.values()) or [Statement(OPEN, "open")]


_GENERAL: Mapping[str, tuple[str, ...]] = {
    "differs": ("differs",),
    "same": ("same",),
    "side": ("side",),
    "coarse": ("coarse",),
    "emotion": ("emotion",),
    "convention": ("emotion",),
    "units": ("units",),
    "evidence": ("motions",),
    "motions": ("motions",),
    "overview": ("units", "motions", "emotion"),
}


def _is_shown(item: Statement) -> bool:
    return " shows on " in item.text


def _concerns(item: Statement, asked: Asked) -> bool:
    here = bool(item.regions) and item.regions <= asked.regions
    return here or bool(item.units & asked.units) or item.emotion in asked.emotions


def _topics_of(asked: Asked) -> set[str]:
    """Topics of statements that answer a question about units, regions or emotions."""
    topics = set()
    if "differs" in asked.topics or "same" in asked.topics:
        return {"differs", "same"}
    if asked.units:
        topics |= asked.topics & {"side", "expected", "evidence"} or {"presence"}
    if asked.regions:
        topics.add("region")
    if asked.emotions:
        general = "coarse" in asked.topics and "could_be" not in asked.topics and asked.emotions <= set(CLASSED)
        topics.add("why_not" if "why_not" in asked.topics else "class_of_emotion" if general else "could_be")
    return topics


def answers_of(statements: Sequence[Statement]) -> list[str]:
    """All answers: one statement, or up to `MOST_STATEMENTS` in their order if there are few to choose from."""
    texts = [item.text for item in statements]
    if len(texts) > _MOST_COMBINED or OPEN in texts:
        return texts
    counts = range(1, min(len(texts), MOST_STATEMENTS) + 1)
    return [" ".join(some) for count in counts for some in combinations(texts, count)]
