"""What accepts connections: one thin file a way, chosen by name."""
