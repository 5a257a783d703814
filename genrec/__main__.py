"""``python -m genrec``: the same as the ``genrec`` command."""

from genrec.cli import main

main()
