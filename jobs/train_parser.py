"""Train our parser: a teacher labels collections, a MobileNetV2-UNet learns from it, held-out pictures measure it.

    python jobs/train_parser.py --sources photos/ paintings/ --out parser/
    ray job submit --working-dir . -- python jobs/train_parser.py --sources s3://museum/portraits --out /shared/parser

OUT/parser.safetensors is the parser, OUT/parser.json how well it agrees with its teacher.
Exit codes: 0 done, 1 an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.annotate.distill.parser import told
from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.train_parser import NEEDED_WEIGHTS, TrainParserConfig, train_parser


def main(config: TrainParserConfig) -> int:
    print(told(train_parser(config)))
    return 0


def needs(config: TrainParserConfig) -> Needs:
    return Needs(reads=config.sources, writes=(config.out,), weights=NEEDED_WEIGHTS)


if __name__ == "__main__":
    sys.exit(run_job(TrainParserConfig, main, __doc__, needs=needs))
