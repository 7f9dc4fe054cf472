"""The loop, its methods, the run folder and its page."""
