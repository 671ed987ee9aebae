"""Run the benchmarks: ``python -m tests.bench [part of a name ...]``.

Every ``tests/bench/bench_*.py`` has ``run() -> list[dict]``; a result has ``name``,
``value``, ``unit``, ``goal`` (a sentence or None) and ``ok`` (None when there is no goal).
Prints a table and writes the same as JSON under ``PORTAL_HOME/bench/``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecgportal import home

# All figures are per core: a second thread that waits for work would count as work.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

FIELDS = ("name", "value", "unit", "goal", "ok")


def collect(folder: Path, wanted: list[str]) -> list[str]:
    """Return the names of the benchmark modules in order, those that contain a wanted part."""
    names = sorted(path.stem for path in folder.glob("bench_*.py"))
    return [name for name in names if not wanted or any(part in name for part in wanted)]


def run_one(name: str) -> list[dict[str, Any]]:
    """Run one module; a failure becomes a result that is not ok, so that the others still run."""
    started = time.perf_counter()
    results: list[dict[str, Any]] = []
    try:
        for row in importlib.import_module(name).run():
            results.append({field: row.get(field) for field in FIELDS})
            print(f"  {row['name']}: {row['value']} {row['unit']}", file=sys.stderr, flush=True)
    except Exception as error:
        message = f"failed: {type(error).__name__}: {error}"
        results.append({"name": "run", "value": None, "unit": "", "goal": message, "ok": False})
    for row in results:
        row["benchmark"] = name.rpartition(".")[2].removeprefix("bench_")
        row["took_s"] = round(time.perf_counter() - started, 3)
    return results


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a table of plain text."""
    verdict = {True: "ok", False: "MISSED", None: ""}
    lines = [("benchmark", "what", "value", "unit", "goal", "")]
    for row in rows:
        value = row["value"]
        shown = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
        lines.append(
            (row["benchmark"], str(row["name"]), shown, row["unit"] or "", str(row["goal"] or ""), verdict[row["ok"]])
        )
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    aligned = [
        "  ".join(
            cell.rjust(width) if i == 2 else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in [aligned[0], "-" * len(aligned[0]), *aligned[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("wanted", nargs="*", help="only benchmarks whose name contains one of these")
    wanted = parser.parse_args(arguments).wanted
    rows: list[dict[str, Any]] = []
    for name in collect(Path(__file__).parent, wanted):
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += run_one(f"tests.bench.{name}")
    if not rows:
        print("No benchmark has such a name.", file=sys.stderr)
        return 1
    now = datetime.now(UTC)
    machine = {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
    folder = home.portal_home() / "bench"
    folder.mkdir(exist_ok=True)
    path = folder / f"bench-{now:%Y%m%dT%H%M%SZ}.json"
    report = {"at": now.isoformat(timespec="seconds"), "machine": machine, "results": rows}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    print(f"\nThe same as JSON: {path}")
    return 1 if any(row["ok"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
