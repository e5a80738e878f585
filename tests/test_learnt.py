"""What a bundle says it learnt: the rest is refused by name, or flagged as a guess. Random weights: wiring only."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from capricious.data.records import Face
from capricious.errors import ConfigError
from capricious.faces.attributes import EMOTIONS, Attributes
from capricious.model.bundle import load_bundle, save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.model.learnt import Learnt
from capricious.render.deliverables import DeliverablesConfig
from capricious.render.picture import render_picture
from capricious.render.provenance import read_stamp
from capricious.render.renderer import Renderer
from capricious.render.scan import Scan
from capricious.render.sweep import Sweep

R = 64
SITTERS = [
    *(
        Attributes(age=float(age), gender=float(age % 2), glasses="reading" if age % 5 else "none")
        for age in range(101)
    ),
    Attributes(gender=1.0),
    Attributes(),
]


def learnt(sitters=SITTERS):
    return Learnt.of(np.stack([sitter.vector() for sitter in sitters]))


def test_what_was_known_is_counted_by_value():
    found = learnt()
    assert found.counts["age"] == {"known": 101}
    assert found.counts["gender"] == {"female": 51, "male": 51}
    assert found.counts["glasses"] == {"none": 21, "reading": 80, "sun": 0}
    assert found.counts["smile"] == {"known": 0} and sum(found.counts["emotion"].values()) == 0
    assert found.ages == (1.0, 99.0)
    happy = tuple(float(name == "happy") for name in EMOTIONS)
    some = learnt([Attributes(emotion=happy, smile=0.5)])
    assert some.counts["emotion"]["happy"] == 1 and some.counts["smile"] == {"known": 1} and some.ages is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"smiles": "1"}, "smile cannot be changed: no portrait"),
        ({"emotions": "happy"}, "emotion cannot be changed"),
        ({"glasses": "sun"}, "glasses sun cannot be rendered: .*21 none, 80 reading, none sun"),
    ],
)
def test_what_was_never_seen_is_refused_by_name(asked, message):
    with pytest.raises(ConfigError, match=message):
        for variant in Sweep.parse("20", **asked).variants():
            learnt().refuse_unknown(variant.changes)


def test_what_was_seen_is_not_refused():
    for variant in Sweep.parse("20,110", genders="female,male", glasses="none,reading").variants():
        learnt().refuse_unknown(variant.changes)


def a_bundle(folder, learned=None):
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=R, width=2, hidden=4))
    encoder = StyleEncoder(EncoderConfig(resolution=R, width=2))
    save_bundle(folder, generator, encoder, learnt=learned)
    return load_bundle(folder)


def test_a_bundle_remembers_it_and_its_renderer_asks_it(tmp_path):
    bundle = a_bundle(tmp_path / "bundle", learnt())
    assert bundle.learnt == learnt()
    face = Face(
        image=np.zeros((R, R, 3), np.uint8),
        label_map=np.zeros((R, R), np.uint8),
        landmarks=np.zeros((68, 2), np.float32),
        quad=np.array([[100, 50], [100, 250], [300, 250], [300, 50]], np.float32),
        attributes=Attributes(age=40.0),
        attribute_source={},
        detection_score=1.0,
        landmark_score=1.0,
        pose=np.zeros(3, np.float32),
        resolution_score=200 / R,
        inside_score=1.0,
    )
    renderer = Renderer(bundle)
    with pytest.raises(ConfigError, match="smile cannot be changed"):
        renderer.render(face, Sweep.parse("20", smiles="1").variants())

    result = render_picture(Scan(astronaut()), [face], renderer, Sweep.parse("50,110"), source_sha256="5" * 64)
    assert result.extrapolated == {"age-110"}
    assert read_stamp(result.file("age-110"))["extrapolated"] == ["age-110"]
    assert "extrapolated" not in read_stamp(result.file("age-50"))
    files = {name: data for name, _, data in DeliverablesConfig(iiif="https://a.org").files(result, b"", "p")}
    labels = [canvas["label"]["en"][0] for canvas in json.loads(files["manifest"])["items"]]
    assert labels == ["age 50", "age 110 (extrapolated: the model has learnt no such age)"]
    sheet, plain = (
        np.asarray(Image.open(io.BytesIO(each.sheet()))) for each in (result, replace(result, extrapolated=frozenset()))
    )
    assert not np.array_equal(sheet, plain)  # an asterisk and what it means


def test_a_bundle_that_does_not_say_refuses_nothing(tmp_path):
    assert a_bundle(tmp_path / "old").learnt is None
