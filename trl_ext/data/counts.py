"""The same functions as `trl_ext.support.counts`."""

from trl_ext.support.counts import are, count, every

__all__ = ["are", "count", "every"]
