"""`bertctl`, also found as `kubectl bert`: the command line for people and pipelines.

`__main__` reads the command line and hands over to the module named like the command. Nothing of the operator imports
this package, and each module imports what is heavy only when its command runs.
"""
