"""Read millions of damaged files: never a crash, never more than 2 s of processor time or 512 MB, always an answer.

Run: ``python -m tests.proofs.fuzz_formats [--minutes M] [--seed N] [format ...]``. Every format is read by a process of its own, which mutates these files (bytes, numbers, lengths, whole parts;
header and signal file alike) and reads what came out. Formats without a real file, and what no real file shows, are
mutated from files that the tests build. A process that crashes, hangs or breaks a limit names the case;
the file is kept in the folder that is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from datasets.formats import registry
from datasets.formats.base import BytesSource
from ecgportal.errors import PortalError
from tests.datasets.formats.clinical_tools import KINDS, Mutation, mutate
from tests.datasets.formats.scp_writer import scp_file
from tests.datasets.formats.test_contract import ANSWERS, check_record, samples_of, source
from tests.datasets.formats.test_described_xml import mortara, schiller
from tests.datasets.formats.test_edf import build, ramp, tal
from tests.datasets.formats.test_fhir_observation import encoded, observation
from tests.datasets.formats.test_ishne import holter
from tests.datasets.formats.test_philips_xml import document as philips
from tests.datasets.formats.test_philips_xml import twelve
from tests.datasets.formats.test_scp_ecg import sections_of, simple, with_reference_beat

MOST_S, MOST_MB = 2.0, 512
# Processor time without an answer that is a hang, and the clock's time that no load of the machine explains.
_HANGS_S, _STARVES_S = 30.0, 900.0
# Larger files are read by the same code and cost the time of many small ones.
_MOST_BYTES = 1_500_000


def _tables() -> list[bytes]:
    rows = [f"{i / 500:.3f},{i % 7 - 3},{'N' if i % 50 else 'V'},60" for i in range(300)]
    belt = [f"2022-01-01T10:00:00.{i:03d};{600_000_000_000 + i * 7_692_308};{i % 9}" for i in range(300)]
    watch = [f'"{i % 11 - 5},{i % 1000:03d}"' for i in range(300)]
    return [
        "\n".join(["time (s),II (mV),beat,HR (bpm)", *rows]).encode(),
        "\n".join(["Phone timestamp;sensor timestamp [ns];ecg [uV]", *belt]).encode(),
        "\n".join(["Abtastrate,512 Hertz", "Ableitung,Ableitung I", "Einheit,µV", "", *watch]).encode(),
    ]


def built(reader_name: str) -> list[BytesSource]:
    """Return files that the tests build, of formats and variants that no shared file shows."""
    bimodal, _ = with_reference_beat(bimodal=True)
    rows = {"I": ramp().ravel(), "V1": ramp().ravel()}
    plain = (
        'numberofleads="12" leadlabels="I II III aVR aVL aVF V1 V2 V3 V4 V5 V6" samplespersecond="500" resolution="5"'
    )
    gaps = build([("ECG II", "mV", ramp())], kind="EDF+D", annotations=[tal(3 * i, (3 * i, "QRS")) for i in range(4)])
    files = {
        "mortara_xml": [mortara(), mortara(bits=8)], "schiller_xml": [schiller()], "fhir_observation": [encoded(observation())],
        "scp_ecg": [bimodal, simple(rows, 2), scp_file(sections_of(bimodal), 30)], "csv": _tables(), "edf": [gaps],
        "ishne": [holter(text=b"text")], "philips_xml": [philips(twelve(True).tobytes(), plain)],
    }  # fmt: skip
    suffix = next(iter(registry.readers()[reader_name].suffixes), "")
    return [BytesSource(f"built{suffix}", data) for data in files.get(reader_name, [])]


def seeds_of(reader_name: str) -> list[BytesSource]:
    real = [source(name) for name in samples_of(reader_name) if source(name).size <= _MOST_BYTES]
    return [*real, *built(reader_name)]


def case(seeds: list[BytesSource], seed: int) -> BytesSource:
    """Return the damaged file of one seed; the same for the same seed and files."""
    rng = random.Random(seed)
    whole = rng.choice(seeds)
    head = rng.choice((None, 400, 4000))

    def steps() -> list[Mutation]:
        return [
            (rng.choice(KINDS), rng.random(), rng.random(), rng.randrange(256))
            for _ in range(rng.choice((1, 1, 2, 3, 6)))
        ]

    if whole.neighbours and rng.random() < 0.5:
        beside = {name: mutate(data, steps(), head) for name, data in sorted(whole.neighbours.items())}
        return BytesSource(whole.name, whole.data, beside)
    return BytesSource(whole.name, mutate(whole.data, steps(), head), whole.neighbours)


def _processor_s(pid: int) -> float:
    """Return the processor time of a process that runs; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(reader_name: str, first: int, seconds: float) -> None:
    """Read cases from seed ``first`` on for some seconds; one line of JSON before each and one at the end."""
    warnings.simplefilter("ignore")
    reader = registry.readers()[reader_name]
    seeds = seeds_of(reader_name)
    for first_file in seeds[:1]:
        # What is loaded at the first file is no file's memory.
        try:
            reader.read(first_file, ANSWERS)
        except PortalError:
            pass
    answers, refusals, slowest, end = 0, 0, 0.0, time.monotonic() + seconds
    seed = first
    while time.monotonic() < end:
        damaged = case(seeds, seed)
        print(json.dumps({"seed": seed}), flush=True)
        before, start = _memory_mb(), time.process_time()
        try:
            for _, record in reader.read(damaged, ANSWERS).records:
                check_record(record)
            answers += 1
        except PortalError:
            refusals += 1
        took, grown = time.process_time() - start, _memory_mb() - before
        slowest = max(slowest, took)
        if took > MOST_S or grown > MOST_MB:
            print(json.dumps({"broke": f"{took:.1f} s, {grown:.0f} MB"}), flush=True)
            sys.exit(3)
        seed += 1
    print(
        json.dumps({"done": seed, "answers": answers, "refusals": refusals, "slowest_s": round(slowest, 3)}), flush=True
    )


def watch(reader_name: str, seed: int, seconds: float, folder: Path) -> tuple[int, list[str]]:
    """Run the process of one format until its time is over; returns how many cases, and what was found."""
    found: list[str] = []
    cases, end = 0, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1 and len(found) < 20:
        command = [
            sys.executable,
            "-m",
            "tests.proofs.fuzz_formats",
            "--work",
            reader_name,
            "--seed",
            str(seed),
            "--seconds",
            str(left),
        ]
        errors = folder / f"{reader_name}.err"
        with errors.open("wb") as stderr, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None
            last, said, used = seed, time.monotonic(), 0.0
            os.set_blocking(process.stdout.fileno(), False)
            rest, state = b"", {}
            while process.poll() is None or rest:
                data = process.stdout.read() or b""
                if data:
                    said, used = time.monotonic(), _processor_s(process.pid)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    state = json.loads(line)
                    last = state.get("seed", last)
                if process.poll() is not None and not data:
                    break
                silent_s, busy_s = time.monotonic() - said, _processor_s(process.pid) - used
                if busy_s > _HANGS_S or silent_s > _STARVES_S:
                    process.kill()
                    state = {"broke": f"no answer for {silent_s:.0f} s, {busy_s:.0f} s of them working"}
                time.sleep(0.05)
        if "done" in state:
            print(
                f"{reader_name:16} {cases + state['done'] - seed:8} cases, {state['answers']} read, {state['refusals']} refused, slowest {state['slowest_s']} s"
            )
            return cases + state["done"] - seed, found
        trace = errors.read_text(errors="replace").strip().splitlines()
        why = state.get("broke") or (trace[-1] if trace else f"ended with {process.returncode}")
        found.append(f"{reader_name}, seed {last}: {why}")
        print(found[-1])
        _keep(reader_name, last, folder)
        cases, seed = cases + last - seed + 1, last + 1
    return cases, found


def _keep(reader_name: str, seed: int, folder: Path) -> None:
    damaged = case(seeds_of(reader_name), seed)
    place = folder / f"{reader_name}-{seed}"
    place.mkdir()
    for name, data in {damaged.name: damaged.data, **damaged.neighbours}.items():
        (place / Path(name).name).write_bytes(data)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.fuzz_formats", description=__doc__)
    parser.add_argument("formats", nargs="*", help="only these formats")
    parser.add_argument("--minutes", type=float, default=1.0, help="time for each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given: Any = parser.parse_args(arguments)
    if given.work:
        work(given.work, given.seed, given.seconds)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fuzz-formats-"))
    names = [name for name in registry.readers() if seeds_of(name) and (not given.formats or name in given.formats)]
    results = [watch(name, given.seed, 60 * given.minutes, folder) for name in names]
    found = [line for _, lines in results for line in lines]
    print(
        f"{sum(count for count, _ in results)} damaged files, {len(found)} findings"
        + (f", kept in {folder}" if found else "")
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
