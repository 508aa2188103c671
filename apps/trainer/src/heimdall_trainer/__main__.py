"""`python -m heimdall_trainer` is `heimdall`."""

from heimdall_trainer.cli import main

main()
