"""Files in which a person is named wherever their formats have room for it, and the search for what is left of them."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from datetime import datetime
from functools import cache

import h5py
import numpy as np
import pydicom
import scipy.io
from django.conf import settings
from django.db import connection

from datasets.simulate import simulate
from tests.datasets.formats.test_contec import recording as contec_recording
from tests.datasets.formats.test_fhir_observation import observation
from tests.datasets.formats.test_mfer import recording, tag
from tests.ecgfiles import wfdb_pair
from tests.shared import shared_path

NAME, FIRST, NUMBER, PLACE, FREE = "Quixworth", "Zebulona", "MRN7734199", "Sanktflorianstift", "hausmeisterin"
BIRTH, RECORDED = "19370411", "20090723"


def _ways(day: str) -> tuple[str, ...]:
    """Return a day (YYYYMMDD) in the ways in which files and databases write it."""
    at = datetime.strptime(day, "%Y%m%d")
    forms = (
        "%Y%m%d",
        "%Y-%m-%d",
        "%Y/%m/%d",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d.%m.%Y",
        "%d.%m.%y",
        "%m-%d-%Y",
        "%d-%b-%Y",
        "%d %b %Y",
    )
    return tuple(at.strftime(form) for form in forms)


PLANTED = (NAME, FIRST, NUMBER, PLACE, FREE, *_ways(BIRTH), *_ways(RECORDED))


def planted_wfdb() -> dict[str, bytes]:
    files = wfdb_pair(simulate("SNR", 3, fs_hz=250).record, "ecg")
    lines = files["ecg.hea"].decode().splitlines()
    lines[0] += " 10:11:12 23/07/2009"
    # Bytes before the samples, words that nobody reads, and a line that the first one does not count.
    words = f"{FIRST} {NAME}, {NUMBER}".encode()
    lines[1:] = [line.replace(" 16 ", f" 16+{len(words)} ", 1) for line in lines[1:]]
    lines[1] = lines[1].replace("/mV 16 ", f"/mV {NAME} ")
    lines += [
        f"{FIRST} {NAME}",
        "#Age: 62",
        "#Sex: F",
        "#Dx: 426783006",
        f"#{FIRST} {NAME}, {NUMBER}",
        f"#Hx: {FREE} of {PLACE}",
    ]
    return {"ecg.hea": "\n".join(lines).encode(), "ecg.dat": words + files["ecg.dat"] + words}


def planted_dicom() -> bytes:
    dataset = pydicom.dcmread(shared_path("ecg", "dicom", "reencoded_ludb2_uV.dcm"))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = f"{NAME}^{FIRST}", NUMBER, BIRTH
    dataset.InstitutionName, dataset.ReferringPhysicianName, dataset.PatientComments = (
        PLACE,
        f"Dr {NAME}",
        f"the {FREE}",
    )
    dataset.StudyDate = dataset.ContentDate = RECORDED
    dataset.AcquisitionDateTime = f"{RECORDED}101112"
    dataset.WaveformSequence[0].MultiplexGroupLabel = NAME
    dataset.add_new((0x0099, 0x0010), "LO", "PRIVATE")
    dataset.add_new((0x0099, 0x1001), "LT", f"{FIRST} {NAME}")
    out = io.BytesIO()
    dataset.save_as(out)
    return NAME[:2].encode() * 64 + out.getvalue()[128:]


def planted_muse() -> bytes:
    text = shared_path("ecg", "muse_xml", "muse_ecg_deidentified_1.xml").read_bytes().decode("iso-8859-1")
    text = re.sub(r"<PatientID>[^<]*</PatientID>", f"<PatientID>{NUMBER}</PatientID>", text)
    text = re.sub(r"<(AcquisitionDate|EditDate)>[^<]*</", r"<\1>07-23-2009</", text)
    person = f"<PatientLastName>{NAME}</PatientLastName><PatientFirstName>{FIRST}</PatientFirstName><DateofBirth>{BIRTH}</DateofBirth>"
    text = re.sub(r"<Patient(Last|First)Name>[^<]*</Patient(Last|First)Name>", "", text)
    text = text.replace("</PatientDemographics>", f"{person}</PatientDemographics>", 1)
    text = text.replace(
        "</TestDemographics>", f"<SiteName>{PLACE}</SiteName><Comments>{FREE}</Comments></TestDemographics>", 1
    )
    statement = (
        f"<DiagnosisStatement><StmtText>Confirmed by {FIRST} {NAME} at {PLACE}, {FREE}</StmtText></DiagnosisStatement>"
    )
    return text.replace("</Diagnosis>", f"{statement}</Diagnosis>", 1).encode("iso-8859-1")


def planted_edf(note: bool = False) -> bytes:
    data = bytearray(shared_path("ecg", "edf", "reencoded_ludb4_edfplus_mV.edf").read_bytes())
    data[8:88] = f"{NUMBER} F 11-APR-1937 {FIRST}_{NAME}".encode().ljust(80)
    data[88:168] = f"Startdate 23-JUL-2009 {PLACE} {NAME} Machine_{FREE}".encode().ljust(80)
    data[168:176] = b"23.07.09"
    return bytes(data).replace(b"\x14QRS", b"\x14" + NAME[:3].encode(), 1) if note else bytes(data)


def planted_fhir() -> bytes:
    content = observation(
        subject={"reference": f"Patient/{NUMBER}", "display": f"{FIRST} {NAME}", "identifier": {"value": NUMBER}},
        performer=[{"display": f"Dr {NAME}, {PLACE}"}], note=[{"text": f"the {FREE}"}], device={"display": f"ECG of {PLACE}"},
        contained=[{"resourceType": "Patient", "id": NUMBER, "name": [{"family": NAME, "given": [FIRST]}], "birthDate": "1937-04-11"}],
        effectiveDateTime="2009-07-23T10:11:12+02:00",
    )  # fmt: skip
    content["component"][0]["valueSampledData"]["data"] = " ".join(str(n * n % 97) for n in range(1000))
    return json.dumps(content).encode()


def planted_mfer() -> bytes:
    person = (
        tag(0x81, f"{NAME}^{FIRST}".encode())
        + tag(0x82, NUMBER.encode())
        + tag(0x16, f"the {FREE} of {PLACE}".encode())
    )
    return recording(person=person, device=tag(0x17, f"Maker^ECG^1^{PLACE}".encode()), signal=leads(12))


def planted_contec() -> bytes:
    data = contec_recording(2048 + leads(8))
    return data[:32] + NAME[:8].encode() + data[40:]


def leads(count: int) -> np.ndarray:
    signal = simulate("SNR", count, fs_hz=500).record.signal[:count, :3000]
    return np.rint(signal * 200).astype(np.int16)


def planted_arrays() -> dict[str, bytes]:
    """Files of bare numbers by name, each with a person where their formats have room for words."""
    signal, words = leads(12).astype(np.float64), f"by {FIRST} {NAME}, {BIRTH}".encode()
    array, level5 = io.BytesIO(), io.BytesIO()
    np.save(array, signal)
    header = array.getvalue()[:128].replace(b" " * 20, b"#" + NAME.encode()[:19].ljust(19), 1)
    scipy.io.savemat(level5, {"val": signal})
    images = {}
    for user_block in (0, 512):
        images[user_block] = io.BytesIO()
        with h5py.File(images[user_block], "w", userblock_size=user_block) as file:
            file["ecg"] = signal
    group, attribute = io.BytesIO(), io.BytesIO()
    with h5py.File(group, "w") as file:
        file[f"{NAME}_{FIRST}_1937/ecg"] = signal
    with h5py.File(attribute, "w") as file:
        file["ecg"] = signal
        file["ecg"].attrs["PatientName"] = f"{FIRST} {NAME}"
    named = io.BytesIO()
    np.save(named, np.zeros(9, [("I", "f4"), (f"{FIRST} {NAME}", "f4")]))
    return {
        "tail.npy": array.getvalue() + words, "remark.npy": header + array.getvalue()[128:], "column.npy": named.getvalue(),
        "head.mat": b"MATLAB 5.0 MAT-file, " + words + level5.getvalue()[21 + len(words) :],
        "behind.h5": images[0].getvalue() + words, "before.h5": words + images[512].getvalue()[len(words) :], "group.h5": group.getvalue(),
        "attribute.h5": attribute.getvalue(),
    }  # fmt: skip


def everything_stored() -> dict[str, bytes]:
    """Return all rows of all tables of the database as text, and all files of the portal's home with what they hold packed."""
    found = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
            "AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        )
        for schema, table in cursor.fetchall():
            cursor.execute(f'SELECT to_jsonb(t)::text FROM "{schema}"."{table}" t')
            found[f"table {table}"] = "\n".join(row[0] for row in cursor.fetchall()).encode()
    for path in settings.PORTAL_HOME.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(settings.PORTAL_HOME))] = unpacked(path.read_bytes())
    return found


@cache
def _forms(word: str) -> tuple[bytes, ...]:
    """Return a word as files and columns may hold it: in three encodings, each also in hexadecimal and base 64, in small letters."""
    plain = [word.lower().encode(coding) for coding in ("utf-8", "utf-16-le", "utf-16-be")]
    coded = [
        text.hex().encode()
        for word in (word, word.upper(), word.lower())
        for text in (word.encode(), word.encode("utf-16-le"))
    ]
    for text in (word.encode(), word.upper().encode(), word.lower().encode()):
        for before in range(3):
            # Letters that the neighbours of the word have a part in are left out.
            whole = base64.b64encode(bytes(before) + text)
            coded.append(whole[-(-before * 8 // 6) : (before + len(text)) * 8 // 6].lower())
    return (*plain, *coded)


def hits(data: bytes) -> list[str]:
    """Return the planted words that bytes hold, in whatever letters and encoding."""
    folded = data.lower()
    return [word for word in PLANTED if any(form in folded for form in _forms(word))]


def unpacked(data: bytes) -> bytes:
    """Return a file with what it holds packed: members of a zip and their names, streams of a PDF."""
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return b"\n".join(
                part for name in archive.namelist() for part in (name.encode(), unpacked(archive.read(name)))
            )
    if data.startswith(b"%PDF"):
        streams = [part.partition(b"endstream")[0].strip(b"\r\n") for part in data.split(b"stream")[1::2]]
        return b"\n".join([data, *map(_inflated, streams)])
    return data


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data
