"""What came out of a benchmark: who wins, by how much, whether that can be told from chance, and what it costs.

    OUT/  summary.csv (a row per noise × clean × method)  shares.csv (the weight of wrong pixels, by epoch)  tables.md  figures/

reading      the folder of a benchmark as tables      statistics   means, intervals, paired tests, cost: tables in, tables out
words        sentences, and tables in Markdown        figures      the charts
pictures     weight maps of fixed images              examples     test cases with what methods predict
writing      all of it into the folder
"""
