"""The notebooks in docs/notebooks: none has outputs, and each runs from its first cell to its last."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def text_of(output: dict) -> str:
    """What an output says, as text and as HTML."""
    data = output.get("data", {})
    return "".join([output.get("text", ""), *(data.get(kind, "") for kind in ("text/plain", "text/html"))])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)


@pytest.fixture(scope="module")
def outputs(folder, tmp_path_factory):
    """Id of a cell → what it showed, of the notebook that explains a clip."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    place = tmp_path_factory.mktemp("notebook")
    (path,) = NOTEBOOKS
    book = nbformat.read(path, as_version=4)
    with pytest.MonkeyPatch.context() as patched:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
            patched.setenv(name, str(place / name.lower()))  # and not in anybody's home folder
        patched.setenv("DEFT_MODEL", str(folder))
        # A cell that fails raises an error with its traceback.
        nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(place)}}).execute()
    assert not list(place.glob("*.mp4"))
    return {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}


def test_what_the_face_does_is_found(outputs):
    (measured,) = outputs["motion"]
    first = measured.text.splitlines()[0]
    assert first.startswith("The left mouth corner moves up and laterally by 1.")
    assert "right" not in measured.text
    (units,) = outputs["seen"]
    assert list(eval(text_of(units))) == ["AU12"]
    (spotted,) = outputs["intervals"]
    kind, onset, apex, offset = spotted.text.split()[:4]
    assert kind == "expression"
    assert [int(onset), int(apex), int(offset)] == pytest.approx([60, 80, 110], abs=10)
    assert spotted.text.count("expression") == 1


def test_the_figure_the_report_and_the_picture_are_shown_once(outputs):
    for name in ("follow", "draw"):
        (shown,) = outputs[name]
        assert "image/png" in shown.data, name
    (report,) = outputs["explain"][-1:]
    assert "<table" in report.data["text/html"]
    assert "Seen from" in text_of(report)
