import io
import zipfile

import numpy as np
import pytest

from motion_llm.arrays import Archive, load_npy


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
