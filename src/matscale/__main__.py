"""Command line of matscale as `python -m matscale`."""

from matscale.cli import main

main(prog_name="matscale")
