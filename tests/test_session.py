"""What a session ships to its workers."""

import pytest

from capricious.cluster.session import SHIPPED, _runtime_env


@pytest.mark.parametrize("local", [True, False])
def test_workers_get_the_settings_that_they_read_and_no_secret(local, monkeypatch):
    for name in SHIPPED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAPRICIOUS_TOKENS", "anna:0123456789abcdef")
    monkeypatch.setenv("CAPRICIOUS_CACHE", "/weights")
    env = _runtime_env(local)
    assert env["env_vars"].items() >= {("CAPRICIOUS_CACHE", "/weights")}
    assert "0123456789abcdef" not in str(env) and env["env_vars"].keys() <= {"CAPRICIOUS_CACHE", "PYTHONPATH"}
