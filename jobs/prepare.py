"""Prepare a collection: find the faces, align, landmark, parse and describe them.

    python jobs/prepare.py --source pictures/ --out prepared/
    ray job submit --working-dir . -- python jobs/prepare.py --source s3://museum/portraits --out s3://museum/prepared

Exit codes: 0 all pictures used, 3 some rejected (see OUT/rejects), 1 too many rejected or an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.annotate.annotator import needed_weights
from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.prepare import PrepareConfig, prepare


def main(config: PrepareConfig) -> int:
    outcome = prepare(config)
    print(f"{outcome.portraits} portraits from {outcome.pictures} pictures, {outcome.rejects} rejected: {config.out}")
    for reason, count in outcome.reasons.items():
        print(f"  {count:6d}  {reason}")
    return outcome.exit_code(config.failure_share)


def needs(config: PrepareConfig) -> Needs:
    return Needs(
        reads=(config.source,),
        writes=(config.out,),
        cpus=config.workers,
        weights=needed_weights(config.annotator),
    )


if __name__ == "__main__":
    sys.exit(run_job(PrepareConfig, main, __doc__, needs=needs))
