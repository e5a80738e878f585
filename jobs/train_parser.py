"""Train our parser: a teacher labels collections, a MobileNetV2-UNet learns from it, held-out pictures measure it.

    python jobs/train_parser.py --sources photos/ paintings/ --out parser/
    ray job submit --working-dir . -- python jobs/train_parser.py --sources s3://museum/portraits --out /shared/parser

OUT/parser.safetensors is the parser, OUT/parser.json how well it agrees with its teacher.
Exit codes: 0 done, 1 an error, 2 wrong usage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.cluster.job import run_job
from capricious.cluster.node_report import Needs
from capricious.cluster.train_parser import NEEDED_WEIGHTS, TrainParserConfig, train_parser


def main(config: TrainParserConfig) -> int:
    measures = train_parser(config)
    print(f"trained on {measures['trained_on']} crops; agreement with the teacher on crops it never saw:")
    print(f"{'crops':>8} {'background':>10} {'skin':>6} {'hair':>6} {'glasses F1':>10}  collection")
    for name, m in measures["held_out"].items():
        ious = f"{m['background']:10.3f} {m['skin']:6.3f} {m['hair']:6.3f} {m['glasses_f1']:10.3f}"
        print(f"{m['crops']:8d} {ious}  {name}")
    return 0


def needs(config: TrainParserConfig) -> Needs:
    return Needs(reads=config.sources, writes=(config.out,), weights=NEEDED_WEIGHTS)


if __name__ == "__main__":
    sys.exit(run_job(TrainParserConfig, main, __doc__, needs=needs))
