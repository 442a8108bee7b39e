"""Sheets, JSON lines and folders with random damage: rows that were not touched are read as before.

Each mutation is read by the reader. The only errors that are allowed are the package's own, and they must name the
file. Everything else is compared with what was read before the damage.
"""

import csv
import io
import json
import random
import re

import pytest

from deft_llm.hub_datasets.sources.emotions import UnknownEmotionError
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.tables import SheetError

HEADER = ["subject", "path", "onset", "apex", "offset", "fps", "AU", "emotion", "notes"]
ROWS = [[f"p{n % 4}", f"day{n}/c", n, n + 2, n + 5, 200, "4+L12", "fear", f"n{n}"] for n in range(1, 7)]
ODD = [
    *"/ \\ - -1 ? — TBD N/A x [4,7] 4/7 4&7 4-7 LR4 1e9 0 00 nan inf 1_0 ＋７".split(),
    *(
        "",
        " ",
        "4,7",
        "1,000",
        "10,0",
        "\u200b",
        "p\u200b1",
        "L AU12",
        "['AU4', 'AU7']",
        '"',
        "'",
        "a\tb",
        "a;b",
        "=1+1",
    ),
    *(
        "..",
        "../..",
        "/etc/passwd",
        "C:\\x",
        "day1\\c",
        "\\\\s\\h",
        "a" * 400,
        "9" * 5000,
        "\0",
        "\ud7ff",
        "é",
        "田",
        "🙂",
    ),
    *("sub_01", "P1", "01", "casme2/1", "p1/", "(" * 50, "{x}", "%s", "*", "[", "#REF!", "1900-01-00", "true"),
]
SEPARATORS = ",;\t|"
MUTATIONS = 350  # of each kind; the cases take milliseconds


def text_of(lines, separator=","):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator="\n").writerows(lines)
    return file.getvalue()


def read(root):
    """Number of the row → what the reader says about its clip, and the report; nothing for the package's own error."""
    try:
        records, report = read_source("mylab", root, check_frames=False)
    except (SheetError, UnknownEmotionError):
        return None, None
    assert len({record.clip_id for record in records}) == len(records)
    found = {}
    for record in records:
        labels = (record.sheet_frames, record.fps, record.action_units_raw, record.emotion, record.notes)
        found[record.row] = (record.subject, record.clip, *labels, record.quality)
    return found, report


def check(before, root, touched, *, inserted=False, blank=False):
    """Every row but the touched one is as before; the touched one is a record or a drop, unless it is blank."""
    found, report = read(root)
    if found is None:
        return "error"
    for number, values in before.items():
        if number != touched or inserted:
            person, *others = found[number + (inserted and number >= touched)]
            assert others == list(values[1:])
            # Another row may spell the person's name in another way, and then the report says so.
            said = [text for text in report.warnings if "one person" in text]
            assert person == values[0] or any(repr(values[0].partition("/")[2]) in text for text in said)
    assert blank or touched in found or touched in {drop.row for drop in report.drops}
    return "read"


@pytest.fixture
def base(tmp_path):
    (tmp_path / "annotations.csv").write_text(text_of([HEADER, *ROWS]), encoding="utf-8")
    return read(tmp_path)[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_cell_of_anything_changes_no_other_row(tmp_path, base, seed):
    rng = random.Random(seed)
    results = []
    for _ in range(MUTATIONS):
        lines = [list(map(str, line)) for line in ROWS]
        row, column = rng.randrange(len(lines)), rng.randrange(len(HEADER))
        piece = rng.choice(ODD)
        old = lines[row][column]
        lines[row][column] = rng.choice((piece, old + piece, piece + old, rng.choice(ODD) + piece))
        text = text_of([HEADER, *lines], rng.choice(SEPARATORS))
        (tmp_path / "annotations.csv").write_text(text, encoding="utf-8")
        results.append(check(base, tmp_path, row + 2))
    assert results.count("read") > MUTATIONS * 0.8  # the rest: an unknown emotion, or a subject that is not clear


def test_lines_of_anything_change_no_other_row(tmp_path, base):
    """Lines are inserted, left out, cut off, given twice, or written without quotation marks."""
    rng = random.Random(11)
    results = []
    for _ in range(MUTATIONS):
        lines = text_of([HEADER, *ROWS]).splitlines()
        place = rng.randrange(1, len(lines))
        kind = rng.randrange(5)
        junk = rng.choice(SEPARATORS).join(rng.choices(ODD[:60], k=rng.randrange(1, 12))).replace("\0", "")
        if kind == 0:
            lines.insert(place, junk)
        elif kind == 1:
            lines[place] = junk
        elif kind == 2:
            lines[place] = lines[place][: rng.randrange(len(lines[place]))]
        elif kind == 3:
            lines.append(lines[place])
            place = len(lines) - 1
        else:
            lines[place] = lines[place].replace("+", rng.choice((",", ";", ",,", '"', '","')))
        (tmp_path / "annotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        blank = not re.sub(r'[,;|\s"\u200b]', "", lines[place])
        results.append(check(base, tmp_path, place + 1, inserted=kind == 0, blank=blank))
    assert results.count("read") > MUTATIONS * 0.7


def test_bytes_of_anything_are_read_or_refused_by_name(tmp_path, base):
    """A changed byte changes only its own row; it may stop the file as a wrong encoding or quotation mark."""
    rng = random.Random(5)
    data = text_of([HEADER, *ROWS]).encode()
    starts = [match.end() for match in re.finditer(rb"\n", data)][:-1]
    results = []
    for _ in range(MUTATIONS):
        changed, place = bytearray(data), rng.randrange(starts[0], len(data))
        while data[place] in b"\r\n":
            place = rng.randrange(starts[0], len(data))
        changed[place] = rng.choice([b for b in range(1, 256) if b not in b"\r\n"])
        (tmp_path / "annotations.csv").write_bytes(bytes(changed))
        row = sum(start <= place for start in starts) + 1
        results.append(check(base, tmp_path, row))
    assert results.count("read") > MUTATIONS * 0.3
    for _ in range(100):
        (tmp_path / "annotations.csv").write_bytes(
            rng.choice((data, b"", b"\xff\xfe"))[: rng.randrange(9)] + rng.randbytes(40)
        )
        assert read(tmp_path)[0] is None


def test_json_lines_of_anything_change_no_other_line(tmp_path):
    items = [{**dict(zip(HEADER, line, strict=True)), "AU": [4, "L12"]} for line in ROWS]
    path = tmp_path / "annotations.jsonl"
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    base = read(tmp_path)[0]
    assert len(base) == len(ROWS)
    rng = random.Random(3)
    values = [None, True, 3.5, -1, 10**30, float("nan"), [], [[4], 7], {"a": 1}, ["AU4", None], *ODD]
    results = []
    for _ in range(MUTATIONS):
        lines = [json.dumps(item) for item in items]
        row = rng.randrange(len(lines))
        if rng.random() < 0.7:
            changed = {**items[row], rng.choice([*HEADER, "new"]): rng.choice(values)}
            lines[row] = json.dumps(changed, ensure_ascii=False)
        else:
            lines[row] = lines[row][: rng.randrange(len(lines[row]))] + rng.choice(("", "}", "]", '"', "{"))
        path.write_text("\n".join(lines), encoding="utf-8")
        found, report = read(tmp_path)
        results.append("error" if found is None else "read")
        if found is not None:
            assert all(found[number] == value for number, value in base.items() if number != row + 1)
            assert not lines[row].strip() or row + 1 in found or row + 1 in {drop.row for drop in report.drops}
    assert results.count("read") > MUTATIONS * 0.8


def test_folders_of_anything_change_no_other_clip(tmp_path):
    """Frames are renamed, emptied, linked, doubled or replaced by folders; names of folders are any text."""
    names = [f"day{n}/c" for n in range(1, 5)]
    lines = [HEADER, *([f"p{n}", name, 1, 2, 3, 200, 4, "fear", ""] for n, name in enumerate(names))]
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
        "3a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
    )
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        for number in (1, 2, 3):
            (tmp_path / name / f"img{number}.png").write_bytes(pixel)
    (tmp_path / "annotations.csv").write_text(text_of(lines), encoding="utf-8")

    def records():
        found, report = read_source("mylab", tmp_path)
        return {record.clip: record for record in found}, {drop.row: drop.reason for drop in report.drops}

    base, _ = records()
    assert list(base) == names
    rng = random.Random(9)
    for _ in range(200):
        place = rng.randrange(len(names))
        folder = tmp_path / names[place]
        name = rng.choice(
            [f"img{rng.randrange(5)}.png", "apex.png", "x.txt", "img2.JPG", "1 (1).png", "é🙂1.png", ".png"]
        )
        path = folder / name
        kept = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        kind = rng.randrange(5)
        if kind == 0:
            path.write_bytes(rng.randbytes(rng.randrange(20)))
        elif kind == 1:
            path.mkdir()
        elif kind == 2:
            path.symlink_to(rng.choice([path, tmp_path / "nothing", "/etc/passwd", "/", folder / "img1.png"]))
        elif kind == 3:
            path.write_bytes(pixel)
        found, drops = records()
        assert all(found[other] == base[other] for other in names if other != names[place])
        assert names[place] in found or drops[place + 2]
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        if kept is not None:
            path.write_bytes(kept)
    assert records()[0] == base
