"""A local web page on which people go through the doubtful masks of an audit, and the data folder made from their decisions."""

from pixeltrust.reviewing.exports import ExportSummary, export
from pixeltrust.reviewing.server import PORT, ReviewSummary, review

__all__ = ["PORT", "ExportSummary", "ReviewSummary", "export", "review"]
