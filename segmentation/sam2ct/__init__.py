"""SAM2CT and its family: SAM 2, MedSAM2, SAM2 (FT)."""
