"""How `exporter.diagnose` finds the mistake.

case: the formula taken apart. wrong: the mistakes as changes of its parts. samples, evidence: somebody's numbers. explanations, solvers:
the search. text, differences: the answer in words. The table that people read is exporter/mistakes.py, the entrance exporter/diagnosis.py.
"""
