"""Original files without identity: what may be kept of each format where a project keeps no identifiers.

What is known to be needed stays, everything else goes. A format that cannot be cleaned surely is not kept as a file; its
samples and measurements are.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.ecg import canonical_lead
from datasets.formats._wfdb_notes import texts_and_end
from datasets.formats.base import Part
from datasets.identity import MARKED, Named

AS_SENT, SCRUBBED, NOT_KEPT = "as sent", "scrubbed", "not kept"
_COMMENT = re.compile(
    r"#\s*(<?(age|sex|gender)>?\s*:\s*<?[\w.]{0,8}>?\s*)+$|#\s*dx\s*:\s*[\d\s,]*$|#\s*(rx|hx|sx)\s*:\s*(unknown)?\s*$",
    re.IGNORECASE,
)
_TABLE_WORDS = frozenset(
    "time t s ms us sec second seconds sample samples index hz mv uv µv v nv ecg ekg lead leads channel fs frequency rate sampling unit units nan e".split()
)
# The rate in a WFDB header, with that of a counter.
_RATES = re.compile(r"[\d.eE+-]+(/[\d.eE+-]+(\([\d.eE+-]+\))?)?")
_MATRIX_HEAD = 24
_FLAC_BLOCK = 1 << 16
_NPY_HEADERS = {
    (1, 0): (np.lib.format.read_array_header_1_0, np.lib.format.write_array_header_1_0),
    (2, 0): (np.lib.format.read_array_header_2_0, np.lib.format.write_array_header_2_0),
}
#: Where the superblock of an HDF5 file says how long the file is, by the superblock's version.
_HDF_LENGTH = {0: 40, 1: 44, 2: 28, 3: 28}


def scrub(
    format_name: str, name: str, path: Path, data: bytes | None = None, parts: Sequence[Part] = ()
) -> tuple[str, bytes | None]:
    """Return what may be kept of an original file: (``as sent``, None), (``scrubbed``, bytes) or (``not kept``, None).

    data: the file's bytes where they are at hand. parts: what was read of a file of which another one says where samples lie.
    """

    def content() -> bytes:
        return path.read_bytes() if data is None else data

    try:
        if format_name == "wfdb":
            return _scrub_wfdb(name, path, data, parts)
        if format_name == "edf":
            return _scrub_edf(content())
        if format_name == "dicom":
            return SCRUBBED, _scrub_dicom(content())
        if format_name == "numpy" and name.lower().endswith(".npy"):
            return _scrub_npy(path, data)
        if format_name == "hdf5" and _only_numbers_hdf(path):
            return AS_SENT, None
        if format_name == "matlab" and _only_numbers_mat(path):
            return _scrub_mat(content())
        if format_name == "csv" and _only_numbers_text(content()):
            return AS_SENT, None
    except Exception:
        # What cannot be cleaned for whatever reason is not kept.
        return NOT_KEPT, None
    return NOT_KEPT, None


def _scrub_wfdb(name: str, path: Path, data: bytes | None, parts: Sequence[Part]) -> tuple[str, bytes | None]:
    lowered = name.lower()
    if parts or re.search(r"\.(dat|mat|xyz|d\d+)$", lowered):
        if any(part.is_flac for part in parts):
            return SCRUBBED, _samples_of_flac(path, data, parts)
        return _samples_in_place(path, data, parts, is_matrix=lowered.endswith(".mat"))
    content = path.read_bytes() if data is None else data
    if lowered.endswith(".hea"):
        return _scrub_wfdb_header(content)
    texts, end = texts_and_end(content)
    if not all(MARKED.fullmatch(text) for text in texts):
        return NOT_KEPT, None
    return (AS_SENT, None) if end == len(content) else (SCRUBBED, content[:end])


def _scrub_wfdb_header(raw: bytes) -> tuple[str, bytes | None]:
    """Keep the lines that the first one announces, of their words those that are read, and comments that say known things."""
    kept: list[str] = []
    announced, done, has_segments = -1, 0, False
    for line in raw.decode("utf-8", "replace").splitlines():
        words = line.split(None, 8)
        if line.lstrip().startswith("#"):
            if _COMMENT.fullmatch(line.strip()):
                kept.append(line)
        elif words and announced < 0:
            # Name, signals, rate and length; not the time and date of recording.
            segments = words[0].partition("/")[2]
            announced, has_segments = int(segments or words[1]), bool(segments)
            rate = [word if _RATES.fullmatch(word) else word.partition("/")[0] for word in words[2:3]]
            kept.append(" ".join([*words[:2], *rate, *filter(str.isdecimal, words[3:4])]))
        elif words and done < announced:
            done += 1
            if has_segments:
                words = words[:2]
            words[3:8] = [word if word.lstrip("+-").isdecimal() else "0" for word in words[3:8]]
            if len(words) == 9 and Named(()).of_channel(words[8]):
                words[8] = f"channel {done}"
            kept.append(" ".join(words))
    text = "\n".join(kept) + "\n"
    same = text.split() == raw.decode("utf-8", "replace").split()
    return (AS_SENT, None) if same else (SCRUBBED, text.encode())


def _samples_in_place(
    path: Path, data: bytes | None, parts: Sequence[Part], *, is_matrix: bool
) -> tuple[str, bytes | None]:
    """Keep samples where the header says that they lie: zeros before them, nothing behind them."""
    if not parts:
        return NOT_KEPT, None
    end = max(part.end for part in parts)
    with path.open("rb") if data is None else io.BytesIO(data) as stream:
        sent = head = b""
        if is_matrix and min(part.start for part in parts) == _MATRIX_HEAD:
            sent = stream.read(_MATRIX_HEAD)
            head = _matrix_head(sent, end - _MATRIX_HEAD)
        reached, has_gap = len(head), False
        for start, stop, _ in sorted(parts):
            has_gap |= start > reached
            reached = max(reached, stop)
        # Large files are read only where something is to be taken away.
        if sent == head and not has_gap and stream.seek(0, io.SEEK_END) == end:
            return AS_SENT, None
        clean = bytearray(end)
        clean[: len(head)] = head
        for start, stop, _ in parts:
            stream.seek(start)
            if stream.readinto(memoryview(clean)[start:stop]) != stop - start:
                return NOT_KEPT, None
    return SCRUBBED, bytes(clean)


def _matrix_head(sent: bytes, size: int) -> bytes:
    """Return the head of a matrix ``val`` of 16-bit numbers (MATLAB level 4) of ``size`` bytes: the one that was sent if it is one."""
    rows, columns = struct.unpack("<4x2i12x", sent)
    is_right = 2 * rows * columns == size and min(rows, columns) > 0
    return struct.pack("<5i4s", 30, *((rows, columns) if is_right else (1, size // 2)), 0, 4, b"val")


def _samples_of_flac(path: Path, data: bytes | None, parts: Sequence[Part]) -> bytes:
    """Encode samples anew, which are the same then: frames of FLAC cannot be told from what lies beside them."""
    import soundfile

    clean, at = io.BytesIO(), 0
    start, end = min(part.start for part in parts), max(part.end for part in parts)
    with (
        soundfile.SoundFile(path if data is None else io.BytesIO(data)) as sent,
        soundfile.SoundFile(clean, "w", sent.samplerate, sent.channels, sent.subtype, format="FLAC") as kept,
    ):
        for block in sent.blocks(_FLAC_BLOCK, frames=end, dtype="int32", always_2d=True):
            block[: max(start - at, 0)] = 0
            kept.write(block)
            at += len(block)
    return clean.getvalue()


def _scrub_edf(data: bytes) -> tuple[str, bytes | None]:
    """Blank patient, recording and start as EDF+ prescribes for anonymous files; texts of annotations are not kept."""
    from datasets.formats._edf_header import read_annotations as edf_annotations
    from datasets.formats._edf_header import read_header

    header = read_header("", io.BytesIO(data), len(data))
    for signal in header.signals:
        if signal.is_annotation:
            for record in range(header.records):
                at = header.start + record * header.record_bytes + signal.offset * header.width
                found = edf_annotations(data[at : at + signal.samples * header.width])[1]
                if any(not MARKED.fullmatch(mark.text) for mark in found):
                    return NOT_KEPT, None
    sex = {"male": "M", "female": "F"}.get(header.sex or "", "X")
    patient = f"X {sex} X X" if header.plus else ""
    recording = "Startdate X X X X" if header.plus else ""
    clean = f"{patient:<80}{recording:<80}01.01.8500.00.00".encode()
    # Transducers and prefilters are free text, too.
    count = len(header.signals)
    fields = bytearray(data[256 : header.start])
    for start, width in ((16, 80), (136, 80), (224, 32)):
        fields[start * count : (start + width) * count] = b" " * (width * count)
    # Behind the data records that are read there may be more annotations.
    end = header.start + header.records * header.record_bytes
    return SCRUBBED, data[:8] + clean + data[184:256] + bytes(fields) + data[header.start : end]


_DICOM_KEPT = frozenset(
    "SOPClassUID Modality Manufacturer ManufacturerModelName PatientAge PatientSex PatientSize PatientWeight WaveformSequence "
    "WaveformAnnotationSequence AcquisitionContextSequence SpecificCharacterSet".split()
)
_DICOM_TEXT = frozenset(("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "LongCodeValue"))


def _scrub_dicom(data: bytes) -> bytes:
    import pydicom
    from pydicom.dataset import Dataset

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)

    def clean(part: Dataset, top: bool) -> None:
        for element in list(part):
            keyword = element.keyword
            if element.tag.is_private or not keyword or (top and keyword not in _DICOM_KEPT):
                del part[element.tag]
            elif element.VR == "SQ":
                for item in element.value:
                    clean(item, False)
            elif not top and keyword not in _DICOM_TEXT and element.VR in (
                "PN", "LO", "LT", "ST", "UT", "DA", "DT", "TM", "SH", "UI", "UC", "UR", "AE", "UN", "AS",
            ) and not (keyword in ("MultiplexGroupLabel", "ChannelLabel") and _is_channel(str(element.value))):  # fmt: skip
                del part[element.tag]

    clean(dataset, True)
    uid = pydicom.uid.generate_uid(entropy_srcs=[hashlib.sha256(data).hexdigest()])
    dataset.SOPInstanceUID = uid
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Only the waveform and its coded description were kept"
    for element in list(dataset.file_meta):
        if element.keyword not in ("MediaStorageSOPClassUID", "TransferSyntaxUID", "FileMetaInformationVersion"):
            del dataset.file_meta[element.tag]
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.preamble = b"\x00" * 128
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _is_channel(text: str) -> bool:
    return canonical_lead(text) is not None or text.strip().upper() in ("RHYTHM", "MEDIAN BEAT")


def _scrub_npy(path: Path, data: bytes | None) -> tuple[str, bytes | None]:
    """Keep the array under the header that NumPy itself writes: bytes behind it, and remarks in the header, go."""
    with path.open("rb") if data is None else io.BytesIO(data) as stream:
        version = np.lib.format.read_magic(stream)
        read, write = _NPY_HEADERS[version]
        shape, in_columns, dtype = read(stream)
        if any(dtype[name].names or not _is_heading(name) for name in dtype.names or ()):
            return NOT_KEPT, None
        start, length = stream.tell(), dtype.itemsize * math.prod(shape)
        clean = io.BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": in_columns, "shape": shape}
        write(clean, described)
        stream.seek(0)
        # Large arrays are read only where something is to be taken away.
        if stream.read(start) == clean.getvalue() and stream.seek(0, io.SEEK_END) == start + length:
            return AS_SENT, None
        stream.seek(start)
        clean.write(stream.read(length))
    return SCRUBBED, clean.getvalue()


def _scrub_mat(data: bytes) -> tuple[str, bytes | None]:
    """Replace the text with which a file of level 5 begins: it tells the day of saving, and may tell anything."""
    if not data.startswith(b"MATLAB"):
        return AS_SENT, None
    return SCRUBBED, b"MATLAB 5.0 MAT-file".ljust(116) + data[116:]


def _only_numbers_hdf(path: Path) -> bool:
    import h5py

    found: list[bool] = []

    def look(name: str, node: Any) -> None:
        is_number = not isinstance(node, h5py.Dataset) or node.dtype.kind in "iufb"
        found.append(is_number and not node.attrs and not Named(()).of_channel(name.rpartition("/")[2]))

    with path.open("rb") as stream:
        head = stream.read(52)
    at = _HDF_LENGTH[head[8]]
    # A block of the user's before the file, or anything behind it, is no number.
    if int.from_bytes(head[at : at + 8], "little") != path.stat().st_size:
        return False
    with h5py.File(path, "r") as file:
        file.visititems(look)
        return not file.attrs and not file.userblock_size and all(found)


def _only_numbers_mat(path: Path) -> bool:
    from scipy.io import whosmat

    kinds = ("double", "single", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    return all(kind in kinds and not Named(()).of_channel(name) for name, _, kind in whosmat(str(path)))


def _is_heading(word: str) -> bool:
    """Tell whether a table's column is called by what it measures."""
    return word.casefold() in _TABLE_WORDS or canonical_lead(word) is not None


def _only_numbers_text(data: bytes) -> bool:
    words = set(re.findall(r"[^\W\d_]+\w*", data.decode("utf-8-sig", "replace")))
    return len(words) < 100 and all(_is_heading(word) for word in words)
