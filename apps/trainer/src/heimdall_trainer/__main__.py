"""`python -m heimdall_trainer` is `heimdall`."""

from heimdall_trainer.cli.app import main

main()
