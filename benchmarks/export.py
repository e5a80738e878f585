"""Is an exported generator faster than our renderer on a CPU? One forward pass of four variants, one thread.

    python benchmarks/export.py [--width 16] [--rounds 5]

All get the modulations of the label map ready made: what is timed is what a sweep repeats. Random weights: only time
and agreement are measured. Seconds of CPU, medians of interleaved rounds: a busy machine disturbs all alike.
"""

import argparse
import io
import statistics
import sys
import time
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from sweep import label_map

from capricious.faces.attributes import VECTOR_SIZE
from capricious.model.generator import Generator, GeneratorConfig
from capricious.model.patches import AUTO_SHARE
from capricious.render.synthesis import Synthesis

VARIANTS = 4


class Flat(nn.Module):
    """Generator.synthesize with the modulations as plain arguments, as exporters want them."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, attributes: Tensor, *flat: Tensor) -> Tensor:
        modulations = list(zip(flat[::2], flat[1::2], strict=True))
        return self.generator.synthesize(modulations, latent, attributes)


def onnx_session(flat: Flat, inputs: tuple[Tensor, ...]) -> onnxruntime.InferenceSession:
    names = ["latent", "attributes", *(f"modulation_{i}" for i in range(len(inputs) - 2))]
    file = io.BytesIO()
    torch.onnx.export(flat, inputs, file, input_names=names, opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--width", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=options.width), spectral=False).eval().requires_grad_(False)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    generator.to(memory_format=torch.channels_last)
    generator.distinct_share = AUTO_SHARE
    latent, attributes = torch.randn(1, 128).expand(VARIANTS, -1).contiguous(), torch.rand(VARIANTS, VECTOR_SIZE)
    with torch.inference_mode():
        modulations = generator.modulations(label_map(128))
        synthesis = Synthesis(generator)
        prepared = synthesis.prepare(modulations)
    # The exporter puts a module back into the mode that it was in, with all below it.
    flat, inputs = Flat(generator).eval(), (latent, attributes, *(m.clone() for pair in modulations for m in pair))
    with torch.no_grad():
        started = time.perf_counter()
        session = onnx_session(flat, inputs)
        feed = {node.name: each.contiguous().numpy() for node, each in zip(session.get_inputs(), inputs, strict=True)}
        print(f"ONNX: exported and loaded in {time.perf_counter() - started:.0f} s", flush=True)
        started = time.perf_counter()
        compiled = torch.compile(flat, dynamic=False)
        compiled(*inputs)
        print(f"torch.compile: {time.perf_counter() - started:.0f} s", flush=True)
        exported = torch.export.export(flat, inputs).module()
        ways = {
            "Generator.synthesize": lambda: flat(*inputs),
            "torch.export": lambda: exported(*inputs),
            "torch.compile": lambda: compiled(*inputs),
            "ONNX Runtime": lambda: torch.from_numpy(session.run(None, feed)[0]),
            "ours": lambda: synthesis([(slice(0, VARIANTS), prepared)], latent, attributes),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        made = {name: way() for name, way in ways.items()}
        for _ in range(options.rounds):
            for name, way in ways.items():
                started = time.process_time()
                way()
                seconds[name].append(time.process_time() - started)
    first = statistics.median(seconds["ours"])
    print(f"{'width ' + str(options.width):22} {'CPU s':>7} {'ours is':>8} {'max difference':>15}")
    for name, times in seconds.items():
        median = statistics.median(times)
        error = (made[name] - made["Generator.synthesize"]).abs().max().item()
        print(f"{name:22} {median:7.3f} {median / first:7.2f}× {error:15.1e}")


if __name__ == "__main__":
    main()
