"""One YAML per training or evaluation run, installed with the package."""

from pathlib import Path


def find_recipe(name: str) -> Path:
    """Finds a recipe: a file, or one of the installed recipes by its name.

    Args:
        name: Path of a file, or the name of an installed recipe, such as "tiny.yaml" or "recipes/tiny.yaml".

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: There is no such file, and no installed recipe of that name.
    """
    path, folder = Path(name), Path(__file__).parent
    if path.is_file():
        return path
    # Away from a checkout the commands of the documentation find the recipes that lie in the package.
    if path.parent in (Path(), Path("recipes")) and (folder / path.name).is_file():
        return folder / path.name
    known = ", ".join(sorted(item.name for item in folder.glob("*.yaml")))
    raise FileNotFoundError(f"There is no recipe {name}. Pass a YAML file, or an installed recipe: {known}.")
