"""Parses the text of an answer into the facts it states.

The parser knows the words of facts (names and numbers of action units, sides, regions, directions, magnitudes,
emotions) and a list of words that state no fact. An answer is unreadable if it contains any other word, an unexpected
negation, or a fact that its question does not ask for. Answers may therefore be worded freely, and the parsed facts
are everything they say.

A fact is a tuple of strings; an answer is a frozenset of facts:

    ("emotion", "happiness")                     ("emotion_coarse", "positive")
    ("unit", "AU4", "present")                   ("unit", "AU4", "absent")
    ("side", "AU12", "left")                     ("motion", "mouth corner", "left", "up and laterally", "0.9")
    ("evidence", "AU12", "left", "mouth corner", "up and laterally", "0.9")
    ("insufficient motion",)                     ("still",)  ("not shown",)
    ("could_be", "surprise", "yes" | "no")       ("class_of", "sadness", "negative")
    ("expected", "AU9")                          ("not testable", "AU14")

Emotions are lower case. Magnitudes are in percent of the crop width, with one decimal. Left and right are the
subject's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, get_action_unit
from deft_llm.processing.clip_statements import (
    COULD_BE,
    COULD_NOT_BE,
    INSUFFICIENT_SENTENCE,
    IS,
    OPEN,
    UNTESTABLE,
    WHY_NOT,
    beside_own,
    class_of_emotion,
    expected_motion,
    joined,
    knowledge,
    unit_words,
)
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION, prototypes_of
from deft_llm.processing.expression_report import INSUFFICIENT_MOTION, parse_answer
from deft_llm.processing.grounded_answer import STILL_RATIONALES, UNCLEAR_RATIONALES
from deft_llm.processing.motion_evidence import NO_DIRECTION

from .questions import emotion_in, task_of_turn

Fact = tuple[str, ...]
Facts = frozenset[Fact]

# Emotion words that sources use. Pass any others to `parse_facts`.
_EMOTION_WORDS = """
    amusement anger anxiety confused confusion contempt disgust embarrassment excitement fear happiness happy helpless
    joy negative neutral other others pain positive repression sad sadness surprise sympathy tense tension
"""
EMOTIONS = frozenset(_EMOTION_WORDS.split())
COARSE_EMOTIONS = frozenset(COARSE_EMOTION.values())

# Words that state no fact by themselves. Words that compare, grade, hedge or deny are not included.
_NEUTRAL_WORDS = """
    a according action active also amount amounts an and answer are as at au aus be being by called class clip clip's
    coarse corresponding counted counts crop detected direction displaced displacement display displayed displays do
    does emotion expression expressions face face's facial fine fine-grained following for found from grained has have
    here in indicates is it its itself label labelled magnitude micro micro-expression micro-expression's motion
    motions move moved movement movements moves moving named namely observed occur occurs of on person person's present
    read reads recording reflects region regions see seen shift shifts show showing shown shows so subject subject's
    that the their them then there therefore hence these they this those thus to together travel travels under unit
    units video visible visibly we which width with
"""
_NEUTRAL = frozenset(_NEUTRAL_WORDS.split())
_NEGATION_WORDS = """
    absence absent aren't can't cannot doesn't don't except fail fails hardly isn't lack lacking lacks neither never no
    none nor not nothing rather rarely unless without
"""
_NEGATIONS = frozenset(_NEGATION_WORDS.split())
# Negations allowed for an action unit after "No, …", in a single statement.
_DENIALS = frozenset({"absent", "can't", "cannot", "doesn't", "isn't", "not"})
_JOINS = re.compile(r"[,.;:]|\b(?:also|and|as|so|that|then|therefore|thus|together|which)\b")

_VERTICAL = {"up": "up", "upward": "up", "upwards": "up", "down": "down", "downward": "down", "downwards": "down"}
_HORIZONTAL = {
    **dict.fromkeys(("medially", "towards the midline", "toward the midline"), "medially"),
    **dict.fromkeys(("laterally", "away from the midline"), "laterally"),
}
_SIDES = {
    **dict.fromkeys(("both sides", "both", "bilateral", "bilaterally"), "both"),
    **dict.fromkeys(("left side", "left"), "left"),
    **dict.fromkeys(("right side", "right"), "right"),
}


class UnreadableAnswerError(ValueError):
    """The answer states something its question does not ask for, or uses words that the parser does not know."""


@dataclass(frozen=True)
class _Token:
    kind: str
    value: str
    start: int
    end: int


def _any_of(phrases: Iterable[str]) -> str:
    """A pattern of alternatives, longest first, with any white space between words."""
    ordered = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    return "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in ordered)


_CODE_OF_NAME = {unit.name: unit.code for unit in ACTION_UNITS.values()}
_vertical, _horizontal = _any_of(_VERTICAL), _any_of(_HORIZONTAL)
_DIRECTION = (
    rf"(?:{_vertical})\s+and\s+(?:{_horizontal})|(?:{_horizontal})\s+and\s+(?:{_vertical})|{_vertical}|{_horizontal}"
    rf"|{_any_of([NO_DIRECTION])}"
)
_REGION = "|".join(rf"{region}s?" for region in map(re.escape, sorted(REGIONS, key=len, reverse=True)))
_UNIT = rf"(?P<code>(?:AU|AD|M)\s?\d+)|(?P<name>{_any_of(_CODE_OF_NAME)})"
_CODE_OF_ACTION = {unit.action: unit.code for unit in ACTION_UNITS.values()}
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
# The order matters: an action ("the inner brows rise") before a name, a name ("upper lip raiser") before a region.
_LEXICON = re.compile(
    r"(?P<space>\s+)|(?P<break>[.;])|(?P<comma>[,:])|(?P<bracket>[()])"
    r"|(?P<magnitude>\d+(?:\.\d+)?)\s*(?:%|percent\b)"
    r"|(?:"
    rf"(?P<insufficient>{_any_of([INSUFFICIENT_MOTION])})"
    rf"|(?P<action>{_any_of(_CODE_OF_ACTION)})"
    rf"|{_UNIT}"
    rf"|(?P<direction>{_DIRECTION})"
    rf"|(?P<region>{_REGION})"
    rf"|(?P<side>{_any_of(_SIDES)})"
    r")(?![\w'’-])",
    re.IGNORECASE,
)
_TARGET_UNIT = re.compile(rf"(?<![\w-])(?:{_UNIT})(?![\w-])", re.IGNORECASE)
_TARGET_REGION = re.compile(
    rf"(?P<region>{_REGION}) on the (?P<side>left|right)|"
    rf"(?P<side_first>left|right) (?P<region_second>{_REGION})",
    re.IGNORECASE,
)
_CONVENTION = re.compile(r"convention(?: of|:) (?P<name>[^,.:;?\n]+)")

ME_VQA_COMBINED = re.compile(
    r"The action unit(?P<s>s?) present (?P<verb>is|are): (?P<names>[^.]+)\. Therefore, the fine-grained expression "
    r"class is (?P<fine>[^.,]+), and the coarse expression class is (?P<coarse>[^.,]+)\."
)


def convention_in(question: str) -> str | None:
    """The label convention named in a question."""
    match = _CONVENTION.search(question)
    return match["name"].strip() if match else None


def unit_in(question: str) -> str:
    """The code of the action unit that a question asks about.

    Raises:
        ValueError: the question names no action unit, or several.
    """
    codes = {_code(match) for match in _TARGET_UNIT.finditer(question)}
    if len(codes) != 1:
        raise ValueError(f"Expected one action unit in the question {question!r}, found {sorted(codes) or 'none'}.")
    return codes.pop()


def region_in(question: str) -> tuple[str, str]:
    """The (region, side) that a question asks about.

    Raises:
        ValueError: the question names no region, or several.
    """
    found = {
        (_region(match["region"] or match["region_second"]), (match["side"] or match["side_first"]).lower())
        for match in _TARGET_REGION.finditer(question)
    }
    if len(found) != 1:
        raise ValueError(f"Expected one region in the question {question!r}, found {sorted(found) or 'none'}.")
    return found.pop()


def parse_facts(task: str, question: str, answer: str, *, emotions: Collection[str] = ()) -> Facts:
    """Parses the facts that an answer states.

    Args:
        task (`str`): One of `instructions.TASKS`.
        question (`str`): The question that was answered.
        answer (`str`): The answer's text.
        emotions (`Collection[str]`, *optional*): More emotion words, in addition to `EMOTIONS`.

    Raises:
        UnreadableAnswerError: the answer has a word outside the vocabulary, a contradiction, an unexpected negation, a
            fact that the question does not ask for, or no fact.
        ValueError: the task is unknown, or the question names no target.
    """
    if task not in _READERS:
        raise ValueError(f"Unknown task {task!r}. Known: {', '.join(_READERS)}.")
    return _READERS[task](question, answer, frozenset(word.casefold() for word in emotions))


def _code(match: re.Match) -> str:
    if match["code"]:
        try:
            return get_action_unit(re.sub(r"\s", "", match["code"]).upper()).code
        except ValueError as error:
            raise UnreadableAnswerError(str(error)) from None
    return _CODE_OF_NAME[" ".join(match["name"].lower().split())]


def _region(text: str) -> str:
    plain = " ".join(text.lower().split())
    return plain if plain in REGIONS else plain.removesuffix("s")


def _direction(text: str) -> str:
    plain = " ".join(text.lower().split())
    if plain == NO_DIRECTION:
        return plain
    parts = [part.strip() for part in re.split(r"\band\b", plain)]
    vertical = [_VERTICAL[part] for part in parts if part in _VERTICAL]
    horizontal = [_HORIZONTAL[part] for part in parts if part in _HORIZONTAL]
    return " and ".join(vertical + horizontal)


@lru_cache(maxsize=256)
def _words_of_source(convention: str | None, emotions: frozenset[str]) -> re.Pattern:
    parts = [rf"(?P<emotion>{_any_of(EMOTIONS | emotions)})"]
    if convention:
        name = re.escape(convention)
        parts.insert(0, rf"(?P<convention>convention\s+of\s+{name}|{name}\s+convention)")
    return re.compile(f"(?:{'|'.join(parts)})(?![\\w'’-])", re.IGNORECASE)


def _tokens(answer: str, question: str, emotions: frozenset[str]) -> list[_Token]:
    """The words of the answer that state facts or negate, in order."""
    own = _words_of_source(convention_in(question), emotions)
    tokens, position = [], 0
    while position < len(answer):
        match = _LEXICON.match(answer, position) or own.match(answer, position)
        if match is None:
            word = _WORD.match(answer, position)
            shown = word[0] if word else answer[position]
            plain = shown.lower().replace("’", "'")
            if plain in _NEGATIONS or plain == "yes":
                tokens.append(_Token("yes" if plain == "yes" else "negation", plain, position, word.end()))
            elif plain not in _NEUTRAL:
                raise UnreadableAnswerError(f"{shown!r} is not in the vocabulary")
            position = word.end()
            continue
        kind = match.lastgroup
        value = match[kind]
        if kind in ("code", "name"):
            kind, value = "unit", _code(match)
        elif kind == "action":
            kind, value = "unit", _CODE_OF_ACTION[" ".join(value.lower().split())]
        elif kind == "region":
            value = _region(value)
        elif kind == "direction":
            value = _direction(value)
        elif kind == "side":
            value = _SIDES[" ".join(value.lower().split())]
        elif kind == "magnitude":
            value = _magnitude(value)
        elif kind == "emotion":
            value = " ".join(value.casefold().split())
        if kind not in ("space", "convention"):
            tokens.append(_Token(kind, value, match.start(), match.end()))
        position = match.end()
    return _one_mention_each(tokens, answer)


def _magnitude(text: str) -> str:
    value = f"{float(text):.1f}"
    if float(value) != float(text):
        raise UnreadableAnswerError(f"the magnitude {text} has more than one decimal")
    return value


def _one_mention_each(tokens: list[_Token], answer: str) -> list[_Token]:
    """Joins adjacent code and name of a unit, as in "AU4 (brow lowerer)". They must agree."""
    joined: list[_Token] = []
    previous = None  # a unit followed by nothing but brackets so far
    for token in tokens:
        if token.kind == "unit" and previous is not None:
            between = answer[previous.end : token.start]
            if not between.strip(" ("):
                if token.value != previous.value:
                    raise UnreadableAnswerError(f"{answer[previous.start : token.end]!r} is two action units")
                previous = None
                continue
        if token.kind == "unit":
            previous = token
        elif token.kind != "bracket":
            previous = None
        if token.kind != "bracket":
            joined.append(token)
    repeated = [code for code, count in Counter(_values(joined, "unit")).items() if count > 1]
    if repeated:
        raise UnreadableAnswerError(f"{repeated[0]} is named twice")
    return joined


def _values(tokens: Iterable[_Token], kind: str) -> list[str]:
    return [token.value for token in tokens if token.kind == kind]


def _only(tokens: Iterable[_Token], *kinds: str) -> None:
    """Raises an error for any kind of fact that is not asked for."""
    for token in tokens:
        if token.kind not in kinds and token.kind not in ("break", "comma"):
            raise UnreadableAnswerError(f"the question does not ask for {token.value!r} ({token.kind})")


def _single(tokens: Iterable[_Token], kind: str) -> str:
    found = _values(tokens, kind)
    if len(found) != 1:
        raise UnreadableAnswerError(f"expected one {kind}, found {', '.join(found) or 'none'}")
    return found[0]


def _abstains(tokens: list[_Token]) -> bool:
    if not _values(tokens, "insufficient"):
        return False
    _only(tokens, "insufficient")
    return True


_ABSTENTION: Facts = frozenset({("insufficient motion",)})


def _read_emotion(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    tokens = _tokens(answer, question, emotions)
    if _abstains(tokens):
        return _ABSTENTION
    _only(tokens, "emotion")
    return frozenset({("emotion", _single(tokens, "emotion"))})


def _read_coarse_emotion(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    facts = _read_emotion(question, answer, emotions)
    if facts == _ABSTENTION:
        return facts
    ((_, word),) = facts
    return frozenset({("emotion_coarse", _known(word, COARSE_EMOTIONS, emotions))})


def _read_units(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    tokens = _tokens(answer, question, emotions)
    if _abstains(tokens):
        return _ABSTENTION
    _only(tokens, "unit")
    codes = _values(tokens, "unit")
    if not codes:
        raise UnreadableAnswerError("no action unit is named")
    return frozenset(("unit", code, "present") for code in codes)


def _about_unit(tokens: list[_Token], question: str) -> str:
    code = unit_in(question)
    others = set(_values(tokens, "unit")) - {code}
    if others:
        raise UnreadableAnswerError(f"the question is about {code}, the answer about {others.pop()}")
    return code


def _read_presence(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    tokens = _tokens(answer, question, emotions)
    if _abstains(tokens):
        return _ABSTENTION
    _only(tokens, "yes", "negation", "unit")
    code = _about_unit(tokens, question)
    # The first word is the answer. The rest must agree with it in one clause, so that a negation refers to the unit.
    if not tokens or tokens[0].start > 0 or tokens[0].value not in ("yes", "no"):
        raise UnreadableAnswerError("the answer begins with neither yes nor no")
    present = tokens[0].value == "yes"
    rest = answer[tokens[0].end :].lstrip(",.;: ").rstrip(". \n")
    denials = _values(tokens[1:], "negation")
    if _values(tokens[1:], "yes") or len(denials) > 1 or (rest and bool(denials) == present):
        raise UnreadableAnswerError("the answer contradicts itself")
    if denials and (denials[0] not in _DENIALS or _JOINS.search(rest)):
        raise UnreadableAnswerError(f"it is not clear what {denials[0]!r} denies")
    return frozenset({("unit", code, "present" if present else "absent")})


def _read_side(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    tokens = _tokens(answer, question, emotions)
    if _abstains(tokens):
        return _ABSTENTION
    _only(tokens, "side", "unit")
    return frozenset({("side", _about_unit(tokens, question), _single(tokens, "side"))})


def _read_region(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    tokens = _tokens(answer, question, emotions)
    if _abstains(tokens):
        return _ABSTENTION
    _only(tokens, "region", "side", "direction", "magnitude")
    region, side = region_in(question)
    for kind, asked in (("region", region), ("side", side)):
        if _values(tokens, kind) not in ([], [asked]):
            raise UnreadableAnswerError(f"the question is about the {side} {region}")
    return frozenset({("motion", region, side, _single(tokens, "direction"), _single(tokens, "magnitude"))})


def _read_motions(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    tokens = _tokens(answer, question, emotions)
    if _abstains(tokens):
        return _ABSTENTION
    kinds = ("region", "side", "direction", "magnitude")
    _only(tokens, *kinds)
    clauses: list[list[_Token]] = [[]]
    for token in tokens:
        if token.kind == "break":
            clauses.append([])
        elif token.kind != "comma":
            clauses[-1].append(token)
    motions = [tuple(_single(clause, kind) for kind in kinds) for clause in clauses if clause]
    if not motions:
        raise UnreadableAnswerError("no motion is described")
    if len({motion[:2] for motion in motions}) != len(motions):
        raise UnreadableAnswerError("one region is described twice")
    if any(side == "both" for _, side, _, _ in motions):
        raise UnreadableAnswerError("each side has a motion of its own")
    return frozenset(("motion", *motion) for motion in motions)


def _read_report(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    report = parse_answer(answer)
    if not report.parsed:
        raise UnreadableAnswerError(report.warnings[0])
    if report.insufficient_motion:
        if report.evidence:
            raise UnreadableAnswerError("there is evidence but no class")
        if report.rationale in STILL_RATIONALES:
            return _ABSTENTION | {("still",)}
        if report.rationale in UNCLEAR_RATIONALES:
            return _ABSTENTION
        raise UnreadableAnswerError(f"{report.rationale!r} is not a known reason for giving no class")
    emotion = _known(report.emotion, EMOTIONS, emotions)
    sides = {unit.code: unit.side for unit in report.action_units}
    if len(report.evidence) != len(sides) or not sides:
        raise UnreadableAnswerError("expected one piece of evidence per action unit")
    facts = set()
    for item in report.evidence:
        region, direction = _region(item.region), _direction_of_evidence(item.direction)
        if region not in REGIONS:
            raise UnreadableAnswerError(f"{item.region!r} is not a region of the face")
        facts.add(
            ("evidence", item.action_unit, sides[item.action_unit], region, direction, _magnitude(str(item.magnitude)))
        )
    if _read_rationale(question, report.rationale, emotions) != (emotion, sides):
        raise UnreadableAnswerError("the rationale disagrees with the class or the evidence")
    return frozenset(facts | {("emotion", emotion)})


def _direction_of_evidence(text: str) -> str:
    if not re.fullmatch(_DIRECTION, text):
        raise UnreadableAnswerError(f"{text!r} is not a direction")
    return _direction(text)


def _read_rationale(question: str, text: str, emotions: frozenset[str]) -> tuple[str, dict[str, str]]:
    """The emotion, and the side of each unit: the side named after it, or both."""
    tokens = _tokens(text, question, emotions)
    _only(tokens, "unit", "side", "emotion")
    sides: dict[str, str] = {}
    unit = None
    for token in tokens:
        if token.kind == "unit":
            unit = token.value
            sides[unit] = "both"
        elif token.kind == "side":
            if unit is None:
                raise UnreadableAnswerError(f"the side {token.value!r} follows no action unit")
            sides[unit], unit = token.value, None
    return _single(tokens, "emotion"), sides


def _read_me_vqa_coarse(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    return frozenset({("emotion_coarse", _known(answer, COARSE_EMOTIONS, emotions))})


def _read_me_vqa_fine(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    return frozenset({("emotion", _known(answer, EMOTIONS, emotions))})


def _known(word: str, usual: frozenset[str], emotions: frozenset[str]) -> str:
    if word.casefold() not in usual | emotions:
        raise UnreadableAnswerError(f"{word!r} is not a known emotion")
    return word.casefold()


def _read_me_vqa_units(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    unknown = [name for name in answer.split(", ") if name not in _CODE_OF_NAME]
    if unknown:
        raise UnreadableAnswerError(f"{unknown[0]!r} is not the name of an action unit")
    codes = [_CODE_OF_NAME[name] for name in answer.split(", ")]
    singular = "action unit present" in question or question.endswith("the action unit?")
    if singular != (len(codes) == 1) or len(set(codes)) != len(codes):
        raise UnreadableAnswerError(f"{answer!r} does not answer {question!r}")
    return frozenset(("unit", code, "present") for code in codes)


def _read_me_vqa_presence(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    if answer not in ("yes", "no"):
        raise UnreadableAnswerError(f"{answer!r} is neither yes nor no")
    return frozenset({("unit", unit_in(question), "present" if answer == "yes" else "absent")})


def _read_me_vqa_side(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    if answer not in ("left", "right"):
        raise UnreadableAnswerError(f"{answer!r} is neither left nor right")
    return frozenset({("side", unit_in(question), answer)})


def _read_me_vqa_combined(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    match = ME_VQA_COMBINED.fullmatch(answer)
    if match is None or (match["s"] == "s") != (match["verb"] == "are"):
        raise UnreadableAnswerError(f"{answer!r} does not have the track's form")
    if (match["s"] == "s") != (", " in match["names"]):
        raise UnreadableAnswerError(f"singular and plural do not agree in {answer!r}")
    return (
        _read_me_vqa_units(question, match["names"], emotions)
        | _read_me_vqa_fine(question, match["fine"], emotions)
        | _read_me_vqa_coarse(question, match["coarse"], emotions)
    )


def _read_possibility(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    """Answers of could_be and why_not. They have one form, so they are compared with the sentence that they state."""
    if answer == INSUFFICIENT_SENTENCE:
        return _ABSTENTION
    if answer == OPEN:
        return frozenset({("not shown",)})
    emotion, convention = emotion_in(question), convention_in(question) or ""
    if answer == IS.format(emotion=emotion, convention=convention):
        return frozenset({("emotion", emotion.casefold())})
    codes = [code.upper() for code in re.findall(r"\b(?:AU|AD|M)\d+\b", answer)]
    if not codes or not set(codes) <= set(ACTION_UNITS):
        raise UnreadableAnswerError(f"{answer!r} does not say which action units decide")
    by, are = prototypes_of(convention)[0], "are" if len(codes) > 1 else "is"
    units, expected = joined([unit_words(code) for code in codes]), joined([expected_motion(code) for code in codes])
    known = {"emotion": emotion, "convention": by, "units": units, "are": are, "expected": expected}
    match = re.match(r"It is ([^,.]+) by the convention of [^,.]+, and it could", answer)
    own = match[1] if match else None
    stated = frozenset({("emotion", _known(own, EMOTIONS, emotions))} if own else ())
    for text, fits, state in (
        (beside_own(COULD_BE.format(**known), own, convention), "yes", "present"),
        (beside_own(COULD_NOT_BE.format(**known), own, convention), "no", "absent"),
        (WHY_NOT.format(**known), "no", "absent"),
    ):
        if answer == text:
            return stated | {("could_be", emotion.casefold(), fits), *(("unit", code, state) for code in codes)}
    raise UnreadableAnswerError(f"{answer!r} is not one of the forms of an answer to {question!r}")


def _read_expected_motion(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    code = unit_in(question)
    if answer != knowledge(code):
        raise UnreadableAnswerError(f"{answer!r} is not what is to be expected of {code}")
    return frozenset({("not testable" if answer == UNTESTABLE.format(unit=unit_words(code)) else "expected", code)})


def _read_class_of_emotion(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    emotion = emotion_in(question)
    if emotion not in COARSE_EMOTION or answer != class_of_emotion(emotion):
        raise UnreadableAnswerError(f"{answer!r} does not say the coarse class of {emotion}")
    return frozenset({("class_of", emotion, COARSE_EMOTION[emotion])})


def _read_turn(question: str, answer: str, emotions: frozenset[str]) -> Facts:
    return _READERS[task_of_turn(question)](question, answer, emotions)


_READERS = {
    "explain": _read_report,
    "emotion": _read_emotion,
    "emotion_coarse": _read_coarse_emotion,
    "action_units": _read_units,
    "action_unit_presence": _read_presence,
    "side": _read_side,
    "region_motion": _read_region,
    "motions": _read_motions,
    "me_vqa_coarse": _read_me_vqa_coarse,
    "me_vqa_fine": _read_me_vqa_fine,
    "me_vqa_action_units": _read_me_vqa_units,
    "me_vqa_presence": _read_me_vqa_presence,
    "me_vqa_side": _read_me_vqa_side,
    "me_vqa_combined": _read_me_vqa_combined,
    "could_be": _read_possibility,
    "why_not": _read_possibility,
    "expected_motion": _read_expected_motion,
    "class_of_emotion": _read_class_of_emotion,
    "several_turns": _read_turn,
}
TASKS: tuple[str, ...] = tuple(_READERS)
