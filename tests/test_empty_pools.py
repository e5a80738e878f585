"""A cluster without CPUs when a job is submitted: what waits for them makes it grow. Needs root and iproute2."""

import pytest
from cluster_tools import finished, machines, wait_for
from serve_tools import PHOTO

from capricious.data.prepared import PreparedDataset

pytestmark = pytest.mark.slow


def test_prepare_begins_with_the_first_node_and_ends_with_fewer_than_it_asked_for(tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "prepared"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(PHOTO)
    arguments = ["--source", str(folder), "--out", str(out), "--annotator.resolution", "64"]
    with machines() as cluster:
        refused = finished(cluster.start_job("prepare.py", *arguments), 1)
        assert "no CPUs now" in refused and "--workers" in refused
        job = cluster.start_job("prepare.py", *arguments, "--workers", "2", "--test-share", "0")
        wait_for(cluster, job, (out / "_plan.json").exists)
        cluster.add(1)
        printed = finished(job, 0)
    assert "prepare with 2 workers needs 2 CPUs, the cluster has 0: those without wait" in printed
    assert len(PreparedDataset(str(out))) == 6
