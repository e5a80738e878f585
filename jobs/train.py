"""Train a model bundle on a prepared dataset.

    python jobs/train.py --data prepared/ --out runs/first
    ray job submit --working-dir . -- python jobs/train.py --data /nfs/prepared --out /nfs/first \\
        --workers 8 --gpus --training.strategy ddp --training.precision bf16

The bundle ends in OUT/bundle. The same command again continues a run that was stopped.
Exit codes: 0 trained, 1 an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.train import TrainConfig, run_training
from capricious.evaluate.measure import EXTRACTORS
from capricious.training.judges import needed_weights


def main(config: TrainConfig) -> int:
    metrics = run_training(config)
    end = "trained" if metrics["finished"] else "stopped; the same command continues"
    print(f"{metrics['kimg']:.1f} kimg, {end}; bundle: {metrics['bundle']}")
    return 0


def needs(config: TrainConfig) -> Needs:
    return Needs(
        reads=config.data,
        writes=(config.out,),
        cpus=config.workers * config.cpus_per_worker,
        gpus=config.workers * config.gpus,
        weights=(*needed_weights(config.training), *(EXTRACTORS["faceres"] if config.judge else ())),
    )


if __name__ == "__main__":
    sys.exit(run_job(TrainConfig, main, __doc__, needs=needs))
