"""Code in the documentation that nothing else runs."""

import ast
import importlib
import re
from pathlib import Path

import typer
from fastapi.testclient import TestClient

from deft_llm import cli, explained_rows, motion_tables
from deft_llm.explained_rows import COLUMNS

ROOT = Path(__file__).parents[1]


def block_after(page: str, mark: str) -> str:
    """The Python block of a page in docs/ that follows a comment."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.search(rf"<!-- {re.escape(mark)}.*?-->\n```python\n(.*?)```", text, re.DOTALL)[1]


def test_the_server_of_the_hub_page_answers(folder, brow_video):
    names = {}
    exec(block_after("hub.md", "serve.py").replace("org/deft-llm", str(folder)), names)
    client = TestClient(names["app"])
    answered = client.post("/explain", files={"clip": brow_video.read_bytes()})
    assert answered.status_code == 200
    assert set(answered.json()["scores"]) == set(names["explain"].processor.emotion_labels)
    refused = client.post("/explain", files={"clip": b"no video"})
    assert refused.status_code == 422
    assert "not a video" in refused.json()["detail"]


def test_the_columns_of_the_table_are_documented():
    page = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    table = page.partition("<!-- columns -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == [f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items()]


def test_the_columns_beside_those_of_other_packages_exist():
    page = (ROOT / "docs" / "compared.md").read_text(encoding="utf-8")
    rows = page.partition("## Which column is which\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    own = {name for row in rows for name in re.findall(r"`(\w+)`", row.rstrip("| ").rpartition("|")[2])}
    known = {*motion_tables.COLUMNS, *explained_rows.COLUMNS, "face_width"}
    assert own <= known, own - known
    assert set(motion_tables.COLUMNS) - {"region", "side"} <= own


def documented_commands():
    """(place, words) of every `deft` command line in the README and in docs/."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for number, line in enumerate(text.splitlines(), 1):
            match = re.match(r"(?:\$ )?deft (.*?)(?: *#.*)?$", line)
            if match:
                yield f"{path.name}, line {number}", match[1].split()


def test_every_documented_command_has_the_options_that_it_is_shown_with():
    root = typer.main.get_command(cli.app)
    checked = 0
    for place, words in documented_commands():
        command, rest = root, cli._dashed(words)
        while rest and hasattr(command, "commands") and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        if command.name == "train":  # its options are those of the recipes
            continue
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        named = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert named <= known, f"{place}: {sorted(named - known)}"
        checked += bool(named)
    assert checked > 15


def test_what_the_documentation_imports_exists():
    checked = 0
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("deft_llm"):
                    module = importlib.import_module(node.module)
                    for name in node.names:
                        assert hasattr(module, name.name), f"{path.name}: {node.module} has no {name.name}"
                        checked += 1
    assert checked > 5
