"""The shop's own tests, which Django runs."""

from django_dramatiq.test import DramatiqTestCase

from .tasks import price


class PriceTest(DramatiqTestCase):  # type: ignore[misc]  # it is not typed
    def test_price_is_multiplied(self) -> None:
        sent = price.send(3, 7)
        self.broker.join("default", timeout=10_000)
        self.worker.join()

        assert sent.get_result() == 21

    def test_queue_is_empty_when_a_test_begins(self) -> None:
        assert self.broker.get_queue_message_counts("default") == (0, 0, 0)
