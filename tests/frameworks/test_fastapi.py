"""FastAPI: enqueueing from a coroutine leaves its loop to others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from dramatiq.middleware import Retries

from dramatiq_jetstream import JetStreamBroker
from tests.frameworks.apps.web import create_app
from tests.support.admin import Admin
from tests.support.proxy import Proxy


@pytest.fixture
def broker(proxy: Proxy, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    broker = JetStreamBroker(proxy.url, namespace=namespace, middleware=[Retries()])
    yield broker
    broker.close()


def test_message_is_stored_when_the_answer_comes(broker: JetStreamBroker, admin: Admin, namespace: str) -> None:
    async def upload() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(broker)), base_url="http://test") as web:
            return await web.post("/images/cat.jpg")

    answer = asyncio.run(upload())

    assert answer.status_code == 200
    [stored] = admin.stored(f"{namespace}_default")
    assert answer.json()["message_id"].encode() in stored.body
    assert b"cat.jpg" in stored.body


def test_loop_goes_on_while_the_server_is_slow(broker: JetStreamBroker, proxy: Proxy) -> None:
    async def upload() -> tuple[bool, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(broker)), base_url="http://test") as web:
            await web.post("/images/first.jpg")
            proxy.black_hole()
            uploading = asyncio.create_task(web.post("/images/second.jpg"))
            for _ in range(100):
                assert (await web.get("/health")).json() == "well"
            unanswered = not uploading.done()
            proxy.resume()
            return unanswered, await uploading

    unanswered, answer = asyncio.run(upload())

    assert unanswered
    assert answer.status_code == 200
