"""`dramatiq bw_tasks` as a real process, beside the walkthrough's own producers and workers."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import pytest
from nats.aio.msg import Msg
from PIL import Image

from bw_tasks import broker as service_broker
from bw_tasks import to_blackandwhite
from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.errors import MessageTooLarge
from tests.support.admin import Admin
from tests.support.ahead import begun_ahead
from tests.support.bw import (
    ROOT,
    SUBJECT,
    Service,
    foreign_worker,
    is_black_and_white,
    request_body,
    save_picture,
)
from tests.support.images import make_images
from tests.support.processes import is_alive
from tests.support.waiting import eventually

#: Milliseconds in which all five tries of a failing image must be over: well under a minute.
FIVE_TRIES = 40_000


def drain(collected: SimpleQueue[Msg]) -> list[Msg]:
    """What a subscription has collected so far, in its order."""
    messages = []
    try:
        while True:
            messages.append(collected.get_nowait())
    except Empty:
        return messages


def unfinished(admin: Admin) -> int:
    """How many messages the consumer BW has yet to deliver, or to see acknowledged."""
    consumer = admin.consumer("IMAGES", "BW")
    return int(consumer["num_pending"] + consumer["num_ack_pending"])


@pytest.fixture
def images(admin: Admin) -> Admin:
    """A client of a server that has the walkthrough's stream and consumer."""
    make_images(admin)
    return admin


@pytest.fixture
def outdir(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_picture(tmp_path / "color.png")


@pytest.fixture
def service(nats_url: str, images: Admin, outdir: Path, tmp_path: Path) -> Iterator[Service]:
    """Two worker processes."""
    with Service(nats_url, outdir, tmp_path / "service.log") as service:
        yield service


@pytest.fixture
def python_producer(nats_url: str, images: Admin, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets this process send with the application's own broker."""
    monkeypatch.setenv("NATS_URL", nats_url)
    yield
    service_broker.close()


class TestConverting:
    def test_requests_of_the_nats_command_are_stored_and_converted(
        self, service: Service, images: Admin, outdir: Path, picture: Path
    ) -> None:
        answer = images.store(SUBJECT, request_body("5e91425fc89dac47f6d2e95d4cf6b74a", picture))

        assert answer == {"stream": "IMAGES", "seq": 1}
        eventually(lambda: images.count("IMAGES") == 0)
        assert os.listdir(outdir) == ["5e91425fc89dac47f6d2e95d4cf6b74a.png"]
        assert is_black_and_white(outdir / "5e91425fc89dac47f6d2e95d4cf6b74a.png")

    @pytest.mark.parametrize("extension", [".jpg", ".PNG", ".webp", ".gif"])
    def test_output_keeps_the_extension_and_the_format(
        self, service: Service, images: Admin, outdir: Path, tmp_path: Path, extension: str
    ) -> None:
        source = save_picture(tmp_path / f"color{extension}")

        images.store(SUBJECT, request_body("an image", source))

        eventually(lambda: images.count("IMAGES") == 0)
        with Image.open(source) as colour, Image.open(outdir / f"an image{extension}") as converted:
            assert converted.format == colour.format
            assert converted.size == colour.size

    def test_advisory_is_published_after_the_output_and_before_the_ack(
        self, service: Service, images: Admin, outdir: Path, picture: Path
    ) -> None:
        everything = images.subscribe(">")

        images.store(SUBJECT, request_body("a", picture, "advisory.a"))

        eventually(lambda: images.count("IMAGES") == 0)
        seen = [
            (message.subject, message.data)
            for message in drain(everything)
            if message.subject.startswith(("advisory.", "$JS.ACK."))
        ]
        (advisory, advised), (ack, answer) = seen
        assert (advisory, json.loads(advised)) == ("advisory.a", {"id": "a"})
        assert ".IMAGES.BW." in ack
        assert answer == b"+ACK"
        assert (outdir / "a.png").exists()

    def test_every_image_has_one_line_in_the_log(
        self, service: Service, images: Admin, outdir: Path, tmp_path: Path
    ) -> None:
        sources = {f"image-{number}": save_picture(tmp_path / f"{number}.png") for number in range(10)}

        for image_id, source in sources.items():
            images.store(SUBJECT, request_body(image_id, source))

        eventually(lambda: images.count("IMAGES") == 0)
        for image_id, source in sources.items():
            [line] = service.lines(source.as_uri())
            assert line.endswith(f"[bw_tasks] [INFO] Converted {source.as_uri()} into {outdir / image_id}.png")

    def test_messages_of_other_converters_are_left_alone(self, service: Service, images: Admin, picture: Path) -> None:
        images.store("IMAGES.sepia", request_body("s", picture))
        images.store(SUBJECT, request_body("b", picture))

        eventually(lambda: images.count("IMAGES") == 1)
        assert [message.subject for message in images.stored("IMAGES")] == ["IMAGES.sepia"]

    def test_sigterm_stops_it_quickly(self, service: Service) -> None:
        started = time.monotonic()
        status = service.stop()

        assert status == 0
        assert time.monotonic() - started < 10
        assert not any(is_alive(pid) for pid in service.worker_pids)


class TestBesideForeignWorkers:
    def test_both_get_work_and_nothing_is_converted_twice(
        self, service: Service, images: Admin, nats_url: str, outdir: Path, tmp_path: Path, picture: Path
    ) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        advised = images.subscribe("advisory.*")
        ids = [f"image-{number}" for number in range(40)]

        with foreign_worker(nats_url, theirs, tmp_path / "foreign.log") as foreign:
            eventually(lambda: foreign.lines("Looking for"))
            for image_id in ids:
                images.store(SUBJECT, request_body(image_id, picture, f"advisory.{image_id}"))
            eventually(lambda: images.count("IMAGES") == 0)

        done_by_us, done_by_them = os.listdir(outdir), os.listdir(theirs)
        assert done_by_us
        assert done_by_them
        assert sorted(done_by_us + done_by_them) == sorted(f"{image_id}.png" for image_id in ids)
        assert sorted(json.loads(message.data)["id"] for message in drain(advised)) == sorted(ids)

    def test_what_python_sends_they_convert(
        self, python_producer: None, images: Admin, nats_url: str, outdir: Path, tmp_path: Path, picture: Path
    ) -> None:
        advised = images.subscribe("advisory.*")

        with foreign_worker(nats_url, outdir, tmp_path / "foreign.log"):
            to_blackandwhite.send(id="from-python", image=picture.as_uri(), advisory="advisory.p")
            eventually(lambda: images.count("IMAGES") == 0)

        assert os.listdir(outdir) == ["from-python.png"]
        assert [(message.subject, message.data) for message in drain(advised)] == [
            ("advisory.p", b'{"id": "from-python"}')
        ]


class TestSending:
    URI = "file:///data/work/color.jpg"

    def test_message_of_send_is_the_walkthroughs_json(self, python_producer: None, images: Admin) -> None:
        to_blackandwhite.send(id="a", image=self.URI, advisory="advisory.a")

        [stored] = images.stored("IMAGES")
        assert stored.subject == SUBJECT
        assert json.loads(stored.body) == {"id": "a", "image": self.URI, "advisory": "advisory.a"}
        assert set(stored.headers) == {"Nats-Msg-Id"}

    def test_positional_arguments_are_sent_by_their_names(self, python_producer: None, images: Admin) -> None:
        to_blackandwhite.send("a", self.URI)
        to_blackandwhite.send("b", self.URI, "advisory.b")

        assert [json.loads(stored.body) for stored in images.stored("IMAGES")] == [
            {"id": "a", "image": self.URI},
            {"id": "b", "image": self.URI, "advisory": "advisory.b"},
        ]

    def test_sent_image_is_converted(
        self, python_producer: None, service: Service, images: Admin, outdir: Path, picture: Path
    ) -> None:
        to_blackandwhite.send("sent", picture.as_uri())

        eventually(lambda: images.count("IMAGES") == 0)
        assert os.listdir(outdir) == ["sent.png"]

    def test_request_over_512_bytes_raises_with_the_sizes(self, python_producer: None, images: Admin) -> None:
        with pytest.raises(MessageTooLarge, match=r"takes \d+ bytes \(\d+ of body, \d+ of headers\).* at most 512"):
            to_blackandwhite.send(id="a", image=f"file:///{'a' * 500}.jpg")

        assert images.count("IMAGES") == 0

    def test_longest_request_that_fits_is_stored(self, python_producer: None, images: Admin) -> None:
        rest = len(b'NATS/1.0\r\nNats-Msg-Id: \r\n\r\n{"id":"a","image":"file:///"}') + 36 + len(".12345678")
        longest = "a" * (512 - rest)

        to_blackandwhite.send(id="a", image=f"file:///{longest}")
        with pytest.raises(MessageTooLarge, match="takes 513 bytes"):
            to_blackandwhite.send(id="a", image=f"file:///{longest}a")

        assert images.count("IMAGES") == 1


class Failing(NamedTuple):
    """A request that cannot be carried out.

    Parameters:
      body(Callable): Makes the request, given the folder of the images.
      reason(str): What the log says about it.
    """

    body: Callable[[Path], bytes]
    reason: str


def hostile(advisory: str, reason: str = "is not a subject to publish to") -> Failing:
    return Failing(lambda folder: request_body("hostile", folder / "color.png", advisory), reason)


#: A password that no log may hold.
SECRET = "s3cr/t@"

FAILING = {
    "an empty object": Failing(lambda _: b"{}", "cannot take it: missing a required argument: 'id'"),
    "invalid JSON": Failing(lambda _: b'{"id": nonsense', "not a plain JSON message"),
    "a list": Failing(lambda _: b"[]", "expected a JSON object, found list"),
    "no body at all": Failing(lambda _: b"", "not a plain JSON message"),
    "a missing file": Failing(lambda folder: request_body("a", folder / "none.png"), "There is no image at"),
    "a damaged image": Failing(lambda folder: request_body("a", folder / "damaged.png"), "damaged.png"),
    "an image outside INDIR": Failing(
        lambda folder: request_body("a", folder.parent / "outside.png"), "is not below the input directory"
    ),
    "a mislabelled image": Failing(
        lambda folder: request_body("a", folder / "named.jpg"), "is named as JPEG but is PNG"
    ),
    "an image on another host": Failing(
        lambda _: request_body("a", f"file://me:{SECRET}@host/a.jpg"), "on another host"
    ),
    "an image by another way": Failing(
        lambda _: request_body("a", f"ftp://me:{SECRET}@host/a.jpg"), "not a file://, s3:// or nats:// URI"
    ),
    "a signed image": Failing(
        lambda _: request_body("a", f"https://host/a.jpg?sig={SECRET}"), "not a file://, s3:// or nats:// URI"
    ),
    "an id with a path": Failing(lambda folder: request_body("../a", folder / "color.png"), "cannot name an output"),
    "an advisory to the server": hostile("$JS.API.STREAM.DELETE.IMAGES"),
    "an advisory to everybody": hostile(">"),
    "an advisory with a wildcard": hostile("advisory.*"),
    "an advisory with an empty part": hostile("advisory..a"),
    "an advisory with spaces": hostile("advisory.a b"),
    "an advisory that is a number": Failing(
        lambda folder: json.dumps({"id": "a", "image": (folder / "color.png").as_uri(), "advisory": 5}).encode(),
        "is not a subject to publish to",
    ),
    "an advisory to another queue": hostile("orders.delete", "is not among the subjects that are allowed: advisory.>"),
    "an advisory to an inbox": hostile("_INBOX.abc.1", "is not among the subjects that are allowed"),
    "an advisory that is work": hostile("IMAGES.blackandwhite", "is not among the subjects that are allowed"),
    "an advisory to the prefix alone": hostile("advisory", "is not among the subjects that are allowed"),
    "an advisory with a line break": hostile("advisory.a\r\nPUB b 0"),
}


class Aftermath(NamedTuple):
    """What there is once every failing request has failed five times.

    Parameters:
      url(str): The server.
      sequences(dict): The place in the stream of each failing request.
      bodies(dict): And what it was.
      deliveries(dict): The numbers of the deliveries of each message that were refused.
      exceeded(dict): The deliveries of each message, as "Delivery Attempts Exceeded" gives them.
      advised(list): The ids that were advised as done.
      outputs(set): The files in OUTDIR.
      milliseconds(int): How long it took.
      log(str): What the service printed.
      survived(bool): Whether all its workers still ran.
    """

    url: str
    sequences: dict[str, int]
    bodies: dict[str, bytes]
    deliveries: dict[int, list[int]]
    exceeded: dict[int, list[int]]
    advised: list[str]
    outputs: set[str]
    milliseconds: float
    log: str
    survived: bool


@pytest.fixture(scope="module", autouse=True)
def failing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Aftermath]]:
    """Every failing request, one after the other, with good ones in between, on a server that has nothing else."""
    folder = tmp_path_factory.mktemp("failing")
    with NatsServer() as server, begun_ahead(request, "aftermath", lambda: serve(server.url, folder)) as aftermath:
        yield aftermath


@pytest.fixture(scope="class")
def aftermath(failing: Future[Aftermath]) -> Aftermath:
    return failing.result()


def serve(url: str, folder: Path) -> Aftermath:
    """Have a service fail at every failing request."""
    indir, outdir = folder / "input", folder / "output"
    indir.mkdir()
    outdir.mkdir()
    picture = save_picture(indir / "color.png")
    save_picture(folder / "outside.png")
    (indir / "damaged.png").write_bytes(picture.read_bytes()[:200])
    (indir / "named.jpg").write_bytes(picture.read_bytes())
    with Admin(url) as admin:
        make_images(admin)
        with Service(url, outdir, folder / "service.log", INDIR=str(indir)) as service:
            return fail_five_times(admin, service, url, indir, outdir)


def fail_five_times(admin: Admin, service: Service, url: str, indir: Path, outdir: Path) -> Aftermath:
    refused = admin.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.IMAGES.BW")
    exceeded = admin.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.IMAGES.BW")
    advised = admin.subscribe("advisory.*")
    started = time.monotonic()
    bodies = {name: failing.body(indir) for name, failing in FAILING.items()}
    sequences = {}
    for name, body in bodies.items():
        sequences[name] = admin.store(SUBJECT, body)["seq"]
        good = f"good-{sequences[name]}"
        admin.store(SUBJECT, request_body(good, indir / "color.png", f"advisory.{good}"))
    eventually(lambda: exceeded.qsize() >= len(bodies), FIVE_TRIES)
    took = (time.monotonic() - started) * 1000
    eventually(lambda: unfinished(admin) == 0)
    return Aftermath(
        url=url,
        sequences=sequences,
        bodies=bodies,
        deliveries=deliveries_by_sequence(refused),
        exceeded=deliveries_by_sequence(exceeded),
        advised=[json.loads(message.data)["id"] for message in drain(advised)],
        outputs=set(os.listdir(outdir)),
        milliseconds=took,
        log=service.log,
        survived=all(map(is_alive, service.worker_pids)),
    )


def mentions(line: str, sequence: int) -> bool:
    """Whether a line of the log is about the message of a sequence, by either of its names."""
    return re.search(rf"IMAGES[:-]{sequence}\b", line) is not None


def deliveries_by_sequence(collected: SimpleQueue[Msg]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for message in drain(collected):
        event = json.loads(message.data)
        found.setdefault(event["stream_seq"], []).append(event["deliveries"])
    return found


class TestCrashing:
    def test_image_that_kills_its_worker_five_times_stays_in_the_stream_and_its_neighbours_are_converted(
        self, admin: Admin, nats_url: str, outdir: Path, tmp_path: Path, picture: Path
    ) -> None:
        make_images(admin, consumer={"ack_wait": 1_000_000_000})
        exceeded = admin.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.IMAGES.BW")
        slow = tmp_path / "slow.png"
        Image.new("L", (9_900, 9_900)).save(slow, compress_level=1)
        sequence = admin.store(SUBJECT, request_body("slow", slow, "advisory.slow"))["seq"]
        log = tmp_path / "service.log"

        for attempt in range(1, 6):
            with Service(nats_url, outdir, log, processes=1, threads=1) as service:
                wait_for_delivery(attempt, admin, sequence)
                os.kill(service.worker_pids[0], signal.SIGKILL)
                service.wait()

        with Service(nats_url, outdir, log, processes=1, threads=1):
            admin.store(SUBJECT, request_body("neighbour", picture))
            eventually(lambda: unfinished(admin) == 0)
            [event] = [json.loads(eventually(lambda: drain(exceeded))[0].data)]

        assert (event["stream_seq"], event["deliveries"]) == (sequence, 5)
        assert [message.sequence for message in admin.stored("IMAGES")] == [sequence]
        assert os.listdir(outdir) == ["neighbour.png"]


class TestOutputFolder:
    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        return tmp_path / "service.log"

    def test_service_without_outdir_refuses_to_start(self, nats_url: str, images: Admin, log: Path) -> None:
        with Service(nats_url, None, log) as service:
            status = service.wait()

        assert status != 0
        assert "Please set OUTDIR to the folder that the pictures shall be written to." in service.log
        assert "Traceback" not in service.log

    def test_service_whose_outdir_does_not_exist_refuses_to_start_and_tries_no_image(
        self, nats_url: str, images: Admin, tmp_path: Path, picture: Path, log: Path
    ) -> None:
        images.store(SUBJECT, request_body("a", picture))

        with Service(nats_url, tmp_path / "nowhere", log) as service:
            status = service.wait()

        assert status != 0
        assert "nowhere' cannot be opened: No such file or directory. Make it, or set OUTDIR" in service.log
        assert "Traceback" not in service.log
        assert images.consumer("IMAGES", "BW")["delivered"]["stream_seq"] == 0

    def test_image_waits_while_the_output_folder_is_away(
        self, service: Service, images: Admin, outdir: Path, picture: Path
    ) -> None:
        outdir.rmdir()
        images.store(SUBJECT, request_body("a", picture, "advisory.a"))
        eventually(lambda: service.lines("UnwritableOutput"))

        outdir.mkdir()

        eventually(lambda: images.count("IMAGES") == 0, FIVE_TRIES)
        assert os.listdir(outdir) == ["a.png"]


class TestFailing:
    @pytest.mark.parametrize("name", FAILING)
    def test_failing_request_is_tried_five_times_and_stays_in_the_stream(self, aftermath: Aftermath, name: str) -> None:
        sequence = aftermath.sequences[name]

        assert aftermath.deliveries[sequence] == [1, 2, 3, 4, 5]
        assert aftermath.exceeded[sequence] == [5]
        with Admin(aftermath.url) as admin:
            kept = admin.api("STREAM.MSG.GET.IMAGES", {"seq": sequence})["message"]
        assert kept["subject"] == SUBJECT
        assert base64.b64decode(kept.get("data", "")) == aftermath.bodies[name]

    @pytest.mark.parametrize("name", FAILING)
    def test_log_says_why_it_failed(self, aftermath: Aftermath, name: str) -> None:
        failures = [
            line
            for line in aftermath.log.splitlines()
            if f"IMAGES:{aftermath.sequences[name]} of queue 'blackandwhite' failed, attempt 5 of 5" in line
        ]

        assert len(failures) == 1
        assert FAILING[name].reason in failures[0]

    @pytest.mark.parametrize("name", FAILING)
    def test_each_attempt_has_one_line_that_says_what_happens_next(self, aftermath: Aftermath, name: str) -> None:
        named = [line for line in aftermath.log.splitlines() if mentions(line, aftermath.sequences[name])]
        *attempts, given_up = named

        said = [re.search(r"\[WARNING\].* failed, attempt (\d) of 5, (.*?): ", line) for line in attempts]
        assert [found and found[1] for found in said] == ["1", "2", "3", "4", "5"]
        assert all(found and re.fullmatch(r"retried in \d+\.\d s", found[2]) for found in said[:4])
        assert said[4]
        assert said[4][2] == "the last; it stays in its stream"
        assert re.search(r"\[WARNING\].* is a dead letter: (retries exhausted|undecodable)\.$", given_up)

    def test_log_does_not_say_that_what_is_retried_is_aborted(self, aftermath: Aftermath) -> None:
        assert not re.search("Aborting|expected exception|not retried", aftermath.log)

    def test_log_holds_no_password_of_an_images_uri(self, aftermath: Aftermath) -> None:
        assert "ftp://…@host/a.jpg" in aftermath.log
        assert SECRET not in aftermath.log

    def test_neighbours_are_converted_and_advised_once(self, aftermath: Aftermath) -> None:
        good = [f"good-{sequence}" for sequence in aftermath.sequences.values()]

        assert sorted(aftermath.advised) == sorted(good)
        assert aftermath.outputs == {f"{image_id}.png" for image_id in good}

    def test_no_worker_is_harmed(self, aftermath: Aftermath) -> None:
        assert aftermath.survived

    def test_refused_requests_have_no_stack_traces(self, aftermath: Aftermath) -> None:
        assert "Traceback" not in aftermath.log

    def test_all_five_tries_are_over_in_well_under_a_minute(self, aftermath: Aftermath) -> None:
        assert aftermath.milliseconds < FIVE_TRIES


def test_importing_bw_tasks_opens_nothing_and_needs_no_environment() -> None:
    program = """
import sys, threading

def refuse(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.fork")):
        raise SystemExit(f"importing does I/O: {event}")

sys.addaudithook(refuse)
from bw_tasks import broker, to_blackandwhite
assert threading.active_count() == 1, threading.enumerate()
assert broker.connection.current() is None
"""
    subprocess.run([sys.executable, "-c", program], env={}, cwd=ROOT, check=True, timeout=60)


def wait_for_delivery(number: int, admin: Admin, sequence: int) -> None:
    """Wait until the only message has been delivered so often."""

    def delivered() -> dict[str, Any]:
        state: dict[str, Any] = admin.consumer("IMAGES", "BW")["delivered"]
        return state

    eventually(lambda: delivered()["consumer_seq"] == number)
    assert delivered()["stream_seq"] == sequence
