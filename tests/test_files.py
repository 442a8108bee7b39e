"""Whole files, locks and fingerprints, with everything that may go wrong in between."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deft_llm import files
from deft_llm.files import (
    LockedError,
    check_new,
    code_fingerprint,
    file_digest,
    files_together,
    locked,
    new_file,
    publish_folder,
    whole_file,
    whole_folder,
    write_whole,
    write_zip,
)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def write_badly(path: Path) -> None:
    """Writes a part of the content and fails."""
    path.write_text("other")
    path.parent.write_text("no file")


@pytest.mark.parametrize("content", ["Größe\nzwei\n", b"\0\1", ""])
def test_what_is_written_is_read(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_text("before, and longer than what comes")
    expected = content.encode() if isinstance(content, str) else content
    assert write_whole(path, content) == len(expected)
    assert path.read_bytes() == expected
    assert names(tmp_path) == {"a.txt"}


def test_content_is_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *arguments: (calls.append("replace"), replace(*arguments)))
    write_whole(tmp_path / "a", "x")
    assert calls[:2] == ["fsync", "replace"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(IsADirectoryError), whole_file(path) as partial:
        write_badly(partial)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_a_zip_has_the_files_and_equal_files_make_equal_zips(tmp_path):
    (tmp_path / "a.jsonl").write_text("one\n", encoding="utf-8")
    write_zip(tmp_path / "a.zip", tmp_path / "a.jsonl")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["a.jsonl"]
        assert archive.read("a.jsonl") == b"one\n"
    os.utime(tmp_path / "a.jsonl", (1, 1))
    write_zip(tmp_path / "b.zip", tmp_path / "a.jsonl")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_folder_appears_filled_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(IsADirectoryError), whole_folder(out) as partial:
        write_badly(partial / "a")
    assert names(tmp_path) == set()
    out.mkdir()
    with whole_folder(out) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("1")
        assert not any(out.iterdir())
    assert names(tmp_path) == {"out", "out/sub", "out/sub/a"}


def test_a_folder_that_holds_something_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("1")
    (tmp_path / "new").mkdir()
    with pytest.raises(OSError, match="out"):
        publish_folder(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()


def test_files_move_together_and_the_last_one_last(tmp_path, monkeypatch):
    folder, moved = tmp_path / "model", []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    folder.mkdir()
    (folder / "kept").write_text("1")
    with files_together(folder, last="config.json") as partial:
        for name in ("config.json", "weights", "a"):
            (partial / name).write_text(name)
        assert names(folder) >= {"kept"}
        assert not (folder / "weights").exists()
    assert moved == ["a", "weights", "config.json"]
    assert names(folder) == {"kept", "a", "weights", "config.json"}
    with pytest.raises(IsADirectoryError), files_together(folder) as partial:
        write_badly(partial / "a")
    assert (folder / "a").read_text() == "a"
    assert names(folder) == {"kept", "a", "weights", "config.json"}


HOLDER = (
    "import sys, time; from deft_llm.files import locked\n"
    "with locked(sys.argv[1]): print('locked', flush=True); time.sleep(600)"
)


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match=f"Process {holder.pid} on "), locked(path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(path):
        assert (tmp_path / "lock.holder").read_text().startswith(f"Process {os.getpid()} ")
    with locked(path):  # and it is free again
        pass


def test_a_lock_outlives_the_folder_it_stood_in(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    with locked(folder / "lock"):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert names(tmp_path) == set()


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "fingerprinted"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "sub" / "a.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_fingerprint_follows_the_code_without_running_it(package):
    first = code_fingerprint("fingerprinted")
    assert code_fingerprint("fingerprinted") == first
    (package / "sub" / "a.py").write_text("x = 2")
    second = code_fingerprint("fingerprinted")
    (package / "sub" / "a.py").rename(package / "sub" / "b.py")
    third = code_fingerprint("fingerprinted")
    (package / "notes.txt").write_text("no code")
    assert code_fingerprint("fingerprinted") == third
    assert len({first, second, third, code_fingerprint("fingerprinted", libraries=["numpy"])}) == 4


def test_a_fingerprint_takes_modules_and_files_in_any_order(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("a: 1")
    parts = ("deft_llm.processing.action_units", "deft_llm.training", own)
    found = code_fingerprint(*parts)
    assert found == code_fingerprint(*reversed(parts))
    own.write_text("a: 2")
    assert code_fingerprint(*parts) != found
    assert code_fingerprint("deft_llm.training") != code_fingerprint("deft_llm.processing")


def test_code_that_is_not_there_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"deft_llm\.nothing"):
        code_fingerprint("deft_llm.nothing")


def test_a_digest_is_sha_256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_the_digest_of_a_folder_follows_names_and_contents(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "other")
    (tmp_path / "one" / "deep" / "a").write_bytes(b"abd")
    (tmp_path / "other" / "deep" / "a").rename(tmp_path / "other" / "a")
    assert len({file_digest(tmp_path / name) for name in ("one", "other", "one/deep", "one/deep/a")}) == 4


def test_the_module_needs_nothing_of_ours(without_package):
    path = files.__file__
    code = f"import runpy; print(sorted(runpy.run_path({path!r}))[0] != '')"
    assert without_package(code).strip() == "True"


def test_a_new_file_never_replaces_another_one(tmp_path):
    path = tmp_path / "a.csv"
    with new_file(path) as partial:
        partial.write_text("mine")
    assert path.read_text() == "mine"
    with pytest.raises(FileExistsError, match=r"a.csv exists already and is not overwritten"), new_file(path):
        raise AssertionError("nothing is done for a file that exists")
    late = new_file(tmp_path / "b.csv")
    late.__enter__().write_text("late")
    (tmp_path / "b.csv").write_text("made in the meantime")
    with pytest.raises(FileExistsError):
        late.__exit__(None, None, None)
    assert (tmp_path / "b.csv").read_text() == "made in the meantime"
    assert names(tmp_path) == {"a.csv", "b.csv"}
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        check_new(tmp_path / "link.csv")
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist\. Make it first\."):
        check_new(tmp_path / "nowhere" / "a.csv")
