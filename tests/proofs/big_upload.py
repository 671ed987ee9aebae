"""One large archive sent to a real portal as the page sends it, with a connection that drops, and read to records.

Run: ``python -m tests.proofs.big_upload --gb 10 [--folder F] [--read-minutes M]``. The archive (a zip without compression of WFDB
records, 12 x 5000) is sent in the page's pieces of 8 MB over REST; in the middle the connection is cut within a piece, and the
upload goes on from where the portal says it stands. Meanwhile the memory of the web server's processes is sampled: the largest
resident one, and the sum of what they do not share (PSS). At its peak the folder holds about five times the archive's bytes:
the archive, its members (which become the stored originals without another copy) and the signals as float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil

from tests.proofs.client import PASSWORD, Client
from tests.proofs.hosts import Portal, free_port, until

PIECE = 8 * 1024 * 1024
LIMIT_MB = 300


def write_archive(path: Path, size: int) -> int:
    """Write a zip of about ``size`` bytes; returns how many records it holds."""
    from datasets.simulate import simulate

    base = np.rint(simulate("SNR", 1, fs_hz=500).record.signal.T * 1000).astype("<i2")
    rng = np.random.default_rng(1)
    leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    count = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        while path.stat().st_size < size:
            name = f"r{count:06d}"
            noise = rng.integers(-40, 40, base.shape, dtype=np.int16)
            digits = np.roll(base, int(rng.integers(5000)), axis=0) + noise
            lines = [f"{name} 12 500 5000", *(f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads)]
            archive.writestr(f"p{count // 1000:03d}/{name}.hea", "\n".join(lines) + "\n")
            archive.writestr(f"p{count // 1000:03d}/{name}.dat", digits.astype("<i2").tobytes())
            count += 1
    return count


class Memory(threading.Thread):
    """Samples the web server's processes until it is told to stop."""

    def __init__(self, portal: Portal, name: str):
        super().__init__(daemon=True)
        self._portal, self._name = portal, name
        self._over = threading.Event()
        self.largest_mb = self.together_mb = 0.0

    def run(self) -> None:
        while not self._over.wait(0.25):
            resident, own = [0.0], 0.0
            for process in self._portal.of(self._name):
                try:
                    if any("gunicorn" in word for word in process.cmdline()):
                        memory = process.memory_full_info()
                        resident.append(memory.rss / 1e6)
                        own += memory.pss / 1e6
                except psutil.Error:
                    continue
            self.largest_mb = max(self.largest_mb, *resident)
            self.together_mb = max(self.together_mb, own)

    def stop(self) -> None:
        self._over.set()
        self.join()


def send(client: Client, ingest: str, path: Path) -> tuple[float, int]:
    """Send the archive with a break in the middle; returns the seconds it took and the bytes that the break did not lose."""
    size = path.stat().st_size
    (row,) = client.ask("POST", f"ingests/{ingest}/files/", {"files": [{"name": path.name, "size": size}]})
    begun, received, kept = time.monotonic(), 0, -1
    with path.open("rb") as stream:
        while received < size:
            stream.seek(received)
            data = stream.read(PIECE)
            if kept < 0 and received >= size // 2:
                client.broken_piece(row["id"], received, data)
                kept = arrived_after(client, row["id"], received) - received
                received += kept
                continue
            received = client.piece(row["id"], received, data)
    return time.monotonic() - begun, kept


def arrived_after(client: Client, file_id: str, offset: int) -> int:
    """Return where a file stands, once the server has noticed that the connection is gone."""

    def standing() -> int:
        return int(client.ask("GET", f"upload-files/{file_id}/")["received"])

    until(lambda: standing() > offset, "what has arrived of the broken piece", 60)
    return standing()


def bytes_under(folder: Path) -> int:
    """Return the bytes on disk under a folder, hard links counted once."""
    seen: dict[int, int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            seen[status.st_ino] = status.st_size
    return sum(seen.values())


def prove(gigabytes: float, folder: str | None, read_minutes: float) -> bool:
    """Run the proof and print what was found; True when all is as it must be."""
    with Portal(folder) as portal:
        archive = portal.home / "archive.zip"
        begun = time.monotonic()
        records = write_archive(archive, round(gigabytes * 1e9))
        size = archive.stat().st_size
        print(
            f"archive of {size / 1e9:.2f} GB with {records} records written in {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        port = free_port()
        portal.start("one", "all", PORT=str(port), PORTAL_ADMIN_PASSWORD=PASSWORD)
        until(lambda: "is ready at" in portal.log("one"), "the portal", 300)
        client = Client(port)
        project = client.ask("POST", "projects/", {"name": "Proof"})["id"]
        dataset = client.ask("POST", "datasets/", {"project": project, "name": "Large"})["id"]
        ingest = client.ask("POST", "ingests/", {"dataset": dataset})["id"]
        memory = Memory(portal, "one")
        memory.start()
        seconds, kept = send(client, ingest, archive)
        archive.unlink()
        job = client.ask("POST", f"ingests/{ingest}/finish/")["job"]
        print(
            f"sent in {seconds:.0f} s, {size / 1e6 / seconds:.0f} MB/s; the broken piece kept {kept / 1e6:.1f} MB of its half",
            flush=True,
        )
        begun, peak = time.monotonic(), 0
        while (row := client.ask("GET", f"jobs/{job}/"))["state"] in ("queued", "running"):
            if time.monotonic() - begun > 60 * read_minutes:
                break
            peak = max(peak, bytes_under(portal.home / "uploads"))
            client.ask("GET", f"ingests/{ingest}/items/")
            time.sleep(5)
        seconds = time.monotonic() - begun
        memory.stop()
        stored = client.ask("GET", f"datasets/{dataset}/")["record_count"]
        print(
            f"{row['state']}, {row['message']}: {stored} of {records} records in {seconds:.0f} s, {stored / seconds:.0f} records/s"
        )
        for name in ("uploads", "blobs", "signals", "postgres"):
            print(f"  {name}: {bytes_under(portal.home / name) / size:.2f} times the archive's bytes")
        print(f"  uploads at most {peak / size:.2f} times (members that are stored as originals already included)")
        print(
            f"web processes: largest {memory.largest_mb:.0f} MB resident, together {memory.together_mb:.0f} MB (PSS); limit {LIMIT_MB} MB"
        )
        whole = row["state"] == "succeeded" and stored == records
        cut_short = row["state"] == "running" and 0 < stored < records
        return kept > 0 and memory.together_mb < LIMIT_MB and (whole or cut_short)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--folder", help="where the throw-away portal lies; needs five times the archive's bytes")
    parser.add_argument("--read-minutes", type=float, default=120.0, help="stop after this time of reading")
    options = parser.parse_args()
    ok = prove(options.gb, options.folder, options.read_minutes)
    print("PASSED" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
