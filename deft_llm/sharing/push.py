"""Push a trained model's folder to the Hub in one commit: model, processor, their code, reports and card.

    deft push build/demo/deft-tiny org/deft-llm --private

The repository always has either all old or all new files. (`model.push_to_hub()` followed by
`processor.push_to_hub()` makes two commits, and between them the files do not fit together.) The folder of a PEFT
adapter can be pushed too; its adapter_config.json names the base model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deft_llm.sharing.card import RUN_FILE

# The files of a model. Optimiser states, checkpoints, logs and pickled arguments are not uploaded.
FILES = ("*.json", "*.jinja", "*.md", "*.model", "*.py", "*.safetensors", "*.txt", "additional_chat_templates/*.jinja")


class FolderError(ValueError):
    """The folder is not complete. The message says what is missing."""


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    visibility: str = "public",
    i_may_share: str | None = None,
    revision: str | None = None,
    api: Any = None,
) -> str:
    """Uploads the folder in one commit. Files of an earlier push that the folder does not have are deleted.

    Args:
        folder: The model's folder.
        repo_id: Hub repository.
        visibility: Visibility of a new repository: "public", "gated" (listed, but files need approval) or "private".
        i_may_share: Why the terms of the training data allow the upload. Required if they are not known to allow it
            and the repository is not private.
        revision: Branch to push to, by default main. It is created if it does not exist.
        api: An `HfApi`.

    Returns:
        The address of the commit. Its hash can be passed as `revision`.

    Raises:
        FolderError: The folder is not a complete model. The message says what is missing.
        LicenceError: The model was trained on licensed or own recordings, the repository is not private, and
            `i_may_share` is missing.
        PushError: The Hub refused or could not be reached. The message says what the repository contains now.
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
    """Raises `FolderError` if a file that is needed to load the model is missing. The message names the file."""
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder. Pass a folder that `deft train` has written.")
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
            "model and processor with `save_pretrained` into one folder, and write the card with `deft card`."
        )


def _code_of(config: dict[str, Any]) -> set[str]:
    """The code files of the classes in a config."""
    references = list(config.get("auto_map", {}).values())
    references += [entry["impl"] for entry in config.get("custom_pipelines", {}).values()]
    return {f"{reference.split('.')[0]}.py" for reference in references if "--" not in reference}
