"""The fault campaign: the real operator against a real API server, through a proxy that makes trouble.

`plans` names every plan, `families` carry them out, `oracles` judge, `campaign` runs many at once and writes
docs/campaign.*. `make campaign`, or `python3 -m chaos --help`.
"""
