import signal
import subprocess
import time

import psutil
import pytest

from deft_llm.cli import main
from deft_llm.exit_codes import DONE
from deft_llm.hub_datasets.build import finishing
from deft_llm.hub_datasets.build import run as building
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import BuildError
from deft_llm.hub_datasets.sources.sharing_policy import LicenceError
from tests.hub_datasets.build.own_recordings import CROPPED, command, digest

# --- The whole ------------------------------------------------------------------------------------------------------


def test_workers_and_order_change_no_byte(own_root, own_built, tmp_path, inline):
    build({"mylab": own_root}, tmp_path / "again", settings=CROPPED)
    assert digest(tmp_path / "again") == digest(own_built[0])


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_each_licensed_source_must_be_accepted(tmp_path):
    with pytest.raises(LicenceError) as caught:
        build({"casme2": tmp_path / "a", "samm": tmp_path / "b"}, tmp_path / "x", accepted=["samm"])
    message = str(caught.value)
    assert "--accept-licence casme2" in message
    assert "--accept-licence samm" not in message
    assert "signed" in message


def test_the_output_stays_out_of_the_roots(own_root, tmp_path):
    for out in (own_root, own_root / "out", own_root.parent):
        with pytest.raises(ValueError, match="contain each other"):
            build({"mylab": own_root}, out)
    (tmp_path / "link").symlink_to(own_root)
    with pytest.raises(ValueError, match="contain each other"):
        build({"mylab": own_root}, tmp_path / "link" / "out")
    assert not list(own_root.parent.glob("*.building"))


def test_an_existing_folder_is_not_overwritten(own_root, own_built):
    before = digest(own_built[0])
    with pytest.raises(FileExistsError, match="choose another --output-dir"):
        build({"mylab": own_root}, own_built[0], settings=CROPPED)
    assert digest(own_built[0]) == before
    assert not own_built[0].with_name("own.building").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "At least one worker"),
        ({"executor": "dask"}, "Known: local, slurm, ray"),
        ({"executor": "slurm"}, "--executor-option time"),
        ({"sheets": {"samm": "x.csv"}}, "samm, which is not a --source"),
    ],
)
def test_requests_that_make_no_sense(own_root, tmp_path, arguments, message):
    with pytest.raises(BuildError, match=message):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED, **arguments)
    assert not (tmp_path / "out").exists()


# --- Interrupted ----------------------------------------------------------------------------------------------------


def test_a_killed_build_is_resumed_to_the_same_bytes(own_root, own_built, tmp_path, inline, monkeypatch):
    """SIGKILL while planning, and with a shard finished; no worker lives on, and no finished shard is made again."""
    out, work = tmp_path / "out", tmp_path / "out.building"

    def finished():
        return {path.stem for path in work.glob("shards/*.json")}

    for due in ((work / "lock").exists, finished):
        process = subprocess.Popen(
            command(own_root, out, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not due():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, living = psutil.wait_procs(workers, timeout=20)
        assert not living
        assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in work.glob("shards/*.parquet") if path.stem in finished()}
    assert kept

    def finish(*places):
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        return finishing.finish(*places)

    monkeypatch.setattr(building, "finish", finish)
    assert main(command(own_root, out)[3:]) == DONE
    assert digest(out) == digest(own_built[0])
    assert not work.exists()
