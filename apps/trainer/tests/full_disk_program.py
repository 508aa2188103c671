"""Train as `heimdall train`, on a disk that is full from the begin of a stage on.

Arguments: the folder of the disk, the stage, and those of `heimdall`.
"""

import logging
import os
import sys
from pathlib import Path

from heimdall_trainer.cli.app import main
from heimdall_trainer.events import LOGGER

FOLDER, STAGE, *WORDS = sys.argv[1:]


class Filling(logging.Handler):
    """Takes every free byte when the stage begins."""

    def emit(self, record):
        """Called at each event of the run."""
        figures = getattr(record, "figures", {})
        if (figures.get("stage"), figures.get("state")) == (STAGE, "begun"):
            disk = os.statvfs(FOLDER)
            Path(FOLDER, "filling").write_bytes(bytes(disk.f_bavail * disk.f_frsize))


LOGGER.handlers.insert(0, Filling())
main(WORDS)
