"""NumPy, MATLAB and HDF5 arrays: shared files, layouts of known collections, and hostile input."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from datasets.ecg import LEADS_12, Record
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions, ReadResult
from ecgportal.errors import InvalidInput, NeedsAnswer, PortalError, TooLarge, UnreadableFile, UnsafeFile
from tests.datasets.formats.clinical_tools import assert_same_signal, facts, shared_bytes
from tests.shared import needs_shared, shared_path

ANSWERS = ReadOptions(fs_hz=500.0, unit="mV", lead_order=LEADS_12)
SIGNAL = np.random.default_rng(5).normal(size=(12, 600)).astype(np.float32)


def read_all(data: bytes, name: str, expected: str, options: ReadOptions | None = ANSWERS) -> ReadResult:
    entry, result = registry.read(BytesSource(name, data), options)
    assert entry.name == expected
    return result


def read(data: bytes, name: str, expected: str, options: ReadOptions | None = ANSWERS) -> Record:
    ((key, record),) = read_all(data, name, expected, options).records
    assert key == Path(name).stem
    return record


def npy(array: np.ndarray, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def mat(variables: dict[str, object], **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, **kwargs)
    return buffer.getvalue()


def hdf(**datasets: object) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return buffer.getvalue()


@needs_shared
def test_shared_npy_asks_and_then_reads() -> None:
    name = "npy/reencoded_ludb4_12x5000_float32.npy"
    expected = facts(name)
    with pytest.raises(NeedsAnswer) as asked:
        read(shared_bytes(name), "a.npy", "numpy", None)
    assert set(asked.value.fields) == {"fs_hz", "unit", "lead_order"}
    assert asked.value.fields["unit"].startswith("Guess: mV.")
    record = read(shared_bytes(name), "a.npy", "numpy")
    assert (record.fs_hz, record.n_samples, len(record.leads)) == (expected["fs"], expected["n"], expected["leads"])
    assert record.lead("II").max() == pytest.approx(expected["lead_II_max_mV"], abs=expected["tolerance_mV"])
    assert_same_signal(record, 4, expected["tolerance_mV"])


@needs_shared
@pytest.mark.parametrize("name", ["mat/A1980.mat", "mat/A1981.mat"])
def test_cpsc_2018_structs(name: str) -> None:
    expected = facts(name)
    with pytest.raises(NeedsAnswer) as asked:
        read(shared_bytes(name), "A.mat", "matlab", None)
    assert asked.value.fields["fs_hz"].startswith("Guess: 500. ") and "CPSC 2018" in asked.value.fields["unit"]
    assert "III = II - I" in asked.value.fields["lead_order"]
    record = read(shared_bytes(name), "A.mat", "matlab")
    assert (len(record.leads), record.fs_hz, record.n_samples, record.duration_s) == (
        12,
        500,
        expected["n"],
        expected["seconds"],
    )
    assert (record.meta.age, record.meta.sex) == (expected["age"], expected["sex"].lower())
    assert record.lead("I")[0] == pytest.approx(expected["lead_I_first"], abs=1e-6)
    assert [record.lead("I").min(), record.lead("I").max()] == pytest.approx(expected["lead_I_min_max"], abs=1e-4)
    assert np.array_equal(
        record.signal, scipy.io.loadmat(io.BytesIO(shared_bytes(name)))["ECG"]["data"][0, 0].astype(np.float32)
    )


@needs_shared
def test_code15_and_sph_files_agree_with_public_readers() -> None:
    path = shared_path("ecg", "labelled", "code15", "code_15_270272.mat")
    record = read(path.read_bytes(), path.name, "matlab", ReadOptions(unit="mV", lead_order=LEADS_12))
    assert record.fs_hz == 400 and np.array_equal(record.signal, scipy.io.loadmat(str(path))["feats"])
    path = shared_path("ecg", "labelled", "sph", "SPH00002.h5")
    record = read(path.read_bytes(), path.name, "hdf5")
    with h5py.File(path) as file:
        assert np.array_equal(record.signal, file["ecg"][()].astype(np.float32))
    assert record.signal.shape == (12, 6000)


@needs_shared
def test_a_challenge_matrix_without_its_header_asks() -> None:
    data = shared_path("ecg", "labelled", "cinc2021", "E00001.mat").read_bytes()
    with pytest.raises(NeedsAnswer) as asked:
        read(data, "E00001.mat", "matlab", None)
    assert asked.value.fields["unit"].startswith("Guess: 1000/mV.") and ".hea" in asked.value.fields["unit"]
    record = read(data, "E00001.mat", "matlab", ReadOptions(500, "1000/mV", LEADS_12))
    assert record.signal[:3, 0] == pytest.approx([0.136, 0.087, -0.048])


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (npy(SIGNAL), "a.npy", "numpy"),
        (npy(SIGNAL.T), "a.npy", "numpy"),
        (npy(np.asfortranarray(SIGNAL)), "a.npy", "numpy"),
        (npy(SIGNAL.astype(">f8")), "a.npy", "numpy"),
        (npz(x=SIGNAL), "a.npz", "numpy"),
        (mat({"x": SIGNAL}), "a.mat", "matlab"),
        (mat({"x": SIGNAL.T.astype(float)}, do_compression=True), "a.mat", "matlab"),
        (mat({"x": SIGNAL}, format="4"), "a.mat", "matlab"),
        (mat({"s": {"deep": {"data": SIGNAL}, "note": "text"}}), "a.mat", "matlab"),
        (hdf(x=SIGNAL), "a.h5", "hdf5"),
        (hdf(**{"g/ecg": SIGNAL.T}), "a.h5", "hdf5"),
    ],
)
def test_samples_come_out_in_every_container(data: bytes, name: str, expected: str) -> None:
    record = read(data, name, expected)
    assert np.array_equal(record.signal, SIGNAL) and record.leads == LEADS_12


def test_statements_in_the_file_win_over_answers() -> None:
    wrong = ReadOptions(fs_hz=77, unit="V", lead_order=("X",))
    names = np.array(list(LEADS_12))
    record = read(npz(signal=SIGNAL, fs=np.array(250), units=np.array("uV"), leads=names), "a.npz", "numpy", wrong)
    assert record.fs_hz == 250 and record.signal == pytest.approx(SIGNAL * 1e-3) and record.leads == LEADS_12
    record = read(
        mat({"data": SIGNAL, "Fs": 1000.0, "unit": "mV", "leads": np.array(list(LEADS_12), object)}),
        "a.mat",
        "matlab",
        wrong,
    )
    assert record.fs_hz == 1000 and record.leads == LEADS_12 and np.array_equal(record.signal, SIGNAL)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["ecg"] = SIGNAL
        file["ecg"].attrs["sampling_rate"] = 400
        file.attrs["units"] = "mV"
        file.attrs["lead_names"] = list(LEADS_12)
    record = read(buffer.getvalue(), "a.h5", "hdf5", wrong)
    assert record.fs_hz == 400 and record.leads == LEADS_12


def test_matlab_7_3_is_read_as_hdf5() -> None:
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file["val"] = SIGNAL.T
    data = bytearray(buffer.getvalue())
    data[: len(header)] = header
    assert np.array_equal(read(bytes(data), "a.mat", "matlab").signal, SIGNAL)


def test_code15_layout_gives_one_record_an_exam() -> None:
    tracings = np.zeros((3, 4096, 12), np.float32)
    tracings[0] = np.random.default_rng(1).normal(size=(4096, 12))
    tracings[1, 581:3515] = np.random.default_rng(2).normal(size=(2934, 12))
    tracings[2] = tracings[0]
    result = read_all(
        hdf(tracings=tracings, exam_id=np.array([11, 7, 5])),
        "exams_part0.hdf5",
        "hdf5",
        ReadOptions(400, "mV", LEADS_12),
    )
    assert [key for key, _ in result.records] == ["11", "7", "5"]
    second = result.records[1][1]
    assert second.signal.shape == (12, 2934) and np.array_equal(second.signal, tracings[1, 581:3515].T)
    assert "zero padding" in second.meta.notes[0] and result.records[0][1].meta.notes == ()


def test_exams_are_read_one_by_one_and_in_any_order() -> None:
    tracings = np.random.default_rng(3).normal(size=(5, 400, 12)).astype(np.float32)
    records = read_all(hdf(tracings=tracings), "x.h5", "hdf5").records
    assert len(records) == 5 and not isinstance(records, tuple | list)
    assert np.array_equal(records[3][1].signal, tracings[3].T) and np.array_equal(records[-1][1].signal, tracings[4].T)
    assert [key for key, _ in records[1:3]] == ["000001", "000002"]
    assert [key for key, _ in records] == [key for key, _ in records] == [f"00000{i}" for i in range(5)]
    with pytest.raises(IndexError):
        records[5]
    with pytest.raises(NeedsAnswer):
        read_all(hdf(tracings=tracings), "x.h5", "hdf5", None)


def test_an_array_that_is_announced_but_not_stored_is_refused() -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("ecg", (12, 20_000_000), "f4", chunks=(1, 1000))
    with pytest.raises(TooLarge) as caught:
        read(buffer.getvalue(), "a.h5", "hdf5")
    assert caught.value.code == "archive_bomb"
    with pytest.raises(TooLarge):
        read(npz(x=np.zeros((12, 2_500_000), np.float32)), "a.npz", "numpy")


def test_an_array_that_could_lie_either_way_is_asked_for() -> None:
    with pytest.raises(NeedsAnswer) as asked:
        read(npy(np.zeros((120, 130))), "a.npy", "numpy", ReadOptions(500, "mV"))
    assert set(asked.value.fields) == {"lead_order"}
    square = np.random.default_rng(0).normal(size=(12, 12))
    assert np.array_equal(read(npy(square), "a.npy", "numpy").signal, square.astype(np.float32))
    with pytest.raises(InvalidInput):
        read(npy(SIGNAL), "a.npy", "numpy", ReadOptions(500, "mV", ("I", "II")))


def test_units_of_the_answer_are_applied() -> None:
    for unit, factor in (("uV", 1e-3), ("V", 1e3), ("200/mV", 1 / 200), ("nV", 1e-6)):
        assert read(npy(SIGNAL), "a.npy", "numpy", ReadOptions(500, unit, LEADS_12)).signal == pytest.approx(
            SIGNAL * factor, rel=1e-6
        )
    with pytest.raises(InvalidInput):
        read(npy(SIGNAL), "a.npy", "numpy", ReadOptions(500, "furlong", LEADS_12))


def test_python_objects_are_never_loaded() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("unpickled",))

    data = npy(np.array([Bomb(), None], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeFile) as caught:
        read(data, "a.npy", "numpy")
    assert caught.value.code == "object_array"
    with pytest.raises(UnsafeFile):
        read(npz(x=np.array([Bomb()], dtype=object)), "a.npz", "numpy")


def test_npy_headers_that_lie_are_refused() -> None:
    with pytest.raises(TooLarge):
        read(_with_shape((99_999, 99_999)), "a.npy", "numpy")
    with pytest.raises(UnreadableFile) as caught:
        read(_with_shape((12, 6000)), "a.npy", "numpy")
    assert caught.value.code == "truncated"
    with pytest.raises(UnreadableFile):
        read(_with_shape((-1, 5)), "a.npy", "numpy")


def _with_shape(shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + SIGNAL.tobytes()


def test_a_mat_file_with_an_object_is_refused() -> None:
    data = bytearray(mat({"x": SIGNAL}))
    # The array's class stands behind the tags of the matrix and of its flags.
    assert data[144] == 7
    for kind in (3, 16, 17):
        data[144] = kind
        with pytest.raises(UnsafeFile) as caught:
            read(bytes(data), "a.mat", "matlab")
        assert caught.value.code == "matlab_object"


def test_a_mat_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.formats._matfile.MAX_INFLATED", 1_000_000)
    packed = zlib.compress(bytes(5_000_000), 1)
    head = mat({"x": SIGNAL})[:128]
    with pytest.raises(TooLarge):
        read(head + struct.pack("<II", 15, len(packed)) + packed, "a.mat", "matlab")


def test_deeply_nested_mat_values_are_refused() -> None:
    value: object = SIGNAL
    for _ in range(40):
        value = {"x": value}
    with pytest.raises(UnreadableFile):
        read(mat({"x": value}), "a.mat", "matlab")


def test_an_external_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    secret.write_bytes(hdf(ecg=SIGNAL))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["ecg"] = h5py.ExternalLink(str(secret), "ecg")
    with pytest.raises(UnsafeFile) as caught:
        read(buffer.getvalue(), "a.h5", "hdf5")
    assert caught.value.code == "external_link"
    for name in ("outside", "virtual"):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            if name == "outside":
                file.create_dataset("ecg", (12, 600), "f4", external=[(str(tmp_path / "raw"), 0, 12 * 600 * 4)])
            else:
                layout = h5py.VirtualLayout((12, 600), "f4")
                layout[:] = h5py.VirtualSource(str(secret), "ecg", (12, 600))
                file.create_virtual_dataset("ecg", layout)
        with pytest.raises(UnsafeFile):
            read(buffer.getvalue(), "a.h5", "hdf5")


def test_a_dataset_beyond_the_limit_is_refused_before_it_is_read() -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("ecg", (12, 400_000_000), "f4", chunks=(1, 1000))
    with pytest.raises(TooLarge):
        read(buffer.getvalue(), "a.h5", "hdf5")


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (npy(np.array(["a", "b"])), "a.npy", "numpy"),
        (npz(x=SIGNAL, y=SIGNAL), "a.npz", "numpy"),
        (mat({"x": "text"}), "a.mat", "matlab"),
        (mat({"one": SIGNAL, "two": SIGNAL}), "a.mat", "matlab"),
        (hdf(x=np.arange(3)), "a.h5", "hdf5"),
        (npy(np.full((12, 600), np.nan)), "a.npy", "numpy"),
        (npy(np.full((12, 600), np.inf)), "a.npy", "numpy"),
        (npy(SIGNAL.astype(complex)), "a.npy", "numpy"),
    ],
)
def test_files_without_one_ecg_say_what_they_hold(data: bytes, name: str, expected: str) -> None:
    with pytest.raises(PortalError) as caught:
        read(data, name, expected)
    assert name in caught.value.message
