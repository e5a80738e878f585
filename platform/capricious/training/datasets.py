"""Several prepared datasets in one run."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from capricious.data.prepared import PreparedDataset
from capricious.data.records import Portrait
from capricious.errors import CapriciousError, ConfigError


class JoinedDatasets:
    """One split of several prepared datasets, one after the other, as if they were one.

    Attributes:
        resolution: the smallest of all; larger pictures are scaled down when they are shown.
        fingerprint: names the content of all; with one dataset, its own.
        sizes: number of portraits of each dataset.
    """

    def __init__(self, paths: Sequence[str], split: str):
        """
        Raises:
            CapriciousError: none given, one given twice, or one without portraits in this split.
        """
        if not paths or len(set(paths)) < len(paths):
            raise CapriciousError(f"data must name one or more datasets, each once; found: {' '.join(paths) or 'none'}")
        self._datasets = [PreparedDataset(path, split) for path in paths]
        self.resolution = min(dataset.resolution for dataset in self._datasets)
        names = [dataset.fingerprint for dataset in self._datasets]
        self.fingerprint = names[0] if len(names) == 1 else hashlib.sha256("".join(names).encode()).hexdigest()
        self.sizes = tuple(len(dataset) for dataset in self._datasets)
        self._ends = list(accumulate(self.sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def portrait(self, index: int) -> Portrait:
        """Returns one portrait, 0 ≤ index < len(self)."""
        which = bisect_right(self._ends, index)
        return self._datasets[which].portrait(index - (self._ends[which] - self.sizes[which]))


def share_weights(sizes: Sequence[int], shares: Sequence[float], within: np.ndarray | None = None) -> np.ndarray:
    """Returns how often each portrait is shown such that the datasets are shown in the ratio of `shares`.

    Args:
        sizes: number of portraits of each dataset.
        shares: one for each dataset, more than 0.
        within: frequencies of all portraits, which stay as they are within each dataset; None for equal ones.

    Raises:
        ConfigError: not as many shares as datasets.
    """
    if len(shares) != len(sizes):
        raise ConfigError(
            f"training.data_shares needs one number for each of the {len(sizes)} datasets, found: {len(shares)}"
        )
    within = np.ones(sum(sizes)) if within is None else within
    parts = np.split(within, list(accumulate(sizes))[:-1])
    return np.concatenate([part / part.sum() * share for part, share in zip(parts, shares, strict=True)])
