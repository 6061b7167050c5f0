"""Progress of long work on the terminal."""
