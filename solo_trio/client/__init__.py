"""The Python SDK. Owns: the names that users import. Never: knows how a kernel works."""
