"""The report of a run: one HTML file that works from disk and without a network.

`contents` says what goes in; `page` renders it. Between them, what is computed (`intervals`,
`calibration`), what is drawn (`ink` and one module a picture) and what is said (`sentences`,
`tables`) are kept apart.
"""

from heimdall_trainer.report.contents import (
    BaselineResult,
    EpochRecord,
    Evaluation,
    LearningCurve,
    ModelSummary,
    Part,
    Receiver,
    ReportContents,
    ReportError,
    SessionSpectrograms,
)
from heimdall_trainer.report.page import render_report

__all__ = [
    "BaselineResult",
    "EpochRecord",
    "Evaluation",
    "LearningCurve",
    "ModelSummary",
    "Part",
    "Receiver",
    "ReportContents",
    "ReportError",
    "SessionSpectrograms",
    "render_report",
]
