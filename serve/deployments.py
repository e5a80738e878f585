"""The three deployments: Ingress speaks HTTP, Annotating finds faces, Rendering holds the model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from capricious.cluster.render_shard import read_bundle
from capricious.data.records import Face
from capricious.errors import Rejection
from capricious.render.sweep import Variant
from serve import metrics
from serve.arguments import PortraitArguments
from serve.batching import Batcher
from serve.gates import Admission
from serve.ingress import application
from serve.pipeline import Annotated, Facts, Finder, load_renderer
from serve.problems import overloaded, unavailable
from serve.shared_chunks import Group

ATTEMPTS = 5
"""Of one call. Rendering and annotating change nothing, so a call whose replica died is simply made again."""

ANSWERING = ("RUNNING", "RECOVERING", "UPDATING", "PENDING_MIGRATION")
"""States in which a replica answers. It is RECOVERING while a controller that came back learns of it again."""


NICER = 5
"""By how much an ingress yields to the model where both want the same core: requests only wait for the model anyway."""


class Annotating:
    """Finds the faces of pictures, one picture at a time."""

    def __init__(self, arguments: PortraitArguments):
        resolution = read_bundle(arguments.bundle).generator.config.resolution
        self._finder = Finder(arguments, resolution)
        self._worker = ThreadPoolExecutor(1, "annotator")

    async def annotate(self, data: bytes, name: str) -> Annotated | Rejection:
        """Returns the faces of an encoded picture, or why there are none: a picture is no failure of a replica."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._worker, self._finder.annotate, data, name)
        except Rejection as rejection:
            return rejection


class Rendering:
    """Holds the model. Calls of all callers meet in one batch, so that forward passes are full."""

    def __init__(self, arguments: PortraitArguments):
        self._renderer = load_renderer(arguments, read_bundle(arguments.bundle))
        self._batcher = Batcher(self._render, arguments.max_batch, arguments.batch_wait_s)

    async def facts(self) -> Facts:
        """Returns what the bundle is."""
        bundle = self._renderer.bundle
        return Facts(bundle.info, bundle.sha256, self._renderer.chunk)

    async def render(self, face: Face, variants: Sequence[Variant]) -> np.ndarray:
        """Returns V×R×R×3 uint8."""
        return await self._batcher((face, variants))

    def _render(self, groups: list[Group]) -> list[np.ndarray | Exception]:
        metrics.batch(len(groups), sum(len(variants) for _, variants in groups), self._batcher.waiting)
        with metrics.stage("render"):
            try:
                return list(self._renderer.render_groups(groups))
            except Exception as error:  # noqa: BLE001 (told to its own caller, below)
                if len(groups) == 1:
                    return [error]
        # One of them cannot be rendered; the others must not pay for it.
        return [outcome for group in groups for outcome in self._render([group])]


class DeployedPipeline:
    """serve.pipeline.Pipeline by way of deployment handles."""

    def __init__(self, arguments: PortraitArguments, annotating: DeploymentHandle, rendering: DeploymentHandle):
        self._arguments = arguments
        self._annotating = annotating
        self._rendering = rendering
        self._facts: Facts | None = None

    async def facts(self) -> Facts:
        if self._facts is None:  # a new bundle is a new application
            self._facts = await self._call(lambda: self._rendering.facts.remote(), patient=True)
        return self._facts

    async def ready(self) -> bool:
        application = serve.get_replica_context().app_name
        status = await asyncio.to_thread(serve.status)
        known = status.applications.get(application)
        states = [deployment.replica_states for deployment in known.deployments.values()] if known else []
        return bool(states) and all(any(found.get(state) for state in ANSWERING) for found in states)

    async def annotate(self, data: bytes, name: str) -> Annotated:
        outcome = await self._call(lambda: self._annotating.annotate.remote(data, name), patient=False)
        if isinstance(outcome, Rejection):
            raise outcome
        return outcome

    async def render(self, face: Face, variants: Sequence[Variant], patient: bool) -> np.ndarray:
        return await self._call(lambda: self._rendering.render.remote(face, variants), patient=patient)

    async def _call(self, call: Callable[[], Any], patient: bool) -> Any:
        """Makes a call; again if its replica dies, later if it must wait. The request's own timeout ends all that."""
        died = 0
        while True:
            try:
                return await call()
            except BackPressureError:
                if not patient:
                    raise overloaded(self._arguments.retry_after_s) from None
                await asyncio.sleep(0.1)
            except (RayActorError, WorkerCrashedError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
                died += 1
                if died == ATTEMPTS:
                    raise unavailable("the model does not answer", self._arguments.retry_after_s) from error
                await asyncio.sleep(0.2 * 2**died)


class Ingress:
    """Speaks HTTP. It computes nothing but files from renders, and stores nothing."""

    def __init__(
        self,
        arguments: PortraitArguments,
        tokens: dict[str, str],
        annotating: DeploymentHandle,
        rendering: DeploymentHandle,
    ):
        self._arguments = arguments
        self._tokens = tokens
        self._pipeline = DeployedPipeline(arguments, annotating, rendering)
        self._admission = Admission(arguments.max_ongoing)
        os.nice(NICER)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return application(self._arguments, self._pipeline, self._tokens, self._admission)

    async def close(self) -> None:
        """Takes no more requests; returns when those in hand are answered. For serve.run."""
        await self._admission.close()
