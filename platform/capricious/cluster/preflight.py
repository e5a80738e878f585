"""Before a job: has the cluster what it needs, on every node? Each finding says what to do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray

from capricious import weights
from capricious.cluster.node_report import Needs, NodeReport, ask_nodes, versions_here
from capricious.data import storage
from capricious.errors import CapriciousError

NOT_LOOKED_AT = ("http://", "https://", "capricious://")
"""What is read from the web costs its keeper something; what ships with the package is where the code is."""

Level = Literal["ok", "warning", "error"]

SKEW_SECONDS = 5.0
"""Clocks further apart confuse logs and metrics; from 15 minutes on an object store refuses signatures."""

SPILL_FULL = 0.95
"""Share of the disk above which Ray stops spilling objects to it (local_fs_capacity_threshold)."""

PACKAGE_LIMIT = 512 << 20
"""Bytes of a working directory that Ray refuses to upload."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what.
        level: "error" where the job would fail, "warning" where it may.
        found: what was found, and where.
        remedy: what to do; empty for "ok".
    """

    check: str
    level: Level
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:7s} {self.check}: {self.found}" + (f" → {self.remedy}" if self.remedy else "")


def preflight(needs: Needs) -> list[Finding]:
    """Examines the connected cluster; takes some seconds.

    Relative paths mean the driver's, as in the jobs.

    Raises:
        CapriciousError: a node does not answer.
    """
    needs = Needs(
        tuple(storage.absolute(uri) for uri in needs.reads if not uri.startswith(NOT_LOOKED_AT)),
        tuple(storage.absolute(uri) for uri in needs.writes),
        needs.cpus,
        needs.gpus,
        needs.weights,
    )
    reports = ask_nodes(needs)
    return [
        *_resources(needs),
        *_versions(reports),
        *_clocks(reports),
        *_disks(reports),
        *_storage(needs, reports),
        *(_weights(reports) if needs.weights else ()),
        _authentication(),
    ]


def require(findings: list[Finding]) -> None:
    """Raises if the job cannot work.

    Raises:
        CapriciousError: all errors, one a line.
    """
    if errors := [finding for finding in findings if finding.level == "error"]:
        raise CapriciousError("the cluster is not ready:\n" + "\n".join(f"  {error}" for error in errors))


def _resources(needs: Needs) -> Iterator[Finding]:
    there = ray.cluster_resources()
    for name, wanted in (("CPU", needs.cpus), ("GPU", needs.gpus)):
        found = there.get(name, 0.0)
        if wanted > found:
            yield Finding(
                f"{name}s",
                "warning",
                f"{wanted:g} wanted, the cluster has {found:g} now",
                "ask for fewer workers, add nodes, or wait if the cluster adds them by itself",
            )
        elif wanted:
            yield Finding(f"{name}s", "ok", f"{wanted:g} wanted, {found:g} there")


def _versions(reports: list[NodeReport]) -> Iterator[Finding]:
    here = versions_here()
    other = [
        f"{report.node} has {name} {report.versions[name] or 'not at all'}, the driver {here[name]}"
        for report in reports
        for name in here
        if report.versions[name] != here[name] and here[name] and (report.versions[name] or name in ("ray", "torch"))
    ]
    if other:
        yield Finding("versions", "error", "; ".join(other), "use one image on all nodes (infra/docker)")
    else:
        yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in here.items() if version))


def _clocks(reports: list[NodeReport]) -> Iterator[Finding]:
    # The node looked at its clock after it was asked and before it answered: what lies outside of that is skew.
    skews = {r.node: max(r.clock[0] - r.clock[1], r.clock[1] - r.clock[2], 0.0) for r in reports}
    if late := {node: skew for node, skew in skews.items() if skew > SKEW_SECONDS}:
        found = ", ".join(f"{node} is off by at least {skew:.0f} s" for node, skew in late.items())
        yield Finding("clocks", "warning", found, "run a time service (chrony) on that node")
    else:
        yield Finding("clocks", "ok", f"within {SKEW_SECONDS:g} s on {len(reports)} nodes")


def _disks(reports: list[NodeReport]) -> Iterator[Finding]:
    remedy = "free space there, or start Ray with --temp-dir on a larger disk"
    fine = True
    for report in reports:
        total, free = report.disk
        found = f"{report.node} has {free / 2**30:.1f} of {total / 2**30:.0f} GiB free where Ray spills objects"
        if free < (1 - SPILL_FULL) * total:
            fine = False
            yield Finding("spill disk", "error", f"{found}, and Ray uses none of the last {1 - SPILL_FULL:.0%}", remedy)
        elif free < report.object_store:
            fine = False
            yield Finding("spill disk", "warning", f"{found}, less than its object store holds", remedy)
    if fine:
        least = min(report.disk[1] for report in reports)
        yield Finding("spill disk", "ok", f"at least {least / 2**30:.1f} GiB free on each of {len(reports)} nodes")


def _storage(needs: Needs, reports: list[NodeReport]) -> Iterator[Finding]:
    everyone = frozenset(report.node for report in reports)
    for uri in dict.fromkeys((*needs.reads, *needs.writes)):
        problems = {report.node: report.problems[uri] for report in reports if uri in report.problems}
        # Nodes that share a folder see the same marks in it; the most frequent sight is taken for the right one.
        sights = {report.node: report.seen.get(uri, everyone) - frozenset(problems) for report in reports}
        right = Counter(sights.values()).most_common(1)[0][0]
        apart = sorted(node for node, seen in sights.items() if seen != right and node not in problems)
        remedy = (
            "check the address, AWS_ENDPOINT_URL and the credentials of the nodes (an IAM role, or AWS_* variables)"
            if "://" in uri
            else "use a folder that all nodes share (NFS), or an s3:// address"
        )
        if problems:
            reasons = "; ".join(f"on {node}: {reason}" for node, reason in problems.items())
            yield Finding("storage", "error", f"{uri} {reasons}", remedy)
        elif apart:
            found = f"{uri} is not shared: on {', '.join(apart)} it is not the folder that the other nodes see"
            yield Finding("storage", "error", found, remedy)
        else:
            yield Finding("storage", "ok", f"{uri} on {len(reports)} nodes")


def _weights(reports: list[NodeReport]) -> Iterator[Finding]:
    nodes: dict[tuple[str, ...], list[str]] = {}
    for report in reports:
        if report.lacking:
            nodes.setdefault(report.lacking, []).append(report.node)
    for names, those in nodes.items():
        size = sum(weights.get(name).size for name in names) / 1e6
        yield Finding(
            "weights",
            "warning",
            f"{', '.join(those)} lacks {', '.join(names)} ({size:.1f} MB)",
            f"they are fetched when first used; beforehand: capricious weights fetch {' '.join(names)}",
        )
    if not nodes:
        yield Finding("weights", "ok", "all that the job needs are on all nodes")


def _authentication() -> Finding:
    if os.environ.get("RAY_AUTH_MODE", "token") != "disabled":
        return Finding("authentication", "ok", "Ray asks for a token")
    return Finding(
        "authentication",
        "warning",
        "RAY_AUTH_MODE is disabled: whoever reaches the cluster's ports runs code on it",
        "set RAY_AUTH_MODE=token on all nodes, or let nobody else reach them",
    )


def working_directory(folder: Path) -> Finding:
    """Says whether `ray job submit --working-dir` would take a folder, without what .gitignore and .rayignore name."""
    from ray._private.runtime_env.packaging import _dir_travel, get_excludes_from_ignore_files

    size = 0

    def add(path: Path) -> None:
        nonlocal size
        size += path.stat().st_size if path.is_file() else 0

    _dir_travel(folder, get_excludes_from_ignore_files(folder, include_gitignore=True), add, include_gitignore=True)
    found = f"{folder} has {size / 2**20:.1f} MiB to upload"
    if size > PACKAGE_LIMIT:
        remedy = "name what is not needed in .rayignore"
        return Finding("working directory", "error", f"{found}, Ray takes {PACKAGE_LIMIT >> 20}", remedy)
    return Finding("working directory", "ok", found)
