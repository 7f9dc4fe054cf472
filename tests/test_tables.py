"""A table is read as texts, and written as pandas writes it."""

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from pixeltrust.plumbing.tables import read_table, write_csv

cells = st.text(st.characters(codec="utf-8"), max_size=6) | st.text("a,\"\n\r ';", max_size=3)


@given(st.lists(st.tuples(cells, cells, st.booleans()), max_size=6))
@examples(200)
def test_a_table_is_written_as_pandas_writes_it(tmp_path_factory, rows):
    ours, theirs = (tmp_path_factory.getbasetemp() / name for name in ("ours.csv", "theirs.csv"))
    table = pd.DataFrame(rows, columns=["id", "a column", "held_out"]).astype({"id": "category", "held_out": bool})
    write_csv(table, ours)
    table.to_csv(theirs, index=False)
    assert ours.read_bytes() == theirs.read_bytes()


def test_categories_become_texts_whatever_they_are_and_nothing_becomes_an_empty_one(tmp_path):
    table = pd.DataFrame({"text": ["a", None, "a"], "number": [1, 2, None], "true": [True, False, True]}, index=[5, 5, 7])
    table.astype({"text": "category", "number": "category"}).to_parquet(tmp_path / "a.parquet")
    table.to_parquet(tmp_path / "b.parquet")
    for name in ("a.parquet", "b.parquet"):
        read = read_table(tmp_path / name)
        assert read.values.tolist() == [["a", "1.0", "True"], ["", "2.0", "False"], ["a", "", "True"]]
