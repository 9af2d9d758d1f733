"""A Dramatiq broker on NATS JetStream."""

from importlib.metadata import version

from .broker import JetStreamBroker
from .embedded import NatsServer
from .settings import WorkQueue

__all__ = ["JetStreamBroker", "NatsServer", "WorkQueue", "__version__"]

__version__ = version("dramatiq-jetstream")
