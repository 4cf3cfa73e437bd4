"""A measure that could not be taken, and why: it is told beside the others and never guessed."""

from __future__ import annotations


class CannotTake(Exception):
    """Raised by a statistic whose data cannot carry it; the text is a whole sentence for the user."""
