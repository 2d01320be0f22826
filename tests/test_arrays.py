import io
import zipfile

import numpy as np
import pytest

from motion_llm.arrays import Archive, load_npy, load_weights


class Refused(ValueError):
    pass


def header(shape, dtype="<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_arrays_come_back(tmp_path):
    numbers = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "a.npy", numbers)
    np.savez(tmp_path / "plain.npz", a=numbers, b=np.array("neutral"))
    np.savez_compressed(tmp_path / "packed.npz", a=numbers)
    assert np.array_equal(load_npy(tmp_path / "a.npy", Refused), numbers)
    for name in ("plain", "packed"):
        with Archive(tmp_path / f"{name}.npz", Refused) as arrays:
            assert np.array_equal(arrays["a"], numbers)
    with Archive(tmp_path / "plain.npz", Refused) as arrays:
        assert arrays.names == {"a", "b"} and str(arrays["b"]) == "neutral"


@pytest.mark.parametrize(("content", "message"), [
    (header((10**12, 22, 3)) + bytes(1000), "damaged .npy file"),
    (header((3,), "|O") + bytes(1000), "of objects, which are not read"),
    (b"HIERARCHY\nROOT", "a BVH file, expected a .npy file"), (b"", "an empty file, expected"),
    (b"1 2 3 4 5 6 7", "bytes such as b'1 2 3 4 5 '"), (b"PK\x03\x04 and more", "an archive of several arrays"),
])
def test_a_file_that_is_no_array_is_refused_by_what_it_is(tmp_path, content, message):
    (tmp_path / "clip.npy").write_bytes(content)
    with pytest.raises(Refused, match=r"clip\.npy: .*" + message):
        load_npy(tmp_path / "clip.npy", Refused)


def test_an_archive_whose_headers_lie_is_refused_before_memory_is_taken(tmp_path):
    with zipfile.ZipFile(tmp_path / "lies.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("poses.npy", header((10**12, 156)) + bytes(1000))
        file.writestr("names.npy", header((2,), "|O") + b"\x80\x04.")
        file.writestr("trans.npy", header((100, 3))[:-9])
        file.writestr("readme.txt", "no array")
    with Archive(tmp_path / "lies.npz", Refused) as arrays:
        for name, message in (("poses", r"announces \(1000000000000, 156\) of float64"), ("names", "is pickled"),
                              ("trans", "trans is damaged or locked"), ("betas", "no betas among names, poses, trans"),
                              ("readme.txt", "no readme.txt among")):
            with pytest.raises(Refused, match=message):
                arrays[name]
    (tmp_path / "no.npz").write_bytes(b"poses")
    with pytest.raises(Refused, match="no .npz file"):
        Archive(tmp_path / "no.npz", Refused)


def test_a_small_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("motion_llm.arrays.FREELY", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", poses=np.zeros(100_000), few=np.zeros(100))
    np.savez(tmp_path / "plain.npz", poses=np.zeros(100_000))
    with Archive(tmp_path / "bomb.npz", Refused) as arrays:
        assert len(arrays["few"]) == 100
        with pytest.raises(Refused, match=r"poses announces \(100000,\) of float64, 800000 bytes; .* are read"):
            arrays["poses"]
    with Archive(tmp_path / "plain.npz", Refused) as arrays:
        assert len(arrays["poses"]) == 100_000


@pytest.mark.parametrize("text", ["{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), ", "{'descr': ('<f8'",
                                  "(" * 5000, "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
                                  "{'descr': '<f8', 'fortran_order': False, 'shape': (9" + "9" * 30 + ",), }",
                                  "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (1,), }", "{1: 2}", "3"])
def test_headers_that_numpy_stumbles_over_are_refused(tmp_path, text):
    content = b"\x93NUMPY\x01\x00" + len(text + "\n").to_bytes(2, "little") + text.encode() + b"\n" + bytes(200)
    (tmp_path / "clip.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "clip.npz", "w") as file:
        file.writestr("poses.npy", content)
    with pytest.raises(Refused, match=r"clip\.npy: a damaged .npy file"):
        load_npy(tmp_path / "clip.npy", Refused)
    with Archive(tmp_path / "clip.npz", Refused) as arrays, pytest.raises(Refused, match=r"clip\.npz: poses "):
        arrays["poses"]


def weights(tmp_path, header: str | bytes, length: int | None = None, data: bytes = bytes(16)):
    header = header.encode() if isinstance(header, str) else header
    path = tmp_path / "weights.safetensors"
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def test_weights_come_back(tmp_path):
    path = weights(tmp_path, '{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}')
    assert np.array_equal(load_weights(path, Refused)["a"], np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(("header", "length", "data", "message"), [
    ("{}", 2**60, bytes(16), "header too large"), ("{}", 100, b"", "invalid header length"), ("{", None, b"", "JSON"),
    ('{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 32]}}', None, bytes(16), "offset"),
    ('{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 16]}}', None, bytes(16), "invalid shape"),
    ('{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 16]}}', None, bytes(16), "F99"),
    ('{"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}', None, b"\xff" * 16, "tensor a holds values"),
])
def test_weights_that_lie_are_refused(tmp_path, header, length, data, message):
    with pytest.raises(Refused, match=rf"weights\.safetensors is damaged: .*{message}"):
        load_weights(weights(tmp_path, header, length, data), Refused)
