"""What do answers in words say, and is it true? Free answers of trained models to the questions of the test split.

    python benchmarks/science/language.py NAME=MODEL … --dataset DIR [--clips N] [--held-out-wordings K] \
        [--held-out-tasks TASK,…] [--held-out-unit-sets SET,… [--sets seen|unseen]] [--tasks TASK,…] [--answers FILE] \
        [--silenced EXPERT,…]

An answer is parsed to facts by `answer_parsing.py` and compared with the facts of the dataset's own answer. An answer
that cannot be parsed states nothing and counts as wrong. A direction counts if it is within one octant, a magnitude if
it differs by at most a quarter or 0.2 % of the crop width. Rows:

- action units, sides, directions, magnitudes: precision and recall over all answers to trained wordings.
- questions in trained wordings, in held-out wordings (the last K of each task), and of held-out tasks: share of right
  answers. The forms of the answers of a held-out task were not trained, so a sentence that names exactly one of the
  possible answers counts as that answer.
- "is there X?" for units that are absent: share of "no". Still clips: share of answers that claim nothing.
- seen and unseen sets of units: share of right explanations of clips whose set of action units was trained, and of
  others.
- grounded: the same for explanations that are held to what was measured.
- a convention that the question explains: the class by a convention that was not trained, in which every emotion has
  the name of another one. The question lists the names.

With all experts silenced, a model with `motion_in_words` or `recognition_in_words` has the evidence as text only.

Intervals are of 95 %, from 1,000 resamplings of the test subjects.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deft_llm.evaluation.generation import generate_answers, load_checkpoint, stacked_tensors
from deft_llm.evaluation.metrics import emotion_metrics
from deft_llm.files import write_whole
from deft_llm.hub_datasets.unimer.answer_parsing import COARSE_EMOTIONS, Facts, UnreadableAnswerError, parse_facts
from deft_llm.hub_datasets.unimer.rows import region_motions
from deft_llm.processing.grounded_answer import magnitude_agrees
from deft_llm.processing.motion_evidence import octants_apart
from deft_llm.training.conversations import is_held_out
from deft_llm.training.data import load_splits, unit_set, without_unit_sets

ANSWERS_AT_ONCE = 16
LONGEST = 256  # tokens of an answer
RESAMPLINGS = 1000
UNTRAINED = "atlas"  # a label convention that no data set has
PRESENCE = ("action_unit_presence", "me_vqa_presence")
KINDS = ("action units", "sides", "directions", "magnitudes")
GRADED = ("evidence", "motion")  # facts with a direction and a magnitude, which may differ a little
# Task → the possible answers, for tasks that may be held out.
CHOICES = {"emotion_coarse": COARSE_EMOTIONS, "me_vqa_side": ("left", "right", "both")}
console = Console(width=150)


@dataclass(frozen=True)
class Question:
    """A question of the test split with the facts of its right answer.

    Args:
        row (`int`): Place of the clip in the test split.
        subject (`str`): The clip's subject.
        task (`str`): The question's task.
        text (`str`): The question.
        facts (`frozenset`): The facts of the right answer.
        group (`str`): "trained wordings", "held-out wordings" or "held-out tasks".
        emotions (`frozenset[str]`): Emotion words that an answer may use.
    """

    row: int
    subject: str
    task: str
    text: str
    facts: Facts
    group: str
    emotions: frozenset[str]

    def read(self, answer: str) -> Facts | None:
        """The facts of an answer, or `None` if it cannot be parsed."""
        try:
            return parse_facts(self.task, self.text, answer.strip(), emotions=self.emotions)
        except UnreadableAnswerError:
            choices = CHOICES.get(self.task, ()) if self.group == "held-out tasks" else ()
            named = [word for word in choices if re.search(rf"\b{word}\b", answer.casefold())]
            return frozenset((*fact[:-1], named[0]) for fact in self.facts) if len(named) == 1 else None


def questions_of(rows: Any, held_out_wordings: int, held_out_tasks: Sequence[str]) -> list[Question]:
    """All questions of the rows."""
    emotions = frozenset(word for name in ("emotion", "emotion_coarse") for word in rows[name] if word)
    found = []
    for place, row in enumerate(rows.select_columns(["subject", "conversations"])):
        for item in row["conversations"]:
            if len(item["messages"]) > 2:
                continue  # its questions are asked one by one as well
            task, (question, answer) = item["task"], [m["content"][-1]["text"] for m in item["messages"]]
            group = "trained wordings"
            if task in held_out_tasks:
                group = "held-out tasks"
            elif held_out_wordings and is_held_out(item, held_out_wordings):
                group = "held-out wordings"
            facts = parse_facts(task, question, answer, emotions=emotions)
            found.append(Question(place, row["subject"], task, question, facts, group, emotions))
    return found


def by_another_convention(rows: Any, known: Sequence[str]) -> list[Question]:
    """Questions about the emotion by a convention that they explain: every emotion has another one's name."""
    found = []
    for place, row in enumerate(rows.select_columns(["subject", "emotion"])):
        if row["emotion"]:
            order = np.random.default_rng(place).permutation(known).tolist()
            renamed = dict(zip(order, [*order[1:], order[0]], strict=True))
            names = ", ".join(f"{old} is called {new}" for old, new in renamed.items())
            named = f"by the convention of {UNTRAINED}"
            text = f"{named.capitalize()}, {names}. Which emotion is this {named}?"
            facts = frozenset({("emotion", renamed[row["emotion"]])})
            found.append(Question(place, row["subject"], "emotion", text, facts, "explained", frozenset(known)))
    return found


def answers_to(
    questions: Sequence[Question],
    rows: Any,
    model: Any,
    processor: Any,
    grounded: bool = False,
    silenced: Sequence[str] = (),
) -> tuple[list[str], dict[str, float]]:
    """Greedy answers, and what they cost: milliseconds and tokens per answer."""
    # Answers of similar length go together, because a batch takes as long as its longest answer.
    order = sorted(range(len(questions)), key=lambda index: (questions[index].task, index))
    texts, tokens, began = [""] * len(questions), 0, time.perf_counter()
    for start in range(0, len(order), ANSWERS_AT_ONCE):
        chosen = order[start : start + ANSWERS_AT_ONCE]
        clips = sorted({questions[index].row for index in chosen})
        tensors = stacked_tensors([rows[clip] for clip in clips], processor, model.device)
        places = torch.tensor([clips.index(questions[index].row) for index in chosen])
        tensors = {name: value[places] for name, value in tensors.items()}
        with torch.inference_mode():
            recognition = model.model(**tensors)
            if silenced:  # the heads go on deciding, for `recognition_in_words` and grounded answers
                silent = model.model(**tensors, silenced_experts=silenced)
                recognition.expert_tokens = silent.expert_tokens
        asked = [questions[index].text for index in chosen]
        motions = [region_motions(rows[questions[index].row]) for index in chosen]
        options = {"motions": motions, "grounded": grounded}
        found = generate_answers(model, processor, tensors, asked, LONGEST, recognition, **options)
        for index, text in zip(chosen, found, strict=True):
            texts[index] = text
            tokens += len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    count = max(len(questions), 1)
    return texts, {"ms": 1000 * (time.perf_counter() - began) / count, "tokens": tokens / count}


# --- Scores ---------------------------------------------------------------------------------------------------------


def items_of(facts: Facts | None, kind: str) -> set[tuple]:
    """The statements of one kind, each with what it is about first and what it says last."""
    found = set()
    for fact in facts or ():
        if fact[0] == "evidence":
            _, code, side, region, direction, magnitude = fact
            found |= {
                "action units": {(code, code)},
                "sides": {(code, side)},
                "directions": {((code, region), direction)},
                "magnitudes": {((code, region), magnitude)},
            }[kind]
        elif fact[0] == "motion" and kind in ("directions", "magnitudes"):
            found.add((fact[1:3], fact[3 if kind == "directions" else 4]))
        elif fact[0] == "unit" and kind == "action units" and fact[2] == "present":
            found.add((fact[1], fact[1]))
        elif fact[0] == "side" and kind == "sides":
            found.add((fact[1], fact[2]))
    return found


def agrees(kind: str, said: str, true: str) -> bool:
    """Whether two statements about the same thing agree."""
    if kind == "directions":
        apart = octants_apart(said, true)
        return said == true or (apart is not None and apart <= 1)
    if kind == "magnitudes":
        return magnitude_agrees(float(said), float(true))
    return said == true


def shared(kind: str, said: set[tuple], true: set[tuple]) -> int:
    """Number of statements that are said and true."""
    truth = dict(true)
    return sum(about in truth and agrees(kind, value, truth[about]) for about, value in said)


def right(question: Question, said: Facts | None) -> bool:
    """Whether an answer says exactly what the right one says, as far as the kinds of statements go."""
    if said is None or {fact[0] for fact in said} != {fact[0] for fact in question.facts}:
        return False
    for kind in KINDS:
        found, true = items_of(said, kind), items_of(question.facts, kind)
        if not len(found) == len(true) == shared(kind, found, true):
            return False
    return {fact for fact in said if fact[0] not in GRADED} == {
        fact for fact in question.facts if fact[0] not in GRADED
    }


def share(values: Sequence[float], subjects: Sequence[str], weights: Sequence[float] | None = None) -> str:
    """A share in percent, with an interval over the subjects."""
    if not len(values):
        return "–"
    values, weights = (
        np.asarray(values, float),
        np.ones(len(values)) if weights is None else np.asarray(weights, float),
    )
    names, owners = np.unique(subjects, return_inverse=True)
    sums, totals = np.bincount(owners, values), np.bincount(owners, weights)
    draws = np.random.default_rng(0).integers(len(names), size=(RESAMPLINGS, len(names)))
    with np.errstate(invalid="ignore"):
        low, high = np.nanpercentile(100 * sums[draws].sum(1) / totals[draws].sum(1), [2.5, 97.5])
    return f"{100 * values.sum() / weights.sum():.1f} ({low:.1f} to {high:.1f})"


def statements(questions: Sequence[Question], read: Sequence[Facts | None]) -> dict[str, str]:
    """Precision and recall of each kind of statement."""
    found, subjects = {}, [question.subject for question in questions]
    for kind in KINDS:
        said = [items_of(facts, kind) for facts in read]
        true = [items_of(question.facts, kind) for question in questions]
        both = [shared(kind, *pair) for pair in zip(said, true, strict=True)]
        found[f"{kind}: precision"] = share(both, subjects, [len(item) for item in said])
        found[f"{kind}: recall"] = share(both, subjects, [len(item) for item in true])
    return found


def scores(
    questions: Sequence[Question], answers: Sequence[str], seen_sets: Iterable[frozenset[str]]
) -> dict[str, str]:
    """The rows of the table for one model."""
    read = [question.read(answer) for question, answer in zip(questions, answers, strict=True)]
    pairs = list(zip(questions, read, strict=True))
    found = statements(*zip(*(pair for pair in pairs if pair[0].group == "trained wordings"), strict=True))

    def chosen(name: str, keep: Callable[[Question], bool], good: Callable[[Question, Facts | None], bool]) -> None:
        kept = [(question, facts) for question, facts in pairs if keep(question)]
        found[name] = share([good(*pair) for pair in kept], [question.subject for question, _ in kept])

    for group in ("trained wordings", "held-out wordings", "held-out tasks"):
        chosen(f"right answers: {group}", lambda one, group=group: one.group == group, right)
    for task in sorted({question.task for question in questions}):
        chosen(f"right answers: {task}", lambda one, task=task: one.task == task, right)
    chosen("readable", lambda one: True, lambda one, facts: facts is not None)
    absent = lambda one: one.task in PRESENCE and any(fact[-1] == "absent" for fact in one.facts)  # noqa: E731
    chosen('"is there X?" for absent units: no', absent, lambda one, facts: facts == one.facts)
    still = lambda one: ("insufficient motion",) in one.facts  # noqa: E731
    chosen("still clips: nothing claimed", still, lambda one, facts: facts is not None and facts <= one.facts)
    known = set(seen_sets)

    def stated_set(one: Question) -> frozenset[str]:
        return frozenset(fact[1] for fact in one.facts if fact[0] == "evidence")

    chosen(
        "explanations, sets of units seen in training",
        lambda one: one.task == "explain" and bool(stated_set(one)) and stated_set(one) in known,
        right,
    )
    chosen(
        "explanations, sets never seen",
        lambda one: one.task == "explain" and bool(stated_set(one)) and stated_set(one) not in known,
        right,
    )
    return found


def uf1(questions: Sequence[Question], answers: Sequence[str]) -> float:
    """UF1 of the class that explanations name, over the clips that have a class."""
    pairs = [(emotion_in(one.facts), emotion_in(one.read(text))) for one, text in zip(questions, answers, strict=True)]
    pairs = [pair for pair in pairs if pair[0] is not None]
    true, said = zip(*pairs, strict=True)
    return emotion_metrics(true, [word if word in true else None for word in said], sorted(set(true)))["uf1"]


def emotion_in(facts: Facts | None) -> str | None:
    """The emotion among facts."""
    return next((fact[1] for fact in facts or () if fact[0] == "emotion"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="trained models")
    parser.add_argument("--dataset", required=True, help="Uni-MER dataset with a training and a test split")
    parser.add_argument("--clips", type=int, help="number of test clips; default: all")
    parser.add_argument("--held-out-wordings", type=int, default=0, help="as in training")
    parser.add_argument("--held-out-tasks", default="", help="tasks that were not trained, by commas")
    parser.add_argument("--held-out-unit-sets", default="", help="sets of units that were not trained, by commas")
    parser.add_argument("--sets", choices=("seen", "unseen"), help="ask about clips with such sets of units only")
    parser.add_argument("--tasks", default="", help="tasks to ask questions of, by commas; default: all")
    parser.add_argument("--silenced", default="", help="experts whose tokens are zero, by commas")
    parser.add_argument("--answers", type=Path, help="JSON lines file to write, with every question and answer")
    arguments = parser.parse_args()
    splits = load_splits(arguments.dataset)
    rows = splits["test"]
    emotions = sorted({word for word in rows["emotion"] if word})
    held_out, tasks, unit_sets, silenced = (
        [item for item in text.split(",") if item]
        for text in (arguments.held_out_tasks, arguments.tasks, arguments.held_out_unit_sets, arguments.silenced)
    )
    trained = without_unit_sets(splits["train"], unit_sets) if unit_sets else splits["train"]
    seen_sets = set(map(unit_set, trained["action_units"]))
    if arguments.sets:
        known = [unit_set(units) in seen_sets for units in rows["action_units"]]
        rows = rows.select(np.flatnonzero(np.array(known) == (arguments.sets == "seen")))
    if arguments.clips:
        places = np.random.default_rng(0).permutation(len(rows))[: arguments.clips]
        rows = rows.select(sorted(places))
    questions = questions_of(rows, arguments.held_out_wordings, held_out)
    questions = [question for question in questions if not tasks or question.task in tasks]
    explain = [question for question in questions if question.task == "explain"]
    columns: dict[str, Mapping[str, str]] = {}
    written: list[dict[str, Any]] = []
    for item in arguments.models:
        name, _, path = item.partition("=")
        model, processor = load_checkpoint(path)
        answers, cost = answers_to(questions, rows, model, processor, silenced=silenced)
        column = scores(questions, answers, seen_sets)
        held, grounded_cost = answers_to(explain, rows, model, processor, grounded=True, silenced=silenced)
        subjects = [question.subject for question in explain]
        column["UF1 of the class in explanations, free / grounded"] = " / ".join(
            f"{uf1(explain, texts):.3f}" for texts in ([answers[questions.index(one)] for one in explain], held)
        )
        read = [one.read(text) for one, text in zip(explain, held, strict=True)]
        column |= {f"grounded explanations, {name}": value for name, value in statements(explain, read).items()}
        agreed = [right(*pair) for pair in zip(explain, read, strict=True)]
        column["grounded explanations: right"] = share(agreed, subjects)
        renamed = by_another_convention(rows, emotions)
        said, _ = answers_to(renamed, rows, model, processor, silenced=silenced)
        read = [one.read(text) for one, text in zip(renamed, said, strict=True)]
        for kind, wanted in (
            ("right", [one.facts for one in renamed]),
            ("the trained class", [frozenset({("emotion", rows[one.row]["emotion"])}) for one in renamed]),
        ):
            agreed = [facts == true for facts, true in zip(read, wanted, strict=True)]
            subjects = [one.subject for one in renamed]
            column[f"a convention that the question explains: {kind}"] = share(agreed, subjects)
        column["tokens per answer"] = f"{cost['tokens']:.1f}"
        column["ms per answer, free / grounded explanation"] = f"{cost['ms']:.0f} / {grounded_cost['ms']:.0f}"
        columns[name] = column
        asked = [("free", *pair) for pair in zip(questions, answers, strict=True)]
        asked += [("grounded", *pair) for pair in zip(explain, held, strict=True)]
        asked += [("free", *pair) for pair in zip(renamed, said, strict=True)]
        written += [
            {"model": name, "decoding": kind, "clip": one.row, "task": one.task, "group": one.group}
            | {"question": one.text, "answer": text, "right": right(one, one.read(text))}
            for kind, one, text in asked
        ]
        wrong = defaultdict(list)
        for question, answer in zip(questions, answers, strict=True):
            if not right(question, question.read(answer)):
                wrong[question.task].append((question, answer))
        for task, cases in sorted(wrong.items()):
            question, answer = cases[0]
            console.print(
                f"[dim]{name}, {task}: {question.text!r} → {answer!r}; right: {sorted(question.facts)}[/dim]"
            )
    if arguments.answers:
        write_whole(arguments.answers, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written))
    people = len({question.subject for question in questions})
    title = f"{len(rows)} clips of {people} unseen identities, {len(questions)} questions; percent (95 % interval)"
    table = Table("", *columns, title=title)
    for name in next(iter(columns.values())):
        table.add_row(name, *(column[name] for column in columns.values()))
    console.print(table)


if __name__ == "__main__":
    main()
