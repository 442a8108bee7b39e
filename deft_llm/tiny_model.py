"""The small model that comes with the package. It was trained on rendered faces alone, see its card."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path

from deft_llm.files import files_together

BOX = Path(__file__).parent / "models" / "tiny"
"""The model's folder: weights, configs, card and `manifest.json`, without the code, which is the package's own."""
_CODE = ("deft_llm.modeling_deft", "deft_llm.processing")


def complete_folder(cache: Path | None = None) -> Path:
    """The folder of the small model with its code, as `deft train` writes folders and as the Hub would have it.

    It is made in the cache of Hugging Face when it is first asked for. Another version of the package makes another
    folder.

    Args:
        cache: Folder to make it in. By default, one in the cache of Hugging Face.

    Raises:
        OSError: The folder cannot be written.
    """
    from huggingface_hub.constants import HF_HOME

    files = sorted([*BOX.iterdir(), *(path for name in _CODE for path in _modules_of(name))])
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    folder = (Path(HF_HOME) / "deft-llm" if cache is None else cache) / f"tiny-{digest.hexdigest()[:16]}"
    if not (folder / "config.json").is_file():
        with files_together(folder, last="config.json") as partial:
            for path in files:
                shutil.copyfile(path, partial / path.name)
    return folder


def _modules_of(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    (folder,) = spec.submodule_search_locations
    return [path for path in Path(folder).glob("*.py") if path.name != "__init__.py"]
