"""Turns a recipe into a published version."""

import os

from zoo.cores import for_tensorflow

# Before it is imported; what somebody has set stays.
os.environ.update(for_tensorflow() | os.environ)
