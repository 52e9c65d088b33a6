"""Strokes located in the patient, and grouped into lesions."""
