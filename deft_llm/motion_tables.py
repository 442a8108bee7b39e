"""Tables of motion per frame and region, as CSV or Parquet: what the columns are, and how they are written."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deft_llm.frame_motion import REGION_NAMES, SIDE_NAMES, FrameMotion, middle_and_width

FORMATS = ("csv", "parquet")
COLUMNS = {
    "frame": "int64",
    "time": "float64",
    "face_id": "int64",
    "valid": "bool",
    "reason": "string",
    "region": "string",
    "side": "string",
    "u": "float64",
    "v": "float64",
    "magnitude": "float64",
    "error": "float64",
    "significant": "bool",
    "yaw": "float64",
    "pitch": "float64",
    "roll": "float64",
    "x": "float64",
    "y": "float64",
    "scale": "float64",
}
"""Column → type, as pyarrow calls it. docs/measure.md says what each column means."""
_ROWS_AT_ONCE = 24 * 1024


class Table(Protocol):
    """A table that is written row by row."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Adds rows, each with a value or None for every column of `COLUMNS`."""

    def close(self) -> None:
        """Writes what is left."""


class CsvTable:
    """A CSV file with a header. Missing values are empty, truth values are `true` and `false`.

    Args:
        path (`Path`): The file.
    """

    def __init__(self, path: Path):
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, rows):
        """Adds rows."""
        for row in rows:
            told = list(row)
            for place in _TRUTH_VALUES:
                if told[place] is not None:
                    told[place] = "true" if told[place] else "false"
            self._writer.writerow(told)

    def close(self):
        """Closes the file."""
        self._file.close()


_TRUTH_VALUES = [place for place, kind in enumerate(COLUMNS.values()) if kind == "bool"]


class ParquetTable:
    """A Parquet file. Missing values are null.

    Args:
        path (`Path`): The file.

    Raises:
        ImportError: pyarrow is not installed.
    """

    def __init__(self, path: Path):
        import pyarrow
        import pyarrow.parquet

        self._arrow = pyarrow
        kinds = {"int64": pyarrow.int64(), "float64": pyarrow.float64(), "bool": pyarrow.bool_()}
        fields = [(name, kinds.get(kind, pyarrow.string())) for name, kind in COLUMNS.items()]
        self._schema = pyarrow.schema(fields)
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._kept: list[Sequence[Any]] = []

    def write(self, rows):
        """Adds rows."""
        self._kept.extend(rows)
        if len(self._kept) >= _ROWS_AT_ONCE:
            self._flush()

    def close(self):
        """Writes what is left and closes the file."""
        if self._kept:
            self._flush()
        self._writer.close()

    def _flush(self):
        columns = [
            self._arrow.array(values, field.type)
            for values, field in zip(zip(*self._kept, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._kept = []


def open_table(path: Path, kind: str) -> Table:
    """Opens a table to write.

    Args:
        path (`Path`): The file.
        kind (`str`): One of `FORMATS`.
    """
    return {"csv": CsvTable, "parquet": ParquetTable}[kind](path)


def frame_rows(
    frame: int, time: float, face: int, motion: FrameMotion | None, first_width: float, reason: str = ""
) -> list[tuple]:
    """The rows of one face in one frame, one per region and side.

    Args:
        frame (`int`): Number of the frame in the video.
        time (`float`): Seconds from the first frame of the video.
        face (`int`): Number of the face.
        motion (`FrameMotion`, *optional*): What was measured; None where no face was found in the whole video.
        first_width (`float`): Width of the face's crop in the frame in which it was first placed, in pixels.
        reason (`str`): Why nothing was measured, where `motion` is None.
    """
    start = (frame, round(time, 6), face)
    if motion is None or motion.reason is not None:
        why = reason if motion is None else motion.reason
        nothing = (None,) * 11
        return [(*start, False, why, *key, *nothing) for key in zip(REGION_NAMES, SIDE_NAMES, strict=True)]
    x, y, width = middle_and_width(motion.followed.exact)
    pose = (*_rounded(motion.followed.angles, 3), *_rounded((x, y), 2), *_rounded((width / first_width,), 4))
    numbers = _rounded(np.column_stack([motion.motion, motion.magnitude, motion.error]), 4)
    return [
        (*start, True, None, region, side, *values, significant, *pose)
        for region, side, values, significant in zip(
            REGION_NAMES, SIDE_NAMES, numbers, motion.significant.tolist(), strict=True
        )
    ]


def _rounded(values: Any, digits: int) -> list:
    return (np.round(values, digits) + 0.0).tolist()  # + 0: no minus before a zero


class Summary:
    """One row about a video, gathered frame by frame. It is about the largest face."""

    def __init__(self):
        self.frames = self.measured = self.significant = 0
        self._reasons: Counter[str] = Counter()
        self._errors = 0.0
        self._strongest: tuple[float, int, float, int] | None = None

    def add(self, frame: int, time: float, motion: FrameMotion | None, reason: str = "") -> None:
        """Counts one frame; arguments as in `frame_rows`."""
        self.frames += 1
        if motion is None or motion.reason is not None:
            self._reasons[reason if motion is None else motion.reason] += 1
            return
        self.measured += 1
        self._errors += float(motion.error.mean())
        significant, magnitude = motion.significant, motion.magnitude
        self.significant += bool(significant.any())
        if significant.any():
            place = int(np.argmax(np.where(significant, magnitude, 0)))
            if self._strongest is None or magnitude[place] > self._strongest[0]:
                self._strongest = float(magnitude[place]), frame, time, place

    def row(self) -> dict[str, Any]:
        """The summary: see docs/measure.md."""
        row: dict[str, Any] = {
            "measured_frames": self.measured,
            "reason": "; ".join(reason for reason, _ in self._reasons.most_common(3)) or None,
            "mean_error": round(self._errors / self.measured, 4) if self.measured else None,
            "significant_frames": self.significant,
        }
        names = ("strongest_region", "strongest_side", "strongest_magnitude", "strongest_frame", "strongest_time")
        if self._strongest is None:
            return row | dict.fromkeys(names)
        magnitude, frame, time, place = self._strongest
        values = (REGION_NAMES[place], SIDE_NAMES[place], round(magnitude, 4), frame, round(time, 6))
        return row | dict(zip(names, values, strict=True))
