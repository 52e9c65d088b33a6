"""Why something in a presentation state is not an annotation: every reason with the sentence that explains it."""

from __future__ import annotations

_COMPOUND = "a compound graphic that measures nothing and points at nothing"

DETAILS = {
    "advanced_blending_presentation_state": "presentation states of this class are not read; softcopy ones are",
    "ambiguous_crossing": "more than two lines cross each other, so which belong together is not known",
    "angle": "an angle was drawn, not a diameter",
    "arrow_without_head": "it is said to be an arrow, but no head was found, so its direction is not known",
    "block_arrow": "an outline in the form of an arrow encloses nothing",
    "calibration_ruler": "a ruler or a calibration, not a diameter",
    "cardiothoracic_ratio": "widths of heart and chest, not a lesion",
    "compound_crosshair": _COMPOUND,
    "compound_cutline": _COMPOUND,
    "compound_infiniteline": _COMPOUND,
    "compound_multiline": "several lines in one compound graphic that are not the two axes of a pair",
    "compound_multipoint": "several points in one compound graphic, so what each of them marks is not known",
    "compound_other": "a type of compound graphic that the standard does not have",
    "density_roi": "a region, point or cross at which pixel values were read out: no lesion, or not its edge",
    "label_frame": "the frame of a text, not of a lesion",
    "leader_line": "the line from a text to what it speaks of, not a diameter",
    "leg_length": "a leg length measurement, not a diameter",
    "lone_triangle": "a triangle alone may be an arrow's head or an outline",
    "malformed_graphic": "units, dimensions, number of points or form contradict the type of the graphic",
    "many_points": "more points than a reader draws: the result of a program; reduce it",
    "many_strokes": "more strokes that touch, or stand in one item, than a reader draws: a ruler, a grid or a picture",
    "matrix_units": "MATRIX units are those of tiled images, which no CT is",
    "no_displayed_area": "DISPLAY units, and no displayed area or rotation that is valid applies to the image",
    "no_graphics": "the presentation state holds no graphic annotation",
    "no_reference": "the annotation names no image, or not by a valid UID",
    "no_such_frame": "the annotation names a frame that its image cannot have",
    "nonfinite_coordinates": "a coordinate is not a number",
    "not_presentation_state": "neither a presentation state nor a structured report",
    "open_polyline": "an open polyline of several points is neither line nor arrow nor outline",
    "perpendicular": "a perpendicular drawn onto a line is no second diameter",
    "planar_mpr_presentation_state": "presentation states of this class are not read; softcopy ones are",
    "reference_line": "where another image cuts this one, not a diameter",
    "self_crossing_outline": "the outline crosses itself, so what lies inside is not known",
    "several_frames": "the annotation applies to several frames, so the slice it was drawn on is not known",
    "several_images": "the annotation applies to several images, so the slice it was drawn on is not known",
    "text_only": "words that belong to nothing that is read, and are no pointer of their own",
    "too_many_graphics": "more graphics than a reader draws in one object: the result of a program, or damage",
    "tool_disagrees": "the layer or group is that of a tool for regions, the stroke a line, or the other way round",
    "unknown_graphic_type": "a graphic type that the standard does not have",
    "unrecognised_combination": "the line touches another stroke that is not understood",
    "value_only": "a value without a drawing that is read: what was measured is not known, even where words name it",
    "variable_modality_lut_presentation_state": "presentation states of this class are not read; softcopy ones are",
    "volume_rendering_presentation_state": "presentation states of this class are not read; softcopy ones are",
    "zero_area": "it encloses no area",
    "zero_length": "the line has no length",
}

FAILURES = frozenset({"malformed_graphic", "no_reference", "nonfinite_coordinates", "too_many_graphics"})

OTHER_STATES = {
    "1.2.840.10008.5.1.4.1.1.11.6": "planar_mpr_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.7": "planar_mpr_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.8": "advanced_blending_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.9": "volume_rendering_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.10": "volume_rendering_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.11": "volume_rendering_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.12": "variable_modality_lut_presentation_state",
}
"""SOP classes of presentation states that are not read (PS3.4 B.5)."""
