"""Where a batch job may read."""

from dataclasses import replace

from capricious.cluster.render_config import Gate, RenderConfig
from capricious.data.collections import Source, read_collection


def test_pictures_outside_of_the_places_that_may_be_read_are_left_alone(tmp_path):
    allowed, private = tmp_path / "allowed", tmp_path / "allowed-not"
    for folder in (allowed, private):
        folder.mkdir()
        (folder / "king.jpg").write_bytes(b"x")
    (allowed / "link.jpg").symlink_to(private / "king.jpg")
    (allowed / "folder").symlink_to(private)
    others = [f"{private}/king.jpg", f"file://{allowed}/king.jpg", "s3://other/x.jpg", "https://museum.org/x.jpg"]
    theirs = [f"{allowed}/king.jpg", "s3://museum/open/x.jpg"]
    (allowed / "labels.csv").write_text("\n".join(["uri", *others, *theirs]))
    config = RenderConfig(source=str(allowed), out=str(tmp_path / "out"))
    gate = Gate(replace(config, only_below=f"{allowed}/,s3://museum/open/"), stated=False)
    found = {source.uri: gate.check(source) for source in read_collection(str(allowed))}
    assert {uri for uri, closed in found.items() if closed is None} == set(theirs)
    outside = {*others, f"{allowed}/link.jpg", f"{allowed}/folder/king.jpg"}
    assert {uri for uri, closed in found.items() if closed and closed.reason == "place-not-allowed"} == outside
    forged = [Source(theirs[0], container=others[0], span=(0, 1)), Source(others[0], container=theirs[0], host="x")]
    assert all(gate.check(source) for source in forged)
    assert gate.check(Source("s3://museum/open/a.tar!b.jpg", container="s3://museum/open/a.tar", span=(0, 1))) is None
    assert gate.check(Source("https://iiif.museum.org/x.jpg", host="museum.org")) is None  # its hosts are looked at
    assert gate.check(Source("s3://museum/open/../x.jpg")) and gate.check(Source("s3://museum/open/%2e%2e/x.jpg"))
    assert Gate(config, stated=False).check(Source(others[0])) is None
