"""Work in shards: what one bad input does to the others."""

import pytest

from capricious.cluster.shards import ShardWorker, Told
from capricious.data.collections import Source
from capricious.errors import CapriciousError, Rejection


def outcomes(sources, do):
    return [
        result if isinstance(result, bytes) else (result["stage"], result["reason"])
        for _, result in ShardWorker("unused").attempt(sources, do)
    ]


@pytest.fixture
def sources(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
    return [Source(str(tmp_path / name)) for name in ("a", "gone", "b", "c")]


def test_every_source_has_one_outcome_in_order(sources):
    def do(source, data):
        if data == b"a":
            raise Rejection("decode", "empty", "…")
        if data == b"b":
            raise ZeroDivisionError("a bug")
        return data

    assert outcomes(sources, do) == [
        ("decode", "empty"),
        ("read", "not-found"),
        ("internal", "ZeroDivisionError"),
        b"c",
    ]


@pytest.mark.parametrize("fault", [CapriciousError("weights are missing"), OSError("no space left on device")])
def test_a_fault_of_the_machine_stops_the_shard_instead_of_rejecting_everything(sources, fault):
    def do(source, data):
        raise fault

    with pytest.raises(CapriciousError, match=str(fault)):
        outcomes(sources, do)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (CapriciousError("weights are missing"), "weights are missing"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device; put that right and run the same"),
    ],
)
def test_what_is_meant_for_people_comes_back_from_ray_as_a_sentence(fault, told):
    class Failing:
        def __call__(self, batch):
            raise fault

    class Broken:
        def __init__(self):
            raise CapriciousError("the bundle is not complete")

    row = Told(Failing, {}, "")({"shard": [3]})
    assert row["shard"] == [3] and row["error"][0].startswith(told)
    assert Told(Broken, {}, "")({"shard": [4]}) == {"shard": [4], "error": ["the bundle is not complete"]}
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        Told(lambda: lambda batch: 1 / 0, {}, "")({"shard": [5]})
