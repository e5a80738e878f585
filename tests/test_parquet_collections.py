"""Parquet files of pictures, or of their addresses, with labels in other columns."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capricious.data.collections import cells, read_collection
from capricious.errors import CapriciousError, Rejection
from capricious.faces.attributes import Attributes


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def reason(source):
    with pytest.raises(Rejection) as caught:
        source.read()
    return caught.value.reason, caught.value.detail


PICTURES = [f"picture {n}".encode() * 50 for n in range(100)]


@pytest.mark.parametrize(
    "columns, name",
    [
        ({"image": pa.array(PICTURES, pa.binary())}, "image"),
        ({"bytes": pa.array(PICTURES, pa.large_binary())}, "bytes"),
        ({"image": [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(PICTURES)]}, "image.bytes"),
    ],
)
def test_rows_are_read_in_place_in_any_order(tmp_path, columns, name):
    table = write(tmp_path / "a.parquet", {**columns, "age": list(range(100))}, row_group_size=30)
    sources = list(read_collection(table))
    assert [source.uri for source in sources[:2]] == [f"{table}!0", f"{table}!1"]
    assert [source.labels.age for source in sources] == list(range(100))
    assert {source.column for source in sources} == {name}
    assert [source.read() for source in sources] == PICTURES
    assert [source.read() for source in reversed(sources)] == PICTURES[::-1]
    with ThreadPoolExecutor(8) as threads:  # as a worker that reads ahead
        assert list(threads.map(lambda source: source.read(), sources)) == PICTURES


def test_reading_in_order_decodes_each_batch_once(tmp_path, monkeypatch):
    table = write(tmp_path / "a.parquet", {"image": PICTURES}, row_group_size=50)
    decoded = []
    advance = cells._Cursor._advance_towards
    monkeypatch.setattr(
        cells._Cursor, "_advance_towards", lambda self, row: (decoded.append(row), advance(self, row))[1]
    )
    for source in read_collection(table):
        source.read()
    assert len(decoded) == 2 * -(-50 // cells.BATCH)


def test_a_folder_of_parquet_files_and_their_labels(tmp_path):
    write(tmp_path / "b.parquet", {"image": [b"2"], "gender": ["female"], "license": ["CC0"], "emotion": ["sad"]})
    write(
        tmp_path / "a.parquet",
        {"image": [b"0", b"1", None], "age": [61.0, 300.0, None], "emotion": [[1.0] + [0.0] * 7, None, None]},
    )
    old, impossible, empty, lady = read_collection(str(tmp_path))
    assert (old.read(), old.labels.age, old.labels.emotion[0]) == (b"0", 61.0, 1.0)
    why, detail = reason(impossible)
    assert why == "bad-label" and "a.parquet, row 1: age must be in 0…120, found: 300" in detail
    assert empty.labels == Attributes() and reason(empty)[0] == "empty"
    assert (lady.read(), lady.labels.gender, lady.license) == (b"2", 0.0, "CC0")


def test_addresses_instead_of_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    write(tmp_path / "t.parquet", {"file": ["a.jpg", "a.jpg", "gone.jpg", "../x.jpg"], "age": [61, 5, None, None]})
    a, gone, outside, b = read_collection(str(tmp_path))
    assert (a.read(), a.labels.age) == (b"a", 61.0)
    with pytest.raises(FileNotFoundError):
        gone.read()
    assert reason(outside)[0] == "bad-label"
    assert (b.read(), b.labels) == (b"b", Attributes())


def test_integers_of_a_class_label_count_as_their_names(tmp_path):
    features = {
        "gender": {"names": ["Male", "Female"], "_type": "ClassLabel"},
        "age": {"names": ["0-2", "30"], "_type": "ClassLabel"},
    }
    table = pa.table({"image": [b"0", b"1", b"2"], "gender": [0, 1, -1], "age": [1, 0, -1]})
    note = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "a.parquet")
    man, bracket, unknown = read_collection(str(tmp_path))
    assert (man.labels.age, man.labels.gender) == (30.0, 1.0)
    assert "age must be a number, found: '0-2'" in reason(bracket)[1]  # and not 0 years
    assert unknown.labels == Attributes()


def test_integers_that_nobody_explains_are_no_gender(tmp_path):
    (source,) = read_collection(write(tmp_path / "a.parquet", {"image": [b"0"], "gender": [1]}))
    assert "gender must be female or male, found: '1'" in reason(source)[1]


def test_a_damaged_file_takes_no_other_down(tmp_path):
    write(tmp_path / "b.parquet", {"image": [b"0"]})
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    damaged, whole = read_collection(str(tmp_path))
    assert reason(damaged)[0] == "bad-parquet" and whole.read() == b"0"


def test_columns_without_pictures_are_an_error_that_names_them(tmp_path):
    with pytest.raises(CapriciousError, match=r"a.parquet needs pictures in a column image or bytes.* found: jpg, age"):
        list(read_collection(write(tmp_path / "a.parquet", {"jpg": [b"0"], "age": [3]})))


def test_a_row_that_is_gone_is_an_os_error(tmp_path):
    (source,) = read_collection(write(tmp_path / "a.parquet", {"image": [b"0"]}))
    with pytest.raises(OSError, match="there is no row 7"):
        cells.read_cell(source.container, 7, "image")
    with pytest.raises(FileNotFoundError):
        cells.read_cell(str(tmp_path / "gone.parquet"), 0, "image")


class Moody(io.FileIO):
    """A file of which one read fails."""

    fails = False

    def readinto(self, buffer):
        if Moody.fails:
            Moody.fails = False
            raise OSError("503 SlowDown")
        return super().readinto(buffer)

    def read(self, size=-1):
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])


def test_a_read_that_fails_once_costs_no_row(tmp_path, monkeypatch):
    pictures = [bytes([row]) * 200_000 for row in range(32)]
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 18, "write_batch_size": 1}
    table = write(tmp_path / "a.parquet", {"image": pictures}, **options)
    monkeypatch.setattr(cells.storage, "open_binary", Moody)
    for row, picture in enumerate(pictures):
        if row == 20:
            Moody.fails = True
        assert cells.read_cell(table, row, "image") == picture
    assert not Moody.fails


def test_a_huge_cell_is_rejected(tmp_path):
    (source,) = read_collection(write(tmp_path / "a.parquet", {"image": [b"123456"]}))
    with pytest.raises(Rejection, match="too-many-bytes"):
        source.read(limit=5)
    assert source.read(limit=6) == b"123456"
