"""Which masks are wrong, where, and what to put in their place: from what a run has learned to trust.

`scores` says how likely a pixel is right, `evidence` what the clean set says of masks that training has not seen, `regions` what
there is to say of a case; `run` makes an audit folder (see `audits`).
"""
