"""The questions of the Uni-MER tasks: several wordings per task, and which wording a question has."""

from __future__ import annotations

import re
from functools import lru_cache

from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, SIDES
from deft_llm.processing.expression_report import DEFAULT_INSTRUCTION

_THREE_FIELDS = "three fields: one line Class, one line a piece of Evidence, one paragraph Rationale."

QUESTIONS: dict[str, tuple[str, ...]] = {
    "explain": (
        DEFAULT_INSTRUCTION,
        "Say what the face does and what it shows by the convention of {convention}. Write " + _THREE_FIELDS,
        "By the convention of {convention}, which micro-expression is this, and what speaks for it? Give "
        + _THREE_FIELDS,
        "Analyse the micro-expression by the convention of {convention}. Report " + _THREE_FIELDS,
        "Classify this clip by the convention of {convention}, and justify the class. Use " + _THREE_FIELDS,
        "Name the class by the convention of {convention}, the movements it rests on, and the reason. Answer in "
        + _THREE_FIELDS,
        "What happens in this face, and how is it read by the convention of {convention}? Write " + _THREE_FIELDS,
        "Decide by the convention of {convention}: which class is it, and which movements say so? Answer in "
        + _THREE_FIELDS,
        "Give your reading of this face by the convention of {convention}, with the movements behind it. Write "
        + _THREE_FIELDS,
        "What do you see, and what does it mean by the convention of {convention}? Answer in " + _THREE_FIELDS,
        "Write a short report on this micro-expression by the convention of {convention}. It has " + _THREE_FIELDS,
        "By the convention of {convention}, please explain what the face shows and why. Use " + _THREE_FIELDS,
        "Judge the clip by the convention of {convention}, and give the evidence. Fill in " + _THREE_FIELDS,
        "Describe the evidence in the motion and conclude by the convention of {convention}. Return " + _THREE_FIELDS,
        "Which movements are there, and which emotion do they make by the convention of {convention}? Fill in "
        + _THREE_FIELDS,
    ),
    "emotion": (
        "Which emotion does the micro-expression show by the convention of {convention}? Answer with one word.",
        "By the convention of {convention}, name the emotion of this micro-expression in one word.",
        "What is the fine-grained emotion by the convention of {convention}? Reply in one word.",
        "One word: which emotion is it by the convention of {convention}?",
        "Which emotion is this by the convention of {convention}?",
        "How is this micro-expression labelled by the convention of {convention}?",
        "Tell me the emotion that the convention of {convention}, applied to this clip, gives.",
        "Choose from {options}: which emotion is it by the convention of {convention}?",
        "{options}: which of these is the emotion by the convention of {convention}? Answer in one word.",
        "Is it {options} by the convention of {convention}? Reply in one word.",
        "Please name the fine-grained class by the convention of {convention}.",
        "Classify the emotion of this clip by the convention of {convention}.",
        "Which of the fine-grained classes is this by the convention of {convention}?",
        "What is this micro-expression by the convention of {convention}? Reply in one word.",
        "How would you label the face by the convention of {convention}?",
        "Sort the clip into a fine-grained class by the convention of {convention}.",
        "By the convention of {convention}, which emotion does this face show for a moment?",
        "Read the micro-expression by the convention of {convention}. Which emotion is it?",
    ),
    "emotion_coarse": (
        "Is this positive, negative, surprise or others by the convention of {convention}? Answer in one word.",
        "By the convention of {convention}, name the coarse class of this micro-expression in one word.",
        "What is the coarse emotion by the convention of {convention}? Reply in one word.",
        "One word: which coarse class is it by the convention of {convention}?",
        "Which coarse class does the clip belong to by the convention of {convention}?",
        "How is this clip classed coarsely by the convention of {convention}?",
        "By the convention of {convention}, which of the coarse classes is this?",
        "Please name the coarse class by the convention of {convention}.",
        "How would you class the face coarsely by the convention of {convention}?",
        "Positive, negative, surprise or others: which one by the convention of {convention}?",
        "Sort the micro-expression into a coarse class by the convention of {convention}.",
    ),
    "action_units": (
        "Which action units are visible in the motion? List them.",
        "List the action units that move the face in this clip.",
        "Name every action unit that the motion shows.",
        "What action units can be seen moving?",
        "Give the action units behind the motion in this clip, with codes.",
        "Code the visible motion in FACS action units.",
        "Which facial actions does the motion show? Answer with action units.",
        "Which action units are there?",
        "Please list the active action units.",
        "Look at the motion and name the action units.",
        "What are the action units of this face?",
        "Tell me which action units you see.",
        "Do a FACS coding of the clip: which action units?",
        "Which codes would a FACS coder write down for this motion?",
        "What are the action units that explain the motion?",
        "Report all action units with their codes and names.",
        "Write down the action units that the motion speaks for.",
        "Seen from the motion alone, which action units are active?",
    ),
    "action_unit_presence": (
        "Is {unit} visible in the motion? Answer yes or no.",
        "Yes or no: does the motion show {unit}?",
        "Does {unit} move the face in this clip? Answer with yes or no.",
        "Answer yes or no: is {unit} there?",
        "Can {unit} be seen in this clip?",
        "Does the face show {unit}?",
        "Check the motion for {unit}. Is it there?",
        "Is {unit} active?",
        "Do you see {unit}?",
        "Tell me whether {unit} is there.",
        "Please check: does {unit} show in the motion?",
        "Does the clip contain {unit}? Answer yes or no.",
        "Is {unit} one of the action units here?",
        "Has {unit} been activated in this face?",
        "Look for {unit}. Yes or no?",
        "Would a FACS coder write down {unit}?",
        "Is there {unit} in this clip?",
        "Would you code {unit} from this motion?",
    ),
    "side": (
        "On which side of the face is {unit}? Answer left, right or both in one word.",
        "One word, left, right or both: where does {unit} show?",
        "Is {unit} on the subject's left, right or both sides? Answer with one word.",
        "Name the side of {unit} in one word.",
        "Which side of the face shows {unit}, seen from the subject?",
        "Does {unit} show on one side or on both?",
        "Where is {unit}: left, right or both sides?",
        "Is {unit} left, right or on both sides?",
        "Tell me where {unit} is: on the left, on the right or on both sides.",
        "On which side do you see {unit}?",
        "Is {unit} one-sided, and on which side?",
        "Please say on which side {unit} shows. Answer in one word.",
        "Left, right or both: on which side does {unit} move the face?",
        "Which side is {unit} on?",
        "Does {unit} move the left side, the right side or both?",
        "Look at {unit}. Which side of the face is it on?",
        "Tell me the side on which {unit} moves the face.",
        "Which half of the face moves with {unit}?",
    ),
    "region_motion": (
        "How does the {region} on the {side} move?",
        "Describe the motion of the {region} on the {side}.",
        "Where to and how far does the {region} on the {side} move?",
        "Look at the {region} on the {side}: direction and magnitude?",
        "What is the direction and the magnitude of the motion of the {region} on the {side}?",
        "Measure the motion of the {region} on the {side}, in percent of the crop width.",
        "In which direction does the {region} on the {side} go, and by how much?",
        "Where does the {region} on the {side} go?",
        "How far does the {region} on the {side} move, and where to?",
        "Tell me how the {region} on the {side} moves.",
        "Please describe the movement of the {region} on the {side}.",
        "What is the motion of the {region} on the {side}?",
        "Report direction and magnitude for the {region} on the {side}.",
        "By how much does the {region} on the {side} move, and in which direction?",
        "What happens at the {region} on the {side}?",
        "Give direction and magnitude of the movement of the {region} on the {side}.",
        "What does the {region} on the {side} do?",
    ),
    "motions": (
        "Which regions of the face move most? Describe at most three.",
        "Describe the strongest motions of the face, at most three of them.",
        "Where does the face move most? Name up to three regions with direction and magnitude.",
        "List the strongest region motions, three at most, with side, direction and magnitude.",
        "What moves in this face? Give the three strongest motions, or fewer if fewer are clear.",
        "Report the face's strongest motions in percent of the crop width, at most three.",
        "Which parts of the face move, where to and how far? Three at most.",
        "What are the strongest motions? Give up to three.",
        "Tell me what moves, at most three regions.",
        "Which three regions, or fewer, move the most, and how?",
        "Please describe the motion of the face: the strongest regions, three at most.",
        "Summarise the motion in at most three regions.",
        "Where is the motion strongest? Give at most three regions with direction and magnitude.",
        "In short: what moves in the face? Three regions or fewer.",
        "Rank the regions by their motion and describe the first three, or fewer.",
        "Name the regions that move most, not more than three, and say how they move.",
        "Sum up the motion: the strongest three regions or fewer.",
    ),
    # Questions of the MEGC ME-VQA track, word for word. If the answer depends on the convention, a line before the
    # question names it.
    "me_vqa_coarse": ("Label convention: {convention}\nWhat is the coarse expression class?",),
    "me_vqa_fine": ("Label convention: {convention}\nWhat is the fine-grained expression class?",),
    "me_vqa_action_units": ("What is the action unit?", "What are the action units?"),
    "me_vqa_presence": ("Is the action unit {name} shown on the face?",),
    "me_vqa_side": ("Is the action unit {name} located on the left or right face?",),
    "me_vqa_combined": (
        "Label convention: {convention}\nWhat is the action unit present, and based on it, what is the fine-grained "
        "expression and the coarse expression class?",
        "Label convention: {convention}\nWhat are the action units present, and based on them, what is the "
        "fine-grained expression and the coarse expression class?",
    ),
}

# Questions of a conversation about a clip.
QUESTIONS |= {
    "could_be": (
        "Could this be {emotion} by the convention of {convention}?",
        "Might the face show {emotion} by the convention of {convention}?",
        "By the convention of {convention}, is {emotion} possible here?",
        "Does the motion fit {emotion} by the convention of {convention}?",
        "Can this clip be {emotion} by the convention of {convention}?",
        "Would you accept {emotion} as an answer by the convention of {convention}?",
        "Is it possible that this is {emotion} by the convention of {convention}?",
        "Could it be {emotion} by the convention of {convention}?",
        "Is {emotion} a possible reading by the convention of {convention}?",
        "Would {emotion} be a correct answer by the convention of {convention}?",
        "Is this {emotion} by the convention of {convention}?",
        "I think this is {emotion} by the convention of {convention}. Do you agree?",
        "Does the face allow {emotion} by the convention of {convention}?",
        "Does what moves fit with {emotion} by the convention of {convention}?",
        "Can {emotion} be the answer by the convention of {convention}?",
        "Please check: could the clip show {emotion} by the convention of {convention}?",
        "Someone says this is {emotion} by the convention of {convention}. Can that be?",
        "By the convention of {convention}, does what moves allow {emotion}?",
    ),
    "why_not": (
        "Why is this not {emotion} by the convention of {convention}?",
        "By the convention of {convention}, why not {emotion}?",
        "What speaks against {emotion} by the convention of {convention}?",
        "What is missing for {emotion} by the convention of {convention}?",
        "Why do you rule out {emotion} by the convention of {convention}?",
        "What would have to move for {emotion} by the convention of {convention}, and does not?",
        "Give the reason against {emotion} by the convention of {convention}.",
        "Why can this not be {emotion} by the convention of {convention}?",
        "What excludes {emotion} by the convention of {convention}?",
        "Tell me why it is not {emotion} by the convention of {convention}.",
        "Which movement is missing for {emotion} by the convention of {convention}?",
        "On what grounds do you exclude {emotion} by the convention of {convention}?",
        "Please explain why {emotion} is ruled out by the convention of {convention}.",
        "What is the evidence against {emotion} by the convention of {convention}?",
        "Why would {emotion} be wrong by the convention of {convention}?",
        "How can you tell that it is not {emotion} by the convention of {convention}?",
        "Explain why {emotion} is not the answer by the convention of {convention}.",
    ),
    "expected_motion": (
        "What would you expect to see for {unit}?",
        "What does {unit} do to a face?",
        "Which motion would {unit} make?",
        "How would a face move with {unit}?",
        "Where would {unit} move the face, and where to?",
        "If {unit} were there, what would move?",
        "Which regions does {unit} move, and in which direction?",
        "What motion does one expect for {unit}?",
        "Tell me what {unit} would look like in motion.",
        "How does {unit} change the face?",
        "Which way does the face move with {unit}?",
        "What is the typical motion of {unit}?",
        "Please describe what {unit} does.",
        "What should move if {unit} is active?",
        "Explain what one would see of {unit}.",
        "Describe the motion that one expects of {unit}.",
        "How is {unit} recognised in motion?",
    ),
    "class_of_emotion": (
        "Which coarse class does {emotion} belong to?",
        "How is {emotion} classed coarsely?",
        "What is the coarse class of {emotion}?",
        "Is {emotion} positive, negative, surprise or others?",
        "Into which coarse class would you sort {emotion}?",
        "Name the coarse class of {emotion}.",
        "Which of the coarse classes is {emotion}?",
        "How would you class {emotion} coarsely?",
        "Positive, negative, surprise or others: which one is {emotion}?",
        "Sort {emotion} into a coarse class.",
        "Tell me the coarse class that {emotion} is in.",
        "Under which coarse class does {emotion} come?",
        "Please say what {emotion} is, positive, negative, surprise or others.",
        "Among the coarse classes, where is {emotion}?",
    ),
}
TURN_TASKS = (
    "emotion",
    "emotion_coarse",
    "action_units",
    "action_unit_presence",
    "side",
    "region_motion",
    "motions",
    "could_be",
    "why_not",
    "expected_motion",
    "class_of_emotion",
)
"""Tasks that the turns of a conversation are drawn from. Their answers need no other turn to be understood."""
QUESTIONS["several_turns"] = tuple(question for task in TURN_TASKS for question in QUESTIONS[task])

# What the placeholders of a question may stand for.
_PLACEHOLDERS = {
    "convention": r"[^,.:;?\n]+",
    "emotion": r"[^,.:;?\n]+",
    "options": r"[^.:;?\n]+",
    "unit": "|".join(re.escape(f"{unit.code} ({unit.name})") for unit in ACTION_UNITS.values()),
    "name": "|".join(re.escape(unit.name) for unit in ACTION_UNITS.values()),
    "region": "|".join(map(re.escape, REGIONS)),
    "side": "|".join(SIDES),
}


def wording_of(task: str, question: str) -> int:
    """The place in `QUESTIONS[task]` of the wording that a question has.

    A conversation of the task several_turns has several questions, and each has a wording of its own.

    Args:
        task (`str`): Task of the question.
        question (`str`): The question, with its placeholders filled in.

    Raises:
        ValueError: The task is unknown, or the question has none of its wordings.
    """
    if task not in QUESTIONS:
        raise ValueError(f"Unknown task {task!r}. Known: {', '.join(QUESTIONS)}.")
    for place, pattern in enumerate(_patterns(task)):
        if pattern.fullmatch(question):
            return place
    raise ValueError(f"The question {question!r} has none of the wordings of the task {task!r}.")


def task_of_turn(question: str) -> str:
    """The task of one question of a conversation, one of `TURN_TASKS`.

    Raises:
        ValueError: The question has none of their wordings.
    """
    for task in TURN_TASKS:
        if any(pattern.fullmatch(question) for pattern in _patterns(task)):
            return task
    raise ValueError(f"The question {question!r} has none of the wordings of {', '.join(TURN_TASKS)}.")


def emotion_in(question: str) -> str:
    """The emotion that a question of the tasks could_be, why_not and class_of_emotion asks about.

    Raises:
        ValueError: The question names none.
    """
    for task in ("could_be", "why_not", "class_of_emotion"):
        for pattern in _patterns(task):
            match = pattern.fullmatch(question)
            if match:
                return match["emotion"]
    raise ValueError(f"Expected an emotion in the question {question!r}, found none.")


@lru_cache(maxsize=64)
def _patterns(task: str) -> tuple[re.Pattern[str], ...]:
    """A pattern per wording of a task."""
    patterns = []
    for question in QUESTIONS[task]:
        parts = re.split(r"\{(\w+)\}", question)  # text and placeholders in turn
        parts[::2] = map(re.escape, parts[::2])
        parts[1::2] = (f"(?P<{name}>{_PLACEHOLDERS[name]})" for name in parts[1::2])
        patterns.append(re.compile("".join(parts)))
    return tuple(patterns)
