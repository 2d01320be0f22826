"""Text files of any origin: read without a byte order mark, or refused by file, line and byte."""

import json

import pytest

from motion_llm.json_files import read_json, read_text


class Refused(ValueError):
    pass


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa\r\nb\xc3\xa9\rc\n", b"a\nb\xc3\xa9\nc\n"])
def test_byte_order_mark_and_line_ends_do_not_matter(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == "a\nb\u00e9\nc\n"


@pytest.mark.parametrize(("content", "message"), [
    ("one\ntwo caf\u00e9s".encode("latin-1"), "a.txt: not UTF-8: byte 0xe9 at byte offset 11, line 2; in Latin-1 "
                                              "(Windows-1252) it would be '\u00e9'; save the file as UTF-8"),
    (b"\xef\xbb\xbfit\x92s", "byte 0x92 at byte offset 5, line 1; in Latin-1 (Windows-1252) it would be '\u2019'"),
    ("walks".encode("utf-16"), "byte 0xff at byte offset 0, line 1; it looks like UTF-16"),
    ("walks".encode("utf-16-le"), "byte 0x00 at byte offset 1, line 1; it looks like UTF-16"),
])
def test_other_encodings_are_refused_with_file_line_and_byte(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(Refused) as error:
        read_text(tmp_path / "a.txt", Refused)
    assert message in str(error.value) and str(error.value).startswith(str(tmp_path))
    with pytest.raises(Refused, match="not UTF-8"):
        read_json(tmp_path / "a.txt", Refused)


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps({"a": "\u00e9"}), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": "\u00e9"}


@pytest.mark.parametrize(("content", "message"), [
    ('{"a": NaN}', "NaN, a number that is not finite"), ('{"a": [-Infinity]}', "-Infinity, a number that is not"),
    ('{"a": 1e999}', "1e999, a number that is not finite"), ('{"a": %s}' % ("9" * 5000), "is broken: .*5000 digits"),
    ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"), ("[1, 2]", "holds a list of 2, expected an object"),
])
def test_json_that_no_reader_of_numbers_takes_is_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(Refused, match=r"a\.json .*" + message):
        read_json(tmp_path / "a.json", Refused)
