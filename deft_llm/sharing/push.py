"""A trained model's folder to the Hub: model, processor, their code, reports and card, in one commit.

    deft push build/demo/deft-tiny org/deft-llm --private

Whoever loads the repository gets the old files or the new ones, never some of each: `model.push_to_hub()` followed by
`processor.push_to_hub()` is two commits, and between them nothing fits together. A folder that holds an adapter
(PEFT) goes the same way; the model it belongs to is named in its adapter_config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deft_llm.sharing.card import RUN_FILE

# What belongs to a model. Optimiser states, checkpoints, logs and pickled arguments do not.
FILES = ("*.json", "*.jinja", "*.md", "*.model", "*.py", "*.safetensors", "*.txt", "additional_chat_templates/*.jinja")


class FolderError(ValueError):
    """A folder that cannot be pushed as it is; says what is missing."""


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    visibility: str = "public",
    i_may_share: str | None = None,
    revision: str | None = None,
    api: Any = None,
) -> str:
    """Puts the folder on the Hub in one commit; what an earlier push left there and this folder lacks is removed.

    Args:
        visibility: "public"; "gated", visible but its files given on request; "private". Of a new repository.
        i_may_share: why the terms of the training data allow it; needed where they are not known to, unless the
            repository is private.
        revision: branch to push to, made if it is not there; by default main.
        api: an `HfApi`.

    Returns:
        The commit's address, fit for `revision=`.

    Raises:
        FolderError: the folder is no complete model, naming what is missing.
        LicenceError: trained on licensed or own recordings, a repository that others see, and no statement.
        PushError: from the Hub; says what stands there now.
    """
    from huggingface_hub import HfApi

    from deft_llm.hub_datasets.build.publishing import commit_files, explained
    from deft_llm.hub_datasets.sources.sharing_policy import check_may_share, check_repository, is_bound

    folder, api = Path(folder), api or HfApi()
    check_folder(folder)
    run = folder / RUN_FILE
    terms = json.loads(run.read_text(encoding="utf-8"))["sources"] if run.is_file() else {}
    reason = (i_may_share or "").strip()
    check_may_share("model", str(folder), terms, visibility, reason)
    told = explained(repo_id, "model", api, revision)
    told(api.create_repo, repo_id, private=visibility != "public", exist_ok=True)
    found = told(api.repo_info, repo_id)
    check_repository(repo_id, terms, visibility, private=found.private, gated=found.gated)
    if visibility == "gated":
        told(api.update_repo_settings, repo_id, gated="manual")
    if revision is not None:
        told(api.create_branch, repo_id, branch=revision, exist_ok=True)
    paths = sorted(path for pattern in FILES for path in folder.glob(pattern) if not path.name.startswith("."))
    message = "Upload model, processor and card" + (f"\n\n{reason}" if reason and is_bound(terms) else "")
    oid = commit_files(api, repo_id, "model", folder, paths, stale=FILES, message=message, revision=revision)
    if visibility == "gated":
        told(api.update_repo_settings, repo_id, private=False)
    return f"{api.endpoint}/{repo_id}/tree/{oid}"


def check_folder(folder: Path) -> None:
    """Raises `FolderError` for a folder that nobody could load, naming the file that is missing."""
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder. Pass one that `deft train` has written.")
    names = {path.name for path in folder.iterdir()}
    is_adapter = "adapter_config.json" in names
    wanted = {"README.md"} | (set() if is_adapter else {"config.json", "processor_config.json", "tokenizer.json"})
    weights = "adapter_model.safetensors" if is_adapter else "model.safetensors"
    if f"{weights}.index.json" in names:
        index = json.loads((folder / f"{weights}.index.json").read_text(encoding="utf-8"))
        wanted |= set(index["weight_map"].values())
    else:
        wanted.add(weights)
    for name in sorted({"config.json", "processor_config.json"} & names):
        wanted |= _code_of(json.loads((folder / name).read_text(encoding="utf-8")))
    if missing := sorted(wanted - names):
        raise FolderError(
            f"{folder} is not complete: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Save "
            "model and processor with `save_pretrained` into one folder, and fill the card with `deft card`."
        )


def _code_of(config: dict[str, Any]) -> set[str]:
    """The files of the classes that a config names."""
    references = list(config.get("auto_map", {}).values())
    references += [entry["impl"] for entry in config.get("custom_pipelines", {}).values()]
    return {f"{reference.split('.')[0]}.py" for reference in references if "--" not in reference}
