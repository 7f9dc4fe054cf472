"""Which masks are wrong, where, and what to put in their place.

run       the audit: two passes over all masks          folder   the audit folder: its tables and files
seen      the first pass: what the network sees         page     its page
evidence  what the clean set says of masks that training has not seen
scores    the probability that a label is right         regions  the numbers of a case and of its doubtful regions
"""

from pixeltrust.auditing.run import Audited, audit

__all__ = ["Audited", "audit"]
