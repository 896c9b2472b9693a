"""The front ends: every handler is decode, call, encode."""
