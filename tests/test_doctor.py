"""What `deft doctor` finds on this machine, and what it says where something is missing or broken."""

import tomllib
from pathlib import Path

import pytest

from deft_llm import doctor
from deft_llm.doctor import examine, report_text


@pytest.fixture(scope="module")
def findings():
    return {item["name"]: item for item in examine({"data": ("pyarrow",), "odd": ("numpy", "no-such-package")})}


def test_everything_that_is_needed_works_here(findings):
    core = [item for item in findings.values() if item["core"]]
    assert len(core) >= 9
    assert [item for item in core if not item["ok"]] == []
    assert findings["planted motion"]["detail"].startswith("AU4 found at its apex: left inner brow 0.")
    assert "reads 96 frames" in findings["decoder pyav"]["detail"]


def test_what_is_missing_comes_with_the_command_that_installs_it(findings):
    assert findings["extra data"]["ok"]
    odd = findings["extra odd"]
    assert (odd["ok"], odd["detail"], odd["fix"]) == (
        False,
        "no-such-package not installed",
        "pip install 'deft-llm[odd]'",
    )
    assert "yunet:PATH" in findings["face finder yunet"]["fix"]  # the tests' cache has no model
    text = report_text(list(findings.values()))
    assert "→ pip install 'deft-llm[odd]'" in text
    assert text.splitlines()[-1].startswith("The core works.")


def test_the_extras_are_those_of_the_package():
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["project"]["optional-dependencies"]
    known = doctor.extras()
    assert set(listed) - set(known) == {*doctor.DEVELOPMENT, "demo-lm"}  # demo-lm only names other extras
    assert known["train"] == ["accelerate", "peft", "scikit-learn", "trl"]
    assert known["space"] == ["gradio"]


def test_a_motion_that_is_not_found_is_a_failure(monkeypatch):
    """The measured brow is compared with what was planted, and a face at rest with rest."""
    clip = {}
    doctor._render(clip)
    doctor._planted(clip)
    with pytest.raises(RuntimeError, match=r"the left inner brow goes down by 2\.\d\d % of the face's width, and 0\."):
        doctor._planted({**clip, "flow": 3 * clip["flow"]})
    monkeypatch.setattr("deft_llm.frame_motion.SIGNIFICANT_AT", 0.01)
    with pytest.raises(RuntimeError, match="regions move while the face is at rest"):
        doctor._planted(clip)


def test_what_fails_is_a_finding_and_not_the_end(monkeypatch):
    def fails(*_):
        raise OSError("the library is broken")

    monkeypatch.setattr(doctor, "_torch", fails)
    monkeypatch.setattr(doctor, "_planted", lambda clip: "found")
    found = {item["name"]: item for item in examine({})}
    assert found["torch runs"]["ok"] is False
    assert found["torch runs"]["detail"] == "OSError: the library is broken"
    text = report_text(list(found.values()))
    assert "FAILS   torch runs" in text
    assert text.splitlines()[-1].startswith("It does not work: torch runs.")
