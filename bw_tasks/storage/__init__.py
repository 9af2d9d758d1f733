"""Where images are read from and written to: files, S3 and JetStream's object store, each behind the same few calls."""

from __future__ import annotations

from .locations import Location, Roots, location_of, output_location
from .objects import ObjectOutput
from .storages import Storages, storage_timeout

__all__ = ["Location", "ObjectOutput", "Roots", "Storages", "location_of", "output_location", "storage_timeout"]
