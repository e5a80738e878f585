"""Logs as JSON, from the driver and from workers."""

import json
import os
import subprocess
import sys

import pytest

from capricious.cluster import session as session_module
from capricious.errors import CapriciousError

SCRIPT = """
import logging, ray
from capricious.cluster.session import session
from capricious.cluster.shards import bugs_as_rejections
from capricious.errors import Rejection

@ray.remote(num_cpus=0)
def work():
    try:
        with bugs_as_rejections("s3://museum/7.jpg"):
            raise ValueError("a bug")
    except Rejection:
        pass

with session():
    logging.getLogger("capricious.test").warning("from the driver")
    ray.get(work.remote())
"""


@pytest.mark.slow
def test_each_line_is_an_object_with_the_job_and_the_picture():
    environment = {**os.environ, session_module.LOG: "json", "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line[line.find("{") :] for line in (done.stdout + done.stderr).splitlines() if "{" in line]
    said = [json.loads(line) for line in lines if line.endswith("}")]
    driver = next(line for line in said if line["message"] == "from the driver")
    assert driver["name"] == "capricious.test" and driver["job_id"]
    worker = next(line for line in said if line.get("picture") == "s3://museum/7.jpg")
    assert worker["job_id"] == driver["job_id"] and worker["task_id"] and "a bug" in worker["exc_text"]


def test_other_formats_are_refused(monkeypatch):
    monkeypatch.setenv(session_module.LOG, "xml")
    with pytest.raises(CapriciousError, match="CAPRICIOUS_LOG must be text or json"):
        session_module._logging_config()
