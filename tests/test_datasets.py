"""Several prepared datasets in one run."""

from __future__ import annotations

import numpy as np
import pytest
from training_tools import SIZE, made_up_portraits, write_dataset

from capricious.data.prepared import PreparedDataset
from capricious.errors import CapriciousError, ConfigError
from capricious.training.batches import PortraitStream
from capricious.training.datasets import JoinedDatasets, share_weights


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write_dataset(folder / "a", count=4), write_dataset(folder / "b", count=9, seed=1, held_out=3)


def test_datasets_follow_each_other(paths):
    joined = JoinedDatasets(paths, "train")
    first, second = made_up_portraits(4), made_up_portraits(9, seed=1)[3:]
    assert (len(joined), joined.sizes, joined.resolution) == (10, (4, 6), SIZE)
    found = [joined.portrait(i).image for i in range(10)]
    assert found == [portrait.image for portrait in first + second]


def test_a_fingerprint_names_all_of_them_in_their_order(paths):
    one = JoinedDatasets(paths[:1], "train").fingerprint
    assert one == PreparedDataset(paths[0], "train").fingerprint
    assert len({one, JoinedDatasets(paths, "train").fingerprint, JoinedDatasets(paths[::-1], "train").fingerprint}) == 3


@pytest.mark.parametrize("wrong", [[], ["twice", "twice"]])
def test_data_is_one_or_more_each_once(wrong):
    with pytest.raises(CapriciousError, match="one or more datasets, each once"):
        JoinedDatasets(wrong, "train")


def test_shares_say_how_often_each_dataset_is_shown(paths):
    joined = JoinedDatasets(paths, "train")
    stream = PortraitStream(joined, resolution=SIZE, seed=0, shares=(3.0, 1.0))
    shown = stream.indices(0, 8000)
    assert np.mean(shown < 4) == pytest.approx(0.75, abs=0.02)
    counts = np.bincount(shown, minlength=10)
    assert counts[:4] == pytest.approx(1500, rel=0.1) and counts[4:] == pytest.approx(8000 / 24, rel=0.2)


def test_shares_keep_the_frequencies_within_each_dataset():
    weights = share_weights((2, 3), (1.0, 3.0), within=np.array([1.0, 3.0, 2.0, 2.0, 4.0]))
    assert weights.tolist() == [0.25, 0.75, 0.75, 0.75, 1.5]


def test_there_are_as_many_shares_as_datasets(paths):
    with pytest.raises(ConfigError, match="each of the 2 datasets, found: 3"):
        PortraitStream(JoinedDatasets(paths, "train"), resolution=SIZE, seed=0, shares=(1.0, 1.0, 1.0))
