"""Every verb the outside may say. Owns: who may, how much, whether it is well formed. Never: how it arrived."""
