"""What the analyzer's image carries instead of packages that only look for GPUs."""
