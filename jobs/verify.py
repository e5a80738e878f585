"""Verify what jobs/render.py has written: every row of the plan once in the ledger, every file hashed anew.

    python jobs/verify.py --out sweeps/
    ray job submit --working-dir . -- python jobs/verify.py --out s3://museum/sweeps

Exit codes: 0 all is as the ledger says, 1 something is not, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.verify import VerifyConfig, verify


def main(config: VerifyConfig) -> int:
    verdict = verify(config)
    for problem in verdict.shown:
        print(problem)
    if verdict.problems > len(verdict.shown):
        print(f"… and {verdict.problems - len(verdict.shown)} more")
    rows = ", ".join(f"{count} {status}" for status, count in verdict.rows.items())
    print(f"{rows or 'no rows'}; {verdict.problems} problems")
    return 1 if verdict.problems else 0


def needs(config: VerifyConfig) -> Needs:
    return Needs(reads=(config.out,), cpus=config.workers)


if __name__ == "__main__":
    sys.exit(run_job(VerifyConfig, main, __doc__, needs=needs))
