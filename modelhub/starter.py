"""The starter model: a small network that comes with the portal, so that a fresh machine has something to run."""

from __future__ import annotations

from pathlib import Path

#: Written by ``manage.py make_starter_model``.
FILE = Path(__file__).resolve().parent / "data" / "starter.ecgmodel.zip"
