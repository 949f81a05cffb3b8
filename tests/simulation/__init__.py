"""The kernel simulated: one seed is one run of it, with every chance drawn from that seed. See docs/explanation/simulation.md.

`python -m simulation --help` (with `tests` on the path; `nox -s simulate` does that) runs seeds; `test_simulation*.py` run some
with every change.
"""
