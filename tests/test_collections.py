"""Reading collections of files, and what their keepers know of the sitters."""

import json
import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capricious.data.collections import SOURCE_SCHEMA, Source, affectnet, names, read_collection
from capricious.data.collections.files import Checklist
from capricious.data.collections.labels import json_labels, row_attributes
from capricious.errors import CapriciousError, Rejection
from capricious.faces.attributes import EMOTIONS, GLASSES, Attributes


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def basenames(sources):
    return [source.uri.rsplit("/", 1)[1] for source in sources]


def reason(source):
    """Why a source cannot be read."""
    with pytest.raises(Rejection) as caught:
        source.read()
    return caught.value.reason, caught.value.detail


# Source

LABELS = st.builds(
    Attributes,
    age=st.none() | st.floats(0, 120),
    gender=st.none() | st.floats(0, 1),
    glasses=st.none() | st.sampled_from(GLASSES),
    smile=st.none() | st.floats(0, 1),
    emotion=st.none() | st.tuples(*[st.floats(0, 1)] * len(EMOTIONS)),
)
SOURCES = st.builds(
    Source,
    uri=st.text(st.characters(codec="utf-8")),
    labels=LABELS,
    license=st.text(st.characters(codec="utf-8")),
    container=st.sampled_from(["", "s3://museum/a.tar"]),
    span=st.none() | st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)),
    row=st.none() | st.integers(0, 2**50),
    column=st.none() | st.just("image.bytes"),
    host=st.just(""),
    refused=st.none() | st.just(("read", "bad-label", "age must be in 0…120")),
)


@settings(deadline=None)  # the first row imports half of Arrow
@given(st.lists(SOURCES, max_size=3))
def test_sources_survive_a_parquet_row_and_a_pickle(sources):
    table = pa.Table.from_pylist([source.to_row() for source in sources], SOURCE_SCHEMA)
    assert [Source.from_row(row) for row in table.to_pylist()] == sources
    assert pickle.loads(pickle.dumps(sources)) == sources


def test_a_thousand_sources_pickle_small():
    sources = [Source(f"s3://museum/portraits/{n:05d}.jpg", Attributes(age=30.0, gender=1.0)) for n in range(1000)]
    assert len(pickle.dumps(sources)) < 200 * len(sources)


def test_a_huge_file_is_rejected_without_being_held(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x" * 10)
    (tmp_path / "b.jpg").write_bytes(b"x" * 11)
    fits, huge = read_collection(str(tmp_path))
    assert fits.read(limit=10) == b"x" * 10
    with pytest.raises(Rejection) as caught:
        huge.read(limit=10)
    assert caught.value.reason == "too-many-bytes"


# Folders


def test_a_folder_lists_every_file_below_it_but_hidden_ones(tmp_path):
    touch(tmp_path, "b.jpg", "a/notes.txt", ".DS_Store", ".cache/x.jpg")
    assert basenames(read_collection(str(tmp_path))) == ["notes.txt", "b.jpg"]


def test_one_picture_is_a_collection_of_one(tmp_path):
    touch(tmp_path, "mona.jpg")
    assert basenames(read_collection(str(tmp_path / "mona.jpg"))) == ["mona.jpg"]


def test_nothing_there_is_an_error_that_names_it_at_once(tmp_path):
    with pytest.raises(CapriciousError, match="no file or folder at .*nowhere"):
        read_collection(str(tmp_path / "nowhere"))


def test_a_name_that_no_table_can_hold_is_rejected(tmp_path):
    with open(bytes(tmp_path) + b"/Ren\xe9.jpg", "wb"):
        pass
    (source,) = read_collection(str(tmp_path))
    assert reason(source)[0] == "bad-name"
    assert source.uri.endswith(r"Ren\udce9.jpg")
    pa.Table.from_pylist([source.to_row()], SOURCE_SCHEMA)


# Tables of labels


def test_labels_csv(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "unlabelled.jpg")
    (tmp_path / "labels.csv").write_text(
        "file,age_at_sitting,sex,rights,emotion\na.jpg,61,male,CC0,sad\nb.jpg,,female,,\ngone.jpg,5,,,\n"
    )
    a, b, gone, unlabelled = read_collection(str(tmp_path))
    assert (a.labels.age, a.labels.gender, a.license, a.labels.emotion[2]) == (61.0, 1.0, "CC0", 1.0)
    assert (b.labels.age, b.labels.gender) == (None, 0.0)
    with pytest.raises(FileNotFoundError):  # listed, so that it ends as a reject and not in silence
        gone.read()
    assert unlabelled.labels == Attributes()


def test_labels_csv_of_several_folders_at_once(tmp_path):
    touch(tmp_path, "old/a.jpg", "young/a.jpg")
    (tmp_path / "old" / "labels.csv").write_text("file,age\na.jpg,80\n")
    (tmp_path / "young" / "labels.csv").write_text("file,age\n./a.jpg,8\n")
    assert [source.labels.age for source in read_collection(str(tmp_path))] == [80.0, 8.0]


def test_a_relative_uri_names_the_file_that_it_leads_to(tmp_path, monkeypatch):
    touch(tmp_path, "pictures/a.jpg", "pictures/b.jpg")
    (tmp_path / "pictures" / "labels.csv").write_text("uri,age\npictures/a.jpg,61\n")
    monkeypatch.chdir(tmp_path)
    found = [(source.uri, source.labels.age) for source in read_collection("pictures")]
    assert found == [(f"{tmp_path}/pictures/a.jpg", 61.0), (f"{tmp_path}/pictures/b.jpg", None)]


def test_a_table_alone_is_a_collection_of_what_it_names(tmp_path):
    touch(tmp_path, "pictures/a.jpg", "pictures/b.jpg", "c.jpg")
    (tmp_path / "list.csv").write_text(f"file,uri,age\npictures/a.jpg,,61\n,{tmp_path}/pictures/b.jpg,3\n")
    sources = list(read_collection(str(tmp_path / "list.csv")))
    assert [(source.read(), source.labels.age) for source in sources] == [(b"", 61.0), (b"", 3.0)]


@pytest.mark.parametrize(
    "row, message",
    [
        ("a.jpg,old,", "age must be a number, found: 'old'"),
        ("a.jpg,300,", "age must be in 0…120, found: 300"),
        ("a.jpg,nan,", "age must be in 0…120"),
        ("a.jpg,30,unknown", "gender must be female or male"),
        ("a.jpg,Gentleman, seated,61,male", "5 values for 3 columns"),
        (",61,male", "names no file"),
        ("../secret.jpg,61,male", "must lie below the table's folder"),
        ("/etc/passwd,61,male", "must lie below the table's folder"),
    ],
)
def test_an_impossible_row_rejects_one_picture_and_names_its_line(tmp_path, row, message):
    touch(tmp_path, "a.jpg", "z.jpg")
    (tmp_path / "labels.csv").write_text(f"file,age,gender\n{row}\nz.jpg,5,female\n")
    sources = {source.uri: source for source in read_collection(str(tmp_path))}
    (bad,) = [source for source in sources.values() if source.refused]
    why, detail = reason(bad)
    assert why == "bad-label" and message in detail and "labels.csv, line 2" in detail
    assert sources[f"{tmp_path}/z.jpg"].labels.age == 5.0


@pytest.mark.parametrize(
    "content, message",
    [
        (b"name,age\na.jpg,61\n", "line 1: needs a column file or uri, found: name, age"),
        (b"file,age\na.jpg,61\nRen\xe9.jpg,5\n", "near line [123]: save the table as UTF-8"),
        (b'file,age\na.jpg,"61\n', "line 2: not a CSV file"),
        (b"", "line 1: needs a column file or uri"),
    ],
)
def test_a_table_that_cannot_be_understood_is_an_error_that_names_it(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(CapriciousError, match=f"labels.csv, {message}"):
        list(read_collection(str(tmp_path)))


def test_a_uri_of_a_foreign_scheme_is_rejected_and_one_of_a_foreign_host_too(tmp_path, monkeypatch):
    monkeypatch.delenv("CAPRICIOUS_ALLOWED_HOSTS", raising=False)
    (tmp_path / "list.csv").write_text("uri\nftp://museum.org/a.jpg\nhttps://museum.org/a.jpg\n")
    ftp, web = read_collection(str(tmp_path / "list.csv"))
    assert reason(ftp)[0] == "bad-label"
    assert reason(web)[0] == "host-not-allowed"


FILE_NAMES = st.lists(st.sampled_from(["a.jpg", "b.jpg", "c/d.jpg", "c/e.png", "notes.txt"]), unique=True)


@settings(deadline=None)
@given(
    files=FILE_NAMES,
    rows=st.lists(st.tuples(st.sampled_from(["a.jpg", "./b.jpg", "c/d.jpg", "gone.jpg"]), st.integers(0, 400))),
)
def test_every_file_and_every_name_in_a_table_is_listed_exactly_once(tmp_path_factory, files, rows):
    folder = tmp_path_factory.mktemp("collection")
    touch(folder, *files)
    (folder / "labels.csv").write_text("file,age\n" + "".join(f"{name},{age}\n" for name, age in rows))
    listed = [source.uri.removeprefix(f"{folder}/") for source in read_collection(str(folder))]
    assert sorted(listed) == sorted({*files, *(name.removeprefix("./") for name, _ in rows)})


def test_a_checklist_ticks_names_off_once():
    checklist = Checklist(["a", "b", "c"])
    assert [checklist.tick(name) for name in ("b", "b", "x", "x")] == [True, False, True, False]
    assert list(checklist.unticked()) == ["a", "c"]


def test_labels_in_other_words():
    assert row_attributes({"glasses": "SwimmingGoggles"}).glasses == "sun"
    assert row_attributes({"emotion": "Happiness"}).emotion[EMOTIONS.index("happy")] == 1.0
    assert row_attributes({"emotion": [0.5, 0.5, 0, 0, 0, 0, 0, 0]}).emotion[:2] == (0.5, 0.5)
    assert row_attributes({"age": float("nan"), "smile": None, "gender": " "}) == Attributes()


@pytest.mark.parametrize(
    "row", [{"gender": 1}, {"age": True}, {"age": 10**400}, {"emotion": [1, 0]}, {"emotion": [2] + [0] * 7}]
)
def test_labels_that_could_mean_anything_are_refused(row):
    with pytest.raises(ValueError, match="must be|needs"):
        row_attributes(row)


# Names as labels


@pytest.mark.parametrize(
    "name, age, gender",
    [
        ("26_1_2_20170116184024662.jpg", 26, 0.0),
        ("100_0_0_20170112213500903.jpg.chip.jpg", 100, 1.0),
        ("61_1_20170109142408075.jpg", 61, None),  # these lack a field, as some files of the set do
        ("61_3_20170109150557335.jpg", 61, None),
        ("53__0_20170116184028385.jpg", 53, None),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 24, 1.0),
        ("55_0_0_20170116232725357jpg.chip.jpg", 55, 1.0),
        ("portrait.jpg", None, None),
        ("2017_01_02.jpg", None, None),
    ],
)
def test_utkface_names(name, age, gender):
    assert names.utkface_attributes(name) == Attributes(age=age, gender=gender)


@given(st.integers(0, 120), st.integers(0, 1), st.integers(0, 4), st.integers(10**13, 10**17))
def test_every_well_formed_utkface_name_tells_age_and_gender(age, gender, race, date):
    assert names.utkface_attributes(f"{age}_{gender}_{race}_{date}.jpg") == Attributes(float(age), 1.0 - gender)


def test_a_folder_of_utkface_names_is_seen_as_such(tmp_path):
    touch(tmp_path, "26_1_2_20170116184024662.jpg", "100_0_0_20170112213500903.jpg", "300_0_0_20170112213500903.jpg")
    old_man, young_woman, impossible = read_collection(str(tmp_path))
    assert (old_man.labels.age, old_man.labels.gender) == (100.0, 1.0)
    assert (young_woman.labels.age, young_woman.labels.gender) == (26.0, 0.0)
    assert reason(impossible)[0] == "bad-label"


def test_all_age_faces(tmp_path):
    touch(tmp_path, "original images/00000A02.jpg", "original images/07380A40.jpg", "original images/07381A55.jpg")
    touch(tmp_path, "original images/13321A80.jpg", "image sets/train.txt")
    sources = list(read_collection(str(tmp_path)))
    assert [(s.labels.age, s.labels.gender) for s in sources] == [(2, 0.0), (40, 0.0), (55, 1.0), (80, 1.0)]
    assert list(read_collection(str(tmp_path), "aaf")) == sources


# FFHQ

FACE = {
    "faceRectangle": {"top": 40, "left": 27, "width": 73, "height": 73},
    "faceAttributes": {
        "smile": 0.25,
        "gender": "female",
        "age": 21.0,
        "glasses": "ReadingGlasses",
        "emotion": {
            "anger": 0.0,
            "contempt": 0.0,
            "disgust": 0.0,
            "fear": 0.0,
            "happiness": 0.75,
            "neutral": 0.25,
            "sadness": 0.0,
            "surprise": 0.0,
        },
    },
}


def face(**changes):
    return {**FACE, "faceAttributes": {**FACE["faceAttributes"], **changes}}


def test_ffhq_layout_with_features_in_their_own_folder(tmp_path):
    touch(tmp_path, *(f"images1024x1024/00000/0000{n}.png" for n in range(5)), "ffhq-features/unused.json")
    features = tmp_path / "ffhq-features"
    (features / "00001.json").write_text(json.dumps([FACE]))
    (features / "00002.json").write_text("[]")
    (features / "00003.json").write_text("[{")
    (features / "00004.json").write_text(json.dumps([face(age=200)]))
    without, described, empty, damaged, impossible = read_collection(str(tmp_path))
    assert (described.labels.age, described.labels.glasses, described.labels.smile) == (21.0, "reading", 0.25)
    assert described.labels.emotion[:2] == (0.25, 0.75)
    assert without.labels == empty.labels == Attributes() and empty.read() == b""
    for bad, message in ((damaged, "00003.json: "), (impossible, "00004.json: age must be in 0…120")):
        why, detail = reason(bad)
        assert why == "bad-label" and message in detail
    assert {source.license for source in (without, described, empty)} == {"FFHQ: CC BY-NC-SA 4.0"}


@pytest.mark.parametrize("folder", ["", "json/"])
def test_ffhq_features_beside_the_pictures_or_in_json(tmp_path, folder):
    touch(tmp_path, "00001.png", f"{folder}00001.json")
    (tmp_path / f"{folder}00001.json").write_text(json.dumps([FACE]))
    (described,) = read_collection(str(tmp_path), "ffhq")
    assert described.labels.age == 21.0


@pytest.mark.parametrize(
    "found, glasses",
    [("NoGlasses", "none"), ("ReadingGlasses", "reading"), ("Sunglasses", "sun"), ("SwimmingGoggles", "sun")],
)
def test_all_glasses_of_ffhq(found, glasses):
    assert json_labels(json.dumps([face(glasses=found)]).encode())[0].glasses == glasses


def test_of_two_faces_the_larger_is_the_sitter():
    child = {**face(age=4.0), "faceRectangle": {"width": 20, "height": 20}}
    assert json_labels(json.dumps([child, FACE]).encode())[0].age == 21.0


@pytest.mark.parametrize(
    "features",
    [
        b'[{"faceId": 1}]',
        b'[{"faceAttributes": 1}]',
        b"[1]",
        json.dumps([face(emotion={"happiness": 1.0})]).encode(),
        json.dumps([face(glasses="Monocle")]).encode(),
        b"3",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_features_of_another_format_are_refused(features):
    with pytest.raises(ValueError):
        json_labels(features)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda v: (
            st.lists(v)
            | st.dictionaries(st.sampled_from(["faceAttributes", "age", "emotion", "faceRectangle", "width"]), v)
        ),
        max_leaves=8,
    )
)
def test_any_json_gives_labels_or_a_value_error(value):
    try:
        labels, license = json_labels(json.dumps(value).encode())
    except ValueError:
        return
    assert isinstance(labels, Attributes) and license == ""


# AffectNet


def affectnet_row(path, expression, landmarks="1.5;2.5;3.5"):
    return f"{path},134,134,899,899,{landmarks},{expression},-0.1,0.2\n"


HEADER = ",".join(affectnet.COLUMNS) + "\n"


def test_affectnet_as_it_is_released(tmp_path):
    touch(tmp_path, *(f"Manually_Annotated_Images/689/{n}.jpg" for n in "abcdx"))
    touch(tmp_path, "Automatically_Annotated_Images/12/e.jpg")
    manual = tmp_path / "Manually_Annotated_file_lists"
    automatic = tmp_path / "Automatically_annotated_file_list"
    manual.mkdir()
    automatic.mkdir()
    (manual / "training.csv").write_text(HEADER + affectnet_row("689/a.jpg", 1) + affectnet_row("689/b.jpg", 9))
    (manual / "validation.csv").write_text(affectnet_row("689/c.jpg", 10) + affectnet_row("689/d.jpg", 7))  # no header
    (automatic / "automatically_annotated.csv").write_text(
        HEADER + affectnet_row("12/e.jpg", 0) + affectnet_row("689/a.jpg", 2) + affectnet_row("12/gone.jpg", 2)
    )
    a, b, c, d, e, gone, unnamed = read_collection(str(tmp_path))
    assert a.labels.emotion == (0, 1, 0, 0, 0, 0, 0, 0)  # the people's word, not the machine's
    assert b.labels.emotion is None and b.read() == b""
    assert reason(c)[0] == "labelled-no-face"
    assert d.labels.emotion == (0, 0, 0, 0, 0, 0, 0, 1)
    assert e.labels.emotion == (1, 0, 0, 0, 0, 0, 0, 0) and e.uri.endswith("Automatically_Annotated_Images/12/e.jpg")
    with pytest.raises(FileNotFoundError):
        gone.read()
    assert unnamed.uri.endswith("x.jpg") and unnamed.labels == Attributes()
    assert all(source.labels.smile is None for source in (a, b, d, e))


@pytest.mark.parametrize("expression, name", enumerate(EMOTIONS))
def test_affectnet_counts_emotions_in_our_order(tmp_path, expression, name):
    touch(tmp_path, "1/a.jpg")
    (tmp_path / "training.csv").write_text(f"subDirectory_filePath,expression\n1/a.jpg,{expression}\n")
    (source,) = read_collection(str(tmp_path), "affectnet")
    assert source.labels.emotion[EMOTIONS.index(name)] == 1.0 and sum(source.labels.emotion) == 1.0


@pytest.mark.parametrize("expression", ["11", "-1", "happy", ""])
def test_an_impossible_expression_rejects_one_picture(tmp_path, expression):
    touch(tmp_path, "1/a.jpg", "1/b.jpg")
    (tmp_path / "training.csv").write_text(HEADER + affectnet_row("1/a.jpg", expression) + affectnet_row("1/b.jpg", 0))
    a, b = read_collection(str(tmp_path), "affectnet")
    why, detail = reason(a)
    assert why == "bad-label" and "training.csv, line 2: expression must be 0…10" in detail
    assert b.labels.emotion[0] == 1.0


@pytest.mark.parametrize(
    "files, content, message",
    [
        (["1/a.jpg"], "a,b\n1,2\n", "line 1: not a table of AffectNet"),
        ([], HEADER, "has no pictures"),
        (["1/a.jpg"], None, "has no .csv file of AffectNet"),
    ],
)
def test_what_is_not_affectnet_is_told_as_such(tmp_path, files, content, message):
    touch(tmp_path, "readme.txt", *files)
    if content is not None:
        (tmp_path / "training.csv").write_text(content)
    with pytest.raises(CapriciousError, match=message):
        list(read_collection(str(tmp_path), "affectnet"))
