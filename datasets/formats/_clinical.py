"""What the readers of clinical formats share: units, coded lead names, printed measurements, device statements."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import PurePosixPath

import numpy as np

from datasets.ecg import LEADS_12, SourceLabel, canonical_lead
from datasets.formats.base import MAX_VALUES, ReadOptions
from ecgportal.errors import InvalidInput, NeedsAnswer, TooLarge, UnreadableFile

# Factor to millivolt by unit symbol (UCUM symbols and the spellings that devices print).
_MILLIVOLTS = {
    "nv": 1e-6, "nanovolt": 1e-6, "microvol": 1e-3, "millivol": 1.0, "nanov": 1e-6, "uvolt": 1e-3, "µvolt": 1e-3, "mvolt": 1.0, "microv": 1e-3, "milliv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "microvolt": 1e-3, "mv": 1.0, "millivolt": 1.0,
    "v": 1e3, "volt": 1e3, "milivolt": 1.0, "milivoltio": 1.0, "microvoltio": 1e-3, "mikrovolt": 1e-3,
    "毫伏": 1.0, "微伏": 1e-3, "毫伏特": 1.0, "微伏特": 1e-3, "ミリボルト": 1.0, "マイクロボルト": 1e-3, "мв": 1.0, "мкв": 1e-3,
}  # fmt: skip
_MULTIPLE = re.compile(
    r"(\d{1,6}(?:\.\d{1,6})?)\s*[x*×]?\s*(\D{1,12}?)\s*(?:/\s*(?:bit|lsb|digit|count|adu|step))?$", re.IGNORECASE
)

# Lead codes of SCP-ECG (EN 1064, table of leads); ISO/IEEE 11073-10102 (MDC, partition 2) uses the same numbers.
CODED_LEADS = {
    1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 9: "V7", 10: "V2R", 11: "V3R", 12: "V4R",
    13: "V5R", 14: "V6R", 15: "V7R", 16: "X", 17: "Y", 18: "Z", 19: "CC5", 20: "CM5", 61: "III", 62: "aVR",
    63: "aVL", 64: "aVF", 65: "-aVR", 66: "V8", 67: "V9", 68: "V8R", 69: "V9R", 70: "Nehb D", 71: "Nehb A",
    72: "Nehb J",
}  # fmt: skip

_NUMBERED = re.compile(r"^\s*(ch|chan|channel|ecg|ekg|lead|signal)?\s*[#_\-. ]*\d+\s*$", re.IGNORECASE)


_OTHER_SIGNAL = re.compile(
    r"(?<![a-z])(resp|pleth|ppg|abp|art\b|bp\b|nibp|pap\b|cvp|icp|sp?o2|sao2|et?co2|co2|eeg|emg|eog|gsr|eda|pcg|scg|acc|marker|trigger|"
    r"temp|hr\b|flow|sound|snore|posi?tion|light|thorax|abdo|airflow|nasal|pulse|press)",
    re.IGNORECASE,
)
# Electrodes of the 10-20 system, alone or as a difference, and of the eyes: the signals of sleep records beside their ECG.
_HEAD = r"(fp[12z]|f[34789z]|f10|c[34z]|p[34789z]|o[12z]|t[3-8z]|a[12]|m[12]|e[12]|roc|loc|[lr]eog)"
_EEG = re.compile(rf"({_HEAD}\s*[-:/]\s*({_HEAD}|ref|avg|le|cz)|fp[12z]|[fpo]z|o[12]|roc|loc)$", re.IGNORECASE)


def millivolts_per(unit: str) -> float | None:
    """Return how many millivolt one ``unit`` is, or None when the unit is not a voltage."""
    # UTF-8 that was read as Latin-1, as in fields of bytes.
    text = unit.strip().replace("Âµ", "µ").replace("Î¼", "μ")
    if text == "MV":
        # Not megavolt: ECG devices print capitals.
        return 1.0
    text = text.lower()
    factor = _MILLIVOLTS.get(text) or _MILLIVOLTS.get(text.removesuffix("s"))
    if factor is None and (multiple := _MULTIPLE.match(text)) and (one := _MILLIVOLTS.get(multiple[2].strip())):
        # "10uV" and "4.88 uV/bit": so much is one.
        return float(multiple[1]) * one or None
    return factor


def option_unit_mv(unit: str) -> float:
    """Return the factor to millivolt of a user's answer (``mV``, ``uV``, ``V``, ``nV`` or ``<number>/mV``)."""
    factor = millivolts_per(unit)
    if factor is None and unit.endswith("/mV"):
        digits = number(unit.removesuffix("/mV"))
        factor = 1 / digits if digits and digits > 0 else None
    if factor is None:
        raise InvalidInput(f"The unit {unit!r} is not known. Give mV, uV, V, nV or a number of digits like 200/mV.")
    return factor


def known_lead(label: str) -> str | None:
    """Return the canonical name of a lead, or None; a bare channel number (``CH1``, ``ECG 2``) names none."""
    return None if _NUMBERED.match(label) else canonical_lead(label)


def lead_name(label: str) -> str:
    """Return the canonical name of a lead, or the label itself, tidied, when it names no known lead.

    A bare channel number (``CH1``, ``ECG 2``) says nothing about the electrode position and stays as it is.
    """
    tidy = " ".join(label.replace("\x00", " ").split())
    return known_lead(tidy) or tidy


def is_other_signal(name: str) -> bool:
    """Tell whether a signal's name is that of something other than an ECG."""
    if re.search(r"ecg|ekg", name, re.IGNORECASE):
        return False
    return _OTHER_SIGNAL.search(name) is not None or _EEG.match(name.strip()) is not None


def number(text: object) -> float | None:
    """Return a finite number, or None for empty, non-numeric and non-finite text."""
    if text is None:
        return None
    try:
        value = float(str(text).strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def decimal(text: object) -> float | None:
    """Return a finite number that may be written with a decimal comma (``4,88``), or None.

    ``4,880`` may be a thousand times as much and gives None, unless a zero leads (``0,005``).
    """
    value = number(text)
    if value is None and isinstance(text, str):
        match = re.fullmatch(r"\s*([+-]?\d+),(\d+)\s*", text)
        if match and (len(match[2]) != 3 or match[1].lstrip("+-").strip("0") == ""):
            return number(f"{match[1]}.{match[2]}")
    return value


def stem(name: str) -> str:
    """Return the key of a file's only record: its name without folder and last suffix."""
    return PurePosixPath(name).stem or "record"


def check_size(name: str, leads: int, samples: int) -> None:
    """Refuse an announced signal that is larger than any recording the portal holds, before memory is taken."""
    if leads * samples > MAX_VALUES:
        raise TooLarge(
            f"{name} announces {leads} leads of {samples} samples; a file may have at most {MAX_VALUES} values. "
            "Split the recording into shorter files."
        )


def check_leads(name: str, leads: Iterable[str]) -> None:
    """Refuse a file that names one lead twice: which of them is meant cannot be known."""
    seen: set[str] = set()
    for lead in leads:
        if lead in seen:
            raise UnreadableFile(
                f"{name} names lead {lead} twice, so it is not clear which signal belongs to it. "
                "Export the recording again with each lead once.",
                code="lead_named_twice",
            )
        seen.add(lead)


def distinct_leads(name: str, leads: Sequence[str]) -> list[str]:
    """Return the leads with repeated labels that name no position (``ECG``, ``ECG``) numbered; others may not repeat."""
    out: list[str] = []
    for lead in leads:
        times = leads[: len(out)].count(lead)
        out.append(f"{lead} ({times + 1})" if times and canonical_lead(lead) != lead else lead)
    check_leads(name, out)
    return out


_UNNAMED = re.compile(r"channel \d+")
# Holter recorders number their few channels, which are no standard leads; so many are.
_MANY_NUMBERED = 8


def merely_numbered(leads: Sequence[str]) -> bool:
    """Tell whether a file numbers as many channels as an electrocardiograph has leads (``ECG 1`` to ``ECG 12``) and names none."""
    return len(leads) >= _MANY_NUMBERED and all(map(_NUMBERED.match, leads))


def asked_leads(name: str, leads: Sequence[str], options: ReadOptions) -> list[str]:
    """Return the leads; those of a file that merely numbers several channels (``channel 1``, ...) are asked for."""
    if not merely_numbered(leads) and (
        not all(_UNNAMED.fullmatch(lead) for lead in leads) or (len(leads) < 2 and not options.lead_order)
    ):
        return list(leads)
    if options.lead_order is not None and len(options.lead_order) == len(leads):
        return [lead_name(lead) for lead in options.lead_order]
    guess = f"Guess: {' '.join(LEADS_12)}. Twelve channels are in this order as a rule."
    raise NeedsAnswer(
        f"{name} does not name its {len(leads)} channels.",
        fields={"lead_order": guess if len(leads) == 12 else f"No guess: give {len(leads)} names in file order."},
    )


def finite_signal(name: str, signal: np.ndarray) -> np.ndarray:
    """Return the signal, or refuse one with infinite values: its scale cannot be that of an ECG."""
    if np.isinf(signal).any():
        raise UnreadableFile(
            f"{name} states a scale that makes its samples infinite. The file is damaged; export it again.",
            code="bad_scale",
        )
    return signal


def check_rate(name: str, fs_hz: float | None) -> float:
    """Return a usable sampling rate, or refuse: 1 to 100,000 Hz cover every electrocardiograph."""
    if fs_hz is None or not 1 <= fs_hz <= 100_000:
        raise UnreadableFile(
            f"{name} states no usable sampling rate ({'none' if fs_hz is None else f'{fs_hz:g} Hz'}). "
            "Export the recording again, with its rate.",
            code="bad_rate",
        )
    return fs_hz


def parse_numbers(
    name: str, what: str, text: str, separator: str | None, scale: float = 1.0, offset: float = 0.0
) -> np.ndarray:
    """Return ``number * scale + offset`` for the numbers of a text, float32; ``separator`` None is white space.

    An empty place between separators is a missing sample (NaN). The text is read in pieces, so that memory stays
    in proportion to the values.
    """
    pieces: list[np.ndarray] = []
    start, step, total = 0, 1_000_000, 0
    while start < len(text):
        end = min(start + step, len(text))
        if end < len(text):
            end = _next_separator(text, end, separator)
        words = text[start:end].split(separator)
        start = end + 1
        if separator is not None:
            words = [word.strip() or "nan" for word in words]
            # A separator at the very end of the text closes the last value and opens none.
            if start >= len(text) and words and words[-1] == "nan":
                words.pop()
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError as error:
            raise UnreadableFile(
                f"{name}: {what} holds something that is not a number ({error}). The file is damaged.",
                code="not_a_number",
            ) from error
        if np.isinf(values).any():
            raise UnreadableFile(f"{name}: {what} holds an infinite value. The file is damaged.", code="not_a_number")
        total += values.size
        check_size(name, 1, total)
        pieces.append((values * scale + offset).astype(np.float32))
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def _next_separator(text: str, start: int, separator: str | None) -> int:
    if separator is not None:
        found = text.find(separator, start)
        return len(text) if found < 0 else found
    match = re.compile(r"\s").search(text, start)
    return len(text) if match is None else match.start()


def timeline(
    name: str, fs_hz: float, parts: Sequence[tuple[float, tuple[str, ...], np.ndarray]]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Put pieces ``(start in s, leads, signal (leads, samples))`` of one rate on one timeline.

    Returns the leads and the signal, float32, NaN where a lead was not recorded. Where pieces overlap, the
    earlier one in ``parts`` counts.
    """
    if len(parts) == 1:
        return parts[0][1], parts[0][2]
    begin_s = min(start for start, _, _ in parts)
    starts = [round((start - begin_s) * fs_hz) for start, _, _ in parts]
    length = max(at + signal.shape[1] for at, (_, _, signal) in zip(starts, parts, strict=True))
    leads = tuple(dict.fromkeys(lead for _, names, _ in parts for lead in names))
    check_size(name, len(leads), length)
    joined = np.full((len(leads), length), np.nan, np.float32)
    for at, (_, names, signal) in zip(starts, parts, strict=True):
        for row, lead in enumerate(names):
            target = joined[leads.index(lead), at : at + signal.shape[1]]
            np.copyto(target, signal[row], where=np.isnan(target))
    return leads, joined


def without_calibration(millivolt: np.ndarray, fs_hz: float, notes: list[str]) -> np.ndarray:
    """Return the signal without the calibration pulse that Philips devices append, and say so in ``notes``.

    The pulse is 1 mV high, and from some sample to the end all leads are the same, which no heart does. The whole
    second in which that begins is cut off. millivolt: ``(leads, samples)``.
    """
    if millivolt.shape[0] < 3 or np.isnan(millivolt).any():
        return millivolt
    differing = np.flatnonzero(np.ptp(millivolt, axis=0) > 1e-6)
    start = int(differing[-1]) + 1 if differing.size else 0
    tail = millivolt[0, start:]
    if not 0.1 * fs_hz <= tail.size <= 2 * fs_hz or not 0.95 <= np.ptp(tail) <= 1.05:
        return millivolt
    samples = millivolt.shape[1]
    cut = int(start / fs_hz) * round(fs_hz) or start
    if cut == 0:
        return millivolt
    notes.append(
        f"From {cut / fs_hz:g} s on the file holds the device's 1 mV calibration pulse, the same in all leads; "
        f"the last {(samples - cut) / fs_hz:g} s were cut off."
    )
    return millivolt[:, :cut]


def age_between(birth: datetime | None, at: datetime | None) -> float | None:
    """Return the age in whole years at the time of the recording, or None."""
    if birth is None or at is None or birth > at:
        return None
    years = at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day))
    return float(years) if years <= 130 else None


_SEX = (
    {"m": "male", "1": "male", "f": "female", "2": "female"}
    | dict.fromkeys(
        "male man männlich mann maennlich homme masculin hombre masculino maschio maschile мужской 男 男性".split(),
        "male",
    )
    | dict.fromkeys(
        "female woman weiblich frau w femme féminin feminin mujer femenino feminino femmina femminile женский 女 女性".split(),
        "female",
    )
)


def sex(text: str | None) -> str | None:
    """Return ``male``, ``female`` or None for every other statement."""
    return _SEX.get((text or "").strip().lower())


_SMALL_WORDS = frozenset("OF AND THE FOR WITH WITHOUT NO NOT IN ON OR AN AT TO".split())


def person_words(names: Iterable[str | None]) -> frozenset[str]:
    """Return the words of the names of people and places that a file states, upper case."""
    words: set[str] = set()
    for name in names:
        words.update(re.findall(r"[^\W\d_]{2,}", (name or "").upper()))
    return frozenset(words) - _SMALL_WORDS


# Words of the statement libraries of electrocardiographs. A statement made of other words may be free text
# with names in it and is left out.
_STATEMENT_WORDS = frozenset(
    """
    A ABBERANCY ABBERANT ABERRANCY ABERRANT ABERRANTLY AF AFIB AFL ABNORMAL ABNORMALITIES ABNORMALITY ACCELERATED ACUTE AGE ALL AN
    AND ANGLE ANTERIOR ANTEROLATERAL ANTEROSEPTAL ARRHYTHMIA ARTEFACT ARTIFACT AT ATRIAL ATRIUM ATYPICAL AV AXIS
    BASELINE BEAT BEATS BIATRIAL BIFASCICULAR BIGEMINAL BIGEMINY BIVENTRICULAR BLOCK BORDERLINE BOTH BRADYCARDIA BRUGADA BUNDLE
    BRANCH CANNOT CAPTURE CARDIOMYOPATHY CARDIAC CHANGES CHEST CLOCKWISE COMPATIBLE COMPLETE COMPLEX COMPLEXES
    CONDUCTION CONSECUTIVE CONSIDER CONSISTENT CONTROLLED COUNTERCLOCKWISE COUPLET COUPLETS CRITERIA DEFECT DEGREE DELAY
    DELAYED DEMAND DEPRESSION DEVIATION DEXTROCARDIA DIFFUSE DIGITALIS DISEASE DISSOCIATION DOMINANT DUAL DUE DURATION EARLY
    ECG ECTOPIC ECTOPY EFFECT EKG ELECTROLYTE ELECTRODE ELECTRODES ELECTRONIC ELEVATION ENLARGEMENT EPICARDIAL ESCAPE
    EXCESSIVE EXTENSIVE EXTREME FASCICULAR FAST FIBRILLATION FINDINGS FIRST FLAT FLUTTER FOR FREQUENT FUSION GROUP HAS HEMIBLOCK HIGH
    HORIZONTAL HYPERKALEMIA HYPERTROPHY HYPOKALEMIA IDIOVENTRICULAR IN INCOMPLETE INDETERMINATE INDUCED INFARCT INFARCTION INFERIOR
    INFEROLATERAL INFEROPOSTERIOR INJURY INTERMITTENT INTERPOLATED INTERVAL INTERVENTRICULAR INTRAVENTRICULAR IRREGULAR
    ISCHAEMIA ISCHEMIA ISCHEMIC IVCD JUNCTION JUNCTIONAL LAD LAE LAFB LATE LATERAL LAHB LBBB LEAD LEADS LEFT LEFTWARD LIKELY LIMB LONG LOW
    LPFB LVH MARKED MI MILD MINIMAL MINOR MOBITZ MODERATE MULTIFOCAL MULTIFORM MULTIPLE MYOCARDIAL MYOCARDITIS NARROW NO NODAL
    NON NONSPECIFIC NONSUSTAINED NORMAL NOT OCCASIONAL OF OLD ON ONE OR OTHERWISE OUT OVERLOAD PAC PACS PACE PACED PACEMAKER PACING PACS
    PAIRED PAROXYSMAL PATTERN PERICARDIAL PERICARDITIS EFFUSION PEAKED POOR POSSIBLE POSTERIOR POSTEROLATERAL PR PRECORDIAL
    PREEXCITATION PREMATURE PRESENT PROBABLE PROBABLY PROGRESSION PROLONGATION PROLONGED PROMINENT PULMONARY PVC PVCS Q
    QRS QRST QS QT QTC QUADRIGEMINY R RAD RAE RAPID RATE RBBB RECENT RECORDING REGULAR REPOLARISATION REPOLARIZATION
    RESPONSE RETROGRADE REVERSAL REVERSED RHYTHM RIGHT RIGHTWARD RSR RULE RUN RUNS RVH S SA SECOND SECONDARY SEGMENT SEPTAL
    SHIFT SHORT SIGNIFICANT SINUS SLIGHT SLOW SMALL SPECIFIC ST STANDARD STEMI STRAIN SUBENDOCARDIAL SUGGEST SUGGESTIVE SUPERIOR
    SUPRAVENTRICULAR SUSTAINED SUSPECT SUSPECTED SVT SYNDROME T TACHYCARDIA TALL TERMINAL THE THIRD TO TORSADE TRACING TRANSITION TRIFASCICULAR
    TRIGEMINY TRIPLET TYPE U UNCERTAIN UNCONTROLLED UNDETERMINED UNDETERMINATE UNIFOCAL UNUSUAL UPRIGHT V VARIABLE VARIANT VENTRICLE
    VENTRICULAR VERY VOLTAGE VT WANDERING WAVE WAVES WENCKEBACH WHITE WIDE WIDENED WITH WITHIN WITHOUT WOLFF PARKINSON WPW UNKNOWN
    LCX RCA CORONARY ARTERY LIMITS FUSED EXCLUDE EXCLUDED DATE UNDETERM CHANGE NONDIAGNOSTIC II III AVF AVL AVR V1 V2 V3 V4 V5 V6 1ST 2ND 3RD I
    RITMO SINUSALE NORMALE ANORMALE BRADICARDIA TACHICARDIA FIBRILLAZIONE ATRIALE BLOCCO BRANCA DESTRA SINISTRA INCOMPLETO COMPLETO
    EXTRASISTOLI EXTRASISTOLE VENTRICOLARE VENTRICOLARI SOPRAVENTRICOLARE IPERTROFIA DEVIAZIONE ASSIALE ASSE INFARTO MIOCARDICO ANTERIORE
    INFERIORE LATERALE SETTALE ISCHEMIA GRADO PROLUNGATO ALTERAZIONI ASPECIFICHE RIPOLARIZZAZIONE
    SINUSRHYTHMUS SINUSBRADYKARDIE SINUSTACHYKARDIE NORMALES NORMAL ABNORMALES VORHOFFLIMMERN VORHOFFLATTERN LINKSSCHENKELBLOCK
    RECHTSSCHENKELBLOCK SCHENKELBLOCK LINKSTYP RECHTSTYP INDIFFERENZTYP STEILTYP EXTRASYSTOLEN VENTRIKULÄRE SUPRAVENTRIKULÄRE INFARKT
    RYTHME SINUSAL TACHYCARDIE BRADYCARDIE SINUSALE BLOC DROIT GAUCHE COMPLET INCOMPLET AURICULAIRE TAQUICARDIA AURICULAR BLOQUEO
    RAMA DERECHA IZQUIERDA ANORMAL
    """.split()
)

# From here on a statement speaks of another recording or of people.
_STOP = re.compile(r"\b(WHEN COMPARED|COMPARED (WITH|TO)|CONFIRMED BY|REVIEWED BY|REFERRED BY|CONFIRMED|UNCONFIRMED)\b")
MAX_STATEMENTS = 100


def statement_labels(
    statements: Iterable[str], people: frozenset[str] = frozenset()
) -> tuple[tuple[SourceLabel, ...], int]:
    """Return the device's statements as labels of system ``name``, and how many statements were left out.

    Left out is what may identify a person: statements with a word outside the vocabulary of electrocardiograph
    statements, with a word of ``people``, and comparisons with earlier recordings.
    """
    labels: list[SourceLabel] = []
    left_out = 0
    for statement in statements:
        text = " ".join(statement.split()).strip(" .,;:-<>*")
        if not text:
            continue
        if len(labels) >= MAX_STATEMENTS:
            left_out += 1
            continue
        words = set(re.findall(r"[^\W_]+", text.upper()))
        if _STOP.search(text.upper()) or words & people or not words <= _STATEMENT_WORDS:
            left_out += 1
        elif all(label.code != text for label in labels):
            labels.append(SourceLabel(text, "name"))
    return tuple(labels), left_out


def left_out_note(count: int) -> tuple[str, ...]:
    """Return the note about statements that were left out."""
    if not count:
        return ()
    return (f"{count} free-text statement{'s were' if count > 1 else ' was'} left out: they may hold names or dates.",)
