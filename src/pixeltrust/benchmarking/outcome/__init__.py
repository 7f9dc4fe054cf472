"""The results of a benchmark: who wins, by how much, whether chance explains it, and what it costs.

    OUT/  summary.csv (a row per noise × clean × method)  shares.csv (the weight of wrong pixels, by epoch)
          classes.csv (every class by itself, of several)  tables.md  figures/

reading      the folder of a benchmark as tables      statistics   means, intervals, paired tests, cost: tables in, tables out
words        sentences, and tables in Markdown        figures      the charts
weight_pictures  weight maps of fixed images          examples     test cases with the predictions of methods
writing      writes all of it into the folder
"""
