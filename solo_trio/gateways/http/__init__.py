"""The HTTP gateway. Owns: the guarded wire and what HTTP adds to an operation. Never: decides."""
