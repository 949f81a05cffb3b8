"""What confines a service. Owns: each layer, and the plan that puts them together. Never: starts or watches a process."""
