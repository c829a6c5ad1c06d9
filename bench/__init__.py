"""Speed of mvnb, as ratios measured in one run.

Each module has `run() -> list of dict(name, value, target, unit, ok)`.
"""
