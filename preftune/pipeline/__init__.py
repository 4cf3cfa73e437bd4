"""Several runs as one: ``plan.py`` reads the file, ``stages.py`` runs what is not done yet.

``record.py`` keeps ``pipeline.json``, by which a second call knows what was run and whether it has changed since;
``fingerprints.py`` says whether a file or a model is still the same.
"""
