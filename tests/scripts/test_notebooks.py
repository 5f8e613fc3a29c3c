"""The notebooks run from the first cell to the last, and say what their text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "scripts" / "notebooks"


@pytest.mark.slow
def test_transfer_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("STREAMER_NOTEBOOK_FOLDER", str(tmp_path / "work"))
    for name in ("STREAMER_PHOTOS", "STREAMER_NEW_PHOTOS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parents[1]))
    notebook = nbformat.read(NOTEBOOKS / "transfer_learning.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "\n".join(
        str(output.get("text") or output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )
    assert "'added': 320" in said and "'unchanged': 320" in said
    after = {kind: float(value) for kind, value in re.findall(r"(linear|dense) +[\d.]+ before, ([\d.]+) after", said)}
    assert set(after) == {"linear", "dense"} and min(after.values()) > 0.5  # of eight classes
    own = re.search(r"([\d.]+) of the test pictures right", said)
    assert own is not None and float(own[1]) > 0.3
    assert "before_and_after.png" in said
    new = re.search(r"(\d+) of 24 new pictures right", said)
    assert new is not None and int(new[1]) > 12
