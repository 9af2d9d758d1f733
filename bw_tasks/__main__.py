"""``python -m bw_tasks``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="python -m bw_tasks")
