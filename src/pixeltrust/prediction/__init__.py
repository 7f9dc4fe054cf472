"""Masks for new images, and how good they are."""
