"""Station 6: what a folder holds -> one HTML page that explains it, by itself, without network or scripts.

folder.py       what lies in the folder of a run, a search or a reproduction
scores.py       figures by data set: headline, classes, confusion
curves.py       training curves
pictures.py     the images where contrast helped and hurt most
separation.py   features of pixels by class: how far apart, and as a map
trials.py       a search: its trials, history, importance of settings
plots.py        charts as SVG that takes the page's colours
page.py         all of it -> report.html

Also a command: `python -m pipeline.report FOLDER`.
"""

from pipeline.report.page import write_report

__all__ = ["write_report"]
