"""Errors, files, tables, progress, seeds and processes, which every other package uses."""
