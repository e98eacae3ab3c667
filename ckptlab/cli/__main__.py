"""`python -m ckptlab.cli`: the command where no script is installed. It knows nothing."""

from ckptlab.cli import main

main()
