"""Answers for published versions. Empty on purpose: importing `serving.client` costs nothing."""
