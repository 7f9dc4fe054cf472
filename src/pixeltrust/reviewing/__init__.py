"""A local web page on which a person goes through the doubtful masks of an audit, and the data folder that comes of it."""

from pixeltrust.reviewing.exports import ExportSummary, export
from pixeltrust.reviewing.server import PORT, ReviewSummary, review

__all__ = ["PORT", "ExportSummary", "ReviewSummary", "export", "review"]
