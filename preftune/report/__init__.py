"""The HTML page of a run, and the page of two models side by side: each one self-contained file.

``page.py`` and ``compare_page.py`` are the two ways in; ``run_files.py`` reads a run folder leniently,
``measures.py`` puts figures into text, ``audit_view.py`` the data audit, ``charts.py`` draws, and
``rendering.py`` fills the templates. Nothing here needs torch.
"""
