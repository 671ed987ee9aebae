"""XLI, the compression of Philips ECG XML: one chunk per lead, LZW with 10-bit codes over second differences."""

from __future__ import annotations

import numpy as np

from datasets.formats._clinical import check_size
from ecgportal.errors import TooLarge, UnreadableFile

_BITS = 10
_END = (1 << _BITS) - 1
_MAX_CODES = _END
MAX_SLACK = 4
# Sixteen leads of two minutes at 500 Hz are one million; resting recordings hold 11 s.
MAX_XLI_VALUES = 3_000_000


def _codes(chunk: bytes, most: int) -> np.ndarray:
    """Return the 10-bit codes of a chunk, most significant bit first, without what follows the end code.

    No more than ``most`` codes are taken.
    """
    chunk = chunk[: (most * _BITS + 7) // 8]
    bits = np.unpackbits(np.frombuffer(chunk, np.uint8))
    whole = bits[: bits.size // _BITS * _BITS].reshape(-1, _BITS)
    codes = whole @ (1 << np.arange(_BITS - 1, -1, -1))
    ends = np.flatnonzero(codes == _END)
    return codes[: ends[0]] if ends.size else codes


def lzw_decode(name: str, chunk: bytes, limit: int) -> bytes:
    """Return the bytes of an LZW chunk, never more than ``limit``.

    The dictionary starts with the 256 single bytes and stops growing when its codes are used up.
    """
    table: list[bytes] = [bytes([value]) for value in range(256)]
    out: list[bytes] = []
    size, previous = 0, b""
    for code in _codes(chunk, limit + 2).tolist():
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous:
            entry = previous + previous[:1]
        else:
            raise UnreadableFile(
                f"{name}: the compressed samples hold a code that was never defined. The file is damaged; export it again.",
                code="damaged_xli",
            )
        out.append(entry)
        size += len(entry)
        if size > limit:
            raise UnreadableFile(
                f"{name}: the compressed samples hold more than the {limit // 2} samples a lead that the file announces. "
                "The file is damaged; export it again.",
                code="damaged_xli",
            )
        if previous and len(table) < _MAX_CODES:
            table.append(previous + entry[:1])
        previous = entry
    return b"".join(out)


def _undo_differences(deltas: np.ndarray, first: int) -> np.ndarray:
    """Return samples from deltas, int16 with wrap-around.

    The first two values are samples; from there x[i] = 2 x[i-1] - x[i-2] - d[i-1], where d[1] is ``first`` and
    the following ones are stored one place ahead, raised by 64.
    """
    if deltas.size < 3:
        return deltas.astype(np.int16)
    wide = deltas.astype(np.int64)
    second = np.empty(wide.size - 2, np.int64)
    second[0] = first
    second[1:] = wide[2:-1] - 64
    slope = (wide[1] - wide[0]) - np.cumsum(second)
    samples = np.concatenate([wide[:2], wide[1] + np.cumsum(slope)])
    return samples.astype(np.uint64).astype(np.uint16).view(np.int16)


def xli_decode(name: str, data: bytes, leads: int, samples: int) -> np.ndarray:
    """Return the stored integers of the first ``leads`` chunks, int16 ``(leads, samples)``.

    A chunk: its length (int32), a number (int16), the first difference (int16), then the codes. The bytes that come
    out are the high bytes of all values and behind them the low bytes.
    """
    check_size(name, leads, samples)
    if leads * samples > MAX_XLI_VALUES:
        raise TooLarge(
            f"{name} announces {leads} compressed leads of {samples} samples; at most {MAX_XLI_VALUES} values are unpacked. "
            "Export the recording uncompressed or in parts."
        )
    rows: list[np.ndarray] = []
    at = 0
    while len(rows) < leads:
        if at + 8 > len(data):
            raise UnreadableFile(
                f"{name} announces {leads} leads but holds the samples of {len(rows)}. The file was cut off; export it again.",
                code="short_waveform",
            )
        length = int.from_bytes(data[at : at + 4], "little", signed=True)
        first = int.from_bytes(data[at + 6 : at + 8], "little", signed=True)
        if length <= 0 or at + 8 + length > len(data):
            raise UnreadableFile(
                f"{name}: the compressed samples of lead number {len(rows) + 1} run past the end of the file. "
                "The file was cut off; export it again.",
                code="short_waveform",
            )
        # One value of slack: chunks are padded to whole codes.
        plain = lzw_decode(name, data[at + 8 : at + 8 + length], 2 * samples + MAX_SLACK)
        half = len(plain) // 2
        if half < samples:
            raise UnreadableFile(
                f"{name}: lead number {len(rows) + 1} announces {samples} samples but holds {half}. "
                "The file was cut off; export it again.",
                code="short_waveform",
            )
        high = np.frombuffer(plain, np.uint8, half).astype(np.uint16) << 8
        low = np.frombuffer(plain, np.uint8, half, half)
        rows.append(_undo_differences((high | low).view(np.int16), first)[:samples])
        at += 8 + length
    return np.stack(rows)
