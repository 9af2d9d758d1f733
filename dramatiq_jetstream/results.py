"""dramatiq's results in a KV bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dramatiq import Encoder, Message
from dramatiq.common import q_name
from dramatiq.results import ResultBackend, ResultMissing, ResultTimeout
from dramatiq.results.backend import DEFAULT_TIMEOUT, Missing
from dramatiq.results.result import wrap_exception

from .backends import Bucket
from .broker import JetStreamBroker
from .errors import CallTimeout, EnqueueRejected
from .hidden import Hidden, hidden_options


class JetStreamBackend(ResultBackend):
    """A result backend on NATS JetStream.

    Waiting for a result does not poll: the server tells when it is stored.

    Examples:

      >>> broker.add_middleware(Results(backend=JetStreamBackend(broker=broker)))

    Parameters:
      url(str | Sequence[str]): The servers, as for the broker.  Not with a broker.
      bucket(str): The KV bucket; it is made when it is first needed.  Defaults to "dramatiq-results",
        or to the broker's namespace in place of "dramatiq".
      broker(JetStreamBroker): The broker whose connection and settings to share.  Without one the
        backend makes a connection of its own, when it is first used, in each process.
      namespace(str): A string with which to prefix result keys.
      encoder(Encoder): The encoder to use when storing and retrieving result data.  Defaults to
        dramatiq's global one.
      use_namespace_prefix_keys(bool): When True, keys are readable instead of hashed.
      **options: Further settings of a connection of its own: ``declare``, ``replicas``, ``domain``,
        ``timeout``, and whatever ``nats.connect`` takes.
    """

    def __init__(
        self,
        *,
        url: str | Sequence[str] | None = None,
        bucket: str | None = None,
        broker: JetStreamBroker | None = None,
        namespace: str = "dramatiq-results",
        encoder: Encoder | None = None,
        use_namespace_prefix_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.use_namespace_prefix_keys = use_namespace_prefix_keys
        server, given = Hidden(url), hidden_options(options)
        del url, options
        self._bucket = Bucket("results", bucket, server, broker, given)

    def get_result(self, message: Message[Any], *, block: bool = False, timeout: int | None = None) -> Any:
        """Get a result from the backend.

        Parameters:
          message(Message)
          block(bool): Whether or not to block until a result is set.
          timeout(int): The maximum amount of time, in ms, to wait for a result when block is True, and
            for the server's answer when it is False.  Defaults to 10 seconds, and to the connection's timeout.

        Raises:
          ResultMissing: When block is False and the result isn't set.
          ResultTimeout: When waiting for a result times out.
          ResultFailure: When the actor raised an exception.

        Returns:
          object: The result.
        """
        key = self.build_message_key(message)
        if not block:
            data = self._bucket.values.get(key, timeout)
            if data is None:
                raise ResultMissing(message)
            return self.unwrap_result(self.encoder.decode(data))  # type: ignore[no-untyped-call]

        try:
            data = self._bucket.values.wait(key, DEFAULT_TIMEOUT if timeout is None else timeout)
        except CallTimeout as error:
            raise ResultTimeout(message) from error
        if data is None:
            raise ResultTimeout(message)
        return self.unwrap_result(self.encoder.decode(data))  # type: ignore[no-untyped-call]

    def build_message_key(self, message: Message[Any]) -> str:
        """Given a message, return its globally-unique key."""
        if not self.use_namespace_prefix_keys:
            return super().build_message_key(message)
        # dramatiq 1 does not know the option.
        return ":".join((self.namespace, q_name(message.queue_name), message.actor_name, message.message_id))

    def close(self) -> None:
        """Close the connection, if it is not the broker's."""
        self._bucket.close()

    def _get(self, message_key: str) -> Any:
        data = self._bucket.values.get(message_key)
        return Missing if data is None else self.encoder.decode(data)

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        try:
            self._bucket.values.put(message_key, self.encoder.encode(result), ttl)
        except EnqueueRejected as error:
            # Whoever waits for it shall know why there is none.
            self._bucket.values.put_stand_in(message_key, self.encoder.encode(wrap_exception(error)), ttl)
            raise
