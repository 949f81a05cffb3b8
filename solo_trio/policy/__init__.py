"""Pure policy: (value, now) -> (value, verdict). Owns: rules as arithmetic. Never: sleeps, reads a clock, draws chance."""
