"""Pushing against a Hub on this machine: what is there afterwards, whatever goes wrong on the way."""

import json
import shutil

import pytest
from huggingface_hub import HfApi, ModelCard, constants

from deft_llm.cli import main
from deft_llm.hub_datasets.build.publishing import PushError, push
from deft_llm.hub_datasets.sources.sharing_policy import LicenceError
from deft_llm.sharing.card import RUN_FILE
from deft_llm.sharing.push import FolderError, check_folder, push_model
from tests.loopback_hub import OWNER_TOKEN, READER_TOKEN, REVOKED_TOKEN, LoopbackHub

NAME = "org/deft-llm"


@pytest.fixture
def hub(monkeypatch):
    """A fresh Hub that this process's client may reach; waiting between retries is skipped, their number is not."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with LoopbackHub() as opened:
        yield opened


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=OWNER_TOKEN)


@pytest.fixture
def changed(card_folder, tmp_path):
    """The model's folder with other weights, another processor and another card."""
    shutil.copytree(card_folder, tmp_path / "changed")
    folder = tmp_path / "changed"
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-4:] = b"\1\2\3\4"
    (folder / "model.safetensors").write_bytes(bytes(weights))
    for name in ("processor_config.json", "README.md"):
        (folder / name).write_text((folder / name).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def without_attributes(files):
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def test_one_push_is_one_commit_and_holds_everything(hub, api, card_folder):
    address = push_model(card_folder, NAME, api=api)
    repository = hub.repositories["model", NAME]
    assert len(repository.commits) == 2  # the Hub's own first one, and this
    assert address == f"{hub.url}/{NAME}/tree/{repository.head.oid}"
    assert without_attributes(hub.files(NAME)) == contents(card_folder)
    info = api.model_info(NAME)
    assert (info.pipeline_tag, info.private) == ("video-text-to-text", False)


def test_what_the_folder_no_longer_has_goes_with_the_same_commit(hub, api, card_folder, changed):
    (changed / "old_helper.py").write_text("")
    push_model(changed, NAME, api=api)
    first = hub.repositories["model", NAME].head.oid
    push_model(card_folder, NAME, api=api)
    assert without_attributes(hub.files(NAME)) == contents(card_folder)
    assert "old_helper.py" in hub.files(NAME, revision=first)
    assert without_attributes(hub.files(NAME, revision=first)) == contents(changed)


def test_checkpoints_and_pickles_stay_here(hub, api, changed):
    (changed / "training_args.bin").write_bytes(b"pickle")
    (changed / "checkpoint-2").mkdir()
    (changed / "checkpoint-2" / "model.safetensors").write_bytes(b"")
    push_model(changed, NAME, api=api)
    assert not [path for path in hub.files(NAME) if "checkpoint" in path or path.endswith(".bin")]


def test_a_branch_is_made_and_main_stays(hub, api, card_folder, changed):
    push_model(card_folder, NAME, api=api)
    before = hub.repositories["model", NAME].head.oid
    push_model(changed, NAME, revision="next", api=api)
    repository = hub.repositories["model", NAME]
    assert repository.head.oid == before
    assert without_attributes(hub.files(NAME, revision=repository.branches["next"])) == contents(changed)


FAILURES = {
    "server error at the commit": ("POST .*/commit/", 500, "the Hub has a server error. Push again later"),
    "server error at the upload": ("PUT /lfs/", 503, "the Hub has a server error. Push again later"),
    "cut in the middle of the upload": ("PUT /lfs/", "cut", "the connection broke off"),
    "cut in the middle of the commit": ("POST .*/commit/", "cut", "the connection broke off"),
    "no answer to the commit": ("POST .*/commit/", "stall", "did not answer in time"),
    "token refused": ("POST .*/preupload/", 401, "the Hub does not accept your token"),
    "no right to write": ("POST .*/commit/", 403, "your token has no right to do this. Use one that may write to org"),
    "conflict": ("POST .*/commit/", 409, "another change of the repository is in progress"),
    "somebody was faster": ("POST .*/commit/", 412, "somebody else has changed it in the meantime"),
    "too fast": ("POST .*/commit/", 429, "there were too many requests"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_push_leaves_the_old_revision_and_says_why(hub, api, card_folder, changed, case, monkeypatch):
    pattern, how, words = FAILURES[case]
    push_model(card_folder, NAME, api=api)
    repository = hub.repositories["model", NAME]
    before = repository.head.oid
    if how == "stall":
        from huggingface_hub.utils import _http

        session = _http.get_session()
        monkeypatch.setattr(session, "_timeout", type(session.timeout)(0.5))
    hub.fail(pattern, how, message="the server's own words")
    with pytest.raises(PushError) as caught:
        push_model(changed, NAME, api=api)
    message = str(caught.value)
    assert message.startswith(f"{NAME}: ")
    assert words in message
    assert f"Nothing was changed: it is still at {before[:7]}." in message
    assert "Traceback" not in message
    assert "\n" not in message
    if isinstance(how, int):
        assert f"(The Hub said: {how}, the server's own words.)" in message
    assert repository.head.oid == before
    assert without_attributes(hub.files(NAME)) == contents(card_folder)
    # And the next push needs no repair.
    hub.heal()
    push_model(changed, NAME, api=api)
    assert without_attributes(hub.files(NAME)) == contents(changed)


def test_a_passing_fault_is_ridden_out(hub, api, card_folder):
    hub.fail("PUT /lfs/", 500, times=1)
    hub.fail("PUT /lfs/", "cut", times=1)
    push_model(card_folder, NAME, api=api)
    assert without_attributes(hub.files(NAME)) == contents(card_folder)


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(hub, api, card_folder, changed, monkeypatch):
    push_model(card_folder, NAME, api=api)
    create_commit = api.create_commit

    def late(*arguments, **options):
        HfApi(endpoint=hub.url, token=OWNER_TOKEN).upload_file(
            path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=NAME
        )
        return create_commit(*arguments, **options)

    monkeypatch.setattr(api, "create_commit", late)
    with pytest.raises(PushError, match="somebody else has changed it"):
        push_model(changed, NAME, api=api)
    assert without_attributes(hub.files(NAME)) == contents(card_folder) | {"notes.txt": b"theirs"}


def test_an_answer_that_is_lost_after_the_commit_is_told_as_it_is(hub, api, card_folder, changed, monkeypatch):
    push_model(card_folder, NAME, api=api)
    create_commit = api.create_commit

    def lost(*arguments, **options):
        create_commit(*arguments, **options)
        raise ConnectionError("Connection lost")

    monkeypatch.setattr(api, "create_commit", lost)
    with pytest.raises(PushError, match="It is now at"):
        push_model(changed, NAME, api=api)
    assert without_attributes(hub.files(NAME)) == contents(changed)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (REVOKED_TOKEN, "expired or revoked"),
        (READER_TOKEN, "no right"),
        (False, "does not accept your token: it is missing"),
    ],
)
def test_tokens_that_may_not_write(hub, card_folder, token, words):
    with pytest.raises(PushError, match=words):
        push_model(card_folder, NAME, api=HfApi(endpoint=hub.url, token=token))
    assert not hub.repositories


def test_no_network_at_all(card_folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(PushError, match="could not be reached"):
        push_model(card_folder, NAME, api=HfApi(endpoint="http://127.0.0.1:9", token=OWNER_TOKEN))


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "processor_config.json", "README.md", "pipeline_deft.py", "processing_deft.py"]
)
def test_a_folder_that_nobody_could_load_is_not_pushed(hub, api, changed, missing):
    (changed / missing).unlink()
    with pytest.raises(FolderError, match=missing):
        push_model(changed, NAME, api=api)
    assert not hub.repositories


def test_a_shard_that_is_missing_is_named(changed):
    (changed / "model.safetensors").rename(changed / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (changed / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FolderError, match="model-00002-of-00002"):
        check_folder(changed)


@pytest.fixture
def licensed(changed):
    run = json.loads((changed / RUN_FILE).read_text(encoding="utf-8"))
    run["sources"]["casme2"] = {"title": "CASME II", "clips": 1, "subjects": 1, "kind": "licensed", "terms": "Signed."}
    (changed / RUN_FILE).write_text(json.dumps(run), encoding="utf-8")
    return changed


def test_a_model_of_licensed_recordings_needs_a_statement_or_a_private_repository(hub, api, licensed):
    for visibility in ("public", "gated"):
        with pytest.raises(LicenceError, match="CASME II"):
            push_model(licensed, NAME, visibility=visibility, api=api)
    assert not hub.repositories
    push_model(licensed, "org/mine", visibility="private", api=api)
    push_model(licensed, NAME, visibility="gated", i_may_share="Written permission of the authors.", api=api)
    assert hub.repositories["model", "org/mine"].private
    repository = hub.repositories["model", NAME]
    assert (repository.private, repository.gated) == (False, "manual")
    assert "Written permission" in repository.head.title


def test_a_private_push_does_not_end_in_a_public_repository(hub, api, licensed):
    api.create_repo(NAME)
    with pytest.raises(LicenceError, match="exists and is public, not private"):
        push_model(licensed, NAME, visibility="private", api=api)
    assert set(hub.files(NAME)) == {".gitattributes"}


def test_the_command_line(hub, api, card_folder, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert main(["push", str(card_folder), NAME, "--private"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.url}/{NAME}/tree/")
    hub.fail("POST .*/commit/", 403)
    (card_folder.parent / "empty").mkdir(exist_ok=True)
    assert main(["push", str(card_folder.parent / "empty"), NAME]) == 2
    assert "is not complete" in capsys.readouterr().err


def test_the_hub_accepts_the_card(hub, card_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.repocard.constants.ENDPOINT", hub.url, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    ModelCard.load(card_folder / "README.md").validate()
    assert "POST /api/validate-yaml" in hub.requests


# --- datasets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rendered(dataset, tmp_path):
    """A dataset folder with more shards than `upload_folder` would put into one of its commits."""
    folder = tmp_path / "rendered"
    for index in range(3):
        part = dataset.select(range(index * 4, index * 4 + 4))
        part.to_parquet(folder / "data" / f"train-{index:05d}-of-00003.parquet")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Rendered\n", encoding="utf-8")
    return folder


def test_a_dataset_is_pushed_in_one_commit_too(hub, api, rendered):
    push(rendered, "org/uni-mer", api=api)
    repository = hub.repositories["dataset", "org/uni-mer"]
    assert len(repository.commits) == 2
    (rendered / "data" / "train-00002-of-00003.parquet").unlink()
    before = repository.head.oid
    hub.fail("PUT /lfs/|POST .*/commit/", "cut")
    with pytest.raises(PushError, match=f"still at {before[:7]}"):
        push(rendered, "org/uni-mer", api=api)
    hub.heal()
    push(rendered, "org/uni-mer", api=api)
    shards = [path for path in hub.files("org/uni-mer", "dataset") if path.endswith(".parquet")]
    assert len(shards) == 2


def test_a_gated_dataset_is_private_until_it_is_gated(hub, api, rendered):
    push(rendered, "org/uni-mer", visibility="gated", api=api)
    repository = hub.repositories["dataset", "org/uni-mer"]
    assert (repository.private, repository.gated) == (False, "manual")
    asked = [request for request in hub.requests if request.startswith(("PUT", "POST"))]
    assert asked.index("PUT /api/datasets/org/uni-mer/settings") < next(
        index for index, request in enumerate(asked) if "/commit/" in request
    )
