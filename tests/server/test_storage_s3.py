"""Images in S3: read, bounded, converted and written whole or not at all, on a real server."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from bw_tasks.errors import (
    AccessDenied,
    BucketNotFound,
    EmptyImage,
    ImageNotFound,
    OutsideInputDirectory,
    StorageMisconfigured,
    StorageUnavailable,
    TooManyBytes,
)
from bw_tasks.images import convert_image
from bw_tasks.s3server import S3Server
from bw_tasks.storage import Storages
from tests.support.admin import Admin
from tests.support.bw import ROOT, SUBJECT, Service, request_body
from tests.support.images import make_images
from tests.support.proxy import Proxy
from tests.support.s3 import Bucket, Impostor
from tests.support.studio import noise, picture
from tests.support.waiting import eventually

SECRET = "a-secret-key-that-nobody-may-read"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server) -> Bucket:
    return Bucket(server, f"pictures-{secrets.token_hex(4)}")


@pytest.fixture(autouse=True)
def variables(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("STORAGE_TIMEOUT", "5")


@pytest.fixture
def storages() -> Iterator[Storages]:
    storages = Storages()
    yield storages
    storages.close()


@pytest.fixture
def impostor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Impostor]:
    with Impostor() as impostor:
        monkeypatch.setenv("AWS_ENDPOINT_URL", impostor.url)
        impostor.objects["a.png"] = picture()
        yield impostor


def worker(url: str, outdir: str | Path, log: Path, variables: dict[str, str], module: str = "bw_tasks") -> Service:
    """A `dramatiq bw_tasks` of one process that finds the S3 server, or a module's of its kind."""
    service = Service(url, None, log, processes=1, threads=2)
    service.command = [module if part == "bw_tasks" else part for part in service.command]
    service.variables |= {"OUTDIR": str(outdir), **variables}
    return service


class TestReadingAndWriting:
    @pytest.mark.parametrize(
        "name", ["a.png", "deep/er/a.PNG", "a b+&=@~ü.png", "u\u0308 #?%41.png", "Caesarea%20bay.png"]
    )
    def test_image_is_converted_from_bucket_to_bucket(self, bucket: Bucket, name: str) -> None:
        uri = bucket.put(name, picture())
        written = convert_image(uri, "an id #?%41 ü", outdir=f"s3://{bucket.name}/bw/")
        key = f"bw/an id #?%41 ü.{name[-3:]}"
        assert written == f"s3://{bucket.name}/{key}"
        data = bucket.get(key)
        assert data is not None
        with Image.open(io.BytesIO(data)) as converted:
            assert converted.size == (64, 64)

    def test_result_is_the_same_as_of_a_file_and_the_same_each_time(self, bucket: Bucket, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(picture())
        local = convert_image((tmp_path / "a.png").as_uri(), "b", outdir=tmp_path)
        assert isinstance(local, Path)
        uri = bucket.put("a.png", picture())
        for _ in range(2):
            convert_image(uri, "b", outdir=f"s3://{bucket.name}")
            assert bucket.get("b.png") == local.read_bytes()
        assert sorted(bucket.keys()) == ["a.png", "b.png"]

    def test_kinds_may_be_mixed(self, bucket: Bucket, tmp_path: Path) -> None:
        written = convert_image(bucket.put("a.png", picture()), "b", outdir=tmp_path)
        assert isinstance(written, Path)
        convert_image(written.as_uri(), "c", outdir=f"s3://{bucket.name}/again")
        assert bucket.get("again/c.png") is not None

    def test_many_threads_share_the_clients(self, bucket: Bucket, storages: Storages) -> None:
        uri = bucket.put("a.png", picture())
        with ThreadPoolExecutor(8) as threads:
            outdir = f"s3://{bucket.name}/bw"
            list(threads.map(lambda n: convert_image(uri, str(n), outdir=outdir, storages=storages), range(32)))
        assert len(bucket.keys()) == 33

    def test_forked_process_makes_a_client_of_its_own(self, bucket: Bucket) -> None:
        uri = bucket.put("a.png", picture())
        program = (
            "import os, sys\nfrom bw_tasks.images import convert_image\nfrom bw_tasks.storage import Storages\n"
            "storages = Storages()\nuri, outdir = sys.argv[1:]\n"
            "child = os.fork()\n"
            "convert_image(uri, 'child' if not child else 'parent', outdir=outdir, storages=storages)\n"
            "if child:\n    assert os.waitpid(child, 0)[1] == 0\nelse:\n    os._exit(0)\n"
        )
        command = [sys.executable, "-c", program, uri, f"s3://{bucket.name}/bw"]
        subprocess.run(command, check=True, timeout=60, cwd=ROOT)
        assert sorted(bucket.keys()) == ["a.png", "bw/child.png", "bw/parent.png"]


class TestBounds:
    def test_image_of_too_many_bytes_is_not_downloaded(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_MEGABYTES", "1")
        uri = bucket.put("a.bmp", noise())
        with pytest.raises(TooManyBytes, match="MAX_MEGABYTES"):
            convert_image(uri, "b", outdir=f"s3://{bucket.name}")

    def test_limit_is_that_of_the_environment(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_MEGABYTES", "0.001")
        with pytest.raises(TooManyBytes, match=r"the limit of 0\.001"):
            convert_image(bucket.put("a.png", picture()), "b", outdir=f"s3://{bucket.name}")

    def test_empty_object_is_told_so(self, bucket: Bucket) -> None:
        with pytest.raises(EmptyImage):
            convert_image(bucket.put("a.png", b""), "b", outdir=f"s3://{bucket.name}")

    def test_image_outside_indir_is_not_asked_for(self, impostor: Impostor) -> None:
        with pytest.raises(OutsideInputDirectory):
            convert_image("s3://pictures/a.png", "b", outdir="s3://pictures", indir="s3://pictures/in,/srv")
        assert impostor.requests == []

    def test_no_temporary_file_is_left(self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        convert_image(bucket.put("a.bmp", noise()), "b", outdir=f"s3://{bucket.name}")
        assert list(tmp_path.iterdir()) == []

    def test_temporary_directory_without_room_is_told_so(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(StorageUnavailable, match="TMPDIR"):
            convert_image(bucket.put("a.png", picture()), "b", outdir=f"s3://{bucket.name}")


class TestWhatFailed:
    """Each fault by its name, at once, and without the secret."""

    def fails(self, error: type[Exception], match: str, uri: str = "s3://pictures/a.png") -> None:
        with pytest.raises(error, match=match) as caught:
            convert_image(uri, "b", outdir="s3://pictures/bw")
        assert SECRET not in str(caught.value)
        assert len(str(caught.value)) < 600

    def test_no_such_key(self, bucket: Bucket) -> None:
        self.fails(ImageNotFound, "no object of that name in bucket", f"s3://{bucket.name}/none.png")

    def test_no_such_bucket(self, server: S3Server) -> None:
        self.fails(BucketNotFound, "has no bucket 'no-such-bucket'", "s3://no-such-bucket/a.png")

    def test_no_such_bucket_to_write_to(self, bucket: Bucket) -> None:
        with pytest.raises(BucketNotFound, match=r"b\.png' cannot be written: .* has no bucket 'no-such-bucket'"):
            convert_image(bucket.put("a.png", picture()), "b", outdir="s3://no-such-bucket")

    @pytest.mark.parametrize(
        ("status", "code", "error", "match"),
        [
            (403, "AccessDenied", AccessDenied, "AccessDenied.*s3:GetObject"),
            (403, "AllAccessDisabled", AccessDenied, "AllAccessDisabled"),
            (401, "", AccessDenied, "401"),
            (403, "InvalidAccessKeyId", StorageMisconfigured, "InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"),
            (403, "SignatureDoesNotMatch", StorageMisconfigured, "AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", StorageMisconfigured, "AWS_SESSION_TOKEN"),
            (403, "RequestTimeTooSkewed", StorageMisconfigured, "clocks"),
            (400, "AuthorizationHeaderMalformed", StorageMisconfigured, "AWS_REGION"),
            (301, "PermanentRedirect", StorageMisconfigured, "AWS_REGION"),
            (404, "", StorageMisconfigured, "not say.*AWS_ENDPOINT_URL"),
            (405, "MethodNotAllowed", StorageMisconfigured, "AWS_ENDPOINT_URL"),
        ],
    )
    def test_what_will_not_pass_ends_at_once(
        self, impostor: Impostor, status: int, code: str, error: type[Exception], match: str
    ) -> None:
        impostor.answers = [(status, code)]
        self.fails(error, match)
        assert impostor.requests == ["GET"]

    @pytest.mark.parametrize("answer", [(503, "SlowDown"), (500, "InternalError"), (429, ""), (502, ""), (504, "")])
    def test_what_may_pass_is_asked_again(self, impostor: Impostor, answer: tuple[int, str]) -> None:
        impostor.answers = [answer]
        convert_image("s3://pictures/a.png", "b", outdir="s3://pictures/bw")
        assert impostor.requests == ["GET", "GET", "PUT"]

    def test_slow_down_of_a_write_is_asked_again(self, impostor: Impostor) -> None:
        impostor.objects["first.png"] = picture()
        convert_image("s3://pictures/first.png", "b", outdir="s3://pictures/bw")
        expected = impostor.objects.pop("bw/b.png")
        read_first = Storages()
        impostor.answers = [(500, "InternalError"), (503, "SlowDown")]
        convert_image("s3://pictures/first.png", "b", outdir="s3://pictures/bw", storages=read_first)
        assert impostor.objects["bw/b.png"] == expected

    def test_slow_down_that_stays_is_left_to_a_later_attempt(self, impostor: Impostor) -> None:
        impostor.answers = [(503, "SlowDown")] * 20
        self.fails(StorageUnavailable, "SlowDown: it is overloaded")
        assert 1 < len(impostor.requests) < 6

    def test_server_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Proxy(1) as proxy:
            proxy.cut()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
            self.fails(StorageUnavailable, "cannot be reached: Connection refused. Check AWS_ENDPOINT_URL")

    def test_host_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.invalid:9000")
        self.fails(StorageUnavailable, "its name is not known. Check AWS_ENDPOINT_URL")

    def test_server_without_encryption(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.port}")
        self.fails(StorageMisconfigured, "no encrypted connection.*AWS_CA_BUNDLE")

    def test_server_that_is_not_s3(self, nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", nats_url.replace("nats", "http"))
        self.fails(StorageMisconfigured, "does not speak HTTP. Check AWS_ENDPOINT_URL")

    @pytest.mark.parametrize(
        "url", ["localhost:9000", "http://user:a-secret-key-that-nobody-may-read@host", "s3://host"]
    )
    def test_endpoint_that_is_none(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        self.fails(StorageMisconfigured, "AWS_ENDPOINT_URL is no endpoint")

    def test_no_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        self.fails(StorageMisconfigured, "set AWS_ACCESS_KEY_ID")

    def test_slow_server(self, impostor: Impostor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_TIMEOUT", "0.5")
        impostor.answers = ["silence"] * 9
        self.fails(StorageUnavailable, r"is slow: no answer within 0\.5 s, STORAGE_TIMEOUT")

    def test_missing_client_is_told_with_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "obstore", None)
        self.fails(StorageMisconfigured, r"pip install 'dramatiq-jetstream\[images,s3\]'")


class TestCutConnections:
    def test_download_that_is_cut_once_goes_on(self, impostor: Impostor) -> None:
        impostor.objects["a.bmp"] = noise()
        whole = convert_image("s3://pictures/a.bmp", "whole", outdir="s3://pictures")
        impostor.answers = ["cut"]
        convert_image("s3://pictures/a.bmp", "b", outdir="s3://pictures")
        assert whole == "s3://pictures/whole.bmp"
        assert impostor.objects["b.bmp"] == impostor.objects["whole.bmp"]

    def test_download_that_is_cut_each_time_is_left_to_a_later_attempt(self, impostor: Impostor) -> None:
        impostor.objects["a.bmp"] = noise()
        impostor.answers = ["cut"] * 20
        with pytest.raises(StorageUnavailable, match=r"a\.bmp"):
            convert_image("s3://pictures/a.bmp", "b", outdir="s3://pictures")
        assert "b.bmp" not in impostor.objects

    @pytest.mark.parametrize("old", [None, b"old"])
    def test_upload_that_is_cut_leaves_the_old_object_or_none(
        self, server: S3Server, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: bytes | None
    ) -> None:
        (tmp_path / "a.bmp").write_bytes(noise(6000))
        if old is not None:
            bucket.put("b.bmp", old)
        with Proxy(server.port) as proxy, ThreadPoolExecutor(1) as thread:
            proxy.rate = 2_000_000
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
            uri, outdir = (tmp_path / "a.bmp").as_uri(), f"s3://{bucket.name}"
            converting = thread.submit(convert_image, uri, "b", outdir=outdir)
            eventually(lambda: proxy.received > 500_000)
            proxy.cut()
            with pytest.raises(StorageUnavailable, match=r"b\.bmp' cannot be written"):
                converting.result(60)
            assert bucket.get("b.bmp") == old
            proxy.rate = None
            proxy.resume()
            convert_image(uri, "b", outdir=outdir)
        assert len(bucket.get("b.bmp") or b"") > 1_000_000
        assert not bucket.has_unfinished_uploads()


class TestWorkers:
    def test_worker_reads_and_writes_a_bucket(
        self, nats_url: str, admin: Admin, bucket: Bucket, server: S3Server, tmp_path: Path
    ) -> None:
        make_images(admin)
        advised = admin.subscribe("advisory.*")
        uri = bucket.put("in/a.png", picture())
        outdir = f"s3://{bucket.name}/bw"
        variables = {"INDIR": f"s3://{bucket.name}/in", **server.environment}
        with worker(nats_url, outdir, tmp_path / "log", variables) as service:
            admin.store(SUBJECT, request_body("b", uri, "advisory.b"))
            eventually(lambda: admin.count("IMAGES") == 0)
            assert service.lines(f"Converted {uri} into {outdir}/b.png")
            assert not service.lines("INDIR is not set")
            assert service.stop() == 0
        assert json.loads(advised.get(timeout=5).data) == {"id": "b"}
        assert bucket.get("bw/b.png") is not None

    def test_worker_killed_between_upload_and_advisory_repeats_with_the_same_bytes(
        self, nats_url: str, admin: Admin, bucket: Bucket, server: S3Server, tmp_path: Path
    ) -> None:
        make_images(admin, consumer={"ack_wait": 1_000_000_000})
        advised = admin.subscribe("advisory.*")
        uri = bucket.put("a.png", picture())
        convert_image(uri, "expected", outdir=f"s3://{bucket.name}")
        outdir = f"s3://{bucket.name}"
        admin.store(SUBJECT, request_body("b", uri, "advisory.b"))
        killed = worker(
            nats_url, outdir, tmp_path / "first", server.environment, "tests.support.killed_before_advisory"
        )
        with killed:
            eventually(lambda: not killed.is_running)
        assert bucket.get("b.png") == bucket.get("expected.png")
        assert advised.empty()
        with worker(nats_url, outdir, tmp_path / "second", server.environment):
            eventually(lambda: admin.count("IMAGES") == 0)
        assert bucket.get("b.png") == bucket.get("expected.png")
        assert json.loads(advised.get(timeout=5).data) == {"id": "b"}

    def test_outage_is_waited_for_and_logged_with_what_happens_next(
        self, nats_url: str, admin: Admin, bucket: Bucket, server: S3Server, tmp_path: Path
    ) -> None:
        make_images(admin)
        uri = bucket.put("a.png", picture())
        with Proxy(server.port) as proxy:
            environment = {**server.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
            with worker(nats_url, f"s3://{bucket.name}", tmp_path / "log", environment) as service:
                proxy.cut()
                admin.store(SUBJECT, request_body("b", uri))
                eventually(lambda: service.lines("cannot be reached"))
                proxy.resume()
                eventually(lambda: admin.count("IMAGES") == 0)
                assert "Traceback" not in service.log
        assert bucket.get("b.png") is not None

    @pytest.mark.parametrize(
        ("outdir", "variables", "reason"),
        [
            ("s3://no-such-bucket", {}, "has no bucket 'no-such-bucket'"),
            ("s3://Not a bucket", {}, "names no bucket"),
            ("gs://pictures", {}, "of no kind that is known"),
            ("s3://pictures", {"AWS_ENDPOINT_URL": "localhost:9000"}, "AWS_ENDPOINT_URL is no endpoint"),
            ("s3://pictures", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "cannot be reached"),
            ("s3://pictures", {"STORAGE_TIMEOUT": "soon"}, "Set STORAGE_TIMEOUT to seconds"),
            ("s3://pictures", {"MAX_MEGABYTES": "much"}, "MAX_MEGABYTES is"),
        ],
    )
    def test_worker_without_a_usable_storage_does_not_start(
        self, nats_url: str, server: S3Server, tmp_path: Path, outdir: str, variables: dict[str, str], reason: str
    ) -> None:
        environment = {**server.environment, **variables}
        with worker(nats_url, outdir, tmp_path / "log", environment) as service:
            assert service.wait() != 0
        assert reason in service.log
        assert "Traceback" not in service.log

    def test_worker_without_indir_says_at_its_start_what_it_serves(
        self, nats_url: str, admin: Admin, tmp_path: Path
    ) -> None:
        make_images(admin)
        with worker(nats_url, tmp_path, tmp_path / "log", {}) as service:
            eventually(lambda: service.lines("INDIR is not set: this worker serves every file and object"))
