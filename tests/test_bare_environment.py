"""A lone GPU machine: nothing is installed but PyTorch, NumPy, Pillow, OpenCV, PyArrow, safetensors and tyro.

The environment is made for the test, so it proves what the imports say. (tyro reads the flags; it and what it needs
are pure Python, 0.5 MB.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_tools import SIZE, write_dataset

from capricious.model.bundle import load_bundle

PACKAGES = ["torch>=2.8,<2.14", "numpy", "pillow", "opencv-python-headless", "pyarrow", "safetensors", "tyro"]
ABSENT = ("ray", "deepspeed", "albumentations", "fastapi", "pydantic", "yaml", "tensorboardX", "prometheus_client")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare") / "venv"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    places = {"VIRTUAL_ENV": str(folder), "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    subprocess.run([uv, "pip", "install", "--quiet", *PACKAGES], env=os.environ | places, check=True)
    return str(folder / "bin" / "python")


@pytest.mark.slow
def test_training_starts_continues_and_releases_a_bundle(bare_python, tmp_path):
    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run([bare_python, *arguments], env=environment, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, ended.stderr
        return ended.stderr

    run("-c", f"import importlib.util as u; assert not [n for n in {ABSENT} if u.find_spec(n)]")
    data = write_dataset(tmp_path / "data", held_out=2)
    network = {"width": 4, "hidden": 4, "latent": 8, "encoder-width": 4, "discriminator-width": 4, "scales": 1}
    flags = [f"--training.network.{name}={value}" for name, value in network.items()]
    flags += [f"--training.loss.{name}=0" for name in ("perceptual", "age", "gender")]  # their weights are fetched
    flags += [f"--training.resolution={SIZE}", "--training.batch-size=4", "--training.recalibrate-batches=1"]
    command = ["-m", "capricious.training", "--data", data, "--out", str(tmp_path / "run"), *flags]
    said = run(*command, "--training.kimg=0.008")
    assert "tensorboardX is not installed" in said  # what is left out is said
    assert "continuing" in run(*command, "--training.kimg=0.012", "--training.precision=fp32")
    info = load_bundle(tmp_path / "run" / "bundle").info
    assert info["training"]["images_seen"] == 12 and info["scores"]["held_out/l1"] > 0
    kimg = {json.loads(line)["kimg"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()}
    assert kimg == {0.008, 0.012}
    assert (tmp_path / "run" / "weights" / "generator.safetensors").is_file()  # to warm-start from


def test_the_training_loop_is_imported_without_what_a_bare_machine_lacks():
    """The fast half of the above: an environment that refuses those packages, here."""
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*ABSENT, "s3fs", "botocore", "aiobotocore", "onnx", "onnxruntime", "h5py")}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import capricious.training.__main__, capricious.training.loop
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
