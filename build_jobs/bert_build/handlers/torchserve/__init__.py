"""TorchServe: the handler that goes into each .mar, and what its pods start and ask. None imports bert_build."""
