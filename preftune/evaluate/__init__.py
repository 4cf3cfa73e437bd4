"""What models are worth: ``preftune.evaluate(models, data)``, and one module for each question."""

from preftune.callable_module import make_callable

make_callable(__name__, "preftune.evaluate.everything:evaluate")
