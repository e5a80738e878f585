"""The peers of benchmarks/serve.py: the model of the service behind plain FastAPI and behind LitServe.

    python benchmarks/serve_peers.py {fastapi,litserve} BUNDLE PORT

They have what the service has: the renderer that lets callers share forward passes and remembers styles, one thread
for it, faces that were annotated beforehand. What differs is who brings requests to it. FastAPI renders one request
after the other, as its manual shows it; LitServe gathers batches, as its manual shows it.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import litserve
import numpy as np
import uvicorn
from fastapi import FastAPI, Form, Response, UploadFile
from skimage.data import astronaut

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.data.records import Face
from capricious.faces.image import QUICK, decode, encode
from capricious.model.bundle import load_bundle
from capricious.render.composite import AS_THE_BUNDLE_ASKS, put_back
from capricious.render.renderer import fit
from capricious.render.sweep import Sweep, Variant
from serve.shared_chunks import Group, SharedChunkRenderer

PORTRAITS = [encode(astronaut()[:320, 60 + 8 * i : 380 + 8 * i], "jpeg") for i in range(4)]
MAX_BATCH = 4
BATCH_WAIT_S = 0.005


class Model:
    """The model with the four faces known."""

    def __init__(self, bundle: str):
        self.renderer = SharedChunkRenderer(load_bundle(bundle), threads=1, cache_bytes=2**29)
        annotator = Annotator(AnnotatorConfig(resolution=self.renderer.resolution))
        found = (annotator.annotate(decode(portrait, name="portrait"))[0] for portrait in PORTRAITS)
        self.faces = [fit(face, self.renderer.resolution) for face in found]
        self.composite = AS_THE_BUNDLE_ASKS.settled(self.renderer.bundle.strength)

    def group(self, portrait: int, *ages: float) -> Group:
        return self.faces[portrait], Sweep(ages).variants()[1:]

    def render(self, asked: list[tuple[int, float]]) -> list[bytes]:
        """Returns a PNG for each portrait and age: the face as it is delivered."""
        groups = [(self.faces[portrait], Sweep((age,)).variants()) for portrait, age in asked]
        rendered = self.renderer.render_groups(groups)
        return [
            self._png(face, variants[-1], *renders) for (face, variants), renders in zip(groups, rendered, strict=True)
        ]

    def _png(self, face: Face, variant: Variant, source: np.ndarray, render: np.ndarray) -> bytes:
        wanted = [variant.of(face.attributes)]
        made = put_back(face.image, face, source, [render], self.composite, wanted)
        return encode(made[0], "png", compression=QUICK)


def fastapi(bundle: str, port: int) -> None:
    app, model, worker = FastAPI(), Model(bundle), ThreadPoolExecutor(1)

    @app.post("/render")
    async def render(file: UploadFile, portrait: int = Form(), age: float = Form()) -> Response:
        await file.read()
        made = await asyncio.get_running_loop().run_in_executor(worker, model.render, [(portrait, age)])
        return Response(made[0], media_type="image/png")

    uvicorn.run(app, port=port, log_level="warning")


class PortraitAPI(litserve.LitAPI):
    """LitServe's worker is spawned: what it runs must be importable."""

    bundle: str

    def setup(self, device):
        self.model = Model(self.bundle)

    def decode_request(self, request):
        return int(request["portrait"]), float(request["age"])

    def batch(self, inputs):
        return inputs

    def predict(self, asked):
        return self.model.render(asked)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return Response(output, media_type="image/png")


def lit(bundle: str, port: int) -> None:
    api = PortraitAPI(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S, api_path="/render")
    api.bundle = bundle
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": lit}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
