"""`python -m kdbias.cli`, which torchrun needs."""

from kdbias.cli import main

main()
