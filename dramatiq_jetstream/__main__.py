"""``python -m dramatiq_jetstream``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="dramatiq-jetstream")
