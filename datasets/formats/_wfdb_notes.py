"""What a WFDB record says beside the signal: header comments and annotation files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from datasets.ecg import SourceLabel
from datasets.formats._clinical import number, sex, statement_labels

Annotation = tuple[float, str, str | None, str]

MAX_ANNOTATIONS = 2_000_000

# Annotation codes of the WFDB library (ecgcodes.h).
_SYMBOLS = {
    1: "N", 2: "L", 3: "R", 4: "a", 5: "V", 6: "F", 7: "J", 8: "A", 9: "S", 10: "E", 11: "j", 12: "/", 13: "Q",
    14: "~", 16: "|", 18: "s", 19: "T", 20: "*", 21: "D", 22: '"', 23: "=", 24: "p", 25: "B", 26: "^", 27: "t",
    28: "+", 29: "u", 30: "?", 31: "!", 32: "[", 33: "]", 34: "e", 35: "n", 36: "@", 37: "x", 38: "f", 39: "(",
    40: ")", 41: "r",
}  # fmt: skip
_SKIP, _NUM, _SUB, _CHN, _AUX, _END = 59, 60, 61, 62, 63, -1
_RESOLUTION = re.compile(r"## time resolution:\s*([\d.]+)")

_PERSON = re.compile(
    r"(?<!\w)<?(age|sex|gender)>?(?:\s*[\(\[](?:in )?(?:years?|yrs?|y)[\)\]])?\s*[:=]\s*([^\s<]*)(?:\s+(months?|weeks?|days?)\b)?",
    re.IGNORECASE,
)
_AGE = re.compile(r"([>≥]?)(-?\d+(?:\.\d+)?)\s*(?:y|yrs?|years?|yo)?\+?", re.IGNORECASE)
_PER_YEAR = {"m": 12.0, "w": 365.25 / 7, "d": 365.25}
_SUBJECT = re.compile(
    r"<?(?:subject|patient)(?:[ _]?(?:id|identifier|no|number))?>?\s*(?:[:=]\s*([\w.\-]{1,64})|\s(\d{1,6}))$",
    re.IGNORECASE,
)
_CODES = re.compile(r"(?:dx|diagnosis code)\s*:\s*(.*)$", re.IGNORECASE)
_BARE_PERSON = re.compile(r"(-?\d{1,3})\s+([MF?])\b")
_DIAGNOSES = re.compile(r"<diagnoses>\s*:?\s*(.*)$", re.IGNORECASE)
_STATED = re.compile(r"(?:diagnos[ie]s|rhythm|interpretation|ecg)\s*:\s*(.*)$", re.IGNORECASE)
_ADMISSION = re.compile(r"reason for admission\s*:\s*(.*)$", re.IGNORECASE)
_NOTHING = frozenset(("", "unknown", "none", "(none)", "n/a", "nan", "not available", "no"))


class Statements:
    """Age, sex, labels and the subject's key found in header comments.

    Spellings known: ``Dx:`` of the PhysioNet/CinC Challenges (codes or words between commas), ``<age>`` /
    ``<sex>`` / ``<diagnoses>:`` followed by one statement a line (LUDB) or by several between commas (INCART, with ``patient 1``),
    ``69 M ...`` (MIT-BIH), ``age:`` / ``sex:`` / ``Reason for admission:`` (PTB), ``<subject_id>:`` (MIMIC-IV-ECG), ``Rhythm:`` and
    ``Diagnosis:`` before words of electrocardiograph statements. Other comments may be free text and are left out.
    """

    def __init__(self, comments: Iterable[str]):
        self.age: float | None = None
        self.sex: str | None = None
        self.subject: str | None = None
        self.labels: tuple[SourceLabel, ...] = ()
        labels: list[SourceLabel] = []
        in_diagnoses = False
        for comment in comments:
            if in_diagnoses and not comment.startswith("<"):
                _add(labels, comment)
                continue
            codes = _CODES.match(comment)
            if codes is not None:
                for word in codes[1].split(","):
                    _add(labels, word)
                continue
            admission = _ADMISSION.match(comment)
            if admission is not None:
                _add(labels, admission[1])
                continue
            stated = _STATED.match(comment)
            if stated is not None:
                for label in statement_labels(re.split(r"[,;]", stated[1]))[0]:
                    _add(labels, label.code)
                continue
            diagnoses = _DIAGNOSES.search(comment)
            in_diagnoses = diagnoses is not None and diagnoses.start() == 0
            for word in diagnoses[1].split(",") if diagnoses is not None else ():
                _add(labels, word)
            self._person(comment)
        self.labels = tuple(labels)

    def _person(self, comment: str) -> None:
        subject = _SUBJECT.match(comment)
        key = (subject[1] or subject[2]) if subject is not None else ""
        if key.lower() not in _NOTHING:
            self.subject = self.subject or key
            return
        for what, value, unit in _PERSON.findall(comment):
            if what.lower() == "age":
                self._age(value, _PER_YEAR.get(unit[:1].lower(), 1.0))
            else:
                self.sex = self.sex or sex(value)
        bare = _BARE_PERSON.match(comment)
        if bare is not None:
            self._age(bare[1])
            self.sex = self.sex or sex(bare[2])

    def _age(self, text: str, per_year: float = 1.0) -> None:
        found = _AGE.fullmatch(text.rstrip(",;"))
        if self.age is None and found is not None:
            # "Over 89" stands for everybody older.
            self.age = plausible_age(float(found[2]) / per_year + (found[1] != ""))


def plausible_age(years: float) -> float | None:
    """Return the age, None when it is none (negative: not known), 90 for the 300 that stands for "over 89" in PTB-XL."""
    if years == 300:
        return 90.0
    return years if 0 <= years <= 130 else None


def _add(labels: list[SourceLabel], text: str) -> None:
    code = " ".join(text.split()).strip(" .;")
    code = re.sub(r"^Rhythm:\s*", "", code)
    if code.lower() in _NOTHING or len(code) > 200 or len(labels) >= 200:
        return
    label = SourceLabel(code, "snomed" if code.isdecimal() and len(code) >= 6 else "name")
    if label not in labels:
        labels.append(label)


def read_annotations(data: bytes, fs_hz: float, leads: Sequence[str | None]) -> tuple[Annotation, ...]:
    """Decode an annotation file in MIT format (annot(5)): ``(time_s, symbol, lead or None, note)`` in file order.

    fs_hz: the frame rate that sample numbers count in, unless the file states its own time resolution.
    leads: the record's lead names by signal number; None where a signal is not kept. A lead is named only for
    annotations that carry a signal number.
    """
    found: list[tuple[int, str, int | None, str]] = []
    time, lead_number = 0, None
    for code, value, text, _ in _words(data):
        if len(found) == MAX_ANNOTATIONS:
            break
        if code == _SKIP:
            time += value
        elif code == _AUX:
            note = text.split(b"\x00")[0].decode("utf-8", "replace").strip()
            if found:
                sample, symbol, number_, _ = found[-1]
                found[-1] = (sample, symbol, number_, note)
        elif code == _CHN:
            lead_number = value
            if found:
                sample, symbol, _, note = found[-1]
                found[-1] = (sample, symbol, lead_number, note)
        elif code not in (_NUM, _SUB, _END):
            time += value
            found.append((time, _SYMBOLS.get(code, f"[{code}]"), lead_number, ""))
    return _in_seconds(found, fs_hz, leads)


def texts_and_end(data: bytes) -> tuple[list[str], int]:
    """Return every text of an annotation file, also those that ``read_annotations`` leaves out, and where its last word ends."""
    words = list(_words(data))
    texts = [text.rstrip(b"\x00").decode("utf-8", "replace").strip() for code, _, text, _ in words if code == _AUX]
    return [text for text in texts if not _RESOLUTION.fullmatch(text)], words[-1][3] if words else 0


def _words(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield ``(code, value, text, end)`` of each word; of a skip the value is the time, ``_END`` closes the file."""
    position, last = 0, len(data) - 1
    while position < last:
        word = data[position] | data[position + 1] << 8
        position += 2
        code, value, text = word >> 10, word & 0x3FF, b""
        if code == 0 and value == 0:
            yield _END, 0, b"", position
            return
        if code == _SKIP:
            if position + 4 > len(data):
                return
            high, low = data[position : position + 2], data[position + 2 : position + 4]
            value = int.from_bytes(low + high, "little", signed=True)
            position += 4
        elif code == _AUX:
            text = data[position : position + value]
            position += value + (value & 1)
        yield code, value, text, position


def _in_seconds(
    found: list[tuple[int, str, int | None, str]], fs_hz: float, leads: Sequence[str | None]
) -> tuple[Annotation, ...]:
    rate_hz = fs_hz
    kept = []
    for sample, symbol, lead_number, note in found:
        if sample == 0 and symbol == '"' and note.startswith("##"):
            stated = _RESOLUTION.match(note)
            rate = number(stated[1]) if stated is not None else None
            rate_hz = rate or rate_hz
            continue
        kept.append((sample, symbol, lead_number, note))
    return tuple(
        (
            sample / rate_hz,
            symbol,
            leads[lead_number] if lead_number is not None and lead_number < len(leads) else None,
            note,
        )
        for sample, symbol, lead_number, note in kept
    )
