"""Reports: run folders become a table, learning curves and a page.

Comes in: run folders, read and never written. Goes out: CSVs, figures and Markdown, the same bytes
for the same folders.
"""
