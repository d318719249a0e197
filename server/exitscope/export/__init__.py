"""A recording's faults, to take away: JSON, CSV, Parquet, Arrow and Perfetto, as streams of bounded memory."""
