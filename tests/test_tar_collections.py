"""Tars of pictures and WebDataset shards, read in place."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious.data.collections import Source, read_collection
from capricious.errors import CapriciousError, Rejection
from capricious.faces.attributes import Attributes


def write_tar(path, members, format=tarfile.PAX_FORMAT):
    """Writes a tar of (name, bytes), in this order."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def member(source):
    return source.uri.partition(".tar!")[2]


def reason(source):
    with pytest.raises(Rejection) as caught:
        source.read()
    return caught.value.reason


def test_webdataset_samples(tmp_path):
    tar = write_tar(
        tmp_path / "shard-000.tar",
        [
            ("s/000.jpg", b"first"),
            ("s/000.json", json.dumps({"age": 61, "gender": "male", "license": "CC0"}).encode()),
            ("s/000.cls", b"3"),
            ("s/001.json", b'[{"faceAttributes": {}}]'),
            ("s/001.png", b"second"),
            ("s/001.seg.png", b"second, too"),
            ("s/002.webp", b"third"),
            ("s/002.txt", b"a lady"),
            ("s/003.json", b'{"age": 5}'),
            ("s/004.npy", b"no picture"),
            ("s/J. Doe.jpg", b"fourth"),
            ("s/J. Doe.json", b'{"age": 40, "rights": "\\ud800"}'),
            ("s/.hidden.jpg", b""),
        ],
    )
    sources = {member(source): source for source in read_collection(tar)}
    assert list(sources) == [
        "s/000.jpg",
        "s/001.png",
        "s/001.seg.png",
        "s/002.webp",
        "s/J. Doe.jpg",
        "s/003.json",  # belongs to no picture: stays in, to be rejected
        "s/004.npy",
    ]
    first = sources["s/000.jpg"]
    assert first.uri == f"{tar}!s/000.jpg" and first.read() == b"first"
    assert (first.labels.age, first.labels.gender, first.license) == (61.0, 1.0, "CC0")
    assert reason(sources["s/001.png"]) == reason(sources["s/001.seg.png"]) == "bad-label"
    assert sources["s/002.webp"].read() == b"third"
    assert sources["s/J. Doe.jpg"].labels.age == 40.0
    assert sources["s/J. Doe.jpg"].license == r"\ud800"  # half a character could not be written to any table


def test_a_folder_of_shards_is_read_shard_by_shard_and_then_what_is_loose(tmp_path):
    for shard in (1, 0):
        write_tar(tmp_path / f"shard-{shard}.tar", [(f"{n}.jpg", f"{shard}/{n}".encode()) for n in range(3)])
    (tmp_path / "loose.jpg").write_bytes(b"loose")
    sources = list(read_collection(str(tmp_path)))
    assert [source.read() for source in sources] == [b"0/0", b"0/1", b"0/2", b"1/0", b"1/1", b"1/2", b"loose"]
    assert sources == list(read_collection(str(tmp_path), "webdataset"))


def test_a_tar_with_a_table_of_labels_in_it(tmp_path):
    tar = write_tar(
        tmp_path / "set.tar",
        [
            ("./a.jpg", b"a"),
            ("./b.jpg", b"b"),
            ("./labels.csv", b"file,age,gender\na.jpg,61,male\ngone.jpg,5,\n../../secret.jpg,5,\n"),
        ],
    )
    a, gone, secret, b = read_collection(tar)
    assert (a.read(), a.labels.age, a.labels.gender) == (b"a", 61.0, 1.0)
    assert reason(gone) == "not-found" and gone.uri == f"{tar}!gone.jpg"
    assert reason(secret) == "bad-label"
    assert (b.read(), b.labels) == (b"b", Attributes())


def test_a_tar_of_utkface_names(tmp_path):
    tar = write_tar(tmp_path / "utk.tar", [("26_1_2_20170116184024662.jpg", b"x"), ("61_1_20170109142408075.jpg", b"")])
    whole, partial = read_collection(tar)
    assert (whole.labels.age, whole.labels.gender, whole.read()) == (26.0, 0.0, b"x")
    assert (partial.labels.age, partial.labels.gender) == (61.0, None)


def test_ffhq_in_a_tar_when_the_kind_is_given(tmp_path):
    tar = write_tar(tmp_path / "ffhq.tar", [("json/00000.json", b"[]"), ("images/00000.png", b"x")])
    (source,) = read_collection(tar, "ffhq")
    assert source.read() == b"x" and source.license.startswith("FFHQ")


def test_links_have_no_bytes_and_of_two_members_of_one_name_the_later_counts(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for data in (b"old", b"newer"):
            info = tarfile.TarInfo("a.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (("hard.jpg", tarfile.LNKTYPE), ("soft.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    a, hard, soft = read_collection(str(path))
    assert a.read() == b"newer"
    assert reason(hard) == reason(soft) == "link"


def test_what_lies_before_the_damage_is_read_and_the_tar_itself_is_rejected(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", [(f"{n}.jpg", b"x" * 1000) for n in range(4)])
    data = Path(whole).read_bytes()
    (tmp_path / "bad").mkdir()
    third = 2 * (512 + 1024)
    (tmp_path / "bad" / "0-header.tar").write_bytes(data[:third] + b"\xff" * 512 + data[third + 512 :])
    (tmp_path / "bad" / "1-truncated.tar").write_bytes(data[: third + 512 + 100])
    (tmp_path / "bad" / "2-none.tar").write_bytes(b"not a tar at all" * 100)
    sources = list(read_collection(str(tmp_path / "bad")))
    names = [source.uri.rpartition("/")[2] for source in sources]
    assert names == [
        *("0-header.tar!0.jpg", "0-header.tar!1.jpg", "0-header.tar"),
        *("1-truncated.tar!0.jpg", "1-truncated.tar!1.jpg", "1-truncated.tar!2.jpg", "1-truncated.tar"),
        "2-none.tar",
    ]
    assert [reason(sources[i]) for i in (2, 6, 7)] == ["bad-tar"] * 3
    assert sources[0].read() == b"x" * 1000
    with pytest.raises(OSError, match="asked for 1000 bytes"):
        sources[5].read()


def test_a_compressed_tar_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(CapriciousError, match="gunzip"):
        read_collection(str(tmp_path / "a.tar.gz"))


def test_a_member_too_large_is_rejected_unread():
    assert reason(Source("a.tar!b.jpg", container="a.tar", span=(512, 2**40))) == "too-many-bytes"


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/."), min_size=1, max_size=120)


@settings(deadline=None, max_examples=50)
@given(
    members=st.dictionaries(NAMES.map(lambda name: name + ".jpg"), st.binary(max_size=2000), max_size=6),
    format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_every_member_is_read_as_it_was_written(tmp_path_factory, members, format):
    tar = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", members.items(), format)
    assert {member(source): source.read() for source in read_collection(tar, "webdataset")} == members
