"""Django settings with a JetStream broker and both backends."""

import os

SECRET_KEY = "for tests only"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django_dramatiq", "dramatiq_crontab", "tests.frameworks.apps.shop"]

NATS_URL = os.environ["NATS_URL"]

DRAMATIQ_BROKER = {
    "BROKER": "dramatiq_jetstream.JetStreamBroker",
    "OPTIONS": {"url": NATS_URL},
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Pipelines",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
    ],
}
DRAMATIQ_RESULT_BACKEND = {
    "BACKEND": "dramatiq_jetstream.results.JetStreamBackend",
    "BACKEND_OPTIONS": {"url": NATS_URL},
    "MIDDLEWARE_OPTIONS": {"result_ttl": 600_000},
}
DRAMATIQ_RATE_LIMITER_BACKEND = {
    "BACKEND": "dramatiq_jetstream.rate_limits.JetStreamBackend",
    "BACKEND_OPTIONS": {"url": NATS_URL},
}
