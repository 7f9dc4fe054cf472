"""A local web page on which a person goes through the doubtful masks of an audit, and the data folder that comes of it."""
