"""Recordings: what a run's records, totals and conditions were, as one Parquet file each."""
