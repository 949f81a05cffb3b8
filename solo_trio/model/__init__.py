"""The pure core: ids, events, state. Owns: what is true and what may become true. Never: I/O, time, chance, logging."""
