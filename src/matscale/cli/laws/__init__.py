"""`matscale fit`, `compare` and `plan`: scaling laws of runs or a table."""
