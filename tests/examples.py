"""How many examples hypothesis makes."""

from hypothesis import settings


def examples(number: int) -> settings:
    """Return the settings of a test with so many examples; with a fifth of them in the quick lane, which repeats the same ones anyway."""
    return settings(max_examples=max(10, number // 5) if settings.default.derandomize else number)
