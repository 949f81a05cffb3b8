"""Where services run. Owns: starting, calling, ending them, as a task or as a process. Never: decides that they should."""
