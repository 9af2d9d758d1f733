"""Handles delivered messages: run, acknowledge, retry or dead-letter them."""

from __future__ import annotations

from .consumer import JetStreamConsumer
from .consumers import Consumers
from .fatal import exit_if_ending
from .handling import QueueHandling
from .redelivery import Redelivery

__all__ = ["Consumers", "JetStreamConsumer", "QueueHandling", "Redelivery", "exit_if_ending"]
