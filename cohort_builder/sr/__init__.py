"""Structured reports: TID 1500 measurements, read into annotations."""
