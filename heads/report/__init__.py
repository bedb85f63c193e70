"""Reports: one self-contained HTML page from plain records. Knows nothing of `pipeline`."""

from heads.report.document import write_report

__all__ = ["write_report"]
