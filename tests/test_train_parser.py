"""The parser's training on real Ray, from pictures to a parser that runs. Eight steps make no parser: wiring."""

import json

import numpy as np
import pytest
from skimage.data import astronaut

from capricious.annotate.distill.loop import DistillConfig
from capricious.annotate.distill.parser import PARSER
from capricious.annotate.distill.targets import read_targets, targets_uri
from capricious.annotate.unet_parser import UNetParser
from capricious.cluster.train_parser import TrainParserConfig, train_parser
from capricious.errors import ConfigError
from capricious.faces.image import encode


@pytest.mark.slow
def test_from_pictures_to_a_parser_and_resumed(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers have other working directories: relative paths must not follow theirs
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for shift in range(8):
        (pictures / f"{shift}.png").write_bytes(encode(np.roll(astronaut(), 3 * shift, 1), "png"))
    (pictures / "notes.txt").write_text("no picture")
    distill = DistillConfig(kimg=0.016, batch_size=2, small_size=32, small_share=1.0, checkpoint_kimg=0.008)
    config = TrainParserConfig(sources=(str(pictures),), out="out", test_share=0.4, label_workers=1, distill=distill)
    measures = train_parser(config)
    folder = str(tmp_path / "out" / "0-pictures")
    train, test = read_targets([folder], "train"), read_targets([folder], "test")
    assert len(train) + len(test) == 8 and train and test and measures["trained_on"] == len(train)
    (held_out,) = measures["held_out"].values()
    assert held_out["crops"] == len(test) and 0.0 <= held_out["skin"] <= 1.0
    # The teacher sees a face: most of the crop's middle is skin.
    assert train[0].decoded()[1][120:160, 100:156, 0].mean() > 200
    parser = tmp_path / "out" / PARSER
    assert UNetParser(path=parser).parse(train[0].decoded()[0]).labels.shape == (256, 256)

    # The same command again labels nothing anew and gives the same parser.
    before, labelled = parser.read_bytes(), (tmp_path / "out").joinpath(targets_uri("0-pictures", 0)).stat().st_mtime_ns
    parser.unlink()
    assert train_parser(config) == measures
    assert parser.read_bytes() == before
    assert (tmp_path / "out").joinpath(targets_uri("0-pictures", 0)).stat().st_mtime_ns == labelled
    assert json.loads((tmp_path / "out" / "parser.json").read_text()) == measures


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"sources": ()}, "at least one"), ({"out": "s3://x"}, "folder"), ({"test_share": 0.0}, "test_share")],
)
def test_impossible_configurations_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainParserConfig(**{"sources": ("a",), "out": "b", **wrong})
