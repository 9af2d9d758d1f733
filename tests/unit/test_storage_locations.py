"""Which place a URI names, and which places may be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bw_tasks.errors import (
    BadImageID,
    ImageError,
    MalformedURI,
    OutsideInputDirectory,
    UnsupportedScheme,
)
from bw_tasks.images import convert_image
from bw_tasks.storage import Location, Roots, location_of, output_location


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("file:///data/a.jpg", Location("file", "", "/data/a.jpg")),
        ("s3://pictures/a.jpg", Location("s3", "pictures", "a.jpg")),
        ("s3://my.bucket-1/deep/a%20b%25.jpg", Location("s3", "my.bucket-1", "deep/a b%.jpg")),
        ("s3://pictures/caf%C3%A9 +&.JPG", Location("s3", "pictures", "café +&.JPG")),
        ("nats://pictures/what%3F%23.jpg", Location("nats", "pictures", "what?#.jpg")),
        ("nats://PICTURES_2/deep/a.jpg", Location("nats", "PICTURES_2", "deep/a.jpg")),
    ],
)
def test_uri_names_one_place(uri: str, location: Location) -> None:
    assert location_of(uri) == location


@pytest.mark.parametrize("scheme", ["s3", "nats"])
@pytest.mark.parametrize(
    "rest",
    [
        *("", "/", "bucket", "bucket/", "/key", "bucket//key", "bucket/a//b", "bucket/a/", "bucket/../a", "bucket/./a"),
        *(
            "bucket/a/%2e%2e/b",
            "bucket/..%2fa",
            "bucket/a%00",
            "bucket/a\n",
            "bucket/a%0a",
            "bucket/a%7f",
            "bucket/%zz",
        ),
        *("bucket/a?versionId=1", "bucket/a#b", "user@bucket/a", "user:secret@bucket/a", "bucket:9000/a", "..", "../a"),
        *("buc ket/a", "buc*et/a", "bucket>/a", "büro/a", "bucket/\ud800", "bucket/%ff", "bucket/" + "x" * 1025),
        *("bucket/%E2%80%AE.jpg",),
    ],
)
def test_uri_that_is_no_one_place_is_refused(scheme: str, rest: str) -> None:
    with pytest.raises(MalformedURI) as caught:
        location_of(f"{scheme}://{rest}")
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("uri", ["S3://bucket/a", "s3:/bucket/a", "s3:bucket/a", "gs://bucket/a", "s3a://bucket/a", ""])
def test_other_kinds_are_refused(uri: str) -> None:
    with pytest.raises(UnsupportedScheme):
        location_of(uri)


@pytest.mark.parametrize(
    ("outdir", "location"),
    [
        ("out", Location("file", "", "out")),
        ("/srv/my images, old:new", Location("file", "", "/srv/my images, old:new")),
        (Path("/srv/out"), Location("file", "", "/srv/out")),
        ("file:///srv/my%20images/", Location("file", "", "/srv/my images")),
        ("s3://pictures", Location("s3", "pictures", "")),
        ("s3://pictures/", Location("s3", "pictures", "")),
        ("s3://pictures/bw/2026/", Location("s3", "pictures", "bw/2026")),
        ("nats://pictures", Location("nats", "pictures", "")),
    ],
)
def test_outdir_takes_the_same_kinds(outdir: str | Path, location: Location) -> None:
    assert output_location(outdir) == location


@pytest.mark.parametrize("outdir", ["gs://bucket", "http://host/out", "S3://bucket", "s3://user:secret@bucket/out"])
def test_outdir_of_another_kind_is_refused_without_its_password(outdir: str) -> None:
    with pytest.raises(ImageError) as caught:
        output_location(outdir)
    assert "secret" not in str(caught.value)


def test_output_is_named_below_the_prefix() -> None:
    assert str(output_location("s3://pictures/bw").below("a b.png")) == "s3://pictures/bw/a b.png"
    assert str(output_location("nats://pictures").below("a.png")) == "nats://pictures/a.png"


INDIR = "/srv/in, s3://pictures/colour/ ,nats://pictures,file:///mnt/with%2Ccomma"


@pytest.mark.parametrize(
    ("uri", "directory"),
    [
        ("file:///srv/in/a.jpg", "/srv/in"),
        ("file:///mnt/with,comma/a.jpg", "/mnt/with,comma"),
        ("s3://pictures/colour/deep/a.jpg", None),
        ("nats://pictures/a.jpg", None),
    ],
)
def test_image_below_one_of_several_roots_is_taken(uri: str, directory: str | None) -> None:
    assert Roots.of(INDIR).directory_of(location_of(uri)) == directory


@pytest.mark.parametrize(
    "uri",
    [
        *("file:///srv/input/a.jpg", "file:///etc/passwd", "s3://pictures/colours/a.jpg", "s3://pictures/colour"),
        *("s3://others/colour/a.jpg", "nats://others/a.jpg", "s3://pictures2/colour/a.jpg", "file:///pictures/a.jpg"),
    ],
)
def test_image_below_none_of_them_is_refused(uri: str) -> None:
    with pytest.raises(OutsideInputDirectory, match="INDIR"):
        Roots.of(INDIR).directory_of(location_of(uri))


def test_root_of_one_kind_allows_no_other_kind() -> None:
    with pytest.raises(OutsideInputDirectory):
        Roots.of("/").directory_of(location_of("s3://pictures/a.jpg"))


@pytest.mark.parametrize("indir", [None, "", " , "])
def test_without_roots_every_place_is_allowed(indir: str | None) -> None:
    assert Roots.of(indir).directory_of(location_of("s3://pictures/a.jpg")) is None


@pytest.mark.parametrize("outdir", ["s3://pictures/bw", "nats://pictures"])
@pytest.mark.parametrize("image_id", ["../a", "a/b", ".a", "a\n", ""])
def test_id_rules_are_those_of_files(outdir: str, image_id: str) -> None:
    with pytest.raises(BadImageID):
        convert_image("s3://pictures/a.jpg", image_id, outdir=outdir)
