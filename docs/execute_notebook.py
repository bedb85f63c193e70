"""Execute the tutorial's notebook again, in a folder of its own: `make notebook`.

    python docs/execute_notebook.py docs/tutorial.ipynb

Needs the extra `docs`. Outputs are kept small and the same on every machine: pictures once, as PNG,
no times of execution, nothing that was written to standard error.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

_KEPT = ("image/png", "text/plain")
"""A picture in memory shows itself as JPEG too; one of them is enough."""


def execute(path: Path) -> None:
    """Run all cells in order and write their outputs into the file. Raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    # The packages are this tree's, whatever is installed.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_plain(output) for output in cell.outputs if _is_kept(output)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def _is_kept(output: nbformat.NotebookNode) -> bool:
    return output.output_type != "stream" or output.name == "stdout"


def _plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "data" in output:
        shown = "image/png" if "image/png" in output.data else "text/plain"
        output.data = {kind: output.data[kind] for kind in _KEPT if kind == shown}
        output.metadata = {}
    return output


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
