"""Measure videos into a folder: a table per video, a sidecar with what it was made from, and `clips.csv`.

The folder belongs to one run at a time, and to one choice of settings. A table has its final name only when it is
complete, and its sidecar is written after it, so a run that was killed goes on with the video that it was at.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deft_llm import __version__
from deft_llm.files import LockedError, file_digest, locked, whole_file, write_whole

SETTINGS_FILE = "measure.json"
CLIPS_FILE = "clips.csv"
_LOCK = ".measure.lock"
CLIP_COLUMNS = (
    *("video", "status", "reason", "sha256", "table", "fps", "width", "height", "first_frame", "frames", "duration"),
    *("faces_found", "faces_followed", "face_width", "measured_frames", "mean_error", "significant_frames"),
    *("strongest_region", "strongest_side", "strongest_magnitude", "strongest_frame", "strongest_time"),
)
MEASURED, NOT_MEASURABLE, REFUSED_CLIP = "measured", "not_measurable", "refused"
_TOLD_EVERY = 10  # frames between two reports of a worker


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a table.

    Args:
        face_source (`str`): Face finder, as in `make_face_source`.
        reference (`str`): What motion is relative to, as in `frame_motions`.
        fps (`float`, *optional*): Frames per second of videos that state none.
        start (`float`, *optional*): Seconds from which on frames are measured.
        end (`float`, *optional*): Seconds before which frames are measured.
        faces (`int`, *optional*): Number of faces to follow at most.
        format (`str`): One of `motion_tables.FORMATS`.
    """

    face_source: str = "cropped"
    reference: str = "rest"
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    faces: int | None = None
    format: str = "csv"

    def recorded(self) -> dict[str, Any]:
        """The settings as sidecars have them: a model file is named by its content, wherever it lies."""
        name, _, path = self.face_source.partition(":")
        source = f"{name}:sha256:{file_digest(path)}" if path and os.path.isfile(path) else self.face_source
        return {**asdict(self), "face_source": source}


@dataclass(frozen=True)
class Video:
    """A video to measure.

    Args:
        name (`str`): Its name in the output, with forward slashes.
        path (`str`): The file, or the folder of frames.
    """

    name: str
    path: str


# --- Which videos ---------------------------------------------------------------------------------------------------


def find_videos(places: Sequence[str]) -> list[Video]:
    """The videos that are named, and those in folders, at any depth.

    A folder with video files stands for these, one with images for a clip of these frames.

    Args:
        places (`Sequence[str]`): Videos and folders.

    Raises:
        FileNotFoundError: A file or folder does not exist, or a folder does not contain a video.
        ValueError: A place is a URL, or two videos would have one name.
    """
    found: dict[str, Video] = {}
    for place in places:
        if "://" in place or place.startswith("data:"):
            raise ValueError(f"{place}: --out needs files. Download the video, and pass its path.")
        path = Path(place)
        if not path.exists():
            raise FileNotFoundError(f"{place}: no such video or folder of frames.")
        videos = list(_in_folder(path)) if path.is_dir() else [Video(path.name, str(path))]
        if not videos:
            raise FileNotFoundError(f"{place}: no video and no image in this folder.")
        for video in videos:
            other = found.setdefault(video.name, video)
            if not os.path.samefile(other.path, video.path):
                raise ValueError(
                    f"{other.path} and {video.path} would both be written as {video.name}; measure them into two "
                    "folders."
                )
    return list(found.values())


def _in_folder(folder: Path) -> Iterator[Video]:
    from deft_llm.processing.frame_folder import IMAGE_SUFFIXES
    from deft_llm.processing.video_reading import VIDEO_SUFFIXES

    for place, folders, files in os.walk(folder):
        folders.sort()
        shown = sorted(name for name in files if not name.startswith("."))
        videos = [name for name in shown if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        images = [name for name in shown if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        inside = Path(place).relative_to(folder)
        if videos:
            for name in videos:
                yield Video((inside / name).as_posix(), str(Path(place) / name))
        elif images:
            name = folder.resolve().name if inside == Path(".") else inside.as_posix()
            yield Video(name, place)


# --- One video ------------------------------------------------------------------------------------------------------


def measure_video(video: Video, table: Path, settings: Settings, told: Any = None) -> dict[str, Any]:
    """Measures a video, and writes its table.

    Args:
        video (`Video`): The video.
        table (`Path`): The table's final name; its folder must exist.
        settings (`Settings`): What to measure.
        told (`Callable`, *optional*): Called with the share of the video that is done, and the number of frames since
            the last call.

    Returns:
        `dict`: What `clips.csv` has about the video, as far as it depends on its frames.

    Raises:
        FileNotFoundError: The video or the model of the face finder is missing.
        OSError: The table cannot be written.
        ValueError: The video cannot be read, or its frame rate is unknown or too low.
    """
    from deft_llm.frame_motion import LEAST_RATE, NO_FACE, middle_and_width, placed_faces
    from deft_llm.motion_tables import Summary, frame_rows, open_table
    from deft_llm.processing.aligned_clip import checked_rate
    from deft_llm.processing.video_reading import open_clip

    reader = open_clip(video.path, fps=settings.fps)
    rate = checked_rate(reader, settings.fps)
    if not rate:
        raise ValueError(f"{video.path} does not state a frame rate; pass --fps (frames per second).")
    if rate < LEAST_RATE:
        raise ValueError(
            f"{video.path}: {rate:g} frames per second. A face moves too far from one frame to the next to be "
            f"followed; {LEAST_RATE:g} frames per second are needed."
        )
    reader.metadata.fps = rate
    times = reader.times()
    first, stop = _span(video, times, rate, settings)
    if stop - first < len(reader):
        reader = reader.window(first, stop)
    faces = placed_faces(reader, settings.face_source, settings.faces)
    widths = [middle_and_width(clip.transform)[2] for clip in faces.clips] or [0.0]
    if len(faces):
        rows = faces.motions(rate, _reported(reader.scan(), len(reader), told), reference=settings.reference)
    else:
        rows = ([None] for _ in range(len(reader)))
    summary = Summary()
    with whole_file(table) as partial:
        writer = open_table(partial, settings.format)
        try:
            for number, row in enumerate(rows, first):
                time = float(times[number])
                summary.add(number, time, row[0], NO_FACE)
                for face, motion in enumerate(row):
                    writer.write(frame_rows(number, time, face, motion, widths[face], NO_FACE))
        finally:
            writer.close()
    return {
        "status": MEASURED if summary.measured else NOT_MEASURABLE,
        "fps": round(rate, 6),
        "width": reader.metadata.width,
        "height": reader.metadata.height,
        "first_frame": first,
        "frames": summary.frames,
        "duration": round(float(times[stop - 1] - times[first]) + 1 / rate, 6),
        "faces_found": faces.found,
        "faces_followed": len(faces),
        "face_width": round(widths[0], 2) if len(faces) else None,
        **summary.row(),
    }


def _span(video: Video, times: Any, rate: float, settings: Settings) -> tuple[int, int]:
    """The first frame to measure, and the one after the last."""
    import numpy as np

    start = 0 if settings.start is None else int(np.searchsorted(times, settings.start - 1e-6))
    stop = len(times) if settings.end is None else int(np.searchsorted(times, settings.end - 1e-6))
    if start >= stop:
        raise ValueError(
            f"{video.path}: no frame from {settings.start or 0:g} s to "
            f"{times[-1] + 1 / rate if settings.end is None else settings.end:g} s; it ends at "
            f"{times[-1] + 1 / rate:.2f} s."
        )
    return start, stop


def _reported(frames: Iterable[Any], count: int, told: Any) -> Iterator[Any]:
    since = 0
    for number, frame in enumerate(frames, 1):
        yield frame
        since += 1
        if told is not None and (since == _TOLD_EVERY or number == count):
            told(number / count, since)
            since = 0


# --- The folder -----------------------------------------------------------------------------------------------------


class MeasureFolder:
    """The folder that a run writes.

    Args:
        path (`Path`): The folder; it is created if it is missing.
        settings (`Settings`): What to measure. A folder has one choice of settings.

    Raises:
        FileExistsError: The folder has files that `deft measure` did not write.
        ValueError: The folder was written with other settings or by another version.
    """

    def __init__(self, path: Path, settings: Settings):
        self.path, self.settings = path, settings
        self._recorded = {"version": __version__, "settings": settings.recorded()}

    @contextmanager
    def opened(self) -> Iterator[MeasureFolder]:
        """Context in which no other run writes the folder.

        Raises:
            RuntimeError: Another run writes it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path}: is a file; pass a folder as --out.")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path / _LOCK):
                self._claim()
                for left in self.path.rglob(".*.partial"):  # of a run that was killed
                    left.unlink()
                yield self
        except LockedError as error:
            raise RuntimeError(
                f"{self.path}: another run writes this folder ({error.holder}). Wait for it, or pass another --out."
            ) from None

    def _claim(self) -> None:
        own = self.path / SETTINGS_FILE
        if not own.exists():
            others = [item.name for item in self.path.iterdir() if not item.name.startswith(_LOCK)]
            if others:
                raise FileExistsError(
                    f"{self.path}: has files that `deft measure` did not write, such as {sorted(others)[0]}; pass a "
                    "new folder as --out."
                )
            write_whole(own, _json(self._recorded))
            return
        before = json.loads(own.read_text(encoding="utf-8"))
        if before["version"] != __version__:
            raise ValueError(
                f"{self.path}: was measured with deft-llm {before['version']}, and this is {__version__}; pass "
                "another --out, so that one folder has numbers of one version."
            )
        changed = [name for name, value in self._recorded["settings"].items() if before["settings"].get(name) != value]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{self.path}: was measured with {name}={before['settings'].get(name)}, and now it is "
                f"{self._recorded['settings'][name]}; pass another --out, or the settings of {SETTINGS_FILE}."
            )

    def table_of(self, video: Video) -> Path:
        """The name of a video's table."""
        return self.path / f"{video.name}.{self.settings.format}"

    def sidecar_of(self, video: Video) -> Path:
        """The name of a video's sidecar."""
        return self.path / f"{video.name}.json"

    def row_of(self, video: Video, sha256: str) -> dict[str, Any] | None:
        """What is known of a video that was measured before, or None.

        Raises:
            FileExistsError: Another video of that name was measured.
        """
        sidecar, table = self.sidecar_of(video), self.table_of(video)
        if not sidecar.exists():
            return None
        known = json.loads(sidecar.read_text(encoding="utf-8"))
        if known["clip"]["sha256"] != sha256:
            raise FileExistsError(
                f"{video.path}: has changed since {table} was written; measure it into another folder, or delete "
                f"{sidecar.name} and {table.name}."
            )
        whole = table.exists() and table.stat().st_size == known["table_bytes"]
        return known["clip"] if whole else None

    def measure(self, video: Video, told: Any = None) -> dict[str, Any]:
        """Measures a video, unless it was, and writes table and sidecar.

        Args:
            video (`Video`): The video.
            told (`Callable`, *optional*): As in `measure_video`.

        Returns:
            `dict`: Its row of `clips.csv`. A video that cannot be read has the status "refused" and a reason.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        row: dict[str, Any] = {"video": video.name}
        try:
            row["sha256"] = file_digest(video.path)
            known = self.row_of(video, row["sha256"])
            if known is not None:
                return known
            table = self.table_of(video)
            table.parent.mkdir(parents=True, exist_ok=True)
            row |= measure_video(video, table, self.settings, told)
        except (ValueError, FileExistsError) as error:
            return {**row, "status": REFUSED_CLIP, "reason": str(error)}
        except FileNotFoundError:
            if os.path.exists(video.path):  # what is missing is not the video
                raise
            return {**row, "status": REFUSED_CLIP, "reason": f"{video.path}: was deleted."}
        row["table"] = table.relative_to(self.path).as_posix()
        row = {name: row.get(name) for name in CLIP_COLUMNS}
        write_whole(
            self.sidecar_of(video), _json({**self._recorded, "table_bytes": table.stat().st_size, "clip": row})
        )
        return row

    def write_clips(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes `clips.csv`: these rows, and those of videos that earlier runs have measured."""
        kept = {row["video"]: row for row in rows}
        for sidecar in self.path.rglob("*.json"):
            if sidecar != self.path / SETTINGS_FILE:
                clip = json.loads(sidecar.read_text(encoding="utf-8"))["clip"]
                kept.setdefault(clip["video"], clip)
        file = io.StringIO()
        writer = csv.DictWriter(file, CLIP_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(kept[name] for name in sorted(kept))
        write_whole(self.path / CLIPS_FILE, file.getvalue())


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# --- All videos -----------------------------------------------------------------------------------------------------


def measure_videos(folder: MeasureFolder, videos: Sequence[Video], *, workers: int = 1) -> list[dict[str, Any]]:
    """Measures videos into a folder, one per process, with a progress bar. `clips.csv` is written at the end, whatever
    happens before.

    Args:
        folder (`MeasureFolder`): An opened folder.
        videos (`Sequence[Video]`): The videos.
        workers (`int`): Number of processes.

    Returns:
        `list[dict]`: The rows of `clips.csv` about these videos.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
        RuntimeError: A worker process was killed.
    """
    rows: dict[str, dict[str, Any]] = {}
    progress = _Progress(videos)
    try:
        run = _in_this_process if min(workers, len(videos)) < 2 else _in_processes
        for video, row in run(folder, videos, workers, progress):
            rows[video.name] = row
            progress.finished(video, row)
    except FileNotFoundError:
        raise
    except OSError as error:
        with suppress(OSError):  # the table of the clips needs room as well
            folder.write_clips(rows.values())
        raise OSError(
            f"{folder.path}: {error.strerror or error}. {len(rows)} of {len(videos)} videos are measured and kept; "
            "run the same command again to measure the others."
        ) from error
    except BaseException:
        folder.write_clips(rows.values())
        raise
    finally:
        progress.close()
    folder.write_clips(rows.values())
    return [rows[video.name] for video in videos]


def _in_this_process(folder, videos, workers, progress):
    for video in videos:
        size = progress.sizes[video.name]
        yield video, folder.measure(video, lambda share, frames, size=size: progress.add(share * size, frames))


def _in_processes(folder, videos, workers, progress):
    context = multiprocessing.get_context("spawn")  # not forked: this process has threads
    frames, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(min(workers, len(videos)), context, _prepare, (frames, stop)) as pool:
        left = {pool.submit(_measure_in_worker, folder, video): video for video in videos}
        seen = 0
        try:
            while left:
                done, _ = wait(left, timeout=0.3, return_when=FIRST_COMPLETED)
                progress.add(0, frames.value - seen)
                seen = frames.value
                for future in done:
                    yield left.pop(future), future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process was killed, often because memory ran out. What is measured is kept: run the same "
                "command again, with fewer --workers if memory ran out."
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


_shared: dict[str, Any] = {}


def _prepare(frames: Any, stop: Any) -> None:
    """Prepares a worker process: it ends with its parent, and leaves Ctrl+C to it."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared.update(frames=frames, stop=stop)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _measure_in_worker(folder: MeasureFolder, video: Video) -> dict[str, Any]:
    def told(share: float, frames: int) -> None:
        if _shared["stop"].is_set():
            raise RuntimeError("stopped")
        with _shared["frames"].get_lock():
            _shared["frames"].value += frames

    return folder.measure(video, told)


class _Progress:
    """Videos done, frames per second and the time left, which is judged by the sizes of the files."""

    def __init__(self, videos: Sequence[Video]):
        from tqdm import tqdm

        self.sizes = {video.name: _size(video.path) for video in videos}
        self._videos, self._done, self._frames = len(videos), 0, 0
        form = "{percentage:3.0f} % |{bar:30}| {elapsed} so far, {remaining} left{postfix}"
        self._bar = tqdm(total=sum(self.sizes.values()), bar_format=form, disable=None)  # only in a terminal
        self._finished = 0

    def add(self, size: float, frames: int) -> None:
        """Notes how much of the present video is done, in bytes of its file, and how many more frames."""
        self._frames += frames
        if not self._bar.disable and frames:
            self._bar.n = min(self._finished + size, self._bar.total)
            rate = self._frames / max(self._bar.format_dict["elapsed"], 1e-3)
            self._bar.set_postfix_str(f"{self._done}/{self._videos} videos, {rate:.0f} frames/s")

    def finished(self, video: Video, row: dict[str, Any]) -> None:
        """Notes that a video is done."""
        self._done += 1
        self._finished += self.sizes[video.name]
        self._bar.n = self._finished
        self._bar.refresh()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


def _size(path: str) -> int:
    if os.path.isdir(path):
        return sum(item.stat().st_size for item in Path(path).iterdir() if item.is_file()) or 1
    return os.path.getsize(path) or 1
