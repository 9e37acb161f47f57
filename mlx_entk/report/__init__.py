"""The report of a run: what it found, its figures and tables, in one file that needs no network."""

from mlx_entk.report.page import write_comparison, write_report
from mlx_entk.report.tables import (
    Table,
    comparison_table,
    estimate_table,
    regression_tables,
    tables,
    verification_table,
    window_tables,
)

__all__ = [
    "Table",
    "comparison_table",
    "estimate_table",
    "regression_tables",
    "tables",
    "verification_table",
    "window_tables",
    "write_comparison",
    "write_report",
]
