"""Published data sets: their archives are fetched, and made into a source (see `pixeltrust.data.known_truth`).

Of the archives only the images and their masks are taken, straight from the zip files and under names of our own.
"""
