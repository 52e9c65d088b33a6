"""Data for training: what a user names on the command line becomes sources of samples."""

from cohort_builder.training.opening import open_manifest, open_sources

__all__ = ["open_manifest", "open_sources"]
