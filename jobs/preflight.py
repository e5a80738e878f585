"""Has the cluster what a job needs, on every node? Each finding says what to do.

    python jobs/preflight.py
    ray job submit --working-dir . -- python jobs/preflight.py --reads s3://museum/portraits \\
        --writes s3://museum/prepared --cpus 64 --gpus 8 --weights vgg16-conv

Every job looks at these things first by itself; this one shows all that it saw.
Exit codes: 0 nothing stands in the way, 1 something does, 2 wrong usage.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.preflight import preflight, working_directory


@dataclass(frozen=True)
class PreflightConfig:
    """What a job will want."""

    reads: tuple[str, ...] = ()
    """Folders, files or URLs that every node must be able to read."""
    writes: tuple[str, ...] = ()
    """Folders or URLs that every node must be able to write to."""
    cpus: float = 0.0
    """CPUs of all workers together."""
    gpus: float = 0.0
    """GPUs of all workers together."""
    weights: tuple[str, ...] = ()
    """Names in the weight registry (capricious weights lists them)."""


def main(config: PreflightConfig) -> int:
    needs = Needs(config.reads, config.writes, config.cpus, config.gpus, config.weights)
    findings = [working_directory(Path.cwd()), *preflight(needs)]
    for finding in findings:
        print(finding)
    return 1 if any(finding.level == "error" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(run_job(PreflightConfig, main, __doc__))
