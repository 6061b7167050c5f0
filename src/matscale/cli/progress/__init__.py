"""Progress of long work, shown in the terminal."""
