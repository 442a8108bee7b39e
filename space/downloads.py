"""What a visitor may keep of an explanation: the report as JSON and as a table, and the film with what moved drawn in.

They are links that contain their files, so the server keeps nothing for them.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from io import BytesIO, StringIO
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from explaining import Explanation

# As `deft explain --format csv` writes them; docs/explain.md says what they mean.
COLUMNS = (
    "clip interval onset apex offset onset_seconds apex_seconds offset_seconds status reason emotion coarse_emotion "
    "emotion_score action_unit action_unit_name side intensity action_unit_score borne_out region direction magnitude "
    "standard_error detection_limit rationale warnings"
).split()
RATE = 25  # frames per second of films
SIDE, STRIP = 480, 64  # pixels: the face, and the words above and below it
HOLDS = {"onset": 10, "apex": 30, "offset": 10}  # frames for which the film stops
_SCALES, _LONGEST = (20, 10, 5, 2, 1), 0.15  # of arrows: times the motion, and widths of the face
_ARROW, _EDGE, _GROUND, _TEXT = (255, 176, 32), (20, 20, 20), (17, 22, 29), (240, 243, 246)


def links(item: Explanation) -> str:
    """The links as HTML."""
    name = "report" if item.interval is None else f"expression-{item.interval}"
    film = "explanation" if item.interval is None else name
    files = [
        ("Report (JSON)", f"{name}.json", "application/json", report_json(item).encode()),
        ("Table (CSV)", f"{name}.csv", "text/csv", table(item).encode()),
    ]
    if len(item.film):
        files.append(("Film with arrows (MP4)", f"{film}.mp4", "video/mp4", marked_film(item)))
    return navigation(files)


def navigation(files: Sequence[tuple[str, str, str, bytes]], title: str = "Downloads") -> str:
    """Links that contain their files.

    Args:
        files: Title, name, media type and content of each.
        title: Heading above the links.
    """
    shown = "".join(
        f'<li><a class="deft-keep" download="{name}" '
        f'href="data:{kind};base64,{base64.b64encode(content).decode()}">{title}</a></li>'
        for title, name, kind, content in files
    )
    return f'<nav class="deft-card deft-downloads" aria-label="{title}"><h3>{title}</h3><ul>{shown}</ul></nav>'


def report_json(item: Explanation) -> str:
    """The report, key frames and scores as JSON."""
    return json.dumps(item.to_json(), indent=2, ensure_ascii=False)


def table(item: Explanation) -> str:
    """The report as CSV: one row per evidence, and one per unit or report without any."""
    report = item.report
    common = {name: report[name] for name in ("status", "reason", "emotion", "coarse_emotion", "rationale")}
    common["emotion_score"] = _rounded(report["scores"].get(report["emotion"]))
    common["interval"] = item.interval
    common["warnings"] = "; ".join(report["warnings"])
    if item.keys is not None:
        for name, frame in zip(("onset", "apex", "offset"), item.keys, strict=True):
            common |= {name: frame, f"{name}_seconds": round(frame / item.fps, 4) if item.fps else None}
    file = StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for unit in report["action_units"] or [None]:
        of_unit = {} if unit is None else _of_unit(unit)
        evidence = [entry for entry in report["evidence"] if unit and entry["action_unit"] == unit["code"]]
        for entry in evidence or [{}]:
            names = ("region", "direction", "magnitude", "standard_error")
            of_region = {name: entry.get(name) for name in names}
            of_region["standard_error"] = _rounded(of_region["standard_error"])
            of_region["detection_limit"] = (report.get("detection_limits") or {}).get(entry.get("region"))
            writer.writerow(common | of_unit | of_region)
    return file.getvalue()


def _of_unit(unit: dict[str, Any]) -> dict[str, Any]:
    return {
        "action_unit": unit["code"],
        "action_unit_name": unit.get("name"),
        "side": unit.get("side"),
        "intensity": unit.get("intensity"),
        "action_unit_score": _rounded(unit.get("score")),
        "borne_out": {True: "yes", False: "no"}.get(unit.get("borne_out")),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# --- The film -------------------------------------------------------------------------------------------------------


def marked_film(item: Explanation) -> bytes:
    """The slowed film with outlines around the regions that move and arrows along their motion, as MP4."""
    longest = max((float(np.hypot(*region.course.T).max()) for region in item.moved), default=0.0)
    scale = next((scale for scale in _SCALES if scale * longest / 100 <= _LONGEST), 1)
    names = dict(zip(reversed(item.keys), ("offset", "apex", "onset"), strict=True))
    pictures = []
    for index, crop in zip(item.film_indices, item.film, strict=True):
        picture = np.full((SIDE + 2 * STRIP, SIDE, 3), _GROUND, np.uint8)
        face = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        if item.keys[0] <= index <= item.keys[2]:
            _mark(face, item, index, scale)
        picture[STRIP:-STRIP] = face
        _write(picture, item, index, names.get(index), scale)
        pictures += [picture] * HOLDS.get(names.get(index), 1)
    return encoded(pictures)


def _mark(face: np.ndarray, item: Explanation, index: int, scale: int) -> None:
    """Draws outlines and arrows onto a face, in place."""
    numbers, first = np.unique(item.indices, return_index=True)
    for region in item.moved:
        x, y, wide, high = (round(16 * SIDE * value) for value in region.ellipse)
        for colour, thick in ((_EDGE, 2), (_ARROW, 1)):
            cv2.ellipse(face, (x, y), (wide, high), 0, 0, 360, colour, thick, cv2.LINE_AA, shift=4)
    for region in item.moved:
        way = [np.interp(index, numbers, region.course[first, axis]) for axis in (0, 1)]
        start = np.array(region.ellipse[:2]) * SIDE
        tip = start + scale * np.array(way) / 100 * SIDE
        length = float(np.hypot(*(tip - start)))
        if length < 4:  # a dot shows no direction
            continue
        ends = [tuple(int(16 * value) for value in point) for point in (start, tip)]
        for colour, thick in ((_EDGE, 6), (_ARROW, 3)):
            cv2.arrowedLine(face, *ends, colour, thick, cv2.LINE_AA, shift=4, tipLength=min(0.5, 14 / length))


def _write(picture: np.ndarray, item: Explanation, index: int, name: str | None, scale: int) -> None:
    """Writes the class above the face, and the time, the key frame and the scale below it."""
    report = item.report
    label = "insufficient motion" if report["insufficient_motion"] else report["emotion"] or "not readable"
    units = ", ".join(unit["code"] for unit in report["action_units"])
    time = f"frame {index}"
    if item.fps:
        time += f", {1000 * index / item.fps:.0f} ms" if index < 10 * item.fps else f", {index / item.fps:.2f} s"
    span = item.film_indices[-1] - item.film_indices[0] + 1
    pace = (item.fps or RATE) / RATE * len(item.film) / span
    told = f"arrows {scale} x the motion" if item.moved else "no region moves above the noise"
    slower = f", slowed {pace:.0f} x" if pace >= 1.5 else ""
    below = SIDE + STRIP
    lines = (
        (8, 6, 24, f"{label}  {units}"),
        (8, 38, 16, f"{time}  {(name or '').upper()}"),
        (8, below + 6, 15, "person's right"),
        (SIDE - 96, below + 6, 15, "person's left"),
        (8, below + 34, 15, f"{told}{slower}"),
    )
    for strip in (slice(0, STRIP), slice(below, None)):
        image = Image.fromarray(np.ascontiguousarray(picture[strip]))
        pen = ImageDraw.Draw(image)
        for left, top, size, words in lines:
            if strip.start <= top < strip.start + STRIP:
                plain = words.encode("ascii", "replace").decode()  # the letters that the built-in font has
                pen.text((left, top - strip.start), plain, font=ImageFont.load_default(size=size), fill=_TEXT)
        picture[strip] = np.asarray(image)


def encoded(frames: Any) -> bytes:
    """Encodes frames, (height, width, 3) uint8 RGB with even sides, as MP4 at `RATE` frames per second, which slows
    clips of fast cameras down."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
