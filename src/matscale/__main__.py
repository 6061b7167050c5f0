"""Run the command line of matscale by `python -m matscale`."""

from matscale.cli import main

main(prog_name="matscale")
