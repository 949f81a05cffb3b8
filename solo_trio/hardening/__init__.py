"""The analyser: what a module's text tells before it runs. Owns: rules over the syntax tree. Never: runs the code, or proves.

It is advice for whoever wrote the code: each rule can be got around, and the sandbox is the boundary.
"""

from solo_trio.hardening.analysing import analyse, analyse_tree
from solo_trio.hardening.finding import FINDINGS_MAX, Finding, Level, Rule
from solo_trio.hardening.rules import RULES

__all__ = ["FINDINGS_MAX", "RULES", "Finding", "Level", "Rule", "analyse", "analyse_tree"]
