"""What a user sees of a result: tables and exports."""

from ritz.report._arviz import to_arviz
from ritz.report._flops import flops
from ritz.report._summary import Summary, labels, table_rows

__all__ = ["Summary", "flops", "labels", "table_rows", "to_arviz"]
