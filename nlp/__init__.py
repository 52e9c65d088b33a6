"""Free-text radiology reports in, findings with sizes out. Knows nothing of pixels or DICOM files."""
from nlp.reports import read_reports
from nlp.sizes import find_image_references, find_sizes
