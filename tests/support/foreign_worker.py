"""The walkthrough's Ruby worker, line by line, in Python: nothing but core NATS, no JetStream client, no dramatiq."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NoMessage
from PIL import Image


def convert(request: dict[str, str], output: str) -> None:
    source = Path(urlsplit(request["image"]).path)
    out = os.path.join(output, f"{request['id']}{source.suffix}")
    print(f"Converting {source} into {out}", flush=True)
    with Image.open(source) as picture:
        picture.convert("1").save(out)


async def process(nc: Client, output: str) -> None:
    print("Looking for a B&W conversion job", flush=True)
    try:
        msg = await nc.request("$JS.API.CONSUMER.MSG.NEXT.IMAGES.BW", b"", timeout=30, old_style=True)
    except NoMessage:
        return
    request = json.loads(msg.data)
    convert(request, output)
    if "advisory" in request:
        await nc.publish(request["advisory"], json.dumps({"id": request["id"]}).encode())
    await nc.publish(msg.reply, b"")


async def main() -> None:
    nc = await nats.connect(os.environ["NATS_URL"])
    while True:
        await process(nc, os.environ["OUTDIR"])


if __name__ == "__main__":
    asyncio.run(main())
