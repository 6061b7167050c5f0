"""Named datasets: made on first use, or downloaded."""
