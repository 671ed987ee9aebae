"""FHIR Observation with SampledData: built after the published resource."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from datasets.formats.fhir_observation import _MAX_BYTES
from datasets.identity import terms_of
from ecgportal.errors import NeedsAnswer, PortalError, TooLarge, UnreadableFile
from tests.datasets.formats.clinical_tools import direct_reader, mutations, never_another_error, read_one

MDC = "urn:oid:2.16.840.1.113883.6.24"
RAMP = np.arange(-100, 100)


def sampled(**changes: Any) -> dict[str, Any]:
    data = " ".join(str(value) for value in RAMP)
    whole = {"origin": {"value": 0, "unit": "uV"}, "period": 2, "factor": 5, "dimensions": 1, "data": data, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def lead(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "code": {"coding": [{"system": MDC, "code": str(131_328 + number)}]},
        "valueSampledData": sampled(**changes),
    }


def observation(*components: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "status": "final", "code": {"coding": [{"system": MDC, "code": "131328"}]},
        "subject": {"reference": "Patient/p7", "display": "Zebulona Quixworth"}, "effectiveDateTime": "2015-02-19T09:30:35+01:00",
        "device": {"display": "12 lead EKG Device"}, "component": list(components or (lead(1), lead(2), lead(62))), **changes,
    }  # fmt: skip


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


def read(content: Any, options: ReadOptions | None = None):
    _, result = registry.read(BytesSource("ecg.json", encoded(content)), options)
    return result.records


def test_leads_units_time_and_person_come_out() -> None:
    record = read_one(encoded(observation()), "ecg.json", "fhir_observation")
    assert (record.leads, record.fs_hz) == (("I", "II", "aVR"), 500.0)
    np.testing.assert_allclose(record.signal, np.tile(RAMP * 0.005, (3, 1)), atol=1e-6)
    meta = record.meta
    assert (meta.subject, meta.recorded_at, meta.device) == ("p7", "2015-02-19T09:30:35+01:00", "12 lead EKG Device")
    assert not registry.readers()["fhir_observation"].tried_on_real_files


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ({"coding": [{"system": MDC, "code": "131389"}]}, "III"), ({"coding": [{"code": "MDC_ECG_ELEC_POTL_V4"}]}, "V4"),
        ({"coding": [{"code": "x", "display": "Lead aVF"}]}, "aVF"), ({"text": "ECG V6"}, "V6"), ({"coding": [{"system": MDC, "code": "3"}]}, "V1"),
    ],
)  # fmt: skip
def test_a_lead_is_known_by_code_display_or_text(code: dict, name: str) -> None:
    assert read_one(
        encoded(observation({"code": code, "valueSampledData": sampled()})), "ecg.json", "fhir_observation"
    ).leads == (name,)


def test_a_sample_is_origin_plus_factor_times_data() -> None:
    record = read_one(
        encoded(observation(lead(1, origin={"value": 0.2, "unit": "mV"}, factor=0.01))), "ecg.json", "fhir_observation"
    )
    np.testing.assert_allclose(record.signal[0], 0.2 + 0.01 * RAMP, atol=1e-6)
    # The zero of a converter, as many devices write it.
    zero = " ".join(str(2048 + value) for value in RAMP)
    record = read_one(
        encoded(observation(lead(1, origin={"value": 2048, "code": "mV"}, factor=0.01, data=zero))),
        "ecg.json",
        "fhir_observation",
    )
    np.testing.assert_allclose(record.signal[0], 0.01 * RAMP, atol=1e-5)
    assert "converter's zero" in record.meta.notes[0]


def test_what_could_not_be_measured_is_a_gap() -> None:
    record = read_one(encoded(observation(lead(1, data="1 E 3 U L 6"))), "ecg.json", "fhir_observation")
    assert np.isnan(record.signal[0]).tolist() == [False, True, False, True, True, False]
    assert "3 values" in record.meta.notes[0]


def test_the_rate_of_both_releases() -> None:
    for changes, fs_hz in (
        ({"period": 4}, 250.0), ({"period": None, "interval": 2, "intervalUnit": "ms"}, 500.0),
        ({"period": None, "interval": 400, "intervalUnit": "Hz"}, 400.0),
    ):  # fmt: skip
        assert read_one(encoded(observation(lead(1, **changes))), "ecg.json", "fhir_observation").fs_hz == fs_hz


def test_what_the_file_leaves_open_is_asked() -> None:
    rows = " ".join(str(value) for pair in zip(RAMP, 2 * RAMP) for value in pair)
    open_one = observation(
        {
            "code": {"text": "ECG"},
            "valueSampledData": sampled(origin={"value": 0}, period=None, dimensions=2, data=rows),
        }
    )
    answers: dict[str, Any] = {}
    for field, answer in (("unit", "uV"), ("lead_order", ("I", "V5")), ("fs_hz", 250.0)):
        with pytest.raises(NeedsAnswer) as asked:
            read(open_one, ReadOptions(**answers))
        assert set(asked.value.fields) == {field}
        answers[field] = answer
    ((_, record),) = read(open_one, ReadOptions(**answers))
    assert (record.leads, record.fs_hz) == (("I", "V5"), 250.0)
    np.testing.assert_allclose(record.signal, np.stack([RAMP, 2 * RAMP]) * 0.005, atol=1e-6)


def test_a_bundle_gives_a_record_for_each_observation_with_its_person() -> None:
    person = {
        "resourceType": "Patient",
        "id": "p7",
        "gender": "female",
        "birthDate": "1954-03-12",
        "identifier": [{"value": "MRN-1"}],
    }
    second = observation(
        lead(1), subject={"reference": "#inner"}, contained=[{"resourceType": "Patient", "id": "inner", "gender": "male"}],
        interpretation=[{"coding": [{"system": "http://snomed.info/sct", "code": "426783006"}]}],
    )  # fmt: skip
    second["component"].append(
        {
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "valueQuantity": {"value": 71, "unit": "/min"},
        }
    )
    entries = [
        {"resource": each}
        for each in (person, observation(), second, {"resourceType": "Observation", "valueQuantity": {"value": 3}})
    ]
    found = dict(read({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    assert set(found) == {"ecg_1", "ecg_2"}
    first, other = found["ecg_1"].meta, found["ecg_2"].meta
    assert (first.subject, first.sex, first.age) == ("MRN-1", "female", 60.0)
    assert (other.sex, other.printed, [label.code for label in other.labels]) == (
        "male",
        {"heart_rate_bpm": 71.0},
        ["426783006"],
    )


def test_leads_of_another_rate_are_named_and_left_out() -> None:
    record = read_one(encoded(observation(lead(1), lead(2), lead(3, period=4))), "ecg.json", "fhir_observation")
    assert record.leads == ("I", "II") and record.meta.dropped_channels == ("V1 (200 samples at 250 Hz)",)


def test_references_are_never_fetched(monkeypatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    outside = {"reference": "http://169.254.169.254/Patient/1"}
    record = read_one(
        encoded(observation(subject=outside, device=outside, derivedFrom=[outside])), "ecg.json", "fhir_observation"
    )
    assert record.meta.subject == "1" and record.meta.sex is None
    linked = {**lead(1, data=None), "valueSampledData": {**sampled(data=None), "dataFile": "file:///etc/passwd"}}
    with pytest.raises(UnreadableFile, match="links are never followed"):
        read(observation(linked))


def as_xml(content: Any, tag: str | None = None) -> str:
    """Write a resource as FHIR's XML does: values as attributes, resources inside an element of their own."""
    kind = content.get("resourceType")
    inner = ""
    for key, value in content.items():
        for each in value if isinstance(value, list) else [value]:
            if key == "resourceType":
                continue
            if isinstance(each, dict):
                inner += f"<{key}>{as_xml(each)}</{key}>" if "resourceType" in each else as_xml(each, key)
            else:
                inner += f"<{key} value={quoteattr(str(each))}/>"
    return f'<{kind} xmlns="http://hl7.org/fhir">{inner}</{kind}>' if kind else f"<{tag}>{inner}</{tag}>"


BUNDLE = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [
        {"fullUrl": "urn:uuid:1", "resource": {
            "resourceType": "Patient", "id": "p7", "gender": "female", "birthDate": "1954-03-12",
            "name": [{"family": "Quixworth", "given": ["Zebulona"]}], "identifier": [{"value": "MRN-1"}]}},
        {"resource": observation(lead(1), lead(2, period=4), {"code": {"text": "V3"}, "valueSampledData": sampled(data="1 E 3 " * 66 + "1 2")})},
        {"resource": observation(lead(1), interpretation=[{"coding": [{"system": "http://snomed.info/sct", "code": "426783006"}]}],
            subject={"reference": "#in"}, contained=[{"resourceType": "Patient", "id": "in", "gender": "male"}])},
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", ["xml", "xml with a declaration and prefix", "ndjson"])
def test_xml_and_ndjson_say_the_same_as_json(form: str) -> None:
    if form == "ndjson":
        data = "\n".join(json.dumps(entry["resource"]) for entry in BUNDLE["entry"]) + "\n"
        # A bulk export has one kind of resource a file; a file of all kinds may begin with any.
        data = data.split("\n", 1)[1] + data.split("\n", 1)[0]
    else:
        data = as_xml(BUNDLE)
    if "prefix" in form:
        data = '<?xml version="1.0" encoding="UTF-8"?>\n<!-- x -->' + re.sub(r"<(/?)(\w)", r"<\1f:\2", data)
        data = data.replace("xmlns=", "xmlns:f=")
    source = BytesSource("ecg.ndjson" if form == "ndjson" else "ecg.xml", data.encode())
    entry, result = registry.read(source)
    assert entry.name == "fhir_observation"
    for (key, got), (expected_key, expected) in zip(result.records, read(BUNDLE), strict=True):
        assert (key, got.leads, got.fs_hz, got.meta) == (expected_key, expected.leads, expected.fs_hz, expected.meta)
        np.testing.assert_array_equal(got.signal, expected.signal)


def test_the_persons_of_an_xml_file_are_known() -> None:
    terms = terms_of("fhir_observation", as_xml(BUNDLE).encode())
    assert {"Quixworth", "Zebulona", "MRN-1", "1954-03-12"} <= set(terms)


@pytest.mark.parametrize("rest", ["<component>", "</Bundle>", "<x>&y;</x></Observation>"])
def test_damaged_xml_says_so(rest: str) -> None:
    data = '<Observation xmlns="http://hl7.org/fhir"><status value="final"/>' + rest
    with pytest.raises(PortalError) as error:
        registry.read(BytesSource("ecg.xml", data.encode()))
    assert error.value.code in ("bad_xml", "unsafe_xml")


def test_a_damaged_line_of_many_is_told() -> None:
    data = encoded(observation()) + b"\n" + encoded(observation())[:-9]
    with pytest.raises(UnreadableFile, match="line by line"):
        registry.read(BytesSource("ecg.ndjson", data))


class _Huge(BytesSource):
    @property
    def size(self) -> int:
        return _MAX_BYTES + 1


def test_a_billion_points_are_refused_before_they_are_read(monkeypatch) -> None:
    with pytest.raises(TooLarge):
        registry.readers()["fhir_observation"].read(_Huge("ecg.json", encoded(observation())), ReadOptions())
    monkeypatch.setattr("datasets.formats._clinical.MAX_VALUES", 500)
    with pytest.raises(TooLarge):
        read(observation(lead(1), lead(2), lead(3)))
    with pytest.raises(UnreadableFile, match="dimensions"):
        read(observation(lead(1, dimensions=1_000_000_000)))


@pytest.mark.parametrize(
    "content",
    [
        observation(lead(1, data="")), observation(lead(1, data="1 2 x")), observation(lead(1), lead(1)), observation(lead(1, factor=0)),
        observation(lead(1, dimensions=2, data="1 2 3")), observation(lead(1, offsets="1 5 6")), observation(lead(1, period=1e-9)),
        {"resourceType": "Observation"}, {"resourceType": "Bundle", "entry": [7, {"resource": []}]}, observation(lead(1, origin=[], data=["1"])),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(content: Any) -> None:
    with pytest.raises(PortalError) as error:
        read(content, ReadOptions(unit="uV", fs_hz=500.0))
    assert "ecg.json" in error.value.message


def test_deep_nesting_is_refused() -> None:
    data = b'{"resourceType": "Observation", "component": ' + b"[" * 200_000
    with pytest.raises(PortalError):
        registry.read(BytesSource("ecg.json", data))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations)
def test_damaged_files_never_crash(steps) -> None:
    never_another_error(direct_reader("fhir_observation", "ecg.json"), encoded(observation()), steps, None)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations)
def test_damaged_xml_never_crashes(steps) -> None:
    never_another_error(direct_reader("fhir_observation", "ecg.xml"), as_xml(BUNDLE).encode(), steps, None)
