"""What a render is asked for, and which pictures it leaves alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from capricious.annotate.annotator import AnnotatorConfig
from capricious.cluster.plan import BatchConfig
from capricious.data import storage
from capricious.data.annotations import PreparedIndex
from capricious.data.collections import Source, web
from capricious.data.places import Places
from capricious.data.rights import is_open
from capricious.errors import Rejection
from capricious.model.bundle import DEFAULT
from capricious.render.composite import CompositeConfig
from capricious.render.content_credentials import CredentialsConfig
from capricious.render.deliverables import DeliverablesConfig
from capricious.render.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class RenderConfig(BatchConfig):
    """What to render and how."""

    bundle: str = DEFAULT
    """Model bundle: a folder or an s3:// address; by default the one that ships with Capricious."""
    prepared: str = ""
    """Prepared dataset of the same collection: its annotations are used, and nothing is annotated anew."""
    ages: str = "10:80:10"
    """Ages in years: from:to:step, from..to, or a list 20,40,60."""
    genders: str = ""
    """Also render as: female, male or both, separated by a comma."""
    glasses: str = ""
    """Also render with: none, reading, sun, separated by commas."""
    smiles: str = ""
    """Also render with so much of a smile, 0…1, written as the ages."""
    emotions: str = ""
    """Also render as neutral, happy, sad, surprise, fear, disgust, anger, contempt, separated by commas."""
    style: str = ""
    """A second portrait, whose style (colours, hair, light) is given to every sitter."""
    styles: str = "1"
    """How much of it, 0…1, written as the ages: 0:1:0.25 is the way from one to the other."""
    rights: Literal["open", "any"] = "open"
    """open leaves out what is not stated to be CC0 or in the public domain. Of a collection that states nothing about
    any picture everything is rendered, unless there is a rights_column: whoever runs this answers for it. any: all."""
    exclude: str = ""
    """Text file of pictures to leave out: in each line an address, a file name, or a file name without its ending."""
    only_below: str = ""
    """Addresses separated by commas: pictures that lie elsewhere are left out, though a table of the collection names
    them or a link leads to them. Empty: no limit. What a IIIF collection names is limited by its hosts."""
    retry: Literal["nothing", "failed"] = "nothing"
    """failed tries the portraits that failed in an earlier run once more, and only them."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks run; with cuda, each worker has a GPU, and without --workers each GPU a worker."""
    shard_size: int = 64
    """Largest number of pictures in a shard, the most that a crash can lose."""
    deliverables: DeliverablesConfig = field(default_factory=DeliverablesConfig)
    composite: CompositeConfig = field(default_factory=CompositeConfig)
    credentials: CredentialsConfig = field(default_factory=CredentialsConfig)
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    """How faces are found; the resolution is the bundle's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sweep  # noqa: B018  (a sweep that cannot be is refused here)

    @property
    def sweep(self) -> Sweep:
        """The sweep that the texts ask for."""
        styles = self.styles if self.style else ""
        return Sweep.parse(self.ages, self.genders, self.glasses, self.smiles, self.emotions, styles)

    def looked_up(self, sources: Iterable[Source]) -> Iterable[Source]:
        """Adds to the inputs where their faces lie in the prepared dataset."""
        return PreparedIndex(self.prepared).looked_up(sources) if self.prepared else sources


class Gate:
    """Which pictures are left alone, and why.

    Args:
        config: the job.
        stated: whether the collection states the rights in any picture. Then one about which it says nothing is one
            that somebody still has to look into.
    """

    def __init__(self, config: RenderConfig, stated: bool):
        self._open = config.rights == "open" and (stated or bool(config.rights_column))
        self._excluded = excluded(config)
        prefixes = [prefix.strip() for prefix in config.only_below.split(",")]
        self._places = Places(prefixes) if config.only_below else None

    def check(self, source: Source) -> Rejection | None:
        """Returns why a picture is left alone, or None for one that may be rendered."""
        if self._places and not _is_within(source, self._places):
            return Rejection("read", "place-not-allowed", "it lies outside of the places that may be read")
        file = PurePosixPath(source.uri.rpartition("!")[2] or source.uri)
        if not self._excluded.isdisjoint((source.uri, file.name, file.stem)):
            return Rejection("exclude", "excluded", "it is on the exclusion list")
        if self._open and not is_open(source.license):
            stated = f"its rights are stated as {source.license!r}" if source.license else "its rights are not stated"
            return Rejection("rights", "not-open", f"{stated}; needed is CC0 or the public domain (or --rights any)")
        return None


def _is_within(source: Source, places: Places) -> bool:
    if source.refused or (source.host and web.is_url(source.uri)):  # read not at all, or from the hosts that may be
        return True
    return places.hold(source.uri) and (not source.container or places.hold(source.container))


def excluded(config: RenderConfig) -> frozenset[str]:
    """Reads the exclusion list."""
    lines = storage.read(config.exclude).decode("utf-8").splitlines() if config.exclude else []
    return frozenset(line.strip() for line in lines if line.strip())
