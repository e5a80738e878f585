"""Render every portrait of a collection in all variants: paintings, contact sheets, animations, a gallery.

    python jobs/render.py --source paintings/ --bundle runs/first/bundle --out sweeps/ --ages 10:80:10
    ray job submit --working-dir . -- python jobs/render.py --source s3://museum/portraits \\
        --bundle s3://museum/bundle --prepared s3://museum/prepared --out s3://museum/sweeps

Look at OUT/gallery/index.html. The same command again resumes; with --retry failed it tries what failed once more;
--dry-run says what it will cost; jobs/verify.py checks every file.
Exit codes: 0 all portraits rendered, 3 some failed, 1 too many failed, none was left or an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import os

from capricious.annotate.annotator import needed_weights
from capricious.cluster.estimate import estimate
from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.publish import GALLERY
from capricious.cluster.render import render
from capricious.cluster.render_config import RenderConfig


def main(config: RenderConfig) -> int:
    outcome = render(config)
    print(f"{outcome.rendered} of {outcome.pictures} portraits rendered: {config.out}/{GALLERY}")
    print(f"rights: {outcome.rights}")
    for reason, count in outcome.reasons.items():
        print(f"  {count:6d}  {reason}")
    return outcome.exit_code(config.failure_share)


def foresee(config: RenderConfig) -> str:
    return estimate(config).text(config.workers or os.cpu_count() or 1)


def needs(config: RenderConfig) -> Needs:
    return Needs(
        reads=tuple(filter(None, (config.source, config.bundle, config.prepared))),
        writes=(config.out,),
        cpus=config.workers,
        gpus=(config.workers or 1) * (config.device == "cuda"),
        weights=() if config.prepared else needed_weights(config.annotator),
    )


if __name__ == "__main__":
    sys.exit(run_job(RenderConfig, main, __doc__, foresee, needs))
