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
    assert (tmp_path / "x/lock").read_text(encoding="utf-8").startswith(f"Process {holder.pid}")
    with work_folder.locked(tmp_path / "x"):
        assert (tmp_path / "x/lock").read_text(encoding="utf-8").startswith(f"Process {os.getpid()}")
