"""A service for tests: the real HTTP application on a real port, with a small random model and without Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import uvicorn
from model_tools import random_labels
from skimage.data import astronaut

from capricious.annotate.pose import pose_of
from capricious.data.records import Face
from capricious.faces.attributes import VECTOR_SIZE, Attributes
from capricious.faces.image import encode
from capricious.model.bundle import save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from capricious.model.learnt import Learnt
from capricious.model.refinement import Refinement, RefinementConfig
from serve.arguments import PortraitArguments
from serve.gates import Admission
from serve.ingress import application
from serve.pipeline import LocalPipeline, Pipeline

PHOTO = encode(astronaut(), "jpeg")
NOTE = "random weights: wiring only"


def random_bundle(
    folder: Path, resolution: int = 64, width: int = 4, learnt: Learnt | None = None, refined: bool = False
) -> Path:
    """Writes a bundle whose variants differ visibly, in half-tones: saturated pixels would hide what is unequal.

    `refined` gives it a refinement network.
    """
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=resolution, width=width, hidden=16))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    for norm in (module for module in generator.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = None  # a plain average: one forward pass gives the statistics of the eval mode
    generator.train()(random_labels(4, resolution), torch.randn(4, 128), torch.rand(4, VECTOR_SIZE))
    generator.picture.weight.data *= 0.3
    encoder = StyleEncoder(EncoderConfig(resolution=resolution, width=4))
    refinement = Refinement(RefinementConfig(resolution, 4)) if refined else None
    if refinement is not None:
        torch.nn.init.normal_(refinement.change.weight, std=0.1)
    save_bundle(folder, generator, encoder, {"note": NOTE}, refinement=refinement, learnt=learnt)
    return folder


def face(seed: int) -> Face:
    """Draws an aligned face of noise, different for each seed."""
    draw = np.random.default_rng(seed)
    landmarks = draw.uniform(0, 64, (68, 2)).astype(np.float32)
    return Face(
        image=draw.integers(0, 256, (64, 64, 3), np.uint8),
        label_map=random_labels(1, 64, seed)[0].numpy(),
        landmarks=landmarks,
        quad=np.float32([[0, 0], [0, 64], [64, 64], [64, 0]]),
        attributes=Attributes(age=20.0 + seed),
        attribute_source={},
        detection_score=1.0,
        landmark_score=1.0,
        pose=pose_of(landmarks),
        resolution_score=1.0,
        inside_score=1.0,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    arguments: PortraitArguments, tokens: dict[str, str] | None = None, pipeline: Pipeline | None = None
) -> Iterator[str]:
    """Runs the HTTP application in a thread; yields its address."""
    app = application(arguments, pipeline or LocalPipeline(arguments), tokens or {}, Admission(arguments.max_ongoing))
    config = uvicorn.Config(app, port=free_port(), log_level="warning", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
            assert thread.is_alive(), "the server did not start"
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join()
