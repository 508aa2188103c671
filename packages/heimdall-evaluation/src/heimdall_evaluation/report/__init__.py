"""The report of an evaluation: one HTML file that works from disk and without a network."""

from heimdall_evaluation.report.page import render_report
from heimdall_evaluation.results import ModelSummary, Part, ReportContents

__all__ = ["ModelSummary", "Part", "ReportContents", "render_report"]
