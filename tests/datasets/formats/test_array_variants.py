"""Arrays as groups save them: axes, collections in one array, leads under their own names, gains, text of MATLAB."""

from __future__ import annotations

import io
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import scipy.io

from datasets.ecg import LEADS_12, Record, normalise
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions, ReadResult
from ecgportal.errors import NeedsAnswer, UnreadableFile

N = 600
_rng = np.random.default_rng(4)
_one, _two = _rng.normal(0, 0.3, N), _rng.normal(0, 0.4, N)
SIGNAL = np.vstack(
    [_one, _two, _two - _one, -(_one + _two) / 2, _one - _two / 2, _two - _one / 2, _rng.normal(0, 0.5, (6, N))]
).astype(np.float32)
ANSWERS = ReadOptions(500, "mV", LEADS_12)
NO_RATE = ReadOptions(None, "mV", LEADS_12)
BY_LEAD = {lead: SIGNAL[row] for row, lead in enumerate(LEADS_12)}


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def mat(values: dict[str, object], **how: object) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, values, **how)  # type: ignore[arg-type]
    return out.getvalue()


def hdf(values: dict[str, object], **attributes: object) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for key, value in values.items():
            file[key] = value
        file.attrs.update(attributes)
    return out.getvalue()


def mat_7_3(values: dict[str, np.ndarray], texts: dict[str, str], cells: dict[str, tuple[str, ...]]) -> bytes:
    """Return an HDF5 file as MATLAB lays out its variables: axes reversed, text as uint16, cells as references."""
    out = io.BytesIO()

    def put(group: h5py.Group, key: str, text: str) -> h5py.Dataset:
        dataset = group.create_dataset(key, data=np.array([[ord(c)] for c in text], dtype="u2"))
        dataset.attrs["MATLAB_class"] = np.bytes_("char")
        return dataset

    with h5py.File(out, "w", userblock_size=512) as file:
        for key, value in values.items():
            file[key] = value.T
            file[key].attrs["MATLAB_class"] = np.bytes_("double")
        for key, text in texts.items():
            put(file, key, text)
        for key, words in cells.items():
            store = file.require_group("#refs#")
            found = [put(store, f"{key}{i}", word).ref for i, word in enumerate(words)]
            dataset = file.create_dataset(key, (len(found), 1), dtype=h5py.ref_dtype)
            dataset[:, 0] = found
            dataset.attrs["MATLAB_class"] = np.bytes_("cell")
    raw = bytearray(out.getvalue())
    raw[:128] = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    return bytes(raw)


def read(data: bytes, name: str, options: ReadOptions = ANSWERS) -> ReadResult:
    return registry.read(BytesSource(name, data), options)[1]


def assert_is_signal(record: Record) -> None:
    record = normalise(record)
    assert record.leads == LEADS_12 and record.fs_hz == 500 and not record.computed
    assert record.signal == pytest.approx(SIGNAL, abs=1e-6)


@pytest.mark.parametrize(
    "array",
    [SIGNAL, SIGNAL.T, SIGNAL[None], SIGNAL[..., None], SIGNAL.T[None], np.asfortranarray(SIGNAL.astype(">f8"))],
)
@pytest.mark.parametrize("suffix", ["npy", "npz", "mat", "h5"])
def test_one_ecg_under_any_axes(array: np.ndarray, suffix: str) -> None:
    data = {"npy": npy(array), "npz": npz(ecg=array), "mat": mat({"ecg": array}), "h5": hdf({"ecg": array})}[suffix]
    ((key, record),) = read(data, f"one.{suffix}").records
    assert key == "one"
    assert_is_signal(record)


@pytest.mark.parametrize("array", [np.stack([SIGNAL] * 3), np.stack([SIGNAL.T] * 3), np.stack([SIGNAL] * 3, axis=-1)])
@pytest.mark.parametrize("suffix", ["npy", "npz", "mat"])
def test_one_array_of_many_ecgs(array: np.ndarray, suffix: str) -> None:
    data = {"npy": npy(array), "npz": npz(X=array, y=np.arange(3)), "mat": mat({"X": array})}[suffix]
    records = read(data, f"many.{suffix}").records
    assert [key for key, _ in records] == ["000000", "000001", "000002"]
    for _, record in records:
        assert_is_signal(record)


def test_exams_have_the_names_that_lie_beside_them() -> None:
    records = read(npz(signals=np.stack([SIGNAL] * 2), ids=np.array(["a", "b"])), "x.npz").records
    assert [key for key, _ in records] == ["a", "b"]
    records = read(hdf({"tracings": SIGNAL.T[None], "exam_id": np.array([77])}), "x.h5").records
    assert [key for key, _ in records] == ["77"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (npz(**BY_LEAD, fs=500, unit="mV"), "x.npz"),
        (mat({**BY_LEAD, "fs": 500, "unit": "mV"}), "x.mat"),
        (mat({"ECG": BY_LEAD, "fs": "500 Hz", "units": "mV"}), "x.mat"),
        (hdf({f"ecg/{lead}": row for lead, row in BY_LEAD.items()}, fs=500, unit="mV"), "x.h5"),
    ],
)
def test_leads_under_their_own_names(data: bytes, name: str) -> None:
    ((_, record),) = read(data, name, ReadOptions()).records
    assert_is_signal(record)


def test_leads_of_different_lengths_are_refused() -> None:
    with pytest.raises(UnreadableFile) as caught:
        read(npz(I=SIGNAL[0], II=SIGNAL[1, :500]), "x.npz")
    assert caught.value.code == "bad_shape" and "II 500" in caught.value.message


@pytest.mark.parametrize("name", ["val", "data", "ecg", "sig", "signal", "ECG", "ecg_data", "x", "something"])
@pytest.mark.parametrize("rate", ["fs", "Fs", "sampling_rate", "samplingFrequency", "freq"])
def test_matlab_names_with_their_rate(name: str, rate: str) -> None:
    ((_, record),) = read(mat({name: SIGNAL, rate: 500}), "x.mat", NO_RATE).records
    assert_is_signal(record)


def test_a_vector_of_times_tells_the_rate_and_is_no_ecg() -> None:
    times = np.arange(N) / 500
    for data, name in (
        (mat({"sig": SIGNAL, "t": times}), "x.mat"),
        (npz(signal=SIGNAL, time=times, r_peaks=np.arange(150)), "x.npz"),
        (hdf({"signal": SIGNAL, "time": times}), "x.h5"),
        (mat_7_3({"sig": SIGNAL, "t": times[None]}, {}, {}), "x.mat"),
    ):
        ((_, record),) = read(data, name, NO_RATE).records
        assert_is_signal(record)


def test_lead_names_as_rows_of_letters_and_as_cells() -> None:
    options = ReadOptions(None, "mV")
    letters = mat({"sig": SIGNAL, "fs": 500, "leadnames": np.array(LEADS_12)})
    cells = mat({"sig": SIGNAL, "fs": 500, "leads": np.array(LEADS_12, dtype=object)})
    newer = mat_7_3({"sig": SIGNAL, "fs": np.array([[500.0]])}, {"units": "mV"}, {"leads": LEADS_12})
    for data in (letters, cells, newer):
        ((_, record),) = read(data, "x.mat", options).records
        assert_is_signal(record)


@pytest.mark.parametrize("how", [{}, {"do_compression": True}, {"format": "4"}, {"oned_as": "column"}])
def test_matlab_levels(how: dict[str, object]) -> None:
    ((_, record),) = read(mat({"val": SIGNAL.astype(np.float64)}, **how), "x.mat").records
    assert_is_signal(record)


def test_groups_of_one_array_each_are_named_by_the_group() -> None:
    records = read(hdf({f"P{i}/ecg": SIGNAL for i in range(3)}), "x.h5").records
    assert [key for key, _ in records] == ["P0", "P1", "P2"]


@pytest.mark.parametrize(
    ("gain", "guess"), [({"gain": 1000}, "1000/mV"), ({"adc_gain": 200.0}, "200/mV"), ({"lsb": 4.88}, "")]
)
def test_digits_beside_a_gain_are_asked_about_though_a_unit_is_stated(gain: dict[str, float], guess: str) -> None:
    digits = np.rint(SIGNAL * 1000).astype(np.int16)
    data = mat({"ecg": digits, "units": "mV", **gain})
    with pytest.raises(NeedsAnswer) as asked:
        read(data, "x.mat", ReadOptions(500, None, LEADS_12))
    assert asked.value.fields["unit"].startswith(f"Guess: {guess}." if guess else "No guess:")
    ((_, record),) = read(data, "x.mat", ReadOptions(500, "1000/mV", LEADS_12)).records
    assert record.signal == pytest.approx(SIGNAL, abs=6e-4)
    ((_, record),) = read(mat({"ecg": SIGNAL, "units": "mV", **gain}), "x.mat").records
    assert_is_signal(record)


@pytest.mark.parametrize("pack", [npz, lambda **k: mat(k), lambda **k: hdf(k)], ids=["npz", "mat", "hdf"])
def test_a_gain_for_each_lead_beside_digits_is_asked_about(pack: Callable[..., bytes]) -> None:
    digits = np.rint(SIGNAL * 1000 + 50).astype(np.int16)
    suffix = {b"PK": "npz", b"MA": "mat"}.get(pack(a=np.zeros(3))[:2], "h5")
    beside = {"adc_gain": np.full(12, 1000.0), "baseline": np.full(12, 50)}
    with pytest.raises(NeedsAnswer) as asked:
        read(pack(ecg=digits, **beside), f"x.{suffix}", ReadOptions(500, None, LEADS_12))
    assert asked.value.fields["unit"].startswith("Guess: 1000/mV.")
    ((_, record),) = read(pack(ecg=digits, **beside), f"x.{suffix}", ReadOptions(500, "1000/mV", LEADS_12)).records
    assert record.signal == pytest.approx(SIGNAL, abs=6e-4)
    assert "taken off" in record.meta.notes[0]
    beside["adc_gain"] = np.arange(12) + 900.0
    with pytest.raises(NeedsAnswer) as asked:
        read(pack(ecg=digits, **beside), f"x.{suffix}", ReadOptions(500, None, LEADS_12))
    assert "for each lead" in asked.value.fields["unit"]


@pytest.mark.parametrize("pack", [npz, lambda **k: hdf(k)], ids=["npz", "hdf"])
def test_a_list_of_units_that_differ_holds_for_each_lead(pack: Callable[..., bytes]) -> None:
    name = "x.npz" if pack is npz else "x.h5"
    scale = np.array([1] * 11 + [1000])[:, None]
    units = np.array(["mV"] * 11 + ["uV"], dtype="S" if name == "x.h5" else "U")
    ((_, record),) = read(pack(ecg=SIGNAL * scale, units=units), name, ReadOptions(500, "mV", LEADS_12)).records
    assert_is_signal(record)
    with pytest.raises(UnreadableFile, match="11 units"):
        read(pack(ecg=SIGNAL, units=units[1:]), name)


@pytest.mark.parametrize("kind", [h5py.string_dtype(), h5py.string_dtype("ascii"), "S4"])
def test_names_of_leads_in_a_dataset_of_texts(kind: object) -> None:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["ecg/signal"] = SIGNAL
        file["ecg/fs"] = 500
        file.create_dataset("ecg/unit", data="mV")
        file.create_dataset("ecg/leads", data=list(LEADS_12), dtype=kind)
    ((_, record),) = read(out.getvalue(), "x.h5", ReadOptions()).records
    assert_is_signal(record)


def test_groups_state_the_rate_and_the_unit_of_their_own_ecg() -> None:
    values: dict[str, object] = {
        "meta/leads": list(LEADS_12),
        "P0/ecg": SIGNAL,
        "P1/ecg": SIGNAL * 1000,
        "P2/ecg": SIGNAL,
    }
    values |= {
        "P0/fs": 500,
        "P1/fs": 250,
        "P0/unit": "mV",
        "P1/unit": "uV",
        "unit": "mV",
        "P2/time": np.arange(N) / 1000,
    }
    records = dict(read(hdf(values), "x.h5", ReadOptions()).records)
    assert {key: record.fs_hz for key, record in records.items()} == {"P0": 500, "P1": 250, "P2": 1000}
    for record in records.values():
        assert record.leads == LEADS_12 and record.signal == pytest.approx(SIGNAL, abs=1e-5)
    structs = {f"P{i}": {"ecg": SIGNAL, "fs": fs, "units": "mV"} for i, fs in enumerate((500.0, 250.0))}
    found = read(mat(structs), "x.mat", ReadOptions(lead_order=LEADS_12)).records
    assert [record.fs_hz for _, record in found] == [500, 250]


def test_the_rate_of_another_signal_is_not_taken() -> None:
    other = {"ppg/data": np.arange(300.0), "ppg/fs": 50}
    with pytest.raises(NeedsAnswer) as asked:
        read(hdf({"ecg/data": SIGNAL, **other}), "x.h5", ReadOptions(None, "mV", LEADS_12))
    assert set(asked.value.fields) == {"fs_hz"}
    beside = npz(ecg=SIGNAL, ecg_fs=500, ppg=np.arange(300.0), ppg_fs=50, fs=100)
    ((_, record),) = read(beside, "x.npz", ReadOptions(None, "mV", LEADS_12)).records
    assert record.fs_hz == 500


def test_an_offset_of_unknown_direction_is_named() -> None:
    digits = np.rint(SIGNAL * 1000).astype(np.int16)
    ((_, record),) = read(npz(ecg=digits, offset=7), "x.npz", ReadOptions(500, "1000/mV", LEADS_12)).records
    assert record.signal == pytest.approx(SIGNAL, abs=6e-4) and "offset = 7" in record.meta.notes[0]


@pytest.mark.parametrize("other", [{"unit": "mV", "fs": 500}, {"unit": "uV", "fs": 250}, {"unit": "uV"}])
def test_leads_in_datasets_of_different_units_or_rates_are_refused(other: dict[str, object]) -> None:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for lead, row in BY_LEAD.items():
            file[f"ecg/{lead}"] = row
            file[f"ecg/{lead}"].attrs.update(other if lead == "V3" else {"unit": "uV", "fs": 500})
    with pytest.raises(UnreadableFile) as caught:
        read(out.getvalue(), "x.h5")
    assert caught.value.code == "mixed_leads"


def test_two_forms_of_one_ecg_are_not_chosen_between() -> None:
    with pytest.raises(UnreadableFile, match="several arrays"):
        read(npz(ecg=SIGNAL, filtered=SIGNAL), "x.npz")


@pytest.mark.parametrize("length", [6, 7, 10, 11])
def test_a_file_that_ends_within_its_header_is_refused(length: int) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read(npy(SIGNAL)[:length], "x.npy")
    assert caught.value.code == "damaged_file"


def test_values_beyond_single_precision_are_refused() -> None:
    for data, unit in ((npy(SIGNAL.astype(np.float64) * 1e300), "V"), (npy(SIGNAL.astype(np.float64) * 1e200), "mV")):
        with pytest.raises(UnreadableFile) as caught:
            read(data, "x.npy", ReadOptions(500, unit, LEADS_12))
        assert caught.value.code == "not_a_number"


def test_labels_that_are_leads_name_them_and_a_unit_for_each_lead_is_one_unit() -> None:
    inside = {
        "ecg": SIGNAL.T, "fs": 500.0, "labels": np.array(LEADS_12, dtype=object), "units": np.array(["uV"] * 12, dtype=object),
    }  # fmt: skip
    result = registry.read(BytesSource("a.mat", mat({"data": inside})))[1]
    ((_, record),) = result.records
    assert record.leads == LEADS_12 and record.fs_hz == 500
    assert record.signal == pytest.approx(SIGNAL / 1000, abs=1e-7)
    # The labels of beats name no leads.
    inside |= {"labels": np.array(["N", "V"], dtype=object), "units": np.array(["uV"] * 11 + ["%"], dtype=object)}
    with pytest.raises(NeedsAnswer) as caught:
        registry.read(BytesSource("a.mat", mat({"data": inside})))
    assert set(caught.value.fields) == {"lead_order", "unit"}


def test_a_numpy_table_with_named_columns_and_complex_numbers() -> None:
    table = np.zeros(N, dtype=[(lead, "<f4") for lead in LEADS_12])
    for lead, row in BY_LEAD.items():
        table[lead] = row
    ((_, record),) = registry.read(BytesSource("a.npy", npy(table)), ReadOptions(500, "mV"))[1].records
    assert record.leads == LEADS_12 and np.array_equal(record.signal, SIGNAL)
    with pytest.raises(UnreadableFile, match="complex"):
        registry.read(BytesSource("a.npy", npy(SIGNAL.astype(complex))), ANSWERS)


def test_a_gain_beside_a_matrix_comes_before_the_guess_for_its_name() -> None:
    data = mat({"val": np.rint(SIGNAL * 200).astype(np.int16), "gain": 200.0})
    with pytest.raises(NeedsAnswer) as asked:
        read(data, "x.mat", ReadOptions(500, None, LEADS_12))
    assert asked.value.fields["unit"].startswith("Guess: 200/mV.")


def test_who_was_recorded_and_the_names_of_channels_beside_an_array() -> None:
    beside = {"fs": 500, "units": "mV", "age": 56.0, "sex": "F", "patient_id": "P7"}
    cells = np.array(LEADS_12, dtype=object)
    files = {
        "x.mat": mat({"ecg": {"signal": SIGNAL, "ch_names": cells, **beside}}),
        "x.npz": npz(ecg=SIGNAL, ch_names=np.array(LEADS_12), **beside),
        "x.h5": hdf({"ecg": SIGNAL}, ch_names=list(LEADS_12), **beside),
    }
    for name, data in files.items():
        ((_, record),) = read(data, name, ReadOptions()).records
        assert_is_signal(record)
        assert (record.meta.subject, record.meta.age, record.meta.sex) == ("P7", 56, "female"), name
    ((_, record),) = read(npz(ecg=SIGNAL, ch_names=np.array(LEADS_12), **(beside | {"sex": 1})), "x.npz").records
    assert record.meta.sex is None


@pytest.mark.parametrize(
    ("offset", "unit", "scale"), [({}, "mV", 0.005), ({"add_offset": -1.25}, "mV", 0.005), ({}, "uV", 5.0)]
)
def test_whole_numbers_packed_by_the_conventions_of_netcdf(offset: dict[str, float], unit: str, scale: float) -> None:
    shift = offset.get("add_offset", 0.0)
    digits = np.rint((SIGNAL * (1000 if unit == "uV" else 1) - shift) / scale).astype(np.int16)
    data = hdf({"ecg": digits}, fs=500, units=unit, leads=list(LEADS_12), scale_factor=scale, **offset)
    ((_, record),) = read(data, "x.h5", ReadOptions()).records
    assert record.signal == pytest.approx(SIGNAL, abs=3e-3)
    with pytest.raises(NeedsAnswer):
        read(hdf({"ecg": digits}, fs=500, leads=list(LEADS_12), scale_factor=scale, **offset), "x.h5", ReadOptions())
