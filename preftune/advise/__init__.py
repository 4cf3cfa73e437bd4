"""Which method these data, this model and this machine call for, and why: ``preftune.advise(data)``.

``data_facts.py``, ``model_facts.py`` and ``machine_facts.py`` find out what is so; ``rules.yaml`` says what follows,
each rule with its source; ``memory.py`` and ``duration.py`` say what it will take; ``recipe.py`` makes the config.
"""

from preftune.callable_module import make_callable

make_callable(__name__, "preftune.advise.advice:advise")
