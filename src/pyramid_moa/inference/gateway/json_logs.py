"""Logs as JSON, a line a record; no prompt and no answer is ever in them."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["JsonFormatter", "log_as_json"]


class JsonFormatter(logging.Formatter):
    """A record as one line; what stands in its ``fields`` is part of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(stream: TextIO | None = None) -> None:
    """Set up a program's logging: everything from INFO on, to standard error where left out."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # What huggingface_hub fetches models with, by its version, writes a line a request, with the
    # address. aiohttp, by which servers are asked, says nothing of requests at any level.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
