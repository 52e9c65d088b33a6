"""A generated hospital: a PACS export and reports with the traps of daily work, and the truth to score against."""

from cohort_builder.demo.hospital import Hospital, generate_hospital
from cohort_builder.demo.score import DemoScore, score_cohort
from cohort_builder.demo.simulate import LinkScore, SimulatedStudy, score_links, simulate_studies

__all__ = [
    "DemoScore",
    "Hospital",
    "LinkScore",
    "SimulatedStudy",
    "generate_hospital",
    "score_cohort",
    "score_links",
    "simulate_studies",
]
