"""What may be read and under which names it is written: every way out of the directories is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bw_tasks.errors import (
    BadImageID,
    EmptyImage,
    ImageError,
    ImageNotFound,
    MalformedURI,
    NotARegularFile,
    NotLocalFile,
    OutsideInputDirectory,
    SymlinkRefused,
    UnreadableImage,
    UnsupportedScheme,
)
from bw_tasks.paths import extension_of, output_name, output_path, source_path, source_uri
from bw_tasks.sources import open_source


@pytest.fixture
def indir(tmp_path: Path) -> Path:
    directory = tmp_path / "img"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "a.jpg").write_bytes(b"content")
    return directory


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/work/a.jpg", "/data/work/a.jpg"),
        ("file://localhost/data/a.jpg", "/data/a.jpg"),
        ("file:///with%20space.jpg", "/with space.jpg"),
        ("file:///with space.jpg", "/with space.jpg"),
        ("file:///caf%C3%A9/ü.jpg", "/café/ü.jpg"),
        ("file:///100%25.jpg", "/100%.jpg"),
        ("file:///what%3F%23.jpg", "/what?#.jpg"),
        ("file:///a..b/...jpg", "/a..b/...jpg"),
    ],
)
def test_plain_file_uri_is_decoded_once(uri: str, path: str) -> None:
    assert source_path(uri) == Path(path)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("http://example.com/a.jpg", UnsupportedScheme),
        ("https://example.com/a.jpg", UnsupportedScheme),
        ("ftp:///a.jpg", UnsupportedScheme),
        ("FILE:///a.jpg", UnsupportedScheme),
        ("File:///a.jpg", UnsupportedScheme),
        (" file:///a.jpg", UnsupportedScheme),
        ("/data/a.jpg", UnsupportedScheme),
        ("", UnsupportedScheme),
        ("file://host/a.jpg", NotLocalFile),
        ("file://host", NotLocalFile),
        ("file://127.0.0.1/a.jpg", NotLocalFile),
        ("file://user@localhost/a.jpg", NotLocalFile),
        ("file://localhost:80/a.jpg", NotLocalFile),
        ("file:/a.jpg", MalformedURI),
        ("file:a.jpg", MalformedURI),
        ("file://", MalformedURI),
        ("file:///", MalformedURI),
        ("file:////host/a.jpg", MalformedURI),
        ("file:///img//a.jpg", MalformedURI),
        ("file:///img/", MalformedURI),
        ("file:///img/../etc/a.jpg", MalformedURI),
        ("file:///img/./a.jpg", MalformedURI),
        ("file:///img/%2e%2e/etc/a.jpg", MalformedURI),
        ("file:///img/.%2E/a.jpg", MalformedURI),
        ("file:///img/..%2fa.jpg", MalformedURI),
        ("file:///img/%252e%252e/a.jpg", MalformedURI),
        ("file:///img/a%00.jpg", MalformedURI),
        ("file:///img/a\x00.jpg", MalformedURI),
        ("file:///img/a%0a.jpg", MalformedURI),
        ("file:///img/a\n.jpg", MalformedURI),
        ("file:///img/a%7f.jpg", MalformedURI),
        ("file:///img/a%.jpg", MalformedURI),
        ("file:///img/a%zz.jpg", MalformedURI),
        ("file:///img/a.jpg?b", MalformedURI),
        ("file:///img/a.jpg#b", MalformedURI),
        ("file:///img/\ud800.jpg", MalformedURI),
        (None, MalformedURI),
        ({"a": 1}, MalformedURI),
        (7, MalformedURI),
    ],
)
def test_any_other_uri_is_refused_with_its_own_error(uri: str, error: type[ImageError]) -> None:
    with pytest.raises(error) as caught:
        source_path(uri)
    assert type(caught.value) is error


def test_long_uri_is_cut_in_the_error() -> None:
    with pytest.raises(UnsupportedScheme) as caught:
        source_path("http://" + "x" * 100_000)
    assert len(str(caught.value)) < 500
    assert "http://xxx" in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["file:///img_old/a.jpg", "file:///im/a.jpg", "file:///img", "file:///other/img/a.jpg", "file:///etc/passwd"],
)
def test_path_that_is_not_below_the_input_directory_is_refused(uri: str) -> None:
    with pytest.raises(OutsideInputDirectory, match="INDIR"):
        source_path(uri, "/img")


@pytest.mark.parametrize("indir", ["/img", "/img/", "/other/../img", "/"])
def test_path_below_the_input_directory_is_taken(indir: str) -> None:
    assert source_path("file:///img/deep/a.jpg", indir) == Path("/img/deep/a.jpg")


@pytest.mark.parametrize(
    ("image_id", "uri", "name"),
    [
        ("5e91425fc89dac47f6d2e95d4cf6b74a", "file:///in/color.jpg", "5e91425fc89dac47f6d2e95d4cf6b74a.jpg"),
        ("a", "file:///in/b.tar.PNG", "a.PNG"),
        ("a.b c-ü", "file:///in/b.gif", "a.b c-ü.gif"),
        ("a", "file:///in.d/noextension", "a"),
        ("a", "file:///in/.jpg", "a.jpg"),
        ("a", "file:///in/b%2Ejpg", "a.jpg"),
        ("x" * 251, "file:///in/b.jpg", "x" * 251 + ".jpg"),
    ],
)
def test_output_is_named_by_the_id_and_the_extension_of_the_uri(image_id: str, uri: str, name: str) -> None:
    assert output_path("/out", image_id, uri) == Path("/out") / name


@pytest.mark.parametrize(
    "image_id",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "/etc/passwd",
        "../a",
        "a\x00",
        "a\nb",
        "a\x7f",
        "a\u202eb",
        "\ud800",
        "x" * 252,
        "x" * 100_000,
        "ü" * 126,
        None,
        7,
        ["a"],
    ],
)
def test_id_that_cannot_name_a_file_is_refused(image_id: str) -> None:
    with pytest.raises(BadImageID, match="Choose another id") as caught:
        output_name(image_id, ".jpg")
    assert len(str(caught.value)) < 500


def test_file_below_the_input_directory_is_opened(indir: Path) -> None:
    with open_source(indir / "deep" / "a.jpg", indir) as source:
        assert source.read() == b"content"


def test_input_directory_may_itself_be_reached_through_a_link(indir: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(indir)
    with open_source(link / "deep" / "a.jpg", link) as source:
        assert source.length == 7


def test_path_outside_the_input_directory_is_not_opened(indir: Path, tmp_path: Path) -> None:
    with pytest.raises(OutsideInputDirectory):
        open_source(tmp_path / "img_old" / "a.jpg", indir)


def test_link_in_the_place_of_the_image_is_refused(indir: Path) -> None:
    (indir / "link.jpg").symlink_to(indir / "deep" / "a.jpg")
    with pytest.raises(SymlinkRefused):
        open_source(indir / "link.jpg", indir)


def test_link_in_the_place_of_a_directory_is_refused(indir: Path, tmp_path: Path) -> None:
    (tmp_path / "outside" / "deeper").mkdir(parents=True)
    (tmp_path / "outside" / "deeper" / "a.jpg").write_bytes(b"content")
    (indir / "way").symlink_to(tmp_path / "outside")
    with pytest.raises(SymlinkRefused):
        open_source(indir / "way" / "deeper" / "a.jpg", indir)


def test_link_put_in_place_between_look_and_open_is_not_followed(indir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = os.stat(indir / "deep" / "a.jpg")
    directory = os.stat(indir / "deep")
    (indir / "link.jpg").symlink_to(indir / "deep" / "a.jpg")
    (indir / "way").symlink_to(indir / "deep")
    looks = {"link.jpg": seen, "way": directory, "a.jpg": seen}
    monkeypatch.setattr(os, "stat", lambda name, **_: looks[name])
    with pytest.raises(SymlinkRefused):
        open_source(indir / "link.jpg", indir)
    with pytest.raises(ImageError):
        open_source(indir / "way" / "a.jpg", indir)


def test_links_are_followed_where_no_input_directory_is_set(indir: Path) -> None:
    (indir / "link.jpg").symlink_to(indir / "deep" / "a.jpg")
    with open_source(indir / "link.jpg") as source:
        assert source.length == 7


@pytest.mark.parametrize("limited", [False, True])
def test_pipe_is_refused_without_waiting_for_its_writer(indir: Path, limited: bool) -> None:
    os.mkfifo(indir / "pipe.jpg")
    with pytest.raises(NotARegularFile, match="named pipe"):
        open_source(indir / "pipe.jpg", indir if limited else None)


@pytest.mark.parametrize("limited", [False, True])
def test_directory_is_refused(indir: Path, limited: bool) -> None:
    with pytest.raises(NotARegularFile, match="a directory"):
        open_source(indir / "deep", indir if limited else None)


def test_device_is_refused() -> None:
    with pytest.raises(NotARegularFile, match="a device"):
        open_source(Path("/dev/zero"))


def test_device_below_the_input_directory_is_refused() -> None:
    with pytest.raises(NotARegularFile, match="a device"):
        open_source(Path("/dev/zero"), "/dev")


def test_socket_is_refused(indir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(indir)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        with pytest.raises(NotARegularFile, match="a socket"):
            open_source(indir / "socket.jpg", indir)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("name", ["absent.jpg", "absent/a.jpg", "deep/a.jpg/b.jpg"])
def test_missing_file_is_told_so(indir: Path, name: str, limited: bool) -> None:
    with pytest.raises(ImageNotFound, match="There is no image at"):
        open_source(indir / name, indir if limited else None)


def test_name_too_long_for_the_file_system_is_told_so(indir: Path) -> None:
    with pytest.raises(UnreadableImage, match="cannot be read"):
        open_source(indir / ("x" * 300), indir)


def test_empty_file_is_told_so(indir: Path) -> None:
    (indir / "empty.jpg").touch()
    with pytest.raises(EmptyImage, match="0 bytes"):
        open_source(indir / "empty.jpg", indir)


def test_no_descriptor_is_left_open_by_refusals(indir: Path) -> None:
    os.mkfifo(indir / "pipe.jpg")
    (indir / "way").symlink_to(indir / "deep")
    (indir / "empty.jpg").touch()
    before = _open_descriptors()
    for name in ("pipe.jpg", "way/a.jpg", "empty.jpg", "deep", "deep/absent.jpg", "absent/a.jpg"):
        with pytest.raises(ImageError):
            open_source(indir / name, indir)
    assert _open_descriptors() == before


def test_source_tells_its_name_its_extension_and_its_length(indir: Path) -> None:
    (indir / "B.c.JPG").write_bytes(b"content")
    with open_source(indir / "B.c.JPG", indir) as source:
        assert (source.name, source.extension, source.length) == (str(indir / "B.c.JPG"), ".JPG", 7)


def _open_descriptors() -> int:
    return sum(_is_open(number) for number in range(256))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://me:secret@host/a.jpg",
        "file://me:sec/secret@x@host/a.jpg",
        "me:secret@host/a.jpg",
        "//me:secret@host/a.jpg",
        "https://me:a secret\n'\"@host/a.jpg",
        "https://host/a.jpg?signature=secret",
        "s3:me:secret@bucket/a.jpg",
    ],
)
def test_refused_uri_is_quoted_without_its_credentials(uri: str) -> None:
    with pytest.raises(ImageError) as raised:
        source_path(uri)

    assert "secret" not in str(raised.value)


def test_file_whose_name_has_an_at_sign_is_quoted_whole() -> None:
    with pytest.raises(ImageError, match=r"me@home//a\.jpg"):
        source_path("file:///me@home//a.jpg")


# Names that people give: what submit writes, the worker reads


NAMES = [
    "Caesarea%20bay.jpg",
    "100%25.jpg",
    "50%.jpg",
    "a%2Fb.jpg",
    "a%00b.jpg",
    "Caesarea bay.jpg",
    " leading and trailing .jpg",
    "what?.jpg",
    "no#1.jpg",
    "a;b&c=d+e.jpg",
    "back\\slash.jpg",
    "quote\"'`.jpg",
    "[1] {2} <3> |4| ^5^.jpg",
    "~user@host:80.jpg",
    "Müßiggang.jpg",
    "cafe\u0301.jpg",
    "caf\u00e9.jpg",
    "\u6d77\u8fb9.jpg",
    "\U0001f305 sunrise.jpg",
    "family \U0001f469\u200d\U0001f467.jpg",
    "PHOTO.JPG",
    "Photo.JpEg",
    "-rf.jpg",
    "...jpg",
    os.fsdecode(b"latin1 \xe9.jpg"),
]


@pytest.mark.parametrize("name", NAMES)
def test_file_of_any_name_is_found_by_the_uri_that_is_submitted_for_it(indir: Path, name: str) -> None:
    (indir / name).write_bytes(b"picture")
    path = source_path(source_uri(indir / name), indir)
    with open_source(path, indir) as source:
        assert source.read() == b"picture"
    assert path == indir / name
    assert output_name("id", extension_of(path)) == "id" + Path(name).suffix


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fx.jpg", "a%2f..%2fx.jpg", "%2e", "x%2F%2e%2E"])
def test_name_that_leads_elsewhere_when_decoded_twice_is_refused(name: str) -> None:
    with pytest.raises(MalformedURI, match="twice"):
        source_path(source_uri(Path("/img", name, "a.jpg")))


def test_path_with_two_slashes_in_front_is_submitted_with_one() -> None:
    assert source_path(source_uri(Path("//img/a.jpg"))) == Path("/img/a.jpg")


def test_relative_path_is_submitted_as_an_absolute_one(indir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(indir)
    assert source_path(source_uri(Path("deep/a.jpg"))) == indir / "deep" / "a.jpg"


def plain(name: str) -> bool:
    parts = unquote(name, errors="surrogateescape").split("/")
    return name not in (".", "..") and "." not in parts and ".." not in parts


file_names = st.text(
    st.characters(exclude_characters="/", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40
).filter(plain)
escaped_names = st.text("%2eE5fFaü#? .", min_size=1, max_size=12).filter(plain)


@given(st.lists(file_names | escaped_names, min_size=1, max_size=5))
def test_every_path_comes_back_from_its_uri(names: list[str]) -> None:
    path = Path("/", *names)
    assert source_path(source_uri(path)) == path
    assert source_path(source_uri(path), "/") == path


@given(st.lists(st.sampled_from([*"./%2eEfF05a\\?#", "..", "%2e", "%2F", "%252e"]), max_size=30).map("".join))
def test_no_uri_leads_out_of_the_input_directory(tail: str) -> None:
    try:
        path = source_path(f"file:///img/in/{tail}", "/img/in")
    except ImageError:
        return
    for spelled in (str(path), unquote(str(path))):
        assert os.path.normpath(spelled).startswith("/img/in/")


@given(st.binary(min_size=1, max_size=20))
def test_name_in_any_encoding_comes_back_from_its_uri(raw: bytes) -> None:
    name = os.fsdecode(raw)
    assume(not any(byte < 0x20 or byte in b"/\x7f" for byte in raw) and plain(name))
    assert os.fsencode(source_path(source_uri(Path("/", name)))) == b"/" + raw
