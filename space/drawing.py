"""Draw an explanation as HTML with inline pictures. Action units are chosen with CSS only.

The server therefore keeps nothing for the page, and the page works with a keyboard.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

import timeline
from downloads import encoded, links, navigation, report_json
from explaining import CROP, MAX_VIDEO_SECONDS, Explanation
from timeline import Watched, counted
from timeline import escaped as _text

_SIDES = {"both": "both sides", "left": "left side", "right": "right side"}
_APART = 2.0  # standard errors: two magnitudes that are farther apart differ
_DIRECTION_SCALE = 10  # arrows are this many times as long as the motion


def draw(explanation: Explanation) -> str:
    """Draws the result of a clip."""
    if explanation.report["status"] == "not_measurable":
        parts = [_verdict(explanation), _notices(explanation), links(explanation), _json(explanation)]
        return f'<div class="deft">{"".join(parts)}</div>'
    parts = [
        _verdict(explanation),
        _notices(explanation),
        '<div class="deft-row">',
        _moment(explanation),
        '</div><div class="deft-row deft-two"><div class="deft-row deft-stacked">',
        _flow(explanation),
        _classes(explanation),
        '</div><div class="deft-row deft-stacked">',
        _attention(explanation),
        _words(explanation),
        "</div></div>",
        links(explanation),
        _json(explanation),
    ]
    return f'<div class="deft">{"".join(parts)}</div>'


def draw_problem(message: str) -> str:
    """Draws the reason for a missing result."""
    return (
        '<div class="deft"><div class="deft-problem" role="alert"><h2>This could not be explained</h2>'
        f"<p>{_text(message)}</p></div></div>"
    )


def draw_turns(turns: Sequence[tuple[str, str]], problem: str = "") -> str:
    """Draws the questions and answers about a clip. Screen readers read out what is new.

    Args:
        turns: (question, answer) in order.
        problem: Why the last question has no answer.
    """
    items = "".join(
        f"<dt><b>You</b> {_text(question)}</dt><dd><b>Answer</b> {_text(answer)}</dd>" for question, answer in turns
    )
    told = f'<p class="deft-refused" role="alert">{_text(problem)}</p>' if problem else ""
    return (
        f'<div class="deft"><div role="log" aria-label="Answers"><dl class="deft-turns">{items}</dl></div>{told}</div>'
    )


def draw_nothing() -> str:
    """Draws the instructions that are shown before the first clip."""
    longest = f"at most {MAX_VIDEO_SECONDS / 60:.0f} minutes"
    steps = (
        ("Choose a clip", f"Upload one, record yourself, or take an example. One face, {longest}."),
        ("The motion is measured", "Where the face moves, how far, and when: onset, apex, offset."),
        ("Read the evidence first", "The class is only the name that an annotation convention gives to the movement."),
    )
    items = "".join(f"<li><strong>{title}</strong><span>{text}</span></li>" for title, text in steps)
    return f'<div class="deft"><div class="deft-empty"><h2>How it works</h2><ol>{items}</ol></div></div>'


def draw_watched(item: Watched) -> str:
    """Draws the timeline of a video, with a button per expression.

    The buttons have the attribute `data-number`, the number of their choice.
    """
    shown = len(item.expressions)
    whole = f"{item.count / item.fps:.1f} s"
    if item.reason:
        title, told = "Not measurable", f"{_sentence(item.reason)} Nothing is said about this video."
    elif shown:
        title = f"{counted(shown, 'expression').capitalize()} in {whole}"
        told = "Choose one to see what moved and what that is called."
    else:
        title = f"No expression found in {whole}"
        told = "The strongest motion can be looked at all the same; it may be no more than noise."
    files = [
        (
            "Intervals (JSON)",
            "timeline.json",
            "application/json",
            json.dumps(timeline.as_data(item), indent=2).encode(),
        ),
        ("Intervals (CSV)", "timeline.csv", "text/csv", timeline.table(item).encode()),
    ]
    return (
        '<div class="deft"><section class="deft-card deft-watched" aria-label="Timeline">'
        f'<p class="deft-kicker">Timeline</p><h2>{title}</h2><p class="deft-told">{_text(told)}</p>'
        f"{_list(item.notes)}{timeline.picture(item)}{_buttons(item)}"
        f"{_others(item)}{_stretches(item)}</section>{navigation(files, 'Downloads of the timeline')}</div>"
    )


def _buttons(item: Watched) -> str:
    items = ""
    for number in range(len(item.choices)):
        more = ""
        if item.expressions:
            one = item.expressions[number]
            where = ", ".join(f"{side} {region}" for region, side in one.regions[:3])
            more = f"{'longer than 0.5 s; ' if one.macro else ''}{where or 'whole face'}; score {one.score:.1f}"
        items += (
            f'<li><button type="button" class="deft-choice" data-number="{number}" aria-pressed="false">'
            f"<b>{_text(item.title(number))}</b><small>{_text(more)}</small></button></li>"
        )
    return f'<ol class="deft-choices" aria-label="What can be explained">{items}</ol>' if items else ""


def _others(item: Watched) -> str:
    """The blinks and the speech."""
    found = [one for one in item.intervals if one.kind != "expression"]
    if not found:
        return ""
    lines = "".join(f"<li>{one.kind.capitalize()}, {item.span(one.onset, one.offset)}</li>" for one in found)
    told = " and ".join(timeline.others(item))
    return f'<details class="deft-more"><summary>{told}, not explained</summary><ul>{lines}</ul></details>'


def _stretches(item: Watched) -> str:
    """What cannot be measured and why."""
    reasons: dict[str, list[str]] = {}
    for one in item.stretches:
        reasons.setdefault(one.reason, []).append(item.span(one.start, one.stop))
    lines = ""
    for reason, spans in reasons.items():
        more = f" and {len(spans) - 3} more" if len(spans) > 3 else ""
        lines += f"<li>{', '.join(spans[:3])}{more}: {_text(reason)}</li>"
    return f'<h3>What cannot be measured</h3><ul class="deft-lost">{lines}</ul>' if lines else ""


# --- two results ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One of two results that are compared.

    Args:
        name: What the visitor knows it by.
        report: The report as JSON data.
        picture: (CROP, CROP, 3) uint8, the apex; `None` if nothing was measured.
        conversation: `Explanation.conversation`.
    """

    name: str
    report: dict[str, Any]
    picture: np.ndarray | None
    conversation: Any = None


def side_of(item: Explanation, name: str) -> Side:
    """What is kept of an explanation to compare it."""
    apex = item.frames[len(item.frames) // 2] if len(item.frames) else None
    return Side(name, item.report, apex, item.conversation)


def draw_comparison(first: Side, second: Side) -> str:
    """Draws two results next to each other, and what differs in words."""
    sides = "".join(_side(letter, one) for letter, one in (("A", first), ("B", second)))
    told = "".join(f"<li>{_text(line)}</li>" for line in differences(first.report, second.report))
    return (
        '<div class="deft"><section class="deft-card deft-compared" aria-label="Two results side by side">'
        f'<h2>Side by side</h2><div class="deft-sides">{sides}</div>'
        f'<h3>What differs</h3><ul class="deft-differences">{told}</ul></section></div>'
    )


def _side(letter: str, one: Side) -> str:
    report = one.report
    label = {"not_measurable": "not measurable", "insufficient_motion": "insufficient motion"}.get(
        report["status"], report["emotion"] or "not readable"
    )
    picture = "" if one.picture is None else _picture(one.picture, 160, f"{letter} at the apex")
    units = "".join(f"<li>{_text(_unit_words(unit, report))}</li>" for unit in report["action_units"])
    reason = f"<p>{_text(_sentence(report['reason']))}</p>" if report["reason"] else ""
    return (
        f'<article><h3>{letter}: {_text(one.name)}</h3>{picture}<p class="deft-label">{_text(label)}</p>{reason}'
        f"{f'<ul>{units}</ul>' if units else '<p>No action unit is named.</p>'}{_limits(report)}</article>"
    )


def _unit_words(unit: dict[str, Any], report: dict[str, Any]) -> str:
    moved = [
        f"{entry['region']} moves {entry['direction']} by {_amount(entry)}"
        for entry in report["evidence"]
        if entry["action_unit"] == unit["code"]
    ]
    if unit.get("borne_out") is False:
        moved = ["not borne out by the motion"]
    side = f", {_SIDES[unit['side']]}" if unit.get("side") in _SIDES else ""
    return f"{unit['code']} {unit.get('name') or ''}".rstrip() + side + (f": {'; '.join(moved)}" if moved else "")


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What two measurements say about each other, in sentences.

    A unit that only one of them names may have been overlooked in the other. What would have been seen there is said.

    Args:
        first: Report of A.
        second: Report of B.
    """
    lost = [name for name, report in (("A", first), ("B", second)) if report["status"] == "not_measurable"]
    if lost:
        return [f"{' and '.join(lost)} cannot be measured, so there is nothing to compare."]
    units = [{unit["code"]: unit for unit in report["action_units"]} for report in (first, second)]
    told = []
    for code in sorted({**units[0], **units[1]}, key=lambda code: (len(code), code)):
        one, other = (by_code.get(code) for by_code in units)
        name = f"{code} ({(one or other).get('name') or 'no name'})"
        if one and other:
            told.append(f"{name} is in both{_sides(one, other)}.{_magnitudes(code, first, second)}")
        elif one:
            told.append(f"{name} is only in A.{_overlooked(code, first, second, 'B')}")
        else:
            told.append(f"{name} is only in B.{_overlooked(code, second, first, 'A')}")
    return told or ["Neither shows an action unit."]


def _sides(one: dict[str, Any], other: dict[str, Any]) -> str:
    words = [_SIDES.get(unit.get("side")) for unit in (one, other)]
    return f", {words[0]} in A and {words[1]} in B" if None not in words and words[0] != words[1] else ""


def _moved_of(code: str, report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["region"], item["direction"]): item for item in report["evidence"] if item["action_unit"] == code}


def _magnitudes(code: str, first: dict[str, Any], second: dict[str, Any]) -> str:
    one, other = _moved_of(code, first), _moved_of(code, second)
    told = ""
    for region, direction in one:
        if (region, direction) not in other:
            continue
        pair = one[region, direction], other[region, direction]
        told += f" The {region} moves {direction} by {_amount(pair[0])} in A and {_amount(pair[1])} in B"
        errors = [item.get("standard_error") for item in pair]
        apart = pair[0]["magnitude"] - pair[1]["magnitude"]
        if None in errors:
            told += "."
        elif abs(apart) > _APART * float(np.hypot(*errors)):
            told += f", farther in {'A' if apart > 0 else 'B'}."
        else:
            told += ", which is the same within the errors."
    return told


def _overlooked(code: str, shown: dict[str, Any], other: dict[str, Any], name: str) -> str:
    """What one clip shows, and whether it would have been seen in the other, whose name is given."""
    told = ""
    for (region, direction), item in _moved_of(code, shown).items():
        told += f" The {region} moves {direction} by {_amount(item)}."
        limit = (other.get("detection_limits") or {}).get(region)
        if limit is not None:
            how = "would probably have been seen" if item["magnitude"] >= limit else "may have been overlooked"
            told += f" In {name}, motion there is seen from {limit:.2f} %, so as much {how}."
    return told


# --- the parts ------------------------------------------------------------------------------------------------------


def _verdict(item: Explanation) -> str:
    report = item.report
    if report["status"] == "not_measurable":
        title, chip = "Not measurable", None
        text = f"{_sentence(report['reason'])} Nothing is said about this clip."
    elif report["insufficient_motion"]:
        title, chip = "No expression", "insufficient motion"
        reason = report["reason"] or "No motion is above the noise of this clip."
        text = f"{reason} So no emotion is named."
    elif report["emotion"] is None:
        title, chip = "No readable answer", None
        text = "The model's answer does not have the expected form. The motion and the probabilities below are valid."
    else:
        emotion = report["emotion"]
        coarse = report["coarse_emotion"]
        title, chip = emotion.capitalize(), coarse if coarse != report["emotion"] else None
        score = report["scores"].get(emotion)
        how = f"{round(100 * score)} % by the recognition head. " if score is not None else ""
        text = how + "This is the name that a convention gives to the movement below. It is not a feeling."
    tag = f'<span class="deft-chip">{_text(chip)}</span>' if chip else ""
    return (
        '<section class="deft-verdict" aria-label="Class"><div>'
        f'<p class="deft-kicker{" deft-titled" if item.title else ""}">{_text(item.title or "Class")}</p>'
        f"<h2>{_text(title)} {tag}</h2><p>{_text(text)}</p>{_limits(report)}</div>"
        f'<p class="deft-time">{item.seconds:.1f} s</p></section>'
    )


def _limits(report: dict[str, Any]) -> str:
    """What motion would have been seen in this clip. Models saved by older versions do not say it."""
    limits = report.get("detection_limits")
    if not limits:
        return ""
    best, worst = min(limits, key=limits.get), max(limits, key=limits.get)
    return (
        f'<p class="deft-small">On this clip, motion is seen from {limits[best]:.2f} % ({_text(best)}) to '
        f"{limits[worst]:.2f} % ({_text(worst)}) of the face’s width; weaker motion may be overlooked.</p>"
    )


def _sentence(words: str) -> str:
    """The words with a capital and a full stop."""
    return words[:1].upper() + words[1:].rstrip(".") + "."


def _notices(item: Explanation) -> str:
    return _list([*item.report["warnings"], *item.notes])


def _list(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return '<ul class="deft-notices">' + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _moment(item: Explanation) -> str:
    onset, apex, offset = item.keys
    labels = {item.indices[0]: "onset", item.indices[len(item.indices) // 2]: "apex", item.indices[-1]: "offset"}
    frames = "".join(
        f'<li class="{"deft-key" if index in labels else ""}">{_picture(frame, 112, f"Face at frame {index}")}'
        f"<span><b>{_when(index, item.fps)}</b> {labels.get(index, '')}</span></li>"
        for index, frame in zip(item.indices, item.frames, strict=True)
    )
    span = item.film_indices[-1] - item.film_indices[0] + 1
    pace = (item.fps or 25) / 25 * len(item.film) / span
    slower = f", slowed {pace:.0f} ×" if pace >= 1.5 else ""
    film = base64.b64encode(encoded(item.film)).decode()
    return (
        '<section class="deft-card deft-moment"><h3>The moment</h3><div class="deft-plotrow">'
        f'<figure class="deft-film"><video controls loop muted playsinline autoplay width="{CROP}" height="{CROP}" '
        f'aria-label="The face, cut out{slower}" src="data:video/mp4;base64,{film}"></video>'
        f"<figcaption>The face, cut out{slower}</figcaption></figure>"
        f"<figure>{_plot(item)}<figcaption>Motion of the {_text(item.region)}, in % of the face’s width. "
        f"Onset {_when(onset, item.fps)}, apex {_when(apex, item.fps)}, offset {_when(offset, item.fps)}.</figcaption>"
        f'</figure></div><ol class="deft-strip" aria-label="Frames the model saw">{frames}</ol></section>'
    )


def _plot(item: Explanation) -> str:
    width, height, left, bottom, top = 560, 210, 44, 30, 26
    motion, start = item.motion.astype(float), item.first
    count = len(motion)
    smooth = cv2.GaussianBlur(motion[None].astype(np.float32), (0, 0), max(1.0, count / 60))[0]
    low, high = min(0.0, float(smooth.min())), max(0.2, float(np.percentile(motion, 99.5)) * 1.1)
    step = next(value for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if (high - low) / value <= 5)

    def x(frame: float) -> float:
        return left + (width - left - 12) * (frame - start) / max(count - 1, 1)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - min(max(value, low), high)) / (high - low)

    def line(values: np.ndarray) -> str:
        chosen = np.linspace(0, count - 1, min(count, 400)).round().astype(int)
        return " ".join(f"{x(start + i):.1f},{y(values[i]):.1f}" for i in chosen)

    onset, apex, offset = item.keys
    ticks = np.arange(np.ceil(low / step - 1e-6), high / step) * step
    ticks[ticks == 0] = 0  # and not −0
    grid = "".join(
        f'<line class="deft-grid" x1="{left}" x2="{width - 12}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2g}</text>'
        for v in ticks
    )
    ends = np.linspace(start, start + count - 1, 4 if count > 4 else 2)  # more would touch on a phone
    times = "".join(
        f'<text x="{x(f):.1f}" y="{height - 8}" text-anchor="{"end" if f == ends[-1] else "middle"}">'
        f"{_when(round(float(f)), item.fps)}</text>"
        for f in ends
    )
    marks = ""
    placed = -1e9
    for name, frame in (("onset", onset), ("apex", apex), ("offset", offset)):
        at = x(frame)
        label = max(at, placed + 46)
        placed = label
        marks += (
            f'<line class="deft-mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height - bottom}"/>'
            f'<text class="deft-marktext" x="{min(label, width - 20):.1f}" y="{top - 9}" text-anchor="middle">'
            f"{name}</text>"
        )
    described = (
        f"Motion over time: onset at {_when(onset, item.fps)}, apex at {_when(apex, item.fps)}, offset at "
        f"{_when(offset, item.fps)}"
    )
    return (
        f'<svg class="deft-plot" viewBox="0 0 {width} {height}" role="img" aria-label="{_text(described)}">'
        f'<rect class="deft-span" x="{x(onset):.1f}" y="{top}" width="{max(x(offset) - x(onset), 1):.1f}" '
        f'height="{height - top - bottom}"/>{grid}'
        f'<polyline class="deft-raw" points="{line(motion)}"/><polyline class="deft-line" points="{line(smooth)}"/>'
        f'<circle class="deft-dot" cx="{x(apex):.1f}" cy="{y(float(smooth[apex - start])):.1f}" r="4.5"/>'
        f"{marks}{times}</svg>"
    )


def _flow(item: Explanation) -> str:
    apex = item.frames[len(item.frames) // 2]
    flow, side = item.flow, 320
    stride = max(1, flow.shape[2] // 16)
    shown = flow[:, stride // 2 :: stride, stride // 2 :: stride]
    strength = np.hypot(*shown)
    top = max(float(strength.max()), 1e-6)
    cell = side / shown.shape[2]
    arrows = []
    for row, column in np.argwhere(strength > max(0.12 * top, 0.03)):
        u, v = shown[:, row, column] * side / 100 * _DIRECTION_SCALE
        x, y = (column + 0.5) * cell, (row + 0.5) * cell
        length = float(np.hypot(u, v))
        share = strength[row, column] / top
        head = min(6.0, 0.45 * length)
        a, b = u / length, v / length
        tip = f"M{x + u - head * (a + 0.6 * b):.1f} {y + v - head * (b - 0.6 * a):.1f}L{x + u:.1f} {y + v:.1f}"
        tip += f"L{x + u - head * (a - 0.6 * b):.1f} {y + v - head * (b + 0.6 * a):.1f}"
        colour = _heat(share)
        arrows.append(f'<path d="M{x:.1f} {y:.1f}L{x + u:.1f} {y + v:.1f}{tip}" stroke="{colour}"/>')
    grey = np.repeat(cv2.cvtColor(apex, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    label = f"Optical flow from onset to apex over the face; the largest motion is {strength.max():.1f} % of its width"
    return (
        '<section class="deft-card"><h3>What moved</h3><figure>'
        f'<svg class="deft-face" viewBox="0 0 {side} {side}" role="img" aria-label="{_text(label)}">'
        f'<image href="{_source(grey, 320)}" width="{side}" height="{side}" opacity=".72"/>'
        f'<g fill="none" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round">{"".join(arrows)}</g></svg>'
        f"<figcaption>Flow from onset to apex, arrows {_DIRECTION_SCALE} × as long as the motion; the largest is "
        f"{strength.max():.1f} % of the face’s width. The head’s own motion is taken out.</figcaption></figure>"
        "</section>"
    )


def _attention(item: Explanation) -> str:
    order = sorted(range(len(item.units)), key=lambda index: -item.units[index][2])
    named = {unit["code"]: unit for unit in item.report["action_units"]}
    moved = {}
    for evidence in item.report["evidence"]:
        moved.setdefault(evidence["action_unit"], []).append(
            f"{evidence['region']} {evidence['direction']} {_amount(evidence)}"
        )
    maps, choices = [], []
    for place, index in enumerate(order):
        code, name, score = item.units[index]
        weights = item.attention[index] / max(float(item.attention[index].max()), 1e-9)
        maps.append(f'<img class="deft-map deft-map-{place}" alt="" src="{_heat_map(weights)}">')
        said = ", ".join(moved.get(code, []))
        if (named.get(code) or {}).get("borne_out") is False:
            said = "not borne out by the motion"
        side = _SIDES.get((named.get(code) or {}).get("side"), "")
        detail = " · ".join(part for part in (side, said) if part)
        detail = f"<small>{_text(detail)}</small>" if detail else ""
        choices.append(
            f'<label class="deft-unit{" deft-named" if code in named else ""}"><input type="radio" name="deft-au" '
            f'id="deft-au-{place}" {"checked" if place == 0 else ""}><span class="deft-unitname"><b>{code}</b> '
            f'{_text(name)}{detail}</span><span class="deft-bar" aria-hidden="true">'
            f'<i style="width:{100 * score:.0f}%"></i></span><span>{100 * score:.0f}&nbsp;%</span></label>'
        )
    onset = _picture(item.frames[0], 320, "The face at onset")
    muted = " deft-muted" if item.report["insufficient_motion"] else ""
    note = f"Not used: {_text(item.report['reason'] or 'the motion is insufficient.')} " if muted else ""
    return (
        f'<section class="deft-card deft-attention{muted}"><h3>Where each action unit was looked for</h3>'
        f'<div class="deft-au"><figure><div class="deft-face deft-stack">{onset}{"".join(maps)}</div>'
        f"<figcaption>{note}Bright is where the chosen unit’s query attends, summed over the frames.</figcaption>"
        "</figure>"
        '<fieldset class="deft-units"><legend>Choose an action unit (probability by the recognition head)</legend>'
        f"{''.join(choices)}</fieldset></div></section>"
    )


def _words(item: Explanation) -> str:
    report = item.report
    evidence = "".join(
        f"<li><b>{entry['action_unit']}</b> {_text(entry['region'])} moves {_text(entry['direction'])} by "
        f"{_amount(entry)}</li>"
        for entry in report["evidence"]
    )
    label, rationale = report["emotion"] or "not readable", report["rationale"] or "none"
    if report["insufficient_motion"]:
        # The model's text about motion below the noise is not shown; the JSON contains it.
        label, rationale = "insufficient motion", "none, because no motion is above the noise"
    return (
        '<section class="deft-card"><h3>In words</h3><dl class="deft-words">'
        f"<dt>Class</dt><dd>{_text(label)}</dd>"
        f"<dt>Evidence</dt><dd>{f'<ul>{evidence}</ul>' if evidence else 'none'}</dd>"
        f"<dt>Rationale</dt><dd>{_text(rationale)}</dd></dl></section>"
    )


def _classes(item: Explanation) -> str:
    scores = sorted(item.report["scores"].items(), key=lambda entry: -entry[1])
    muted = " deft-muted" if item.report["insufficient_motion"] else ""
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td><span class="deft-bar" aria-hidden="true">'
        f'<i style="width:{100 * score:.0f}%"></i></span></td><td>{100 * score:.0f}&nbsp;%</td></tr>'
        for name, score in scores
    )
    experts = " · ".join(f"{name} {100 * weight:.0f} %" for name, weight in item.experts.items())
    note = f"Not used: {_text(item.report['reason'] or 'the motion is insufficient.')} " if muted else ""
    return (
        f'<section class="deft-card{muted}"><h3>Class probabilities</h3><table class="deft-table">'
        f'<caption class="deft-hidden">Probability of each class</caption><tbody>{rows}</tbody></table>'
        f'<p class="deft-small">{note}By the recognition head. Weight of the experts: {experts}.</p></section>'
    )


def _json(item: Explanation) -> str:
    return (
        '<details class="deft-card deft-json"><summary>JSON</summary>'
        f'<pre tabindex="0" aria-label="The report as JSON">{_text(report_json(item))}</pre></details>'
    )


# --- small things ---------------------------------------------------------------------------------------------------


def _amount(evidence: dict[str, Any]) -> str:
    """A magnitude, with its standard error if there is one; written as in `report_text`."""
    error = evidence.get("standard_error")
    more = "" if error is None else f" ± {f'{error:.1f}' if error >= 0.05 else f'{error:.1g}'}"
    return f"{evidence['magnitude']:g}{more} %"


def _when(frame: int, fps: float | None) -> str:
    return f"{frame}" if not fps else f"{1000 * frame / fps:.0f} ms" if frame < fps * 10 else f"{frame / fps:.2f} s"


def _source(image: np.ndarray, side: int) -> str:
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < CROP else cv2.INTER_CUBIC)
    written = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 86])[1]
    return "data:image/jpeg;base64," + base64.b64encode(written.tobytes()).decode()


def _picture(image: np.ndarray, side: int, alternative: str) -> str:
    return f'<img src="{_source(image, side)}" width="{side}" height="{side}" alt="{_text(alternative)}">'


_HEAT = np.array([(66, 135, 245), (46, 196, 182), (255, 209, 102), (255, 107, 53)], np.float32)


def _heat(share: float) -> str:
    """A colour from blue over green and yellow to orange, visible on a grey face."""
    position = min(max(share, 0), 1) * (len(_HEAT) - 1)
    first = min(int(position), len(_HEAT) - 2)
    mixed = _HEAT[first] + (_HEAT[first + 1] - _HEAT[first]) * (position - first)
    return "#" + "".join(f"{round(float(part)):02x}" for part in mixed)


def _heat_map(weights: np.ndarray) -> str:
    """A transparent PNG of weights (g, g) from 0 to 1."""
    fine = cv2.resize(weights.astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., :3] = (53, 160, 255)  # orange, blue first
    image[..., 1] = (209 - 102 * fine).astype(np.uint8)
    image[..., 3] = (225 * fine**0.8).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()
