"""`deft watch`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

# Modules that the command needs are imported when it runs, so that --help does not wait for torch.
from deft_llm.cli_clips import FaceSource
from deft_llm.exit_codes import DONE

if TYPE_CHECKING:
    from deft_llm.live import Report
    from deft_llm.live_frames import Feed


def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Number of a camera, URL of a stream, or a recorded video, which is replayed."
        ),
    ],
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after this many seconds.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=1, help="Frames per second to ask a camera for, or of a video that states none."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.02, max=10, help="Seconds between two reports.")] = 0.1,
    face_source: FaceSource = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per report.")] = False,
) -> int:
    """Watch a camera, a stream or a replayed video, and say what moves. Nothing is stored.

    Without --face-source, yunet finds the face in a camera or a stream, and the frames of a video are face crops.
    """
    import cv2

    from deft_llm.live import FaceWatcher, reports
    from deft_llm.live_frames import Feed, is_recorded, open_source

    cv2.setNumThreads(1)  # the other core reads
    opened = open_source(source, fps)
    watcher = FaceWatcher(face_source or ("cropped" if is_recorded(source) else "yunet"))
    watcher.warm_up()
    printer = _Printer(opened.name, as_json)
    with Feed(opened) as feed:
        try:
            for report in reports(feed, watcher, every=every, seconds=seconds):
                printer.add(report)
        finally:
            printer.close(feed)
    return DONE


_CHANGED = 0.2  # share of a frame rate


class _Printer:
    """Prints reports: one per line, but in a terminal, one that says what the last one said takes its place."""

    def __init__(self, name: str, as_json: bool):
        self._name, self._as_json = name, as_json
        self._rewrite = not as_json and sys.stdout.isatty()
        self._open, self._said, self._rate = False, "", 0.0
        self._begin = self._time = 0.0
        self._frames = self._events = 0
        self._waits: list[float] = []

    def add(self, report: "Report") -> None:
        from deft_llm.live import report_row, report_text

        self._time = report.time
        self._frames += report.frames
        self._events += len(report.events)
        self._waits.append(report.longest_wait)
        for note in report.notes:
            self._aside(note)
        self._about_rate(report)
        if self._as_json:
            print(json.dumps(report_row(report), ensure_ascii=False), flush=True)
            return
        line = report_text(report)
        said = line[line.index(" s ") :]
        if self._rewrite:
            print("\r\x1b[2K" if said == self._said and self._open else "\n" * self._open, end="")
        print(line, end="" if self._rewrite else "\n", flush=True)
        self._open, self._said = self._rewrite, said

    def _about_rate(self, report: "Report") -> None:
        """Says what the frame rate can show, once it is known, and again if it changes by more than a fifth."""
        from deft_llm.live import rate_text

        if report.rate is None or report.measured_rate is None:
            return
        if abs(report.measured_rate - self._rate) > _CHANGED * self._rate:
            self._rate = report.measured_rate
            some = report.measured_rate < 0.9 * report.rate
            kept = f" {report.rate:.0f} frames per second come, and some are dropped." if some else ""
            self._aside(f"{self._name}:{kept} {rate_text(report.measured_rate)}")

    def _aside(self, text: str) -> None:
        """Prints what is not a report: to standard error where reports are data."""
        print("\n" * self._open + text, file=sys.stderr if self._as_json else sys.stdout, flush=True)
        self._open = False

    def close(self, feed: "Feed") -> None:
        """Says how much was seen and dropped."""
        if not self._waits:
            return
        waits = sorted(self._waits)
        self._aside(
            f"{self._time:.1f} s watched: {self._frames} frames measured, {feed.dropped} dropped; expressions, "
            f"blinks and spells of speech: {self._events}. Until it was reported, a frame waited "
            f"{1000 * waits[len(waits) // 2]:.0f} ms (median) to {1000 * waits[-1]:.0f} ms. Nothing was stored."
        )
