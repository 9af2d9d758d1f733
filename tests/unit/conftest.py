from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on the machine, and a failure prints what repeats it.
settings.register_profile("project", deadline=None, database=None, print_blob=True)
settings.load_profile("project")
