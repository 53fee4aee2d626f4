"""Jobs on disk: a SQLite database, with images and attachments as files."""

from server.jobs.store.database import WRITE_SECONDS
from server.jobs.store.jobs import MOST_ATTEMPTS, MOST_DEATHS_IN_JOB, JobStore
from server.jobs.store.retention import Retention
from server.jobs.store.schema import StoreError

__all__ = ["MOST_ATTEMPTS", "MOST_DEATHS_IN_JOB", "WRITE_SECONDS", "JobStore", "Retention", "StoreError"]
