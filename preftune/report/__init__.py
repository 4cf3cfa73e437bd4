"""The HTML page of a run, and the page of models side by side: each one self-contained file.

``page.py`` and ``compare_page.py`` are the two ways in. ``run_files.py`` reads a run folder leniently;
``outcome.py`` judges what changed, ``answers.py``, ``audit_view.py`` and ``provenance.py`` put the rest into
words, ``measures.py`` puts figures into text, ``charts.py`` draws, ``rendering.py`` fills the templates.
Nothing here needs torch.
"""
