"""The durable log. Owns: the implementations of `ports.Journal`. Never: decides, folds, or knows what an event means."""
