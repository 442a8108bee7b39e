import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationDelete

from deft_llm.cli import main
from deft_llm.exit_codes import DONE, REFUSED
from deft_llm.hub_datasets.build import publishing
from deft_llm.hub_datasets.build.publishing import push
from deft_llm.hub_datasets.sources.sharing_policy import LicenceError


class Hub:
    """The boundary to the Hub; remembers what it was asked for."""

    endpoint = "https://hub"

    def __init__(self, private=None, gated=False):
        self.calls, self.existing, self.gated = [], private, gated

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        assert repo_type == "dataset"
        assert exist_ok
        self.calls.append(("create", private))
        self.private = private if self.existing is None else self.existing

    def repo_info(self, repo_id, *, repo_type, revision=None):
        return SimpleNamespace(private=self.private, gated=self.gated, sha="0" * 40)

    def list_repo_files(self, repo_id, *, repo_type, revision):
        return ["README.md", "data/stale-00000.parquet"]

    def update_repo_settings(self, repo_id, *, repo_type, gated=None, private=None):
        self.calls.append(("settings", gated, private))

    def create_commit(self, repo_id, operations, *, repo_type, commit_message, revision, parent_commit):
        files = {operation.path_in_repo: operation for operation in operations}
        card = Path(files["README.md"].path_or_fileobj).read_text(encoding="utf-8")
        assert isinstance(files["data/stale-00000.parquet"], CommitOperationDelete)
        self.calls.append(("upload", repo_id, card))
        return SimpleNamespace(oid="1" * 40)


@pytest.fixture
def licensed_folder(everything, tmp_path):
    shutil.copytree(everything[3], tmp_path / "uni-mer")
    return tmp_path / "uni-mer"


@pytest.mark.parametrize("reason", [None, "we asked"])
def test_licensed_rows_never_go_to_a_public_repository(licensed_folder, reason):
    hub = Hub()
    with pytest.raises(LicenceError, match="cannot go to a public repository") as caught:
        push(licensed_folder, "lab/uni-mer", i_may_share=reason, api=hub)
    assert "CASME II" in str(caught.value)
    assert "assigned to USTC" in str(caught.value)
    assert hub.calls == []


@pytest.mark.parametrize("visibility", ["private", "gated"])
def test_licensed_rows_need_a_statement_that_goes_into_the_card(licensed_folder, visibility):
    hub = Hub()
    for reason in (None, "  "):
        with pytest.raises(LicenceError, match="--i-may-share"):
            push(licensed_folder, "lab/uni-mer", visibility=visibility, i_may_share=reason, api=hub)
    assert hub.calls == []
    before = (licensed_folder / "README.md").read_text(encoding="utf-8")
    for reason in ("Written permission of all authors.", "Permission was renewed."):
        url = push(licensed_folder, "lab/uni-mer", visibility=visibility, i_may_share=reason, api=hub)
    assert url == "https://hub/datasets/lab/uni-mer"
    kinds = [call[0] for call in hub.calls]
    assert hub.calls[0] == ("create", True)  # private while the files go up
    card = next(call for call in reversed(hub.calls) if call[0] == "upload")[2]
    assert "Permission was renewed." in card
    assert "Written permission" not in card  # one note, not two
    assert f"the {visibility} repository `lab/uni-mer`" in card
    assert card.startswith(before.rstrip("\n"))
    assert card == (licensed_folder / "README.md").read_text(encoding="utf-8")
    if visibility == "gated":
        assert kinds == ["create", "settings", "upload", "settings"] * 2
        assert hub.calls[1] == ("settings", "manual", None)
        assert hub.calls[3] == ("settings", None, False)
    else:
        assert kinds == ["create", "upload"] * 2


def test_an_existing_public_repository_gets_no_licensed_row(licensed_folder):
    hub = Hub(private=False)
    before = (licensed_folder / "README.md").read_bytes()
    with pytest.raises(LicenceError, match="exists and is public"):
        push(licensed_folder, "lab/uni-mer", visibility="private", i_may_share="we may", api=hub)
    assert [call[0] for call in hub.calls] == ["create"]
    assert (licensed_folder / "README.md").read_bytes() == before


def test_what_is_licensed_is_read_from_the_rows(licensed_folder):
    path = licensed_folder / "manifest.json"
    path.write_text(json.dumps({"sources": {"mylab": {}}}), encoding="utf-8")
    with pytest.raises(LicenceError, match="CASME II"):
        push(licensed_folder, "lab/uni-mer", api=Hub())
    path.unlink()
    with pytest.raises(LicenceError, match="CASME II"):
        push(licensed_folder, "lab/uni-mer", api=Hub())


def test_rendered_clips_may_be_shown_to_anybody(rendered):
    hub = Hub()
    push(rendered, "me/rendered", api=hub)
    assert [call[0] for call in hub.calls] == ["create", "upload"]
    assert hub.calls[0] == ("create", False)
    assert "Sharing" not in hub.calls[1][2]


def test_push_over_the_command_line(licensed_folder, monkeypatch, capsys):
    hub = Hub()
    monkeypatch.setattr(publishing, "HfApi", lambda: hub)
    arguments = ["data", "push", str(licensed_folder), "lab/uni-mer"]
    assert main(arguments) == REFUSED
    assert main([*arguments, "--private"]) == REFUSED
    assert hub.calls == []
    capsys.readouterr()
    assert main([*arguments, "--private", "--i-may-share", "Signed by all."]) == DONE
    assert capsys.readouterr().out == "https://hub/datasets/lab/uni-mer\n"
    assert main([*arguments, "--private", "--gated"]) == REFUSED
    assert main(["data", "push", str(licensed_folder / "data"), "lab/x", "--private"]) == REFUSED
