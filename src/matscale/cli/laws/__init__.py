"""`matscale fit`, `compare` and `plan`: commands on scaling laws of runs or of a table."""
