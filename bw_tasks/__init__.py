"""The image service of the JetStream work-queue walkthrough, as a Dramatiq application."""

from .tasks import broker, to_blackandwhite

__all__ = ["broker", "to_blackandwhite"]
