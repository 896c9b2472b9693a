"""What inputs and answers look like in few numbers, so that those of today can be compared.

`measures` turns images and answers into numbers, `records` are these numbers on disk: the baseline
of a published version, and the windows that a server writes while it answers.
"""
