"""One pure builder per child kind: typed values in, a finished manifest out. Nothing here reads the cluster."""
