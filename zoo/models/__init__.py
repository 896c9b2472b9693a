"""The networks, one paper a file. Importing a file here imports Keras."""
