"""``reground start``: from a folder of labelled photos to a trained model and a report.

Every step is a command of ReGround, printed before it runs; what is done stays done, and the same
line goes on where it stopped.
"""
