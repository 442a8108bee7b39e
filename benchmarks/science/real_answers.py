"""Do answers about recordings of people say what was measured?

    python benchmarks/science/real_answers.py [--model DIR] [--windows 2] [--data DIR]

The pipeline answers about every file of DIR/recordings as it is, and about half-second windows of it; DIR is
`DEFT_REAL_DATA`, or ../shared/data. Faces are found by the YuNet model that lies there. The motion is then measured
again, on the same frames, and the answer is held against it. The model may be any that `deft train` writes; what is
counted here does not depend on how well it recognises. `DEFT_MODEL` names it if `--model` does not. Counted are

- evidence lines without significant motion of their region on a side that they name, in their direction ± 1 octant,
- lines whose magnitude is none of those of the sides that they name, nor their mean, within two standard errors and
  the rounding,
- lines with motion above 10 % of the face's width, which no expression reaches in half a second,
- classes that are not the first one of the recognition head,
- statements about clips that cannot be measured: a class, a score or evidence.

A file that cannot be used has to end in one sentence, which is printed; any other error ends the benchmark.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from real_recordings import LARGE, opened, parsed, windows

from deft_llm.modeling_deft import DeftForConditionalGeneration, DeftVideoTextToTextPipeline
from deft_llm.processing import AlignedClip, DeftProcessor
from deft_llm.processing.expression_report import NOT_MEASURABLE, ExpressionReport, parse_answer
from deft_llm.processing.face_alignment import FaceAlignmentError
from deft_llm.processing.key_frames import KeyFrameError
from deft_llm.processing.motion_evidence import RegionMotion, measure_motion, octants_apart
from deft_llm.processing.video_reading import VideoReadError

ROUNDING = 0.05  # of printed magnitudes, in percent of the face's width
ERRORS = 2  # standard errors within which two magnitudes are the same
console = Console(width=150)


def contradictions(report: ExpressionReport, motions: Sequence[RegionMotion]) -> list[str]:
    """Kinds of what is wrong in a report, one entry for each time.

    Args:
        report (`ExpressionReport`): what the pipeline returned.
        motions (`Sequence[RegionMotion]`): the clip's motion, measured again; empty if it cannot be measured.
    """
    wrong = []
    if report.status == NOT_MEASURABLE:
        said = report.emotion or report.scores or report.evidence or report.action_units
        return ["statement about what was not measured"] if said else []
    if not report.parsed:
        return ["answer that cannot be read"]
    if report.emotion is not None and report.emotion != max(report.scores, key=report.scores.get):
        wrong.append("class that is not the head's first")
    measured = {(motion.region, motion.side): motion for motion in motions}
    sides = {unit.code: unit.side for unit in report.action_units}
    # The lines that were printed: those of the text, whose magnitudes are rounded.
    for line in parse_answer(report.text).evidence:
        side = sides.get(line.action_unit, "both")
        named = [measured[line.region, one] for one in (("left", "right") if side == "both" else (side,))]
        if not any(one.significant and _alike(one.direction, line.direction) for one in named):
            wrong.append("evidence without such motion")
        # A unit on both sides has the mean of the two.
        near = [(one.magnitude, one.standard_error) for one in named]
        near.append(tuple(sum(values) / len(named) for values in zip(*near, strict=True)))
        if not any(abs(magnitude - line.magnitude) <= ERRORS * spread + ROUNDING for magnitude, spread in near):
            wrong.append("magnitude that was not measured")
        if line.magnitude > LARGE:
            wrong.append(f"motion above {LARGE:g} %")
    return wrong


def _alike(measured: str, said: str) -> bool:
    apart = octants_apart(measured, said)
    return apart is not None and apart <= 1


def answered(pipe: DeftVideoTextToTextPipeline, clip: AlignedClip) -> tuple[ExpressionReport, list[RegionMotion]]:
    """The report on a clip, and its motion measured again."""
    result = pipe(clip)
    known = dict(result["report"])
    known.pop("insufficient_motion")
    plain = parse_answer(result["generated_text"])
    report = ExpressionReport(**{**known, "action_units": plain.action_units, "evidence": plain.evidence})
    if report.status == NOT_MEASURABLE:
        return report, []
    tensors = pipe.processor.video_processor(clip, do_crop_appearance=False, return_measurement=True)
    motions = measure_motion(
        tensors["flow_values_videos"][0], lead_in=tensors["lead_in_flow"][0], deviation=tensors["flow_deviation"][0]
    )
    return report, motions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=os.environ.get("DEFT_MODEL"), help="model folder; default: DEFT_MODEL"
    )
    parser.add_argument("--windows", type=int, default=2, help="half-second windows per recording")
    arguments, folder, finder = parsed(parser)
    if arguments.model is None:
        parser.error("pass --model, or set DEFT_MODEL to a model folder.")
    pipe = DeftVideoTextToTextPipeline(
        model=DeftForConditionalGeneration.from_pretrained(arguments.model).eval(),
        processor=DeftProcessor.from_pretrained(arguments.model),
    )
    table = Table(title="Grounded answers against the motion measured again", title_justify="left")
    for name in (
        "",
        "clips",
        "refused",
        "measured",
        "insufficient motion",
        "evidence lines",
        "contradictions; asked 0",
    ):
        table.add_column(name, justify="right" if name else "left")
    for name, sources in (
        ("files", [reader for _, reader in opened(folder)]),
        ("half-second windows", [item.reader for item in windows(folder, finder, arguments.windows)]),
    ):
        counts, wrong, reasons = Counter(), Counter(), Counter()
        for reader in sources:
            try:
                report, motions = answered(pipe, AlignedClip.open(reader, face_source=finder))
            except (VideoReadError, FaceAlignmentError, KeyFrameError) as error:
                reasons[str(error).partition(": ")[2]] += 1
                continue
            counts[report.status] += 1
            counts["lines"] += len(report.evidence)
            found = contradictions(report, motions)
            wrong.update(found)
            if report.status == NOT_MEASURABLE:
                reasons[report.reason] += 1
            for kind in found:
                console.print(f"{Path(reader.name).name}: {kind}\n{report.text}", highlight=False)
        table.add_row(
            name,
            str(len(sources)),
            str(sum(reasons.values())),
            str(counts["measured"]),
            str(counts["insufficient_motion"]),
            str(counts["lines"]),
            ", ".join(f"{count} × {kind}" for kind, count in wrong.items()) or "0",
        )
        for reason, count in reasons.most_common():
            console.print(f"{name}: refused {count} ×: {reason}", highlight=False)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
