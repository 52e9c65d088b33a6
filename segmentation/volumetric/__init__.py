"""Engines that segment a whole box around the prompt at once: a small 3D network of our own, and those of MONAI."""
