"""The playground: one page of ES modules, served as it is."""
