"""The report of a run: one HTML file that works from disk and without a network.

`contents` says what goes in; `page` renders it. Between them, what is computed (`intervals`,
`calibration`), what is drawn (`ink` and one module a picture) and what is said (`sentences`,
`tables`) are kept apart.
"""

from heimdall_models.training.curves import EpochRecord, LearningCurve

from heimdall_evaluation.report.contents import ReportContents
from heimdall_evaluation.report.page import render_report
from heimdall_evaluation.results import (
    BaselineResult,
    Evaluation,
    ModelSummary,
    Part,
    Receiver,
    ReportError,
    SessionSpectrograms,
)

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
