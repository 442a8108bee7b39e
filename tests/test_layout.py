"""The rules of CONTRIBUTING.md: imports, length of files, places of tests, and the form of docstrings."""

import ast
import re
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAT = ("modeling_deft", "processing")  # one folder on the Hub
ROOMS = ("sources", "unimer", "synthetic", "build")  # of hub_datasets; each may import itself and those before it
LEAVES = ("deft_llm.drawing", "deft_llm.files")  # import nothing of ours; all but the remote code may import them
LONGEST = 600  # lines
# A model of transformers is one file by convention, and other programs look for it there.


def modules() -> dict[str, Path]:
    """Every module that is installed, by its full name."""
    found = {}
    for folder, prefix in (("deft_llm", ""), *((top, "deft_llm.") for top in (*FLAT, "hub_datasets"))):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = modules()


def imports(name: str, *, late: bool = True) -> list[tuple[ast.ImportFrom | ast.Import, str]]:
    """What a module imports of ours: (statement, full name of a module).

    Args:
        name: full name of the importing module.
        late: with those inside of functions; without them and what stands under `TYPE_CHECKING`, what is left is
            imported when the module is.
    """
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []

    def visit(node: ast.AST) -> None:
        if not late and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if not late and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.extend((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([node.module] if node.module else []))
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append((node, whole if whole in MODULES else base))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return [(node, target) for node, target in found if target.partition(".")[0] == "deft_llm"]


def test_every_module_is_found():
    assert {"deft_llm", "deft_llm.training.run", "deft_llm.hub_datasets.build.run", "deft_llm.processing"} <= {
        *MODULES
    }
    targets = [target for _, target in imports("deft_llm.hub_datasets.build.run")]
    assert "deft_llm.hub_datasets.sources.readers" in targets


@pytest.mark.parametrize("folder", FLAT)
def test_remote_code_imports_its_siblings_only(folder):
    for name in MODULES:
        if not name.startswith(f"deft_llm.{folder}"):
            continue
        for node, target in imports(name):
            statement = f"{name}: {ast.unparse(node)}"
            assert isinstance(node, ast.ImportFrom), statement
            assert node.level == 1, statement
            assert node.module, statement  # `from . import name` is not followed on the Hub
            assert "." not in node.module, statement
            assert target.rpartition(".")[0] == f"deft_llm.{folder}", statement


def test_names_of_remote_code_are_unique():
    names = Counter(path.name for top in FLAT for path in (ROOT / top).glob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
    assert not [path for top in FLAT for path in (ROOT / top).rglob("*/*.py")]


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_of_ours(leaf):
    assert imports(leaf) == []


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[2] if parts[:2] == ["deft_llm", "hub_datasets"] and len(parts) > 2 and parts[2] in ROOMS else None


def test_data_is_made_in_one_direction():
    for name in MODULES:
        if not name.startswith("deft_llm.hub_datasets"):
            continue
        room = room_of(name)
        for node, target in imports(name):
            statement = f"{name}: {ast.unparse(node)}"
            below = ("deft_llm.hub_datasets", "deft_llm.processing")
            assert target.startswith(below) or target in ("deft_llm", *LEAVES), statement
            other = room_of(target)
            if room is not None and other is not None:
                assert ROOMS.index(other) <= ROOMS.index(room), statement


@pytest.mark.parametrize("room", ["training", "sharing", "evaluation"])
def test_nothing_below_imports_the_package_above(room):
    below = [name for name in MODULES if name.split(".")[1:2] in ([top] for top in (*FLAT, "hub_datasets"))]
    assert len(below) > 40
    for name in below:
        assert not [target for _, target in imports(name) if target.startswith(f"deft_llm.{room}")], name


@pytest.mark.parametrize("late", [False, True])
def test_no_module_imports_itself_in_a_circle(late):
    graph = {name: {target for _, target in imports(name, late=late) if target != name} for name in MODULES}
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    # A package is imported before what it holds, which is no circle.
    for package in packages:
        graph[package] = set()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_file_is_longer_than_can_be_read():
    files = [
        path
        for top in ("deft_llm", "hub_datasets", "benchmarks", "docs", "space", *FLAT)
        for path in (ROOT / top).rglob("*.py")
    ] + list(ROOT.glob("*.py"))
    assert len(files) > 100
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST}
    assert long == {}


def test_every_module_has_its_tests_at_the_same_place():
    missing = []
    for path in [*MODULES.values(), *(ROOT / "space").glob("*.py")]:
        if path.name == "__init__.py":
            continue
        place = path.relative_to(ROOT).parent
        place = Path(*place.parts[1:]) if place.parts[0] == "deft_llm" else place
        test = ROOT / "tests" / place / f"test_{path.stem.strip('_')}.py"
        if not test.exists() or "def test_" not in test.read_text(encoding="utf-8"):
            missing.append(test.relative_to(ROOT).as_posix())
    assert missing == []


def test_the_package_lists_every_folder():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert set(setup["packages"]) == folders | {"deft_llm.recipes"}
    for name, folder in setup["package-dir"].items():
        assert (ROOT / folder / "__init__.py").is_file(), name
    for name, patterns in setup["package-data"].items():
        folder = ROOT / setup["package-dir"].get(name, name.replace(".", "/"))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{name}: {pattern}"


# `a, b: …` at the beginning of an entry, and `a: …. b: …` within one.
NAMES = re.compile(r"\s*\*{0,2}`?\w+`?(?:(?:, | and |, and )\*{0,2}`?\w+`?)+(?: \([^)]*\))?: ")
SECOND_ENTRY = re.compile(r"[.;] \*{0,2}`?[a-z_A-Z]+`?(?: \([^)]*\))?: ")


def public_docstrings(tree: ast.Module, name: str) -> list[tuple[str, str]]:
    """The docstrings of a module and of its public classes and functions: (full name, text)."""
    found = []

    def visit(node: ast.AST, name: str) -> None:
        text = ast.get_docstring(node)
        if text is not None:
            found.append((name, text))
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                special = child.name.startswith("__") and child.name.endswith("__")
                if special or not child.name.startswith("_"):
                    visit(child, f"{name}.{child.name}")

    visit(tree, name)
    return found


def lines_with_several_names(text: str) -> list[str]:
    """The lines of a docstring's Args, Attributes and Raises sections that document more than one name."""
    found, inside = [], None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() in ("Args:", "Attributes:", "Raises:"):
            inside, entries = indent, None
        elif inside is not None and line.strip():
            if indent <= inside:
                inside = None
                continue
            entries = indent if entries is None else entries
            if (indent == entries and NAMES.match(line)) or SECOND_ENTRY.search(line):
                found.append(line.strip())
    return found


def test_lines_with_several_names_are_found():
    tree = ast.parse(
        'def f(a, b):\n    """Adds, as in a, b: c.\n\n    Args:\n        a, b (`int`): numbers.\n'
        "        c: one, two: three.\n        d: one. e: two.\n\n    Returns:\n        x, y: none.\n\n"
        '    Raises:\n        TypeError, ValueError: never.\n    """\n\n'
        'def _g(a, b):\n    """Args:\n        a, b: private."""\n'
    )
    ((name, text),) = public_docstrings(tree, "m")
    assert name == "m.f"
    assert lines_with_several_names(text) == [
        "a, b (`int`): numbers.",
        "d: one. e: two.",
        "TypeError, ValueError: never.",
    ]


def test_docstrings_document_one_name_per_line():
    paths = [*MODULES.values(), *(path for top in ("benchmarks", "space") for path in (ROOT / top).rglob("*.py"))]
    texts = [
        entry
        for path in paths
        for entry in public_docstrings(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT).as_posix())
    ]
    assert len(texts) > 500
    assert [(name, line) for name, text in texts for line in lines_with_several_names(text)] == []
