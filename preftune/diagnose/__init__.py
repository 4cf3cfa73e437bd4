"""What is wrong with a training run: ``preftune.diagnose(run)``, and the readers and detectors behind it."""

from preftune.callable_module import make_callable

make_callable(__name__, "preftune.diagnose.given:diagnose_run")
