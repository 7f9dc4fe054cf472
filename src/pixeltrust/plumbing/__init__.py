"""What every room uses and none is about: errors, files, tables, progress, seeds, processes."""
