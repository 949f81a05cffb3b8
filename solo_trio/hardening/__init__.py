"""The analyser: what a module's text tells before it runs. Owns: rules over the syntax tree. Never: runs the code, or proves.

It is advice for whoever wrote the code: each rule can be got around, and the sandbox is the boundary.
"""

from solo_trio.hardening.analysing import ANALYSED_BYTES_MAX, analyse, analyse_modules, analyse_tree, not_analysed
from solo_trio.hardening.finding import FINDINGS_MAX, Finding, Level, Rule
from solo_trio.hardening.rules import RULES

__all__ = [
    "ANALYSED_BYTES_MAX",
    "FINDINGS_MAX",
    "RULES",
    "Finding",
    "Level",
    "Rule",
    "analyse",
    "analyse_modules",
    "analyse_tree",
    "not_analysed",
]
