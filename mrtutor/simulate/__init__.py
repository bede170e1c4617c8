"""Simulated patients: anatomy, tumour growth and MR signal, with their ground truth."""

from mrtutor.simulate.patient import COHORT_SIZE, simulate_subject

__all__ = ["COHORT_SIZE", "simulate_subject"]
