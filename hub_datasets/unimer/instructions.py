"""Writes questions and answers about a clip from accepted facts only.

A fact is accepted if the label and the measured motion agree (`constraints.py`). A task is left out if the clip lacks
what it needs (an emotion, a side, a unit that is certainly absent). A clip without motion is answered with
"insufficient motion". Every answer is parsed by `answer_parsing.py` and compared before it is returned.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deft_llm.processing.action_units import REGIONS, SIDES, get_action_unit
from deft_llm.processing.clip_statements import (
    ABSENT,
    CLASSED,
    INSUFFICIENT_SENTENCE,
    MOST_MOTIONS,
    PRESENT,
    WHERE,
    ClipFacts,
    class_of_emotion,
    could_be,
    emotions_to_ask,
    knowledge,
    why_not,
)
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION, prototypes_of
from deft_llm.processing.expression_report import (
    INSUFFICIENT,
    INSUFFICIENT_MOTION,
    ActionUnitFinding,
    ExpressionReport,
    MotionEvidence,
    format_answer,
)
from deft_llm.processing.grounded_answer import (
    RATIONALES,
    STILL_RATIONALES,
    UNCLEAR_RATIONALES,
    absent_units,
    write_rationale,
)
from deft_llm.processing.motion_evidence import RegionMotion

from .answer_parsing import (
    TASKS,
    Facts,
    UnreadableAnswerError,
    parse_facts,
    region_in,
    unit_in,
)
from .constraints import SUPPORTED, Judgement
from .questions import QUESTIONS, TURN_TASKS, emotion_in, task_of_turn

# Questions that ask for one word, or for yes or no, are answered with exactly that.
_ONE_WORD = ("one word", "yes or no", "Yes or no")

_EMOTION_ANSWERS = (
    "{emotion}",
    "The emotion is {emotion}.",
    "By the convention of {convention} this is {emotion}.",
    "The micro-expression shows {emotion}.",
    "It is {emotion} by the convention of {convention}.",
)
_ANSWERS = {
    "emotion": _EMOTION_ANSWERS,
    "emotion_coarse": (
        "{emotion}",
        "The coarse class is {emotion}.",
        "By the convention of {convention} the coarse class is {emotion}.",
        "It is {emotion} by the convention of {convention}.",
    ),
    "action_units": (
        "{units}",
        "The motion shows {units}.",
        "Visible in the motion: {units}.",
        "These action units move the face: {units}.",
    ),
    "present": (
        "yes",
        PRESENT,
        "Yes, the face shows {unit}.",
        "Yes: {unit} moves the face.",
    ),
    "absent": (
        "no",
        ABSENT,
        "No, the face does not show {unit}.",
        "No: {unit} does not move the face.",
    ),
    "side": (
        "{side}",
        "{unit} shows on {where}.",
        "On {where}.",
        "It is on {where}.",
    ),
    "region_motion": (
        "It moves {direction} by {magnitude} %.",
        "The {side} {region} moves {direction} by {magnitude} % of the crop width.",
        "The {region} on the {side} moves {direction}; the magnitude is {magnitude} %.",
        "{direction}, {magnitude} %",
    ),
    "motions": (
        "the {side} {region} moves {direction} by {magnitude} %",
        "{side} {region}: {direction}, {magnitude} %",
        "the {region} on the {side} moves {direction}, {magnitude} % of the crop width",
    ),
    "insufficient motion": (
        INSUFFICIENT_MOTION,
        "There is insufficient motion.",
        INSUFFICIENT_SENTENCE,
    ),
}

# Units that sheets label often and flow can test. Questions with the answer "no" ask about these.
_COMMON_UNITS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU15", "AU17", "AU20", "AU25")


class AmbiguousWordError(ValueError):
    """An answer does not parse to its own facts, because a word of the source has another meaning for the parser."""


@dataclass(frozen=True)
class AcceptedFacts:
    """The facts that may be stated about a clip.

    Args:
        convention (`str`): Label convention that the emotion follows.
        emotion (`str | None`): The source's word; `None` if it has none, or if there is motion but no labelled unit
            agrees with it.
        emotion_coarse (`str | None`): The source's coarse class; `None` as for `emotion`.
        units (`tuple[Judgement, ...]`): The supported labels, one per code.
        all_supported (`bool`): Whether every labelled unit is in `units`.
        open_sides (`frozenset[str]`): Codes with an unsupported label, even if the other side has a supported one.
        absent (`tuple[str, ...]`): Codes that are absent according to both label and motion.
        motions (`tuple[RegionMotion, ...]`): The significant region motions, strongest first.
        labelled (`bool`): Whether the source says anything about an expression in this clip.
    """

    convention: str
    emotion: str | None
    emotion_coarse: str | None
    units: tuple[Judgement, ...]
    all_supported: bool
    open_sides: frozenset[str]
    absent: tuple[str, ...]
    motions: tuple[RegionMotion, ...]
    labelled: bool

    @property
    def still(self) -> bool:
        """Nothing moves above the clip's noise."""
        return not self.motions and not self.units

    @property
    def emotions(self) -> frozenset[str]:
        """The clip's own emotion words, to extend the parser's vocabulary."""
        return frozenset(word for word in (self.emotion, self.emotion_coarse) if word)

    @property
    def certain(self) -> ClipFacts:
        """The facts as statements need them."""
        return ClipFacts(
            sides={item.code: None if item.code in self.open_sides else item.side for item in self.units},
            absent=self.absent,
            motions=self.motions,
            emotions=(self.emotion,) if self.emotion else (),
            coarse_emotion=self.emotion_coarse,
            convention=self.convention,
        )


def accept_facts(
    judgements: Sequence[Judgement],
    motions: Sequence[RegionMotion],
    *,
    emotion: str | None,
    emotion_coarse: str | None,
    convention: str,
    also_named: Collection[str] = (),
) -> AcceptedFacts:
    """Collects the facts on which a clip's labels and motion agree.

    - A label is accepted if its verdict is `SUPPORTED`.
    - A unit is certainly absent if it is neither labelled nor in `also_named`, and its region is still on both sides.
      The region may also move if a supported unit explains this motion and its direction is at least three octants
      from the one expected for the absent unit.
    - An emotion is accepted if at least one unit is supported. If the source labels no units, any motion is enough.

    Args:
        judgements (`Sequence[Judgement]`): One verdict per label.
        motions (`Sequence[RegionMotion]`): Motions of all regions, from `measure_motion`.
        emotion (`str | None`): The source's word.
        emotion_coarse (`str | None`): The source's coarse class.
        convention (`str`): Label convention.
        also_named (`Collection[str]`, *optional*): Codes that the sheet names without certainty, such as the
            alternatives of "L12 or L14".

    Raises:
        ValueError: the convention is empty or contains punctuation, so its sentence could not be parsed.
    """
    if not convention.strip() or any(mark in convention for mark in ",.:;?\n"):
        raise ValueError(f"The label convention {convention!r} must be a name without the characters , . : ; ? .")
    supported = _one_a_code([item for item in judgements if item.verdict == SUPPORTED])
    significant = tuple(sorted((item for item in motions if item.significant), key=lambda item: -item.magnitude))
    grounded = bool(supported) or (bool(significant) and not judgements)
    codes = {item.code for item in judgements}
    return AcceptedFacts(
        convention=convention,
        emotion=emotion if grounded else None,
        emotion_coarse=emotion_coarse if grounded else None,
        units=supported,
        all_supported=codes == {item.code for item in supported},
        open_sides=frozenset(item.code for item in judgements if item.verdict != SUPPORTED),
        absent=absent_units(
            codes | set(also_named),
            {(item.region, side) for item in supported for side in SIDES if item.side in ("both", side)},
            motions,
        ),
        motions=significant,
        labelled=bool(judgements) or emotion is not None or emotion_coarse is not None,
    )


def _one_a_code(supported: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """Merges a unit that is labelled on the left and on the right into one on both sides."""
    merged: dict[str, Judgement] = {}
    for item in supported:
        other = merged.get(item.code)
        if other is None:
            merged[item.code] = item
        elif "both" in (item.side, other.side):
            merged[item.code] = item if item.side == "both" else other
        elif item.side != other.side:
            stronger = max(item, other, key=lambda one: one.magnitude)
            agreement, magnitude = (item.agreement + other.agreement) / 2, (item.magnitude + other.magnitude) / 2
            merged[item.code] = replace(stronger, side="both", agreement=agreement, magnitude=magnitude)
    return tuple(merged.values())


def clip_generator(clip_id: str, seed: int = 0) -> np.random.Generator:
    """A random generator that depends only on the clip and the seed, not on earlier draws or the worker."""
    digest = hashlib.sha256(clip_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16], "little")])


def conversations_of(facts: AcceptedFacts, rng: np.random.Generator) -> list[dict]:
    """Writes the clip's conversations as {"task", "messages"}, in the chat format of transformers.

    The clip is a content block of type video. Each task has its own stream of random numbers, so adding or removing a
    task does not change the wording of the others.

    Args:
        facts (`AcceptedFacts`): The accepted facts.
        rng (`np.random.Generator`): Random generator, from `clip_generator`.

    Raises:
        AmbiguousWordError: an answer does not parse to its own facts, because a word of the source (an emotion such as
            "left") has another meaning for the parser.
    """
    seed = int(rng.integers(2**63))
    conversations = []
    for task in TASKS:
        own = np.random.default_rng([seed, zlib.crc32(task.encode())])
        turns = []
        for question in _questions(task, facts, own):
            stated = facts_of(task, question, facts)
            answer = write_answer(task, question, stated, facts, own)
            try:
                read = parse_facts(task, question, answer, emotions=facts.emotions)
            except UnreadableAnswerError as error:
                raise AmbiguousWordError(f"The answer {answer!r} (task {task}) cannot be parsed: {error}.") from None
            if read != stated:
                raise AmbiguousWordError(f"The answer {answer!r} (task {task}) is parsed as {sorted(read)}.")
            turns.append((question, answer))
        # The questions of most tasks are conversations of their own; those of several_turns are one.
        for chosen in [turns] if task == "several_turns" and turns else [[turn] for turn in turns]:
            conversations.append({"task": task, "messages": _messages(chosen)})
    return conversations


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict]:
    """Questions and answers as messages. The clip is in the first one."""
    messages = []
    for place, (question, answer) in enumerate(turns):
        clip = [] if place else [{"type": "video", "text": None}]
        messages += [
            {"role": "user", "content": [*clip, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
    return messages


def _draw(options: Sequence, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]


def _questions(task: str, facts: AcceptedFacts, rng: np.random.Generator) -> list[str]:
    """The questions a task may ask about a clip; empty if a fact is missing."""
    names = {"convention": facts.convention}
    targets: list[dict[str, str]]
    if task == "explain":
        ready = (facts.emotion and facts.units) or facts.still or not facts.labelled
        # Half of the clips use the processor's own instruction.
        question = QUESTIONS[task][0] if rng.random() < 0.5 else _draw(QUESTIONS[task][1:], rng)
        return [question.format(**names)] if ready else []
    if task.startswith("me_vqa"):
        return _me_vqa_questions(task, facts, rng)
    if task == "several_turns":
        return _turns(facts, rng)
    if task in ("could_be", "why_not"):
        emotions = _emotions_to_ask(task, facts)
        targets = [{"emotion": _draw(emotions, rng)}] if emotions else []
        return [_draw(QUESTIONS[task], rng).format(**names, **target) for target in targets]
    if task in ("emotion", "emotion_coarse"):
        targets = [{"options": _options(facts, rng)}] if facts.still or getattr(facts, task) else []
    elif task == "action_units":
        targets = [{}] if facts.still or facts.units else []
    elif task == "action_unit_presence":
        targets = [{"unit": _unit(code)} for code in _present_and_absent(facts, rng)]
    elif task == "expected_motion":
        targets = [{"unit": _unit(_draw(_COMMON_UNITS, rng))}]
    elif task == "class_of_emotion":
        targets = [{"emotion": _draw(CLASSED, rng)}]
    elif task == "side":
        codes = (
            _COMMON_UNITS if facts.still else [item.code for item in facts.units if item.code not in facts.open_sides]
        )
        targets = [{"unit": _unit(_draw(codes, rng))}] if codes else []
    elif task == "region_motion":
        regions = [(item.region, item.side) for item in facts.motions]
        if facts.still:
            regions = [(region, side) for region in REGIONS for side in SIDES]
        chosen = [_draw(regions, rng)] if regions else []
        targets = [{"region": region, "side": side} for region, side in chosen]
    else:
        targets = [{}] if facts.still or facts.motions else []
    return [_draw(QUESTIONS[task], rng).format(**names, **target) for target in targets]


def _options(facts: AcceptedFacts, rng: np.random.Generator) -> str:
    """Two to four emotions to choose from, in any order. The clip's own is one of them."""
    own = [facts.emotion] if facts.emotion else []
    _, prototypes = prototypes_of(facts.convention)
    others = rng.permutation([name for name in prototypes if name not in own]).tolist()
    names = rng.permutation([*own, *others[: int(rng.integers(2, 5)) - len(own)]]).tolist()
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _turns(facts: AcceptedFacts, rng: np.random.Generator) -> list[str]:
    """Two to four questions about a clip, each of another task."""
    asked = {task: _questions(task, facts, rng) for task in TURN_TASKS}
    tasks = [task for task, questions in asked.items() if questions]
    count = min(len(tasks), int(rng.integers(2, 5)))
    chosen = rng.permutation(len(tasks))[:count].tolist()
    return [_draw(asked[tasks[place]], rng) for place in chosen] if count > 1 else []


def _emotions_to_ask(task: str, facts: AcceptedFacts) -> list[str]:
    """Emotions of the convention and the clip's own; for why_not only those that the clip excludes."""
    if not facts.still and not (facts.emotion and facts.units):
        return []
    names = emotions_to_ask(facts.convention)
    if facts.still:
        return list(names)
    if task == "could_be":
        return [*names, *({facts.emotion} - set(names))]
    return [name for name in names if could_be(name, facts.certain)[0] == "no"]


def _me_vqa_questions(task: str, facts: AcceptedFacts, rng: np.random.Generator) -> list[str]:
    """The track's questions ask for all labelled units and allow no abstention, so all units must be supported."""
    names = {"convention": facts.convention}
    listed = facts.all_supported and bool(facts.units)
    plural = len(facts.units) > 1
    one_sided = [item.code for item in facts.units if item.side != "both" and item.code not in facts.open_sides]
    if task == "me_vqa_presence":
        if facts.still:
            return []
        codes = _present_and_absent(facts, rng)
        return [QUESTIONS[task][0].format(name=get_action_unit(code).name) for code in codes]
    if task == "me_vqa_side":
        return [
            QUESTIONS[task][0].format(name=get_action_unit(code).name)
            for code in ([_draw(one_sided, rng)] if one_sided else [])
        ]
    asked = {
        "me_vqa_coarse": facts.emotion_coarse,
        "me_vqa_fine": facts.emotion,
        "me_vqa_action_units": listed,
        "me_vqa_combined": listed and facts.emotion and facts.emotion_coarse,
    }[task]
    forms = QUESTIONS[task]
    return [forms[-1 if plural else 0].format(**names)] if asked else []


def _present_and_absent(facts: AcceptedFacts, rng: np.random.Generator) -> list[str]:
    """One present and one absent unit, so that yes and no are equally frequent. A still clip gets one question."""
    if facts.still:
        return [_draw(_COMMON_UNITS, rng)]
    absent = [code for code in facts.absent if code in _COMMON_UNITS] or facts.absent
    if not facts.units or not absent:
        return []
    codes = [_draw(facts.units, rng).code, _draw(absent, rng)]
    return codes if rng.random() < 0.5 else codes[::-1]


def facts_of(task: str, question: str, facts: AcceptedFacts) -> Facts:
    """Selects the accepted facts that answer a question.

    Args:
        task: Task of the question.
        question: Text of the question.
        facts: The accepted facts of the clip.

    Raises:
        ValueError: the facts do not answer it.
    """
    insufficient: Facts = frozenset({("insufficient motion",)})
    if task == "explain" and (facts.still or not facts.labelled):
        return insufficient | ({("still",)} if facts.still else set())
    if task == "several_turns":
        return facts_of(task_of_turn(question), question, facts)
    if task == "expected_motion":
        unit = get_action_unit(unit_in(question))
        return frozenset({("expected" if unit.testable and unit.motions else "not testable", unit.code)})
    if task == "class_of_emotion":
        asked = emotion_in(question)
        return frozenset({("class_of", asked, COARSE_EMOTION[asked])})
    if facts.still:
        return insufficient
    if task in ("could_be", "why_not"):
        return _possibility(task, emotion_in(question), facts)
    emotion = frozenset({("emotion", facts.emotion.casefold())}) if facts.emotion else frozenset()
    coarse = frozenset({("emotion_coarse", facts.emotion_coarse.casefold())}) if facts.emotion_coarse else frozenset()
    units = frozenset(("unit", item.code, "present") for item in facts.units)
    stated: Facts = frozenset()
    if task == "explain":
        stated = emotion | {
            ("evidence", item.code, item.side, item.region, item.direction, f"{item.magnitude:.1f}")
            for item in facts.units
        }
    elif task in ("emotion", "me_vqa_fine"):
        stated = emotion
    elif task in ("emotion_coarse", "me_vqa_coarse"):
        stated = coarse
    elif task in ("action_units", "me_vqa_action_units"):
        stated = units
    elif task == "me_vqa_combined":
        stated = emotion | coarse | units
    elif task in ("action_unit_presence", "me_vqa_presence"):
        code = unit_in(question)
        absent = frozenset(("unit", code, "absent") for one in facts.absent if one == code)
        stated = (units & {("unit", code, "present")}) | absent
    elif task in ("side", "me_vqa_side"):
        code = unit_in(question)
        known = [item for item in facts.units if item.code == code and code not in facts.open_sides]
        stated = frozenset(("side", code, item.side) for item in known)
    elif task == "region_motion":
        region, side = region_in(question)
        stated = frozenset(_motion_fact(item) for item in facts.motions if (item.region, item.side) == (region, side))
    elif task == "motions":
        stated = frozenset(_motion_fact(item) for item in facts.motions[:MOST_MOTIONS])
    if not stated:
        raise ValueError(f"The accepted facts do not answer the question {question!r} (task {task}).")
    return stated


def _possibility(task: str, emotion: str, facts: AcceptedFacts) -> Facts:
    decision, _, codes = could_be(emotion, facts.certain)
    if decision == "insufficient":
        return frozenset({("insufficient motion",)})
    if decision == "open":
        return frozenset({("not shown",)})
    if decision == "is":
        return frozenset({("emotion", emotion.casefold())})
    state = "present" if decision == "yes" else "absent"
    # What it is comes before what it could be; a reason against an emotion stands alone.
    beside = facts.emotion and not (task == "why_not" and decision == "no")
    own = frozenset({("emotion", facts.emotion.casefold())} if beside else ())
    return own | {("could_be", emotion.casefold(), decision), *(("unit", code, state) for code in codes)}


def _motion_fact(item: RegionMotion) -> tuple[str, ...]:
    return ("motion", item.region, item.side, item.direction, f"{item.magnitude:.1f}")


def _unit(code: str) -> str:
    return f"{code} ({get_action_unit(code).name})"


def write_answer(task: str, question: str, stated: Facts, facts: AcceptedFacts, rng: np.random.Generator) -> str:
    """Writes text that states exactly these facts, with emotions spelled as in the source."""
    if task == "explain":
        return _write_report(stated, facts, rng)
    if task.startswith("me_vqa"):
        return _write_me_vqa(task, stated, facts)
    if task == "several_turns":
        return write_answer(task_of_turn(question), question, stated, facts, rng)
    if task == "expected_motion":
        return knowledge(unit_in(question))
    if task == "class_of_emotion":
        return class_of_emotion(emotion_in(question))
    if task in ("could_be", "why_not"):
        emotion = emotion_in(question)
        return could_be(emotion, facts.certain)[1] if task == "could_be" else why_not(emotion, facts.certain)[0]
    brief = any(words in question for words in _ONE_WORD)

    def choose(options: tuple[str, ...]) -> str:
        return options[0] if brief else _draw(options, rng)

    ordered = sorted(stated, key=_order)
    kind, *values = ordered[0]
    if kind == "insufficient motion":
        return choose(_ANSWERS[kind])
    if task in ("emotion", "emotion_coarse"):
        return choose(_ANSWERS[task]).format(emotion=getattr(facts, task), convention=facts.convention)
    if task == "action_units":
        units = [f"{code} {get_action_unit(code).name}" for _, code, _ in ordered]
        return choose(_ANSWERS[task]).format(units=", ".join(units))
    if task == "action_unit_presence":
        return choose(_ANSWERS[values[1]]).format(unit=_unit(values[0]))
    if task == "side":
        return choose(_ANSWERS[task]).format(unit=_unit(values[0]), side=values[1], where=WHERE[values[1]])
    template = choose(_ANSWERS[task])
    clauses = [
        template.format(region=region, side=side, direction=direction, magnitude=magnitude)
        for _, region, side, direction, magnitude in ordered
    ]
    return clauses[0] if task == "region_motion" else _sentence("; ".join(clauses)) + "."


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _order(fact: tuple[str, ...]) -> tuple:
    """Units by number, motions by magnitude."""
    if fact[0] in ("unit", "evidence"):
        unit = get_action_unit(fact[1])
        return (fact[0], unit.kind, unit.number)
    if fact[0] == "motion":
        return ("motion", -float(fact[4]), *fact)
    return fact


def _write_report(stated: Facts, facts: AcceptedFacts, rng: np.random.Generator) -> str:
    if ("insufficient motion",) in stated:
        reasons = STILL_RATIONALES if ("still",) in stated else UNCLEAR_RATIONALES
        return format_answer(ExpressionReport(status=INSUFFICIENT, rationale=_draw(reasons, rng)))
    evidence = [fact[1:] for fact in sorted(stated, key=_order) if fact[0] == "evidence"]
    sides = {code: side for code, side, *_ in evidence}
    rationale = write_rationale(_draw(RATIONALES, rng), sides, facts.emotion, facts.convention)
    report = ExpressionReport(
        emotion=facts.emotion,
        action_units=[ActionUnitFinding(code, get_action_unit(code).name, side) for code, side, *_ in evidence],
        evidence=[
            MotionEvidence(code, region, direction, float(magnitude))
            for code, _, region, direction, magnitude in evidence
        ],
        rationale=rationale,
    )
    return format_answer(report)


def _write_me_vqa(task: str, stated: Facts, facts: AcceptedFacts) -> str:
    names = [get_action_unit(fact[1]).name for fact in sorted(stated, key=_order) if fact[0] == "unit"]
    if task == "me_vqa_coarse":
        return facts.emotion_coarse
    if task == "me_vqa_fine":
        return facts.emotion
    if task == "me_vqa_action_units":
        return ", ".join(names)
    if task == "me_vqa_combined":
        subject = "action units present are" if len(names) > 1 else "action unit present is"
        return (
            f"The {subject}: {', '.join(names)}. Therefore, the fine-grained expression class is {facts.emotion}, "
            f"and the coarse expression class is {facts.emotion_coarse}."
        )
    ((_, _, value),) = stated
    return {"present": "yes", "absent": "no"}.get(value, value)
