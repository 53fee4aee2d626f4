"""What is kept on disk: jobs in SQLite, pictures as files."""

from server.jobs.store.jobs import MOST_ATTEMPTS, MOST_DEATHS, JobStore
from server.jobs.store.retention import Retention
from server.jobs.store.schema import StoreError

__all__ = ["MOST_ATTEMPTS", "MOST_DEATHS", "JobStore", "Retention", "StoreError"]
