"""Masks for new images, and measuring them."""
