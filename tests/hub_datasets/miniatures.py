"""Miniatures of the licensed data sets: their folders and sheets to the letter, rendered faces and made-up rows.

Each function writes one data set under a root and returns the root. Rows are invented; what is taken from the real
ones is the form, with every irregularity that the readers have to cope with.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import xlwt

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

SIZE = 64  # pixels
_faces: dict[str, object] = {}


def write_frames(paths: Iterable[Path], subject: str, apex: int | None = None) -> None:
    """A clip of one face, one image a path; the brows lower up to the apex and come back."""
    paths = list(paths)
    seed = zlib.crc32(subject.encode())
    if subject not in _faces:
        _faces[subject] = render_face(np.random.default_rng(seed), size=SIZE)
    apex = apex or max(1, len(paths) // 2)
    shown = Expression((UnitRequest("AU4", "both", 0.025),), 0, apex, max(apex + 1, len(paths) - 1))
    rng = np.random.default_rng([seed, zlib.crc32(str(paths[0].parent.name).encode())])
    clip = render_clip(_faces[subject], [shown], rng, count=max(len(paths), apex + 2))
    for path, frame in zip(paths, clip.frames, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), frame[..., ::-1])


def write_xlsx(path: Path, tabs: Mapping[str, Sequence[Sequence]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, lines in tabs.items():
        tab = book.create_sheet(name)
        for row, line in enumerate(lines, 1):
            for column, cell in enumerate(line, 1):
                if cell is not None:
                    tab.cell(row, column, cell)
    book.save(path)


def write_xls(path: Path, tabs: Mapping[str, Sequence[Sequence]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = xlwt.Workbook()
    for name, lines in tabs.items():
        tab = book.add_sheet(name)
        for row, line in enumerate(lines):
            for column, cell in enumerate(line):
                if cell is not None:
                    tab.write(row, column, cell)
    book.save(str(path))


def write_csv(path: Path, lines: Sequence[Sequence]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)


CASME_HEADER = ["Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "AU", "Emotion"]
CASME2_HEADER = ["Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None]
CASME2_HEADER += ["Action Units", "Estimated Emotion"]
SAMM_HEADER = (
    "Subject/Filename/Inducement Code/Onset Frame/Apex Frame/Offset Frame/Duration/Micro/Action Units/"
    "Estimated Emotion/Objective Classes/Notes"
).split("/")
DFME_HEADER = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU"]


def casme(root: Path) -> Path:
    """Two apex columns, one blank column."""
    rows = [
        [1, "EP01_5", None, 31, 36, 39, 41, None, "4+L10", "disgust"],
        [1, "EP01_8", None, 8, 12, 12, 16, None, 14, "repression"],
        [7, "EP06_2", None, 70, 75, None, 80, None, "4", "tense"],
    ]
    write_xlsx(root / "casme.xlsx", {"Sheet1": [CASME_HEADER, *rows]})
    for subject, clip, _, onset, apex, _, offset, *_ in rows:
        folder = root / "CASME_raw_selected" / f"sub{subject:02d}" / clip
        names = [f"{clip}-{number}.jpg" for number in range(onset, offset + 1)]
        write_frames([folder / name for name in names], f"casme{subject}", apex - onset)
    return root


CASME2_ROWS = [
    # Subject, Filename, onset, apex, offset, action units as text or number, emotion
    [1, "EP02_01f", 46, 51, 56, "4+L10", "disgust"],
    [1, "EP03_02", 8, 10, 13, 12, "happiness"],  # img8 to img13: natural order; a number as action unit
    [4, "EP12_01f", 21, "/", 30, "R10", "disgust"],  # no apex
    [5, "EP09_05f", 10, 10, 20, "4+7", "disgust"],  # apex is onset
    [5, "EP07_01", 12, 17, 22, "?", "others"],  # action units unknown
    [17, "EP01_06", 9, 14, 19, "L2", "surprise"],
    [17, "EP05_02", 30, 35, 40, "15", "repression"],  # no folder on the disk
    [26, "EP15_01", 40, 45, 50, "1+4", "sadness"],  # the folder ends before the offset
    [26, "EP18_44", 5, 8, 11, "9", "fear"],  # one frame in the middle is missing
    [26, "EP18_44", 5, 8, 11, "9", "fear"],  # the row twice
]


def casme2(root: Path) -> Path:
    """Two blank columns, an apex "/", action units as text and as numbers, "?", raw and cropped frames."""
    rows = [[s, clip, None, a, b, c, None, units, emotion] for s, clip, a, b, c, units, emotion in CASME2_ROWS]
    write_xlsx(root / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    for subject, clip, onset, apex, offset, *_ in CASME2_ROWS:
        if clip == "EP05_02":
            continue
        last = offset - 3 if clip == "EP15_01" else offset + 2
        numbers = [n for n in range(onset - 2, last + 1) if (clip, n) != ("EP18_44", 7)]
        rise = (apex if isinstance(apex, int) and apex > onset else onset + 4) - onset + 2
        for folder, prefix in (("CASME2_RAW_selected", "img"), ("Cropped", "reg_img")):
            if folder == "Cropped" and clip != "EP02_01f":
                continue
            place = root / folder / f"sub{subject:02d}" / clip
            write_frames([place / f"{prefix}{n}.jpg" for n in numbers], f"casme2-{subject}", rise)
    return root


def casme2_without_question_marks(root: Path) -> Path:
    """The variant in circulation with other titles, literal "Unnamed" ones, and a second column of units."""
    titles = "Subject/Filename/Unnamed: 2/Onset Frame/Apex Frame/OffsetFrame/Unnamed: 6/Action Units/emotion/au"
    rows = [
        [s, clip, None, a, b, c, None, units, emotion, str(units).strip("LR")]
        for s, clip, a, b, c, units, emotion in CASME2_ROWS
        if units != "?"
    ]
    write_xls(root / "CASME2_label_Ver_2.xls", {"Sheet1": [titles.split("/"), *rows]})
    return root


SAMM_ROWS = [
    # Subject, Filename, onset, apex, offset, action units, emotion, objective class, notes, digits of the frame number
    ["006", "006_1_2", 558, 562, 566, "4+7B", "Anger", 3, None, 5],
    ["006", "006_1_3", 96, 99, 103, "7C + 43E", "Anger", 7, "Eye movement", 4],
    [7, "007_3_1", 5, 9, 12, "4A/B", "Anger", 3, "Blinks", 3],
    [7, "007_4_1", 1, 4, 8, "10A/B", "Disgust", 4, None, 5],
    [9, "009_1_3", 20, 24, 28, "A12", "Happiness", 1, "L12?", 5],
    [9, "009_2_1", 20, 24, 28, "A/L12", "Happiness", 1, None, 4],
    [9, "009_3_1", 20, None, 28, "T18 + B18", "Other", 7, "Large head movement", 4],  # no apex
    ["011", "011_1_1", 20, 24, 28, "L12A", "Happiness", 1, None, 4],
    ["011", "011_2_1", 20, 24, 28, "R14 + A14C", "Contempt", 7, None, 4],
    ["011", "011_3_1", 20, 24, 28, "L12 or L14", "Contempt", 7, None, 4],
    ["011", "011_4_1", 20, 24, 28, "R12 or R14", "Contempt", 7, None, 4],
    ["013", "013_1_1", 20, 24, 28, "(R6 or R12) + R15", "Sadness", 7, None, 4],
    ["013", "013_2_1", 20, 24, 28, "4 + ref(7B)", "Anger", 3, None, 4],
    ["013", "013_3_1", 20, 24, 28, "ref(L10)", "Disgust", 4, None, 4],
    ["013", "013_4_1", 20, 24, 28, "R14A or 17A or 24A", "Other", 7, None, 4],
    ["014", "014_1_1", 20, 24, 28, "1+2 + soft focus", "Surprise", 2, None, 4],
    ["014", "014_2_1", 20, 24, 28, "61", "Other", 7, None, 4],
    ["014", "014_3_1", 20, 24, 28, "1+2+4", "Fear", 2, None, 4],  # its class by the table is VI
]


def samm_lines() -> list[list]:
    preamble = [
        ["SAMM micro-movements"],
        [],
        ["Onset Frame: first frame of the movement", None, "Apex Frame: highest"],
    ]
    preamble += [[f"Remark {number} on the subjects"] for number in range(13 - len(preamble))]
    rows = [
        [subject, clip, f"{clip[4]}", a, b, c, c - a + 1, "Micro", units, emotion, objective, notes]
        for subject, clip, a, b, c, units, emotion, objective, notes, _ in SAMM_ROWS
    ]
    return [*preamble, SAMM_HEADER, *rows]


def samm(root: Path) -> Path:
    """A preamble of 13 rows that mentions column names, padding that differs by clip, confounds in the notes."""
    write_xlsx(root / "SAMM_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": samm_lines()})
    for subject, clip, onset, apex, offset, *_, digits in SAMM_ROWS:
        name = f"{int(subject):03d}"
        folder = root / "SAMM" / name / clip
        paths = [folder / f"{name}_{number:0{digits}d}.jpg" for number in range(onset, offset + 1)]
        write_frames(paths, f"samm{name}", apex and apex - onset)
    return root


def samm_long(root: Path) -> Path:
    """Macro-expressions among the micro-expressions, no emotion; SAMM's own sheet lies beside it."""
    header = "Subject/Filename/Inducement Code/Onset/Apex/Offset/Duration/Type/Action Units/Notes".split("/")
    rows = [
        ["006", "006_1_1", 1, 2, 6, 11, 10, "Macro", "12", None],
        ["006", "006_1_2", 1, 14, 18, 22, 9, "Micro - 1/2", "4+7B", None],
        ["011", "011_1_1", 1, 3, 7, 11, 9, "Micro - 1/2", "L12A", "Blinks"],
        ["011", "011_9_1", 9, 2, 4, 6, 5, "Micro - 1/2", "14", None],  # SAMM does not have it
    ]
    preamble = [["SAMM Long Videos"], *([f"Remark {number}"] for number in range(8))]
    write_xlsx(root / "SAMM_LongVideos_V2_Release.xlsx", {"FACS codes": [*preamble, header, *rows]})
    write_xlsx(root / "SAMM_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": samm_lines()})
    for video in ("006_1", "011_1", "011_9"):
        folder = root / "SAMM_longvideos" / video
        write_frames([folder / f"{video}_{number:04d}.jpg" for number in range(1, 26)], f"samm{video[:3]}", 17)
    return root


SMIC_CLIPS = [
    ("s1", "negative", "s1_ne_01"),
    ("s3", "surprise", "s3_sur_01"),
    ("s20", "negative", "s20_ne_01"),
    ("s20", "negative", "s20_ne_02"),
    ("s20", "positive", "s20_po_01"),
]


def smic(root: Path) -> Path:
    """Folders only, three cameras, no apex; non-micro clips beside the micro ones; one clip in the wrong folder."""
    for camera, clips in {"HS": SMIC_CLIPS, "VIS": SMIC_CLIPS[2:], "NIR": SMIC_CLIPS[2:]}.items():
        for subject, emotion, clip in clips:
            place = "positive" if (camera, clip) == ("VIS", "s20_ne_02") else emotion
            for kind in (f"micro/{place}", "non_micro"):
                folder = root / "SMIC_all_cropped" / camera / subject / kind / clip
                paths = [folder / f"reg_image{17581039 + number}.jpg" for number in range(9)]
                write_frames(paths, f"smic{subject}")
    return root


def smic_long(root: Path) -> Path:
    """SMIC-E: long clips and a sheet that ends in lines of text."""
    header = ["Subject", "Filename", "FirstF", "OnsetF", "OffsetF", "Emotion"]
    rows, text = [], [[], ["Total: 157 clips of 16 subjects"], ["ne: negative", None, None, "po: positive"]]
    for subject, emotion, clip in SMIC_CLIPS:
        first = 17581037
        rows.append([subject, clip, first, first + 3, first + 11, emotion])
        folder = root / "HS_long" / "SMIC-HS-E" / "HS" / subject / clip
        write_frames([folder / f"image{first + number}.jpg" for number in range(15)], f"smic{subject}", 7)
    write_xlsx(root / "SMIC-HS-E_annotation.xlsx", {"Sheet1": [header, *rows, *text]})
    return root


def cas_me2(root: Path) -> Path:
    """No header, three tabs that must be joined, macro-expressions, offset 0 for "the apex"."""
    rows = [
        [1, "disgust1_1", 3, 7, 11, "4+9", "negative", "micro-expression", "disgust"],
        [1, "disgust1_2", 14, 17, 0, "4", "negative", "micro-expression", "disgust"],
        [1, "anger1_1", 2, 12, 24, "4+7", "negative", "macro-expression", "anger"],
        [2, "happy1_10", 4, 8, 12, "6+12", "positive", "micro-expression", "happiness"],
        [2, "happy1_11", 15, 18, 21, "L14", "others", "micro-expression", "confused"],
    ]
    rule1 = [[15, "s15", 1], [16, "s16", 2]]
    rule2 = [[101, "disgust1"], ["0401", "anger1"], [502, "happy1"]]
    write_xlsx(
        root / "CAS(ME)^2code_final(Updated).xlsx",
        {"CASFEcode_final": rows, "naming rule1": rule1, "naming rule2": rule2},
    )
    for folder in ("s15/15_0101disgustingteeth", "s15/15_0401girlcrash", "s16/16_0502funnyerrors"):
        place = root / "rawpic" / folder
        write_frames([place / f"img{number}.jpg" for number in range(1, 26)], folder.split("/")[0], 10)
    return root


CAS_ME3_ROWS = [
    ["spNO.1", "a", "5", "9", "13", "4+L14", "VII", "disgust"],
    ["spNO.1", "a", "15", "18", "21", "R2", "VII", "surprise"],  # the same video again
    ["spNO.1", "b", "3", "3", "8", "4", "III", "anger"],  # onset is apex
    ["spNO.2", "a", "2", "12", "9", "12", "I", "happy"],  # apex after offset
    ["spNO.2", "b", "0", "4", "8", "15", "V", "sad"],  # 0.jpg is missing
    ["spNO.3", "a", "2", "6", "10", "T18+B28", "VII", "Others"],  # a capital where others have none
    ["spNO.3", "b", "2", "6", "10", "T24+r18", "VII", "others"],  # a damaged apex image
    ["spNO.39", "m", "2", "6", "10", "1+2+4", "VI", "fear"],
]


def _cas_me3_frames(root: Path) -> None:
    for subject, video in {(row[0], row[1]) for row in CAS_ME3_ROWS}:
        numbers = range(1, 24)
        for kind, suffix in (("color", "jpg"), ("depth", "png")):
            folder = root / "part_A" / subject / video / kind
            write_frames([folder / f"{number}.{suffix}" for number in numbers], f"cas3{subject}", 9)
    (root / "part_A/spNO.3/b/color/6.jpg").write_bytes(b"")


def cas_me3a(root: Path) -> Path:
    """All cells text, two empty tabs, several clips a video, unusable apexes, missing and damaged images."""
    header = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]
    write_xlsx(
        root / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
        {"label": [header, *CAS_ME3_ROWS], "Sheet2": [], "Sheet3": []},
    )
    _cas_me3_frames(root)
    return root


def cas_me3a_v1(root: Path) -> Path:
    """Version 1: an .xls with columns that have no title."""
    header = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion", None, None]
    rows = [[*row, "x" if number == 1 else None, None] for number, row in enumerate(CAS_ME3_ROWS)]
    write_xls(root / "cas(me)3_part_A_ME_label_JpgIndex_v1.xls", {"label": [header, *rows]})
    return root


def cas_me3a_full(root: Path) -> Path:
    """The full sheet: macro-expressions, no emotion, and a tab of blinks."""
    header = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Expression type", "Objective class"]
    rows = [
        [*row[:6], "Macro-expression" if number == 7 else "Micro-expression", row[6]]
        for number, row in enumerate(CAS_ME3_ROWS)
    ]
    blinks = [["Subject", "Filename", "Onset", "Offset"], ["spNO.1", "a", "11", "16"], ["spNO.2", "a", "14", "17"]]
    write_xls(root / "CAS(ME)3_part_A_v2.xls", {"AU+Emotion": [header, *rows], "eye blink": blinks})
    _cas_me3_frames(root)
    return root


def cas_me3c(root: Path) -> Path:
    """Numbers for names, no apex, five ways to separate action units."""
    cells = ["R4,5", "4，11", "14,L24,", "13?", "R4,R45"]
    emotions = ["negative", "positive", "surprise", "others", "negative"]
    rows = [[5 + n // 3, 1 + n % 3, 4, 12, cells[n], emotions[n]] for n in range(5)]
    write_xlsx(
        root / "CAS(ME)3_part_C_ME.xlsx",
        {"mockCrimeME": [["sub", "count", "onset", "offset", "au", "emotion"], *rows]},
    )
    for subject, clip, onset, offset, *_ in rows:
        folder = root / "ME_C" / f"{subject:02d}" / str(clip) / "color"
        write_frames([folder / f"{number}.jpg" for number in range(onset, offset + 1)], f"cas3c{subject}")
    return root


def mmew(root: Path) -> Path:
    """Folders by emotion, one of them named repression where the sheet says others; remarks."""
    header = "Subject/Filename/OnsetFrame/ApexFrame/OffsetFrame/Action Units/Estimated Emotion/remarks".split("/")
    rows = [
        ["S03", "S03-01-002", 1, 5, 9, "6+12", "happiness", None],
        ["S03", "S03-05-001", 1, 5, 9, "4+7", "others", "head turns"],
        [4, "S04-03-001", 2, 6, 10, "AU1+AU2", "surprise", None],
    ]
    write_xlsx(root / "MMEW_Micro_Exp.xlsx", {"Sheet1": [header, *rows]})
    for subject, clip, _, apex, offset, _, emotion, _ in rows:
        name = "repression" if emotion == "others" else emotion
        first = root / "Micro_Expression"
        # Both layouts that are in use.
        folder = first / "S03" / name / clip if subject == "S03" else first / name / clip
        write_frames([folder / f"{n}.jpg" for n in range(1, offset + 1)], f"mmew{subject}", apex - 1)
    return root


def four_dme(root: Path, swapped: bool = False) -> Path:
    """Several emotions in a cell, (k) behind a unit, everything repeated as columns of 0 and 1."""
    codes = (1, 2, 4, 7, 12, 15)
    classes = ("Positive", "Negative", "Surprise", "Repression", "Others")
    header = [*"sub_ID fold_name Emotion Onset Apex Offset AUs".split(), *(f"AU{code}" for code in codes)]
    header += ["fold", "eye blink", *classes, "Total"]
    rows = []
    for subject, clip, emotion, onset, apex, offset, units, present, blink in (
        ("F01", "F01_0_1", "Negative", 10, 14, 18, "AU4+AU7 (k)", (4, 7), 0),
        ("F01", "F01_0_2", "Positive", 30, 34, 38, "AU12", (12,), 1),
        ("M02", "M02_0_1", "Negative & Surprise", 2, 6, 10, "AU1+AU2+AU4", (1, 2, 4), 0),
        ("M02", "M02_0_2", "Repression", 12, 16, 20, "AU15", (15, 12), 0),  # columns say more than the text
    ):
        marks = [int(code in present) for code in codes]
        kinds = [int(kind in emotion) for kind in classes]
        rows.append([subject, clip, emotion, onset, apex, offset, units, *marks, 1, blink, *kinds, sum(kinds)])
        folder = root / "gray_micro" / subject / clip
        write_frames([folder / f"{number}.jpg" for number in range(onset, offset + 1)], f"4dme{subject}", apex - onset)
    if swapped:  # as released: what follows the frames of two rows stands in the other's
        rows[0][6:], rows[1][6:] = rows[1][6:], rows[0][6:]
    write_xlsx(root / "4DME_Labelling_Micro_release v1.xlsx", {"Sheet1": [header, *rows]})
    return root


DFME_ROWS = {
    "train": [
        ["sub0008", "sub0008_01", 95, 99, 103, "disgust", 2, 500, "4+L12"],
        ["sub0008", "sub0008_02", 4, 8, 12, "happiness", 4, 500, "R7+AD31"],
        [12, "sub0012_01", 7, 11, 15, "surprise", 6, 300, "AD38+AD39"],
    ],
    "testA": [["sub0100", "sub0100_01", 9, 12, 15, "fear", 3, 200, "M57"]],
    "testB": [["sub0200", "sub0200_01", 9, 12, 15, "contempt", 2, 200, "14+M58"]],  # the number says disgust
}


def dfme(root: Path) -> Path:
    """Three sheets of fixed sets, one of them a .csv; frame rates by row; five-digit frame numbers."""
    write_xlsx(root / "train_full_with_AU.xlsx", {"Sheet1": [DFME_HEADER, *DFME_ROWS["train"]]})
    write_xlsx(root / "testA_full_with_AU.xlsx", {"Sheet1": [DFME_HEADER, *DFME_ROWS["testA"]]})
    write_xlsx(root / "testB_full_with_AU.xlsx", {"Sheet1": [DFME_HEADER, *DFME_ROWS["testB"]]})
    for part, rows in DFME_ROWS.items():
        for subject, clip, onset, apex, offset, *_ in rows:
            folder = root / f"{part}_frames" / clip
            paths = [folder / f"{number:05d}.png" for number in range(onset, offset + 1)]
            write_frames(paths, f"dfme{subject}", apex - onset)
    return root


def dfme_csv(root: Path) -> Path:
    write_csv(root / "train_full_with_AU.csv", [DFME_HEADER, *DFME_ROWS["train"]])
    return root


def own_csv(root: Path) -> Path:
    """A laboratory's own recordings, CSV."""
    header = ["subject", "clip", "path", "onset", "apex", "offset", "fps", "AU", "emotion", "notes"]
    rows = [
        ["p1", "p1-1", "clips/p1-1", 2, 5, 8, 120, "4+7", "disgust", ""],
        ["p2", "p2-1", "clips/p2-1", "", "", "", 120, "", "", "not coded yet"],
    ]
    write_csv(root / "annotations.csv", [header, *rows])
    for row in rows:
        write_frames([root / row[2] / f"{number:03d}.png" for number in range(1, 11)], row[0])
    return root


def own_jsonl(root: Path) -> Path:
    """The same as JSON lines."""
    root.mkdir(parents=True, exist_ok=True)
    items = [
        {
            "subject": "p1",
            "path": "p1-1",
            "onset": 2,
            "apex": 5,
            "offset": 8,
            "fps": 50.0,
            "AU": 12,
            "emotion": "Happy",
        },
        {"subject": "p2", "path": "p2-1", "partition": "test"},
    ]
    (root / "annotations.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    for item in items:
        write_frames([root / item["path"] / f"{number}.png" for number in range(1, 11)], item["subject"])
    return root


MINIATURES: dict[str, Callable[[Path], Path]] = {
    "casme": casme,
    "casme2": casme2,
    "samm": samm,
    "samm-long": samm_long,
    "smic-hs": smic,
    "smic-vis": smic,
    "smic-nir": smic,
    "cas-me2": cas_me2,
    "cas-me3a": cas_me3a,
    "cas-me3c": cas_me3c,
    "mmew": mmew,
    "4dme": four_dme,
    "dfme": dfme,
    "own": own_csv,
}


# --- Sheets of full size, for the lists of published protocols ------------------------------------------------------


def _spread(counts: Mapping[str, int], subjects: int) -> list[tuple[int, str]]:
    """(subject, emotion) of every row: all subjects occur, each emotion goes round them."""
    words = [word for word, count in counts.items() for _ in range(count)]
    return [(index % subjects + 1, word) for index, word in enumerate(words)]


CASME2_COUNTS = Counter(
    others=99, disgust=63, happiness=32, repression=27, surprise=25, sadness=7, fear=2
)  # of the released 255 rows
SAMM_COUNTS = Counter(
    Anger=57, Other=26, Happiness=26, Surprise=15, Contempt=12, Disgust=9, Fear=8, Sadness=6
)  # of 159 rows


def full_casme2_sheet(root: Path) -> Path:
    """255 rows with the released sheet's emotion counts, 26 subjects of whom two are not in the composite."""
    inside = {word: CASME2_COUNTS[word] for word in ("disgust", "repression", "happiness", "surprise")}
    rows = []
    for index, (subject, word) in enumerate(_spread(inside, 24)):
        rows.append([subject, f"EP{index % 19 + 1:02d}_{index:02d}", None, 10, 20, 30, None, "4+7", word])
    for index in range(255 - len(rows)):
        word = ["others"] * 99 + ["sadness"] * 7 + ["fear"] * 2
        rows.append(
            [index % 26 + 1, f"EP{index % 19 + 1:02d}_{300 + index}", None, 10, 20, 30, None, "1", word[index]]
        )
    # The two that the organisers leave out.
    for subject, clip in ((4, "EP12_01f"), (5, "EP09_05f")):
        row = next(row for row in rows if row[0] == subject and row[8] == "disgust")
        row[1] = clip
        row[4] = "/" if subject == 4 else row[3]
    write_xlsx(root / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    return root


def full_samm_sheet(root: Path) -> Path:
    """159 rows with the released sheet's emotion counts, 29 subjects of whom one shows "Other" only."""
    rows = []
    inside = {word: count for word, count in SAMM_COUNTS.items() if word != "Other"}
    for index, (subject, word) in enumerate(_spread(inside, 28)):
        name = f"{subject + 5:03d}"
        rows.append([name, f"{name}_{index % 7 + 1}_{index}", 1, 100, 120, 140, 41, "Micro", "4", word, 3, None])
    for index in range(SAMM_COUNTS["Other"]):
        subject = 6 + index if index < 25 else 37
        rows.append(
            [f"{subject:03d}", f"{subject:03d}_8_{index}", 1, 100, 120, 140, 41, "Micro", "14", "Other", 7, None]
        )
    write_xlsx(root / "SAMM_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": [*samm_lines()[:13], SAMM_HEADER, *rows]})
    return root


def full_smic_folders(root: Path) -> Path:
    """164 clips of 16 subjects as folders; the frames are names only."""
    words = {"negative": 70, "positive": 51, "surprise": 43}
    for index, (subject, word) in enumerate(_spread(words, 16)):
        clip = f"s{subject}_{ {'negative': 'ne', 'positive': 'po', 'surprise': 'sur'}[word] }_{index:03d}"
        folder = root / "SMIC_all_cropped" / "HS" / f"s{subject}" / "micro" / word / clip
        folder.mkdir(parents=True)
        for number in (100, 101):
            (folder / f"reg_image{number}.jpg").touch()
    return root
