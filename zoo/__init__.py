"""The classical convolutional networks: what each one is."""
