"""Reading collections and what their keepers know of the sitters."""

import json

import pytest

from capricious.data.collections import ffhq_attributes, read_collection
from capricious.errors import CapriciousError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(sources):
    return [source.uri.rsplit("/", 1)[1] for source in sources]


def test_a_folder_lists_every_file_below_it_but_hidden_ones(tmp_path):
    touch(tmp_path, "b.jpg", "a/notes.txt", ".DS_Store", ".cache/x.jpg")
    assert names(read_collection(str(tmp_path))) == ["notes.txt", "b.jpg"]


def test_one_picture_is_a_collection_of_one(tmp_path):
    touch(tmp_path, "mona.jpg")
    assert names(read_collection(str(tmp_path / "mona.jpg"))) == ["mona.jpg"]


def test_nothing_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CapriciousError, match="no file or folder at .*nowhere"):
        read_collection(str(tmp_path / "nowhere"))


def test_labels_csv(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "unlabelled.jpg")
    (tmp_path / "labels.csv").write_text(
        "file,age_at_sitting,sex,rights\na.jpg,61,male,CC0\nb.jpg,,female,\ngone.jpg,5,,\n"
    )
    a, b, gone, unlabelled = read_collection(str(tmp_path))
    assert (a.labels.age, a.labels.gender, a.license) == (61.0, 1.0, "CC0")
    assert (b.labels.age, b.labels.gender) == (None, 0.0)
    assert gone.uri.endswith("gone.jpg")  # listed, so that it ends as a reject and not in silence
    assert unlabelled.labels.age is None


@pytest.mark.parametrize("row, message", [("a.jpg,old", "could not convert"), ("a.jpg,300", "age must be in 0…120")])
def test_a_bad_label_is_an_error_with_its_line(tmp_path, row, message):
    touch(tmp_path, "a.jpg")
    (tmp_path / "labels.csv").write_text(f"file,age\n{row}\n")
    with pytest.raises(CapriciousError, match=f"line 2: .*{message}"):
        read_collection(str(tmp_path))


def test_utkface_names(tmp_path):
    touch(tmp_path, "26_1_2_20170116184024662.jpg", "100_0_0_20170112213500903.jpg")
    old_man, young_woman = read_collection(str(tmp_path))
    assert (old_man.labels.age, old_man.labels.gender) == (100.0, 1.0)
    assert (young_woman.labels.age, young_woman.labels.gender) == (26.0, 0.0)


FEATURES = [
    {
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
        }
    }
]


def test_ffhq_features_beside_the_pictures(tmp_path):
    touch(tmp_path, "00001.png", "00002.png")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "00001.json").write_text(json.dumps(FEATURES))
    (tmp_path / "json" / "00002.json").write_text("[]")
    described, empty = read_collection(str(tmp_path), "ffhq")
    assert (described.labels.age, described.labels.glasses, described.labels.smile) == (21.0, "reading", 0.25)
    assert described.labels.emotion[:2] == (0.25, 0.75)
    assert empty.labels.age is None


def test_ffhq_features_of_another_format_are_refused():
    with pytest.raises(ValueError, match="Microsoft Face API"):
        ffhq_attributes(b'[{"faceId": 1}]')


def test_affectnet_expressions(tmp_path):
    touch(tmp_path, "689/a.jpg", "689/b.jpg")
    (tmp_path / "training.csv").write_text("subDirectory_filePath,expression\n689/a.jpg,1\n689/b.jpg,9\n")
    happy, uncertain = read_collection(str(tmp_path), "affectnet")
    assert happy.labels.emotion == (0, 1, 0, 0, 0, 0, 0, 0)
    assert uncertain.labels.emotion is None
