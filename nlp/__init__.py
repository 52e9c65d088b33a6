"""Free-text radiology reports in, findings with sizes out. Knows nothing of pixels or DICOM files."""
