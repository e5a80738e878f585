"""What the documents say: links lead somewhere, flags exist, every document can be found."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from capricious.cluster.evaluate import EvaluateConfig
from capricious.cluster.prepare import PrepareConfig
from capricious.cluster.render import RenderConfig
from capricious.cluster.train import TrainConfig
from capricious.cluster.train_parser import TrainParserConfig
from capricious.cluster.verify import VerifyConfig
from capricious.config import parse
from jobs.demo import DemoConfig
from jobs.preflight import PreflightConfig

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = (
    DemoConfig,
    EvaluateConfig,
    PreflightConfig,
    PrepareConfig,
    RenderConfig,
    TrainConfig,
    TrainParserConfig,
    VerifyConfig,
)
OTHER_PROGRAMS = {
    "--address", "--force", "--head", "--metrics-export-port", "--port", "--runtime-env-json", "--temp-dir",  # ray
    "--working-dir",
    "--permissive-only",  # capricious weights
}  # fmt: skip


def headings(path: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in headings(path), f"{document.name} links to {target}"


def test_every_document_is_linked_from_the_readme():
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in told]


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Flags of all jobs."""
    told = io.StringIO()
    for config in CONFIGS:
        with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
            parse(config, ["--help"], description="")
    return set(re.findall(r"--[a-z][a-z0-9.-]*", told.getvalue()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_flags_in_the_documents_are_flags_of_the_jobs(document, flags):
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", document.read_text(encoding="utf-8")):
        assert flag.rstrip(".") in flags | OTHER_PROGRAMS or flag.endswith("-"), f"{document.name} names {flag}"
