"""Keep persons out of file names. A record's key is its file's name, which programs outside match their tables with; so a name
stays what it is unless it can be recognised as a person's. Then every part of it that says so becomes a pseudonym of the project.

A part is recognised when it holds what the file's own identifying fields say (name, number, birth date), when it reads like a
person's name (two capitalised words in a row that are no words of the trade), or when it joins such a word with a date.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32encode
from collections.abc import Container, Iterable
from dataclasses import dataclass

_SUFFIX = re.compile(r"(\.tar\.gz|\.[A-Za-z][A-Za-z0-9]{0,5})$")
_TITLE = r"[A-ZÀ-ÖØ-ÞĀ-Ž][a-zß-öø-ÿā-ž'’]+(?:[A-Z][a-zß-öø-ÿā-ž]+)?"
_CAPITALS = r"[A-ZÀ-ÖØ-Þ]{3,}"
# With a comma, a caret or a blank between them capitals are names. Joined by underscores they are codes as often: a name then
# is two words of four letters that can be spoken, or any two with a year behind or before them.
_PAIRS = (
    re.compile(rf"(?<![A-Za-z0-9])({_TITLE})[_ ,.^~-]{{1,3}}({_TITLE})(?![A-Za-z])"),
    re.compile(rf"(?<![A-Za-z0-9])({_CAPITALS})[ ,^]{{1,3}}({_CAPITALS})(?![A-Za-z])"),
)
_JOINED = re.compile(rf"(?<![A-Za-z0-9])({_CAPITALS})[_.~-]{{1,2}}({_CAPITALS})(?![A-Za-z])")
_LOWER_PAIR = re.compile(r"(?<![A-Za-z0-9])([a-zß-öø-ÿ]{3,})[_ ,.^~-]{1,3}([a-zß-öø-ÿ]{3,})(?![A-Za-z])")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
# DICOM and its relatives write names as Family^Given.
_CARET = re.compile(r"[^\W\d_]{2,}\^[^\W\d_]+")
_VOWEL = re.compile(r"[aeiouyà-åè-ïò-öù-ý]", re.IGNORECASE)
_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-_.])(?:0?[1-9]|1[0-2])\2(?:19|20)\d\d)(?!\d)"
)
_CAPITALISED = re.compile(rf"(?<![A-Za-z0-9])(?:{_TITLE}|{_CAPITALS})(?![A-Za-z])")
# Words of the trade and of file systems; what holds one of them is no name.
_TRADE = frozenset(
    """
    ecg ekg record records recording patient patients subject subjects case cases study studies visit session data dataset file
    files export exports import sample samples test tests train training valid validation demo example examples new old copy
    signal signals raw clean filtered original prepared lead leads limb chest rest resting stress exercise holter ambulatory
    rhythm rhythms strip beat beats median wave waves report reports muse philips mortara schiller cardiosoft dicom wfdb edf scp
    xml csv hl normal abnormal sinus bradycardia tachycardia arrhythmia atrial ventricular fibrillation flutter block bundle
    branch left right anterior inferior posterior lateral septal infarction ischemia ischaemia hypertrophy pacemaker paced
    premature complex contraction elevation depression interval long short first second third degree control controls group
    cohort part set site center centre hospital clinic ward database physionet challenge january february march april may june
    july august september october november december monday tuesday wednesday thursday friday saturday sunday male female unknown
    rec run lab pat vis seq img dev log out raw norm stemi nstemi afib aflt lvh rvh lbbb rbbb mono mitral aortic valve heart
    cardiac electrocardiogram converted annotated annotation annotations label labels result results table page sheet
    device version model alpha beta gamma batch final chapman shaoxing ningbo georgia petersburg my
    anonymous anonymized anonymised deidentified scrubbed baseline follow followup day night hour minute week month year
    """.split()
)
_PSEUDONYM = re.compile(r"F-[A-Z2-7]{12}")
_HELD_PSEUDONYM = re.compile(r"(?:^|/)F-[A-Z2-7]{12}(?=$|[/.])")


def stem_of(name: str) -> str:
    """Return a file's bare name without its folders and ending."""
    return _SUFFIX.sub("", name.replace("\\", "/").rpartition("/")[2])


def holds_pseudonym(key: str) -> bool:
    """Tell whether a part of a record's key stands for a name; another project then calls the same record otherwise."""
    return _HELD_PSEUDONYM.search(key) is not None


@dataclass(frozen=True)
class FileNames:
    """How a project shows the names of files. key: of its pseudonyms. keeps: names stay whatever they say."""

    key: bytes
    keeps: bool = False

    def pseudonym(self, stem: str) -> str:
        """Return what stands for a part of a name: HMAC-SHA256 of it without regard to capitals, 60 bits in base 32."""
        text = b"file\x00" + stem.strip().casefold().encode("utf-8", "replace")
        return "F-" + b32encode(hmac.new(self.key, text, hashlib.sha256).digest()[:8]).decode()[:12]

    def shown(self, name: str, terms: Iterable[str] = (), has_ending: bool = True) -> str:
        """Return a path with every part that names a person replaced; endings stay.

        terms: what the file's own identifying fields say. has_ending: False for a record's key, whose dots are its own.
        """
        if self.keeps:
            return name
        said = [term.casefold() for term in terms if len(term) >= 4 and term.casefold() not in _TRADE]
        folders = name.replace("\\", "/").split("/")
        return "/".join(self._part(part, said, has_ending) for part in folders)

    def cell(self, text: str, keys: Container[str]) -> str:
        """Return how a label table's cell that names a record is stored: the record's pseudonym where ``keys`` has it."""
        bare = text.strip().replace("\\", "/").rpartition("/")[2]
        if self.keeps or not bare:
            return text
        for stem in (stem_of(bare), bare):
            if (shown := self.pseudonym(stem)) in keys:
                return shown
        return self.shown(text)

    def _part(self, part: str, said: list[str], has_ending: bool) -> str:
        ending = _SUFFIX.search(part) if has_ending else None
        stem = part[: ending.start()] if ending else part
        if _PSEUDONYM.fullmatch(stem) or not (_holds(stem, said) or reads_as_person(stem)):
            return part
        return self.pseudonym(stem) + (ending[1] if ending else "")


def _holds(stem: str, said: list[str]) -> bool:
    folded = stem.casefold()
    digits = re.sub(r"\D", "", folded)
    return any(
        re.search(rf"(?<!\w){re.escape(term)}(?!\w)", folded.replace("_", " ")) is not None
        or (term.isdecimal() and len(term) >= 6 and term in digits)
        or (len(term) >= 6 and term in folded)
        for term in said
    )


def reads_as_person(stem: str) -> bool:
    """Tell whether a bare name reads like a person's: two capitalised words in a row, or one with a date, none of the trade."""
    if _CARET.search(stem) or any(_are_names(*found) for pair in _PAIRS for found in pair.findall(stem)):
        return True
    dated = _DATE.search(stem) is not None
    least = 3 if dated or _YEAR.search(stem) else 4
    if any(_are_names(*found, least=least) for found in _JOINED.findall(stem)):
        return True
    if not dated:
        return False
    if any(_are_names(*found, least=3) for found in _LOWER_PAIR.findall(stem)):
        return True
    return any(word.casefold() not in _TRADE for word in _CAPITALISED.findall(stem))


def _are_names(first: str, second: str, least: int = 0) -> bool:
    """Tell whether two words are none of the trade; least: letters that each must have, which must be speakable then."""
    words = (first, second)
    return all(word.casefold() not in _TRADE and len(word) >= least for word in words) and (
        not least or all(_VOWEL.search(word) for word in words)
    )


def names_somebody(text: str) -> bool:
    """Tell whether a text holds a name in the form that devices and tables write it: Family^Given, or FAMILY_GIVEN with a year."""
    if _CARET.search(text):
        return True
    return _YEAR.search(text) is not None and any(_are_names(*found, least=3) for found in _JOINED.findall(text))
