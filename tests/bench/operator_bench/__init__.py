"""How fast the operator is, on a real control plane: `make bench-operator`."""
