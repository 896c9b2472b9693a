"""The engines, one framework a file; nothing here is imported until it is chosen."""
