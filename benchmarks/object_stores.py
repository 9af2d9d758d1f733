"""Clients of S3 compared: 100 images of 3 MB put and got, one child process a client, on moto's server.

    pip install obstore boto3 s3fs 'moto[s3]' flask-cors && python -m benchmarks.object_stores

The server is written in Python and is slower than any of the clients: compare the processor time and the memory of
the clients, and their times only to each other.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from bw_tasks.s3server import S3Server

SIZE = 3_000_000
BUCKET = "benchmark"
REGION = "us-east-1"

Put, Get = Callable[[str, bytes], object], Callable[[str], bytes]


def obstore(url: str) -> tuple[Put, Get]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET, endpoint=url, region=REGION, client_options={"allow_http": True})
    return lambda key, data: obstore.put(store, key, data, use_multipart=False), lambda key: bytes(
        obstore.get(store, key).bytes()
    )


def boto3(url: str) -> tuple[Put, Get]:
    import boto3

    client = boto3.client("s3", endpoint_url=url, region_name=REGION)
    return lambda key, data: client.put_object(Bucket=BUCKET, Key=key, Body=data), lambda key: client.get_object(
        Bucket=BUCKET, Key=key
    )["Body"].read()


def s3fs(url: str) -> tuple[Put, Get]:
    import s3fs

    files = s3fs.S3FileSystem(endpoint_url=url, client_kwargs={"region_name": REGION})
    return lambda key, data: files.pipe_file(f"{BUCKET}/{key}", data), lambda key: files.cat_file(f"{BUCKET}/{key}")


CLIENTS = {"obstore": obstore, "boto3": boto3, "s3fs": s3fs}


def measure(client: str, url: str, count: int, threads: int) -> None:
    """One line of the table: what a child process needs for everything, its imports included."""
    started = time.perf_counter()
    put, get = CLIENTS[client](url)
    opened = time.perf_counter() - started
    data = os.urandom(SIZE)
    keys = [f"{number}.jpg" for number in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        before = time.perf_counter()
        list(pool.map(lambda key: put(key, data), keys))
        between = time.perf_counter()
        sizes = set(pool.map(lambda key: len(get(key)), keys))
        after = time.perf_counter()
    assert sizes == {SIZE}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    packages, size = installed(client)
    print(
        f"{client:8} {metadata.version(client):10} threads {threads}  open {opened:5.2f} s  "
        f"put {count / (between - before):5.1f}/s  get {count / (after - between):5.1f}/s  "
        f"cpu {usage.ru_utime + usage.ru_stime:5.2f} s  peak {usage.ru_maxrss // 1024} MB  "
        f"packages {packages}  installed {size // 1_000_000} MB"
    )


def installed(distribution: str, seen: set[str] | None = None) -> tuple[int, int]:
    """How many distributions one needs, itself included, and their bytes on the disk."""
    seen = set() if seen is None else seen
    name = distribution.lower().replace("_", "-")
    if name in seen:
        return 0, 0
    seen.add(name)
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:  # Only for other systems or other versions of Python.
        return 0, 0
    files = [found.locate_file(file) for file in found.files or ()]
    count, size = 1, sum(Path(str(file)).stat().st_size for file in files if Path(str(file)).is_file())
    for requirement in found.requires or ():
        if "extra ==" not in requirement:
            name = "".join(character if character.isalnum() or character in "-_." else " " for character in requirement)
            more, bytes_more = installed(name.split()[0], seen)
            count, size = count + more, size + bytes_more
    return count, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--client", choices=CLIENTS, help="measure this one, here")
    parser.add_argument("--endpoint")
    options = parser.parse_args()
    if options.client:
        measure(options.client, options.endpoint, options.count, options.threads[0])
        return
    for threads in options.threads:
        for client in list(CLIENTS) * options.rounds:
            with S3Server() as server:
                server.make_bucket(BUCKET)
                child = [sys.executable, "-m", "benchmarks.object_stores", "--client", client, "--endpoint", server.url]
                child += ["--count", str(options.count), "--threads", str(threads)]
                environment = {**os.environ, **server.variables}
                subprocess.run(child, env=environment, check=True, timeout=600)


if __name__ == "__main__":
    main()
