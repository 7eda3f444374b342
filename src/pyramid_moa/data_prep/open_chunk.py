"""A chunk of queries while one model is answering them."""

from collections.abc import Sequence

from pyramid_moa.data_prep.journal import append_to_journal, read_journal
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.records import Generation, Query

__all__ = ["OpenChunk", "is_pending"]


def is_pending(row: Generation | None) -> bool:
    """Whether a query has still to be asked: it was not, or failed in a way that may pass."""
    return row is None or (row.error is not None and row.can_retry)


class OpenChunk:
    """The rows of one part: those on disk, and those that come in.

    Each row is in the journal as soon as it is added; when none is missing any more the part is
    written and the journal goes. What stands in a part or a journal is never asked for again.
    """

    def __init__(self, folder: RunFolder, model: int, chunk: int, queries: Sequence[Query]) -> None:
        """Find out what is there.

        Args:
            folder: the run.
            model: index of the model: members, then the oracle.
            chunk: index of the chunk.
            queries: the chunk's, in order.
        """
        self._folder = folder
        self._model = model
        self._chunk = chunk
        self._queries = queries
        self._path = folder.journal_path(model, chunk)
        part = folder.read_part(model, chunk)
        self._rows = {row.query_id: row for row in part or ()}
        unwritten = read_journal(self._path)
        self._rows.update(unwritten)
        self.pending = [query for query in queries if is_pending(self._rows.get(query.query_id))]
        self._missing = len(self.pending)
        if not self.pending and (part is None or unwritten):
            # Its process died between the last row and the part.
            self._write()

    def add(self, row: Generation) -> None:
        """Keep the answer to one of the pending queries."""
        append_to_journal(self._path, row)
        self._rows[row.query_id] = row
        self._missing -= 1
        if self._missing == 0:
            self._write()

    def _write(self) -> None:
        rows = [self._rows[query.query_id] for query in self._queries]
        self._folder.write_part(self._model, self._chunk, rows)
        self._path.unlink(missing_ok=True)
