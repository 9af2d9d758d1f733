"""A FastAPI application that enqueues."""

import asyncio

import dramatiq
from dramatiq import Broker
from fastapi import FastAPI


def create_app(broker: Broker) -> FastAPI:
    app = FastAPI()

    @dramatiq.actor(broker=broker)
    def resize(image: str) -> None: ...

    @app.post("/images/{image}")
    async def upload(image: str) -> dict[str, str]:
        message = await asyncio.to_thread(resize.send, image)
        return {"message_id": message.message_id}

    @app.get("/health")
    async def health() -> str:
        return "well"

    return app
