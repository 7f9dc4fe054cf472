"""Annotation noise, and data folders with it."""
