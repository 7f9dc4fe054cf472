"""A local web page on which people go through the doubtful masks of an audit, and the data folder made from their decisions."""
