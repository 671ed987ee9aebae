"""Figures and measurements work without the web framework, Plotly's Python package or a learning library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from viz.figures.figure import registered
import datasets.measure.measure, viz.figures.results, viz.figures.ecg12
assert len(registered()) >= 16
print(sorted({name.split(".")[0] for name in sys.modules} & {"django", "dash", "plotly", "torch", "flask", "pandas", "neurokit2"}))
"""


def test_the_figures_import_nothing_of_the_web_or_of_learning() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
