"""What a picture is called in front of people, and the folder of its renders."""

import pytest

from capricious.cluster.render_shard import folder_of
from capricious.data.titles import title_of

IIIF = "https://iiif.museum.org/image"


@pytest.mark.parametrize(
    ("uri", "title"),
    [
        ("s3://museum/1907.17.jpg", "1907.17"),
        ("/data/shard.tar!halls/1907.17.jpg", "1907.17"),
        (f"{IIIF}/1907.17/full/!2048,2048/0/default.jpg", "1907.17"),
        (f"{IIIF}/2/halls%2F1907%2017/full/max/0/default.jpg", "halls/1907 17"),
        (f"{IIIF}/1907.17/10,20,300,400/800,/!90/native.png", "1907.17"),
        (f"{IIIF}/1907.17/default.jpg", "default"),  # not of the Image API: who knows what its folders mean
    ],
)
def test_a_title_tells_pictures_apart_where_the_address_does(uri, title):
    assert title_of(uri) == title


def test_each_address_has_a_folder_of_its_own_that_people_can_read():
    # Among 200,000 works these are two whose addresses share the first 32 bits of their hash.
    one, other = (folder_of(f"s3://museum/{number}/front.jpg") for number in (23343, 65048))
    assert one[:-8] == other[:-8] and one != other and one.startswith("portraits/front-")
    assert folder_of(f"{IIIF}/1907.17/full/max/0/default.jpg").startswith("portraits/1907-17-")
