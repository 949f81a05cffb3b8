"""What happened, in words. Owns: sentences about events and states. Never: an effect (it is pure), or a decision."""
