"""What every page is made of: charts, pictures of cases, numbers as people read them, and the templates that hold them."""
