import os
import subprocess
import sys

import pytest

from deft_llm.hub_datasets.build import work_folder
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import BuildError
from tests.hub_datasets.build.own_recordings import CROPPED


def test_two_builds_into_one_output(own_root, tmp_path, inline):
    with (
        work_folder.locked(tmp_path / "out.building"),
        pytest.raises(BuildError, match=f"Process {os.getpid()} .* is building into out"),
    ):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_holder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from deft_llm.hub_datasets.build.work_folder import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(BuildError, match=f"Process {holder.pid}"), work_folder.locked(tmp_path / "x"):
        pass
    holder.kill()
    holder.wait()
    with work_folder.locked(tmp_path / "x"):  # its holder is gone
        pass
    assert not (tmp_path / "x").exists()  # nothing was planned in it
