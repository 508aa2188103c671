"""The report of an evaluation: one HTML file that works from disk and without a network."""

from heimdall_models.training.curves import EpochRecord, LearningCurve

from heimdall_evaluation.report.page import render_report
from heimdall_evaluation.results import (
    BaselineResult,
    Evaluation,
    ModelSummary,
    Part,
    ReportContents,
    SessionSpectrograms,
)

__all__ = [
    "BaselineResult",
    "EpochRecord",
    "Evaluation",
    "LearningCurve",
    "ModelSummary",
    "Part",
    "ReportContents",
    "SessionSpectrograms",
    "render_report",
]
