"""Images in JetStream's object store, on the tests' own server, beside NATS's own client."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.object_store import ObjectStore
from PIL import Image

from bw_tasks.errors import (
    AccessDenied,
    BucketNotFound,
    EmptyImage,
    ImageNotFound,
    OutsideInputDirectory,
    StorageUnavailable,
    SymlinkRefused,
    TooManyBytes,
    UnreadableImage,
    UnwritableOutput,
)
from bw_tasks.images import convert_image
from bw_tasks.storage import Storages
from bw_tasks.storage.locations import Location
from bw_tasks.storage.objects import ObjectStorage
from dramatiq_jetstream import JetStreamBroker, NatsServer
from tests.support.admin import Admin
from tests.support.bw import ROOT, SUBJECT, Service, request_body
from tests.support.images import make_images
from tests.support.proxy import Proxy
from tests.support.studio import noise, picture
from tests.support.waiting import eventually


class Bucket:
    """An object store as NATS's own client sees it."""

    def __init__(self, url: str, admin: Admin, name: str, **settings: Any) -> None:
        self.url = url
        self.admin = admin
        self.name = name
        self._settings = settings
        self._run(lambda store: asyncio.sleep(0))

    def put(self, name: str, data: bytes) -> str:
        self._run(lambda store: store.put(name, data))
        return f"nats://{self.name}/{name}"

    def get(self, name: str) -> bytes:
        found = self._run(lambda store: store.get(name))
        assert isinstance(found.data, bytes)
        return found.data

    def names(self) -> list[str]:
        return sorted(info.name for info in self._run(lambda store: store.list(ignore_deletes=True)))

    def chunks(self) -> list[str]:
        """The subjects that have chunks."""
        asked = self.admin.api(f"STREAM.INFO.OBJ_{self.name}", {"subjects_filter": f"$O.{self.name}.C.>"})
        return list(asked["state"].get("subjects") or {})

    def delete(self) -> None:
        self.admin.api(f"STREAM.DELETE.OBJ_{self.name}")

    def _run(self, use: Callable[[ObjectStore], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            client = await nats.connect(self.url)
            try:
                context = client.jetstream()
                try:
                    store = await context.object_store(self.name)
                except nats.js.errors.NotFoundError:
                    store = await context.create_object_store(self.name, **self._settings)
                return await use(store)
            finally:
                await client.close()

        return asyncio.run(run())


@pytest.fixture
def bucket(nats_url: str, admin: Admin) -> Bucket:
    return Bucket(nats_url, admin, f"pictures-{secrets.token_hex(4)}")


@pytest.fixture(autouse=True)
def variables(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", nats_url)
    monkeypatch.setenv("STORAGE_TIMEOUT", "5")


@pytest.fixture
def storage(broker: JetStreamBroker) -> ObjectStorage:
    return ObjectStorage(broker.connection, 5.0)


class TestReadingAndWriting:
    @pytest.mark.parametrize("name", ["a.png", "deep/er/a.PNG", "a b+&=@~ü.png"])
    def test_image_is_converted_from_bucket_to_bucket(self, bucket: Bucket, name: str) -> None:
        written = convert_image(bucket.put(name, picture()), "an id #?*> ü", outdir=f"nats://{bucket.name}/bw")
        key = f"bw/an id #?*> ü.{name[-3:]}"
        assert written == f"nats://{bucket.name}/{key}"
        with Image.open(io.BytesIO(bucket.get(key))) as converted:
            assert converted.size == (64, 64)

    def test_large_image_has_the_bytes_of_a_file_and_no_older_chunks(self, bucket: Bucket, tmp_path: Path) -> None:
        (tmp_path / "a.bmp").write_bytes(noise(6000))
        local = convert_image((tmp_path / "a.bmp").as_uri(), "b", outdir=tmp_path)
        assert isinstance(local, Path)
        uri = bucket.put("a.bmp", (tmp_path / "a.bmp").read_bytes())
        for _ in range(3):
            convert_image(uri, "b", outdir=f"nats://{bucket.name}")
            assert bucket.get("b.bmp") == local.read_bytes()
        assert bucket.names() == ["a.bmp", "b.bmp"]
        assert len(bucket.chunks()) == 2

    def test_bucket_without_direct_reads_is_read_all_the_same(self, nats_url: str, admin: Admin) -> None:
        bucket = Bucket(nats_url, admin, f"indirect-{secrets.token_hex(4)}")
        uri = bucket.put("a.bmp", noise(800))
        config = admin.api(f"STREAM.INFO.OBJ_{bucket.name}")["config"]
        admin.api(f"STREAM.UPDATE.OBJ_{bucket.name}", config | {"allow_direct": False})
        convert_image(uri, "b", outdir=f"nats://{bucket.name}")
        assert bucket.names() == ["a.bmp", "b.bmp"]

    def test_many_threads_share_the_connection(self, bucket: Bucket, broker: JetStreamBroker) -> None:
        uri, storages = bucket.put("a.png", picture()), Storages(broker.connection)
        with ThreadPoolExecutor(8) as threads:
            outdir = f"nats://{bucket.name}"
            list(threads.map(lambda n: convert_image(uri, str(n), outdir=outdir, storages=storages), range(24)))
        assert len(bucket.names()) == 25

    def test_same_name_written_at_once_is_one_of_them_whole(self, bucket: Bucket, storage: ObjectStorage) -> None:
        place = Location("nats", bucket.name, "a.png")
        contents = [bytes([number]) * 1_200_000 for number in range(6)]
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(lambda data: storage.write(place, data), contents))
        assert bucket.get("a.png") in contents
        storage.remove_orphans(Location("nats", bucket.name, ""), older_than=0)
        assert bucket.get("a.png") in contents
        assert len(bucket.chunks()) == 1


class TestWhatFailed:
    def test_no_such_object(self, bucket: Bucket) -> None:
        with pytest.raises(ImageNotFound, match="no object of that name in bucket"):
            convert_image(f"nats://{bucket.name}/none.png", "b", outdir=f"nats://{bucket.name}")

    def test_no_such_bucket(self, bucket: Bucket) -> None:
        with pytest.raises(BucketNotFound, match="'nats object add no-such-bucket'"):
            convert_image("nats://no-such-bucket/a.png", "b", outdir=f"nats://{bucket.name}")

    def test_no_such_bucket_to_write_to(self, bucket: Bucket) -> None:
        with pytest.raises(BucketNotFound, match=r"b\.png' cannot be written"):
            convert_image(bucket.put("a.png", picture()), "b", outdir="nats://no-such-bucket")

    def test_deleted_object(self, bucket: Bucket) -> None:
        uri = bucket.put("a.png", picture())
        bucket._run(lambda store: store.delete("a.png"))
        with pytest.raises(ImageNotFound):
            convert_image(uri, "b", outdir=f"nats://{bucket.name}")

    def test_empty_object(self, bucket: Bucket) -> None:
        with pytest.raises(EmptyImage):
            convert_image(bucket.put("a.png", b""), "b", outdir=f"nats://{bucket.name}")

    def test_too_large_object_is_refused_by_its_meta_message(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = bucket.put("a.bmp", noise(800))
        bucket.admin.api(f"STREAM.PURGE.OBJ_{bucket.name}", {"filter": bucket.chunks()[0]})
        monkeypatch.setenv("MAX_MEGABYTES", "0.1")
        with pytest.raises(TooManyBytes, match="MAX_MEGABYTES"):
            convert_image(uri, "b", outdir=f"nats://{bucket.name}")

    def test_object_without_its_chunks_does_not_hang(self, bucket: Bucket) -> None:
        uri = bucket.put("a.png", picture())
        bucket.admin.api(f"STREAM.PURGE.OBJ_{bucket.name}", {"filter": bucket.chunks()[0]})
        with pytest.raises(UnreadableImage, match="chunks of it are missing"):
            convert_image(uri, "b", outdir=f"nats://{bucket.name}")

    def test_object_whose_chunks_are_others_is_refused(self, bucket: Bucket) -> None:
        uri = bucket.put("a.png", picture())
        [subject] = bucket.chunks()
        bucket.admin.api(f"STREAM.PURGE.OBJ_{bucket.name}", {"filter": subject})
        bucket.admin.store(subject, b"x" * len(picture()))
        with pytest.raises(UnreadableImage, match="digest"):
            convert_image(uri, "b", outdir=f"nats://{bucket.name}")

    @pytest.mark.parametrize("meta", [b"nonsense", b"[]", b'{"nuid": "x", "size": "many"}'])
    def test_meta_message_that_is_none(self, bucket: Bucket, meta: bytes) -> None:
        bucket.admin.store(f"$O.{bucket.name}.M.YS5wbmc=", meta)
        with pytest.raises(UnreadableImage, match="meta message"):
            convert_image(f"nats://{bucket.name}/a.png", "b", outdir=f"nats://{bucket.name}")

    def test_link_to_another_bucket_is_not_followed(self, bucket: Bucket) -> None:
        link = {"name": "a.png", "bucket": bucket.name, "nuid": "x", "options": {"link": {"bucket": "o", "name": "a"}}}
        bucket.admin.store(f"$O.{bucket.name}.M.YS5wbmc=", json.dumps(link).encode())
        with pytest.raises(SymlinkRefused):
            convert_image(f"nats://{bucket.name}/a.png", "b", outdir=f"nats://{bucket.name}")

    def test_full_bucket(self, nats_url: str, admin: Admin, tmp_path: Path) -> None:
        bucket = Bucket(nats_url, admin, f"full-{secrets.token_hex(4)}", max_bytes=2_000)
        (tmp_path / "a.bmp").write_bytes(noise(400))
        with pytest.raises(UnwritableOutput, match="cannot be written"):
            convert_image((tmp_path / "a.bmp").as_uri(), "b", outdir=f"nats://{bucket.name}")
        eventually(lambda: not bucket.chunks())

    def test_image_outside_indir(self, bucket: Bucket) -> None:
        uri = bucket.put("other/a.png", picture())
        with pytest.raises(OutsideInputDirectory):
            convert_image(uri, "b", outdir=f"nats://{bucket.name}", indir=f"nats://{bucket.name}/in")

    def test_user_who_may_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NATS_URL", "")
        users = (
            "authorization { users = [ {user: a, password: secret-a}, {user: b, password: secret-b, permissions: "
            '{publish: {deny: ["$JS.API.STREAM.MSG.GET.>", "$JS.API.DIRECT.GET.>"]}}} ] }'
        )
        with NatsServer(config=users) as server:
            address = f"127.0.0.1:{server.port}"
            with Admin(f"nats://a:secret-a@{address}") as admin:
                bucket = Bucket(f"nats://a:secret-a@{address}", admin, "pictures")
                uri = bucket.put("a.png", picture())
            monkeypatch.setenv("NATS_URL", f"nats://b:secret-b@{address}")
            with pytest.raises(AccessDenied) as caught:
                convert_image(uri, "b", outdir="nats://pictures")
        assert "secret" not in str(caught.value)


KILLED = """
import os, signal, sys
from bw_tasks.images import convert_image
from bw_tasks.storage.object_meta import Meta
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
Meta.new = killed
convert_image(sys.argv[1], "b", outdir=sys.argv[2])
"""


class TestCrashes:
    def leave_orphans(self, bucket: Bucket, uri: str) -> None:
        command = [sys.executable, "-c", KILLED, uri, f"nats://{bucket.name}"]
        assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -9

    def test_killed_write_leaves_the_old_object_and_its_chunks_are_removed(
        self, bucket: Bucket, storage: ObjectStorage
    ) -> None:
        uri = bucket.put("a.bmp", noise(800))
        convert_image(uri, "b", outdir=f"nats://{bucket.name}")
        whole = bucket.get("b.bmp")
        self.leave_orphans(bucket, uri)
        assert bucket.get("b.bmp") == whole
        assert len(bucket.chunks()) == 3
        place = Location("nats", bucket.name, "")

        assert storage.remove_orphans(place) == 0, "they may belong to a write that goes on"
        assert storage.remove_orphans(place, older_than=0) == 1
        assert len(bucket.chunks()) == 2
        assert bucket.get("b.bmp") == whole
        assert len(bucket.get("a.bmp")) > 600_000
        assert storage.remove_orphans(place, older_than=0) == 0

    def test_write_whose_time_is_up_removes_its_chunks(
        self, bucket: Bucket, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy(nats_server.port) as proxy:
            broker = JetStreamBroker(proxy.url)
            try:
                storage = ObjectStorage(broker.connection, 0.8)
                broker.connection.session()
                proxy.rate = 500_000
                with pytest.raises(StorageUnavailable, match=r"slow.*STORAGE_TIMEOUT"):
                    storage.write(Location("nats", bucket.name, "a.bin"), os.urandom(4_000_000))
                proxy.rate = None
                eventually(lambda: not bucket.chunks())
            finally:
                broker.close()


class TestOutages:
    @pytest.fixture
    def link(self, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxy, ObjectStorage]]:
        with Proxy(nats_server.port) as proxy:
            broker = JetStreamBroker(proxy.url, timeout=2_000)
            yield proxy, ObjectStorage(broker.connection, 1.0)
            proxy.resume()
            broker.close()

    def test_silent_server_is_named_in_time(self, bucket: Bucket, link: tuple[Proxy, ObjectStorage]) -> None:
        proxy, storage = link
        bucket.put("a.bmp", noise(800))
        place = Location("nats", bucket.name, "a.bmp")
        storage.open(place, None, 10**9).close()
        proxy.black_hole()
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            storage.open(place, None, 10**9)
        with pytest.raises(StorageUnavailable):
            storage.write(place, b"x")
        assert time.monotonic() - started < 15
        proxy.resume()
        storage.open(place, None, 10**9).close()

    def test_cut_in_a_download_may_pass(self, bucket: Bucket, link: tuple[Proxy, ObjectStorage]) -> None:
        proxy, storage = link
        bucket.put("a.bmp", noise(800))
        place = Location("nats", bucket.name, "a.bmp")
        real = storage._call
        calls: list[object] = []

        def cutting(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                proxy.cut()
            return real(*args)

        storage._call = cutting  # type: ignore[method-assign,assignment]
        with pytest.raises(StorageUnavailable):
            storage.open(place, None, 10**9)
        proxy.resume()
        with storage.open(place, None, 10**9) as source:
            assert source.length > 600_000

    def test_cut_in_an_upload_leaves_the_old_object(self, bucket: Bucket, link: tuple[Proxy, ObjectStorage]) -> None:
        proxy, storage = link
        place = Location("nats", bucket.name, "a.bin")
        storage.write(place, b"old")
        proxy.rate = 2_000_000
        with ThreadPoolExecutor(1) as thread:
            received = proxy.received
            writing = thread.submit(storage.write, place, os.urandom(8_000_000))
            eventually(lambda: proxy.received > received + 600_000)
            proxy.cut()
            with pytest.raises(StorageUnavailable):
                writing.result(60)
        assert bucket.get("a.bin") == b"old"


class TestWorkers:
    def test_team_with_nothing_but_nats_has_shared_storage(
        self, nats_url: str, admin: Admin, bucket: Bucket, tmp_path: Path
    ) -> None:
        make_images(admin)
        uri, outdir = bucket.put("in/a.png", picture()), f"nats://{bucket.name}/bw"
        service = Service(nats_url, None, tmp_path / "log", processes=2, INDIR=f"nats://{bucket.name}/in")
        service.variables |= {"OUTDIR": outdir}
        with service:
            admin.store(SUBJECT, request_body("b", uri))
            eventually(lambda: admin.count("IMAGES") == 0)
            assert service.lines(f"Converted {uri} into {outdir}/b.png")
            assert service.stop() == 0
        assert bucket.names() == ["bw/b.png", "in/a.png"]
        assert len(bucket.chunks()) == 2

    def test_worker_without_its_bucket_does_not_start(self, nats_url: str, tmp_path: Path) -> None:
        service = Service(nats_url, None, tmp_path / "log", processes=1)
        service.variables |= {"OUTDIR": "nats://no-such-bucket"}
        with service:
            assert service.wait() != 0
        assert "Make it with 'nats object add no-such-bucket'" in service.log
        assert "Traceback" not in service.log
