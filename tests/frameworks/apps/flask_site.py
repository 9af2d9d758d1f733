"""A Flask application: `flask --app tests.frameworks.apps.flask_site worker`."""

from flask import Flask
from flask_dramatiq import Dramatiq

dramatiq = Dramatiq()


@dramatiq.actor
def greet(name: str) -> None:
    from flask import current_app

    current_app.logger.warning("Hello, %s!", name)


def create_app(**config: str) -> Flask:
    app = Flask(__name__)
    app.config.update(DRAMATIQ_BROKER="dramatiq_jetstream:JetStreamBroker", **config)
    dramatiq.init_app(app)
    return app
