"""Mending noisy masks by what pairs show of their errors.

run        the work: train menders, judge what to do, mend, write an audit folder
menders    the networks: cross-fitted training, and what they see
ways       what can be done with a mask
pairs      what is measured on the pairs, by menders that have not seen them
seen       what menders see of masks, in files
estimate   how good masks are expected to be: calibration, intervals, estimate.json
page       the page
"""
