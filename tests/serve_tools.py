"""A service for tests: the real HTTP application on a real port, with a small random model and without Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from skimage.data import astronaut

from capricious.faces.image import encode
from capricious.model.bundle import save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig
from serve.arguments import PortraitArguments
from serve.ingress import application
from serve.pipeline import LocalPipeline, Pipeline

PHOTO = encode(astronaut(), "jpeg")
NOTE = "random weights: wiring only"


def random_bundle(folder: Path, resolution: int = 64, width: int = 4) -> Path:
    """Writes a bundle whose variants differ visibly."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(resolution=resolution, width=width, hidden=8))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(std=0.1)
    save_bundle(folder, generator, StyleEncoder(EncoderConfig(resolution=resolution, width=4)), {"note": NOTE})
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    arguments: PortraitArguments, tokens: dict[str, str] | None = None, pipeline: Pipeline | None = None
) -> Iterator[str]:
    """Runs the HTTP application in a thread; yields its address."""
    app = application(arguments, pipeline or LocalPipeline(arguments), tokens or {})
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
