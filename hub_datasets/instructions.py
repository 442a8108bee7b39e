"""Questions and answers about a clip, written from accepted facts only and parsed back to the same facts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.expression_report import (
    INSUFFICIENT_MOTION,
    ActionUnitFinding,
    ExpressionReport,
    MotionEvidence,
    format_answer,
)
from deft_llm.processing.processing_deft import DEFAULT_INSTRUCTION

from .constraints import SUPPORTED, Judgement

QUESTIONS = {
    "explain": (DEFAULT_INSTRUCTION,),
    "emotion": (
        "Which emotion does the micro-expression show by the convention of {convention}? Answer with one word.",
        "By the convention of {convention}, name the emotion of this micro-expression in one word.",
    ),
    "action_units": (
        "Which action units are visible in the motion? List them.",
        "List the action units that move the face in this clip.",
    ),
}


def report_of_facts(emotion: str | None, convention: str, judgements: Sequence[Judgement]) -> ExpressionReport:
    """The answer that a clip's labels and its motion allow: what the motion does not show is not mentioned."""
    accepted = [item for item in judgements if item.verdict == SUPPORTED]
    if not accepted:
        return ExpressionReport(
            insufficient_motion=True, rationale="No region of the face moves clearly above the noise of the clip."
        )
    units = [get_action_unit(item.code) for item in accepted]
    actions = " and ".join(unit.action for unit in units)
    return ExpressionReport(
        emotion=emotion,
        action_units=[
            ActionUnitFinding(unit.code, unit.name, item.side) for unit, item in zip(units, accepted, strict=True)
        ],
        evidence=[
            MotionEvidence(item.code, item.region, item.direction, round(item.magnitude, 1)) for item in accepted
        ],
        rationale=f"{actions[0].upper()}{actions[1:]}; by the convention of {convention} this is {emotion}.",
    )


def conversations_of(report: ExpressionReport, convention: str, rng: np.random.Generator) -> list[dict]:
    """One {"task", "messages"} a task, in the chat format of transformers, the clip as a block of type video."""
    answers = {
        "explain": format_answer(report),
        "emotion": INSUFFICIENT_MOTION if report.insufficient_motion else report.emotion,
        "action_units": ", ".join(f"{unit.code} {unit.name}" for unit in report.action_units) or "none",
    }
    conversations = []
    for task, answer in answers.items():
        question = str(rng.choice(QUESTIONS[task])).format(convention=convention)
        user = [{"type": "video", "text": None}, {"type": "text", "text": question}]
        assistant = [{"type": "text", "text": answer}]
        conversations.append(
            {
                "task": task,
                "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}],
            }
        )
    return conversations
