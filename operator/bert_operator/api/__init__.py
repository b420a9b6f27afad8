"""The vocabulary: what users write, what the operator observes and reports, what Jobs answer.

Everything imports this package; it imports nothing of ours and talks to nobody.
"""
