"""Render sweeps of every picture of a collection: sheets, GIFs, and the paintings with their sitters at each age.

    python jobs/render.py --source paintings/ --bundle runs/first/bundle --out sweeps/ --ages 10:80:10
    ray job submit --working-dir . -- python jobs/render.py --source s3://museum/portraits \\
        --bundle s3://museum/bundle --out s3://museum/sweeps

Look at OUT/index.html. The same command again resumes.
Exit codes: 0 all pictures rendered, 3 some failed (see OUT/ledger), 1 too many failed or an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.cluster.job import run_job
from capricious.cluster.render import RenderConfig, render


def main(config: RenderConfig) -> int:
    outcome = render(config)
    print(f"{outcome.rendered} of {outcome.pictures} pictures rendered: {config.out}/index.html")
    for reason, count in outcome.reasons.items():
        print(f"  {count:6d}  {reason}")
    return outcome.exit_code(config.failure_share)


if __name__ == "__main__":
    sys.exit(run_job(RenderConfig, main, __doc__))
