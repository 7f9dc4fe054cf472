"""Which masks are wrong, where, and what to put in their place.

run       the audit: two passes over all masks          folder   the audit folder: its tables and files
source    what judges the masks: run_source, a run; file_source, files of probabilities
seen      what the first pass has kept
evidence  what the clean set says of masks that training has not seen
scores    the probability that a label is right         regions  the numbers of a case and of its doubtful regions
page      its page
"""
