"""Projections of the operations table. Owns: translation. Never: decides."""
