"""The only actor. Owns: the loop that commits, the supervisors that converge. Never: what may be asked (operations)."""
