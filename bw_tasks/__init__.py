"""The image service of the JetStream work-queue walkthrough, as a Dramatiq application."""

from .pillow import require_pillow

require_pillow()

from .tasks import broker, to_blackandwhite  # noqa: E402  # they need Pillow

__all__ = ["broker", "to_blackandwhite"]
