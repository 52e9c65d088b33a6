"""Which stack of slices a lesion is segmented on, where it is not the one that it was drawn on."""
