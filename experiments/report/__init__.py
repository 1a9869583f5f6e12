"""The report of a sweep: what was found (`findings`), in words, tables and figures, as one page, as pictures, as text."""

from experiments.report.data import ReportData
from experiments.report.findings import evaluation_data, keep_findings, report_data
from experiments.report.page import write_pictures, write_report
from experiments.report.words import comparison_text

__all__ = [
    "ReportData",
    "evaluation_data",
    "keep_findings",
    "report_data",
    "write_report",
    "write_pictures",
    "comparison_text",
]
