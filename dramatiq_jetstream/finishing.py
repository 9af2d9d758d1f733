"""The message whose hooks run on this thread, after its actor ran."""

from __future__ import annotations

import threading

from .delivery import JetStreamMessage


class Finishing(threading.local):
    """A message while dramatiq's ``after_process_message`` hooks see it."""

    message: JetStreamMessage | None = None


finishing = Finishing()
