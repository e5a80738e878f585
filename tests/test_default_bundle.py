"""What ships: the bundle, the portraits that it made, and the demo that shows both."""

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.evaluate.faceres import Faceres
from capricious.faces.image import decode, encode
from capricious.model import bundle as bundle_module
from capricious.model.bundle import DEFAULT, load_bundle
from capricious.render.renderer import Renderer
from capricious.render.samples import samples
from capricious.render.sweep import Sweep
from jobs.demo import DemoConfig, main

FOLDER = Path(bundle_module.__file__).with_name("default")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(DEFAULT)


@pytest.fixture(scope="module")
def annotator():
    return Annotator(AnnotatorConfig(resolution=128))


def test_it_says_what_it_is(bundle):
    assert bundle.learnt is not None and bundle.training_pictures is not None
    assert "research" in bundle.info["licence"]
    assert (FOLDER / "MODEL_CARD.md").is_file()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60e6
    assert '"/' not in json.dumps(bundle.info)  # no path of the machine that trained it


def test_older_when_asked_by_a_judge_that_training_never_saw(bundle, annotator):
    """On a photograph that it never saw: 80 looks older than 20, by decades, and the eight ages rise together."""
    (face,) = annotator.annotate(astronaut())
    source, *renders = Renderer(bundle).render(face, Sweep.parse("10:80:10").variants())
    assert np.array_equal(source, face.image)  # whoever is asked to stay as she is comes back as she was
    renders = np.stack(renders)
    estimated = Faceres()(renders).age
    assert len(estimated) == 8 and estimated[-1] - estimated[1] > 20, estimated
    assert np.corrcoef(np.arange(10, 90, 10), estimated)[0, 1] > 0.8


def test_the_samples_are_portraits_of_nobody_and_say_so(annotator):
    found = samples()
    assert len(found) == 12
    for name, content in found.items():
        assert b"trainedAlgorithmicMedia" in content, name
        assert len(annotator.annotate(decode(content, name=name))) == 1, name


def test_the_demo_shows_what_it_rendered(ray_cluster, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "astronaut.png").write_bytes(encode(astronaut(), "png"))
    out = tmp_path / "demo"
    assert main(DemoConfig(out=str(out), pictures=str(tmp_path / "pictures"), ages="20,70")) == 0
    page = (out / "index.html").read_text()
    assert "astronaut" in page and "sweeps/portraits/" in page
