"""The preflight: each fault that was planted is found, on the node that has it, with its remedy."""

import os
from dataclasses import replace

import pytest
import ray
import torch

from capricious import weights
from capricious.annotate import annotator
from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.cluster import node_report
from capricious.cluster import preflight as preflight_module
from capricious.cluster.node_report import Needs, NodeReport, versions_here
from capricious.cluster.preflight import Finding, preflight, require, working_directory
from capricious.errors import CapriciousError, StoreFault
from capricious.model.losses import LossWeights
from capricious.training import judges
from capricious.training.config import SwapConfig, TrainingConfig

GIB = 1 << 30


def by_check(findings):
    return {finding.check: finding for finding in findings}


def fine(node: str, **changes) -> NodeReport:
    report = NodeReport(node, versions_here(), (100.0, 100.5, 101.0), (100 * GIB, 60 * GIB), 2.0 * GIB, {}, (), {})
    return replace(report, **changes)


@pytest.fixture
def nodes(monkeypatch):
    """Makes the cluster say what a test wants; everything else is real."""

    def say(*reports):
        monkeypatch.setattr(preflight_module, "ask_nodes", lambda needs: list(reports))

    return say


def test_a_cluster_that_has_everything_is_told_so(ray_cluster, tmp_path):
    folder = tmp_path / "out"
    findings = preflight(Needs(reads=(str(tmp_path),), writes=(str(folder),), cpus=4))
    assert {finding.level for finding in findings if finding.check != "authentication"} == {"ok"}
    require(findings)
    assert list(folder.iterdir()) == []  # the marks are gone


def test_what_is_not_there_or_cannot_be_written_is_refused(ray_cluster, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    findings = preflight(Needs(reads=(f"{tmp_path}/nowhere",), writes=(f"{tmp_path}/file",), cpus=1000, gpus=8))
    found = by_check(findings)
    assert found["CPUs"].level == found["GPUs"].level == "warning"
    errors = [str(finding) for finding in findings if finding.level == "error"]
    assert any(f"{tmp_path}/nowhere" in error and "is not there" in error for error in errors)
    assert any(f"{tmp_path}/file" in error and "cannot be written" in error for error in errors)
    with pytest.raises(CapriciousError, match="(?s)not ready.*nowhere.*file.*NFS"):
        require(findings)


def test_weights_that_a_node_lacks_are_named_with_their_size(ray_cluster, nodes):
    nodes(fine("10.0.0.1"), fine("10.0.0.2", lacking=("vgg16-conv",)))
    found = by_check(preflight(Needs(weights=("vgg16-conv",))))["weights"]
    assert found.level == "warning" and "10.0.0.2" in found.found and "10.0.0.1" not in found.found
    assert "(65.5 MB)" in found.found and "weights fetch vgg16-conv" in found.remedy


@pytest.fixture
def fetched(monkeypatch):
    """Records which weights are asked for."""
    asked, fetch = [], weights.fetch

    def record(name):
        asked.append(name)
        return fetch(name)

    monkeypatch.setattr(weights, "fetch", record)
    return asked


@pytest.mark.parametrize(
    "config",
    [
        AnnotatorConfig(),
        AnnotatorConfig(detector="dlib", landmarks="dlib", estimator="none"),
        AnnotatorConfig(landmarks="mesh", parser="bisenet", expression="none"),
    ],
)
def test_an_annotator_needs_the_weights_that_it_says(fetched, config):
    Annotator(config)
    assert set(annotator.needed_weights(config)) == set(fetched)


@pytest.mark.parametrize("swap", [0.0, 0.5])
@pytest.mark.parametrize("perceptual", [0.0, 10.0])
@pytest.mark.parametrize("likeness", [0.0, 1.0])
def test_training_needs_the_weights_that_it_says(fetched, swap, perceptual, likeness):
    swapped = SwapConfig(probability=swap, likeness=likeness)
    config = TrainingConfig(swap=swapped, loss=LossWeights(perceptual=perceptual))
    judges.new_judges(config, torch.device("cpu"))
    assert set(judges.needed_weights(config)) == set(fetched)


def test_a_folder_that_nodes_do_not_share(ray_cluster, nodes):
    nodes(
        fine("10.0.0.1", seen={"/out": frozenset({"10.0.0.1"})}),
        fine("10.0.0.2", seen={"/out": frozenset({"10.0.0.2"})}),
    )
    found = by_check(preflight(Needs(writes=("/out",))))["storage"]
    assert found.level == "error" and "not shared" in found.found and "s3://" in found.remedy


def test_other_versions_late_clocks_and_full_disks(ray_cluster, nodes, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    nodes(
        fine("10.0.0.1", versions={**versions_here(), "ray": "2.9.0", "deepspeed": None}),
        fine("10.0.0.2", clock=(100.0, 160.0, 101.0)),
        fine("10.0.0.3", disk=(100 * GIB, 4 * GIB)),
        fine("10.0.0.4", disk=(100 * GIB, 10 * GIB), object_store=20.0 * GIB),
    )
    findings = preflight(Needs())
    found = by_check(findings)
    assert found["versions"].level == "error" and "10.0.0.1 has ray 2.9.0" in found["versions"].found
    assert "deepspeed" not in found["versions"].found  # a node of CPUs may do without
    assert found["clocks"].level == "warning" and "10.0.0.2 is off by at least 59 s" in found["clocks"].found
    disks = [finding for finding in findings if finding.check == "spill disk"]
    assert [(d.level, d.found.split()[0]) for d in disks] == [("error", "10.0.0.3"), ("warning", "10.0.0.4")]
    assert found["authentication"].level == "warning"


def test_the_working_directory_is_weighed_without_what_is_ignored(tmp_path):
    (tmp_path / ".rayignore").write_text("*.tar\n")
    (tmp_path / "code.py").write_bytes(b"x" * (1 << 20))
    with (tmp_path / "faces.tar").open("wb") as file:
        os.truncate(file.fileno(), 600 << 20)
    assert working_directory(tmp_path).level == "ok"
    (tmp_path / ".rayignore").unlink()
    found = working_directory(tmp_path)
    assert found.level == "error" and ".rayignore" in found.remedy


def test_a_finding_reads_as_one_line():
    finding = Finding("clocks", "warning", "10.0.0.2 is off by at least 59 s", "run a time service")
    assert str(finding) == "warning clocks: 10.0.0.2 is off by at least 59 s → run a time service"


def test_a_store_that_lets_nobody_in_is_a_finding(monkeypatch):
    def exists(uri):
        raise StoreFault("Unable to locate credentials")

    monkeypatch.setattr(node_report.storage, "exists", exists)
    assert node_report._unreadable("s3://museum/portraits") == "cannot be read: Unable to locate credentials"


def test_a_node_on_which_looking_fails_is_not_told_to_be_dead(ray_cluster):
    @ray.remote(num_cpus=0, max_retries=0)
    def look():
        raise ValueError("a bug")

    with pytest.raises(CapriciousError, match=r"^node 10.0.0.1 cannot look: ValueError: a bug$"):
        node_report._on_each({"0a1b": "10.0.0.1"}, lambda node: look.remote())
