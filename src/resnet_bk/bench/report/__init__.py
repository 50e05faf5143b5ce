"""What is made of finished runs for a reader: statistics, the table, the page with its plots, comparisons."""
