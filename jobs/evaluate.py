"""Score bundles: does age obey, does the sitter stay the sitter, how good are the pictures.

    python jobs/evaluate.py --bundles runs/train/bundle --photographs runs/prepared --out runs/evaluate
    python jobs/evaluate.py --compare runs/concat/bundle runs/layered/bundle --photographs runs/prepared \\
        --paintings paintings/ --out runs/compare
    ray job submit --working-dir . -- python jobs/evaluate.py --bundles s3://museum/bundle \\
        --photographs s3://museum/prepared --out s3://museum/evaluate

Look at OUT/report.html; OUT/report.json holds the same figures. The same command again resumes.
Exit codes: 0 all portraits measured, 3 some could not be (see OUT/rejects), 1 too many or an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from itertools import chain

from capricious.annotate.annotator import needed_weights
from capricious.cluster.evaluate import EvaluateConfig, evaluate
from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.evaluate.evaluation import printed
from capricious.evaluate.measure import EXTRACTORS


def main(config: EvaluateConfig) -> int:
    outcome = evaluate(config)
    print(printed(outcome.report))
    print(f"{outcome.measured} of {outcome.portraits} portraits measured: {config.out}/report.html")
    for reason, count in outcome.reasons.items():
        print(f"  {count:6d}  {reason}")
    return outcome.exit_code(config.failure_share)


def needs(config: EvaluateConfig) -> Needs:
    return Needs(
        reads=(*config.bundles, *config.compare, *config.photographs, *config.paintings),
        writes=(config.out,),
        cpus=config.workers,
        weights=tuple(dict.fromkeys((*chain(*EXTRACTORS.values()), *needed_weights(config.annotator)))),
    )


if __name__ == "__main__":
    sys.exit(run_job(EvaluateConfig, main, __doc__, needs=needs))
