"""The examples run as they are: scripts as pasted, notebooks cell by cell."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from reground.protocols.families import FAMILIES

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_converter", "2 of 2 rows are good\nevery cup [(4.0, 5.0, 24.0, 26.0)"),
        ("own_detector", '<tool>{"reftool_1": "(250,250),(750,750)"}</tool>'),
        ("own_protocol", "right would be: [0.48, 0.23, 0.81, 0.61]"),
        ("own_reward", "step 2: reward/centre "),
    ],
)
def test_a_script_runs_as_pasted(
    name: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        FAMILIES.pop("workshop", None)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_was_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    stored = nbformat.read(path, as_version=4)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    kinds = {kind for cell in code for each in cell.outputs for kind in each.get("data", {})}
    assert "image/png" in kinds, "a picture is among what is stored"
    for name, value in {"STEPS": "2", "LIMIT": "4", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    again = nbclient.NotebookClient(
        nbformat.from_dict(stored), timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    for cells in (stored.cells, again.cells):  # a command that fails in a cell is no error of it
        text = "".join(str(cell.get("outputs", "")) for cell in cells)
        assert "'output_type': 'error'" not in text
        assert "error: " not in text and "Traceback" not in text
