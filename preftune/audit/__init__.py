"""What is wrong with preference data: ``preftune.audit(data)``, and one module for each question."""

from preftune.callable_module import make_callable

make_callable(__name__, "preftune.audit.everything:audit")
