"""What pages and charts are made of."""
