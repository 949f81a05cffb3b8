"""Keys and tokens. Owns: everything that touches key bytes. Never: stores, sends or prints them."""
