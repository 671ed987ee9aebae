"""Signal files of WFDB records (signal(5) of the WFDB Applications Guide), decoded to millivolt."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets.formats._clinical import check_size
from datasets.formats._matfile import is_level4
from datasets.formats._wfdb_header import SignalSpec
from datasets.formats.base import Part, Source, read_bytes
from ecgportal.errors import UnreadableFile

# Stored samples: ``(bytes, samples)`` of the smallest whole group, by format. FLAC files state their length themselves.
_PACKING = {
    8: (1, 1), 16: (2, 1), 24: (3, 1), 32: (4, 1), 61: (2, 1), 80: (1, 1), 160: (2, 1), 212: (3, 2), 310: (4, 3), 311: (4, 3),
}  # fmt: skip
# The stored value that means "no sample", by format; format 8 has none.
_NO_SAMPLE = {
    16: -(1 << 15), 24: -(1 << 23), 32: -(1 << 31), 61: -(1 << 15), 80: -(1 << 7), 160: -(1 << 15), 212: -(1 << 11),
    310: -(1 << 9), 311: -(1 << 9), 508: -(1 << 7), 516: -(1 << 15), 524: -(1 << 23),
}  # fmt: skip
# Two-byte formats that are decoded here: least and most significant byte first.
_PLAIN = {16: np.dtype("<i2"), 61: np.dtype(">i2")}
_FLAC = frozenset((508, 516, 524))
_MATRIX_HEADER = 24
# Level 5 and 7.3 of MATLAB files, in which samples lie elsewhere than a header can say.
_CONTAINERS = (b"MATLAB", b"\x89HDF\r\n")
# Level 4 begins with its kind of number: double, single, 32-bit, unsigned 16-bit and 8-bit; 30 is 16-bit.
_LEVEL4_OTHERS = frozenset((0, 10, 20, 40, 50))
_STREAMINFO_END = 26
_SCRATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SignalFile:
    """One signal file and the header lines that describe it; ``frames`` of it belong to the record."""

    header: Source
    file: Source
    specs: Sequence[SignalSpec]
    frames: int

    @property
    def part(self) -> Part:
        """What of the file holds the record's samples; a packed format's last group as far as ``frames_that_fit`` asks for it."""
        first = self.specs[0]
        if first.fmt in _FLAC:
            return Part(first.offset, first.offset + self.frames * first.per_frame, is_flac=True)
        size, samples = _PACKING[first.fmt]
        whole, rest = divmod(self.frames * sum(spec.per_frame for spec in self.specs), samples)
        return Part(first.offset, first.offset + whole * size + (0, 2, size)[rest])

    def millivolt(self, rows: list[int], factors: list[float], per_frame: int, notes: list[str]) -> np.ndarray:
        """Return the signals ``rows`` of this file, float32 ``(len(rows), frames * per_frame)``.

        factors: millivolt per file unit, one for each row. per_frame: samples that a frame of the answer has;
        signals stored faster are averaged over the frame.
        """
        first = self.specs[0]
        check_size(self.header.name, len(self.specs), self.frames * max(spec.per_frame for spec in self.specs))
        shape = (first.fmt, 1, 0, first.offset)
        if first.fmt in _PLAIN and all(spec[1:5] == shape for spec in self.specs):
            return self._plain(rows, factors, notes)
        return self._through_wfdb(rows, factors, per_frame)

    def _plain(self, rows: list[int], factors: list[float], notes: list[str]) -> np.ndarray:
        """Decode interleaved 16-bit samples; bit for bit ``wfdb.rdsamp``'s values cast to float32."""
        width = len(self.specs)
        needed = 2 * width * self.frames
        if needed > _SCRATCH_BYTES and needed > self.file.size - self.specs[0].offset:
            raise self._truncated(max(self.file.size - self.specs[0].offset, 0) // (2 * width))
        stored, digits = _scratch(needed)
        with self.file.open() as stream:
            if self.file.name.endswith(".mat") and _is_another_matrix(stream.read(6), self.specs[0].offset):
                raise UnreadableFile(
                    f"{self.header.name} describes {self.file.name} as bare samples, but it was saved again by MATLAB in a form of "
                    "its own. Upload the file as it was published, or the .mat file without its header.",
                    code="signal_file_damaged",
                )
            if self.file.name.endswith(".mat") or self.specs[0].offset:
                stream.seek(self.specs[0].offset)
            got = stream.readinto(stored)  # type: ignore[attr-defined]
        if got < needed:
            raise self._truncated(got // (2 * width))
        digits = digits.reshape(width, self.frames)
        digits[...] = stored.view(_PLAIN[self.specs[0].fmt]).reshape(self.frames, width).T
        _compare_checksums(digits, self.specs, notes)
        if len(rows) < width:
            digits = digits[rows]
        return _millivolt(digits, [self.specs[row] for row in rows], factors)

    def _through_wfdb(self, rows: list[int], factors: list[float], per_frame: int) -> np.ndarray:
        """Decode every other storage format with the wfdb package, in a private folder under names of our own."""
        self._check_length()
        import wfdb

        lines = [f"record {len(self.specs)} 250 {self.frames}"]
        lines += [
            f"record.dat {spec.fmt}x{spec.per_frame}:{spec.skew}+{spec.offset} 200(0)/mV 16 0 {spec.initial} 0 0 signal{i}"
            for i, spec in enumerate(self.specs)
        ]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "record.hea").write_text("\n".join(lines) + "\n", encoding="ascii")
            (Path(folder) / "record.dat").write_bytes(read_bytes(self.file))
            try:
                stored = wfdb.rdrecord(str(Path(folder) / "record"), physical=False, smooth_frames=False, return_res=32)
            # The package raises whatever its parsing runs into; all of it means a damaged file.
            except Exception as error:
                raise UnreadableFile(
                    f"{self.file.name} cannot be decoded as {self.header.name} describes it (format {self.specs[0].fmt}). "
                    "The file is damaged or belongs to another header.",
                    code="signal_file_damaged",
                ) from error
        signal = np.empty((len(rows), self.frames * per_frame), dtype=np.float32)
        for target, row, factor in zip(signal, rows, factors):
            spec, digits = self.specs[row], stored.e_d_signal[row]
            if len(digits) != self.frames * spec.per_frame:
                raise self._truncated(len(digits) // spec.per_frame)
            gaps = digits == _NO_SAMPLE[spec.fmt] if spec.fmt in _NO_SAMPLE else np.zeros(len(digits), dtype=bool)
            if spec.per_frame != per_frame:
                # The WFDB library's own rule: the mean of the stored integers, its fraction cut off.
                gaps = gaps.reshape(self.frames, spec.per_frame).any(axis=1)
                digits = np.trunc(
                    digits.reshape(self.frames, spec.per_frame).sum(axis=1, dtype=np.int64) / spec.per_frame
                )
            values = digits.astype(np.float64)
            values -= spec.baseline
            values /= spec.gain
            if factor != 1.0:
                values *= factor
            values[gaps] = np.nan
            target[:] = values
        return signal

    def _check_length(self) -> None:
        first = self.specs[0]
        if any((spec.fmt, spec.offset) != (first.fmt, first.offset) for spec in self.specs) or (
            first.fmt in _FLAC and any(spec.per_frame != first.per_frame for spec in self.specs)
        ):
            raise UnreadableFile(
                f"{self.header.name} describes {self.file.name} in several formats at once.", code="bad_header"
            )
        fits = frames_that_fit(self.header, self.file, self.specs)
        if fits < self.frames:
            raise self._truncated(fits)

    def _truncated(self, fits: int) -> UnreadableFile:
        return UnreadableFile(
            f"{self.header.name} announces {self.frames} samples a lead, but {self.file.name} holds only {fits}. "
            "The upload or the copy was cut short; upload both files again.",
            code="signal_file_truncated",
        )


def _is_another_matrix(start: bytes, offset: int) -> bool:
    """Tell whether a ``.mat`` file begins as one that holds its samples in another way than 16-bit ones behind 24 bytes."""
    other_level4 = offset == _MATRIX_HEADER and int.from_bytes(start[:4], "little") in _LEVEL4_OTHERS
    return start.startswith(_CONTAINERS) or other_level4


_reused = threading.local()


def _scratch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``size`` bytes to read a file into and as many bytes of int16 to sort its samples in.

    Both are kept for the thread's next file where they are small: fresh memory costs more time than the samples.
    """
    if size > _SCRATCH_BYTES:
        return np.empty(size, dtype=np.uint8), np.empty(size // 2, dtype=np.int16)
    if getattr(_reused, "size", None) != size:
        _reused.size = size
        _reused.stored = np.empty(size, dtype=np.uint8)
        _reused.digits = np.empty(size // 2, dtype=np.int16)
    return _reused.stored, _reused.digits


def behind_matrix_header(
    file: Source, specs: Sequence[SignalSpec], frames: int, notes: list[str]
) -> Sequence[SignalSpec]:
    """Skip the 24 bytes before the samples of a ``val`` matrix (MATLAB level 4) where a header forgot to say so.

    It did when the file begins as such a matrix and is longer by exactly that much than the header says.
    """
    if not file.name.endswith(".mat") or any(spec.offset or spec.fmt != 16 for spec in specs):
        return specs
    if file.size != _MATRIX_HEADER + 2 * frames * sum(spec.per_frame for spec in specs):
        return specs
    with file.open() as stream:
        head = stream.read(_MATRIX_HEADER)
    if not is_level4(head):
        return specs
    notes.append(
        "The header does not say that the samples begin behind the 24 bytes of the matrix's own head; they were skipped."
    )
    return [spec._replace(offset=_MATRIX_HEADER) for spec in specs]


def frames_that_fit(header: Source, file: Source, specs: Sequence[SignalSpec]) -> int:
    """Return how many frames a signal file holds: from its size, or from its own statement for FLAC."""
    first = specs[0]
    width = sum(spec.per_frame for spec in specs)
    if not 0 < width <= 100_000:
        raise UnreadableFile(f"{header.name} announces {width} samples a frame.", code="bad_header")
    if first.fmt not in _FLAC:
        size, samples = _PACKING[first.fmt]
        stored = max(file.size - first.offset, 0)
        # The last group of a packed file may be cut after its last sample: 2 bytes hold one 12-bit or 10-bit sample.
        whole, rest = divmod(stored, size)
        return (whole * samples + (rest // 2 if samples > 1 else 0)) // width
    with file.open() as stream:
        start = stream.read(_STREAMINFO_END)
    if len(start) < _STREAMINFO_END or start[:4] != b"fLaC":
        raise UnreadableFile(
            f"{file.name} is not the FLAC file that {header.name} announces (format {first.fmt}).",
            code="signal_file_damaged",
        )
    # STREAMINFO: 20 bits rate, 3 bits channels - 1, 5 bits sample size - 1, 36 bits samples a channel.
    packed = int.from_bytes(start[18:26], "big")
    channels, samples = (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
    if channels != len(specs):
        raise UnreadableFile(
            f"{header.name} describes {len(specs)} signals in {file.name}, which holds {channels}.",
            code="signal_file_damaged",
        )
    check_size(file.name, channels, samples)
    return samples // first.per_frame


def _millivolt(digits: np.ndarray, group: Sequence[SignalSpec], factors: list[float]) -> np.ndarray:
    """Return ``(digits - baseline) / gain`` in millivolt, float32; the "no sample" value becomes NaN.

    With a gain and a baseline that float32 holds exactly, the float32 quotient of two exact numbers is the float64
    quotient rounded once more (double rounding is harmless from 2p + 2 bits on), so float32 arithmetic is enough.
    """
    gaps = digits == -32768 if digits.min() == -32768 else None
    gains = [spec.gain for spec in group]
    baselines = [spec.baseline for spec in group]
    scaled = any(factor != 1.0 for factor in factors)
    exact = not scaled and all(_is_float32(gain) for gain in set(gains))
    kind = np.float32 if exact and all(abs(baseline) < 1 << 23 for baseline in set(baselines)) else np.float64
    signal = digits.astype(kind)
    if any(baselines):
        np.subtract(signal, np.array(baselines, dtype=kind)[:, None], out=signal)
    # A single divisor is quicker than one a row, and gives the same quotients.
    np.divide(signal, kind(gains[0]) if len(set(gains)) == 1 else np.array(gains, dtype=kind)[:, None], out=signal)
    if scaled:
        np.multiply(signal, np.array(factors)[:, None], out=signal)
    if gaps is not None:
        signal[gaps] = np.nan
    return signal.astype(np.float32, copy=False)


@lru_cache(maxsize=1024)
def _is_float32(value: float) -> bool:
    return float(np.float32(value)) == value


def _compare_checksums(digits: np.ndarray, group: Sequence[SignalSpec], notes: list[str]) -> None:
    """Note the signals whose 16-bit sum differs from the header's: the samples are not those that were written."""
    sums = np.add.reduce(digits.view(np.uint16), axis=1, dtype=np.uint16).tolist()
    wrong = [
        spec.name
        for spec, found in zip(group, sums)
        if spec.checksum is not None and spec.checksum != found and spec.checksum & 0xFFFF != found
    ]
    if wrong:
        notes.append(f"The checksum in the header does not fit the samples of: {', '.join(wrong)}.")
