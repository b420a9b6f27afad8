"""Builds the product's container images, fetches test models, locks requirements: `python -m images --help`.

Standard library only, so that it runs before anything is installed. Engines: Docker where one answers, else buildah.
"""
