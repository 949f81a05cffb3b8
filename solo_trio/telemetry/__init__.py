"""What can be seen of the running system. Owns: services' logs, contained defects. Never: changes the state."""
