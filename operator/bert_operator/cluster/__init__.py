"""All API calls of the operator. `reconcile` uses `calls.Cluster`; `handlers` opens and closes it.

Only this package imports the Kubernetes client. It decides nothing: what to write is in the `Plan`.
"""
