"""Extraction of answers from responses, and their equality."""

from pyramid_moa.grading.load import (
    GRADER_NAMES,
    infer_grader_name,
    load_grader,
    load_stored_grader,
)
from pyramid_moa.grading.protocol import Extraction, Grader
from pyramid_moa.grading.votes import Vote, cluster, vote

__all__ = [
    "GRADER_NAMES",
    "Extraction",
    "Grader",
    "Vote",
    "cluster",
    "infer_grader_name",
    "load_grader",
    "load_stored_grader",
    "vote",
]
