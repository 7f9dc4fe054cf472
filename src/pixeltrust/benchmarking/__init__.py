"""Who wins, by how much, at what cost: methods × noise × numbers of clean masks × seeds, on a source or a user's own data.

OUT/  benchmark.json  environment.json  noise/  cells/<cell>/ (see `cells`)  cells.csv  costs.json (see `matching`)
      summary.csv  tables.md  figures/  report.html (see `pixeltrust.benchmarking.outcome`)

grid      what is compared                     cell_masks  which cases and masks a cell gets
cells     one training and its measurement     jobs        many of them, here or on a Ray cluster
costs     what an update of a method costs     matching    the same time for every method
run       a whole benchmark                    question    does it help on my data? answers in words
outcome/  the results                          page        the page
pruning   a rival: cleanlab's cross-validated pruning
mended    masks that are mended before the training
"""
